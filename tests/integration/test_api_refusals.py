"""Bad input over HTTP: a clear problem, nothing stored, nothing repeated, and it is counted."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from prometheus_client.parser import text_string_to_metric_families

from kms import logs
from kms.api.app import HttpLimits
from kms.domain.records import Enrolment, Idempotent
from kms.services.ports import LedgerUnavailableError, Unit
from kms.services.turns import ROOMS, CallClass, Room
from kms.storage.memory import MemoryLedger
from kms.wire import b64
from tests.support.api import Site, site
from tests.support.faulty_signer import FaultySigner
from tests.support.flow import IDENTITY, enrol, new_device
from tests.support.patience import until

pytestmark = pytest.mark.anyio
JSON = ("content-type", "application/json")
KEY = ("idempotency-key", "k")


@pytest.fixture
def log() -> Iterator[StringIO]:
    """What the service logs."""
    stream = StringIO()
    logs.configure("worker", stream=stream)
    yield stream
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def problem(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == answer.status_code
    return answer.status_code, document["type"].removeprefix("urn:sovereign-kms:problem:")


async def counted(made: Site, name: str) -> float:
    text = (await made.monitor().get("/metrics")).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "kms_refusals_total" and sample.labels["problem"] == name:
                return sample.value
    return 0


async def test_the_framework_never_speaks_for_itself(tmp_path: Path):
    async with site(tmp_path) as made:
        session = made.caller("messenger")
        for method, path, body, headers, expected in (
            ("GET", "/nowhere", b"", [], (404, "not-found")),
            ("GET", "/v1/enrolments/", b"", [], (404, "not-found")),
            ("GET", "/v1/enrolments", b"", [], (405, "method-not-allowed")),
            ("DELETE", "/v1/devices/x", b"", [], (405, "method-not-allowed")),
            ("OPTIONS", "/v1/log", b"", [], (405, "method-not-allowed")),
            ("BREW", "/v1/log", b"", [], (405, "method-not-allowed")),
            ("GET", "/v1/log", b"{}", [JSON], (422, "invalid-request")),
            ("POST", "/v1/enrolments", b"{}", [KEY], (415, "unsupported-media-type")),
            ("POST", "/v1/enrolments", b"{}", [KEY, JSON, JSON], (415, "unsupported-media-type")),
            (
                "POST",
                "/v1/enrolments",
                b"{}",
                [KEY, ("content-type", "text/plain")],
                (415, "unsupported-media-type"),
            ),
            ("POST", "/v1/enrolments", b"{", [KEY, JSON], (400, "malformed-json")),
            ("POST", "/v1/enrolments", b"\xff", [KEY, JSON], (400, "malformed-json")),
            ("POST", "/v1/enrolments", b'{"a":1,"a":1}', [KEY, JSON], (400, "malformed-json")),
            ("POST", "/v1/enrolments", b"[" * 9999, [KEY, JSON], (400, "malformed-json")),
            ("POST", "/v1/enrolments", b"[]", [KEY, JSON], (422, "invalid-request")),
            ("POST", "/v1/enrolments", b"null", [KEY, JSON], (422, "invalid-request")),
            ("POST", "/v1/users/a b/revoke", b"", [KEY], (422, "invalid-request")),
            ("POST", "/v1/enrolments/XYZ/proofs", b"{}", [KEY, JSON], (422, "invalid-request")),
        ):
            answer = await session.raw(method, path, body, headers)
            assert problem(answer) == expected, (method, path, body, answer.text)
        typed = [KEY, ("content-type", "Application/JSON; charset=utf-8")]
        answer = await session.raw("POST", "/v1/users/nobody/revoke", b"{}", typed)
        assert problem(answer) == (404, "not-found")


async def test_a_private_key_is_refused_everywhere_and_left_nowhere(tmp_path: Path, log: StringIO):
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    text = b64(der)
    async with site(tmp_path) as made:
        session, officer = made.caller("messenger"), made.caller("officer")
        before = made.world.ledger.head()
        good = new_device(made.world, "ada", "phone", IDENTITY).request("device-identity")
        slot = {**good["slots"][0], "public_key": text}
        answers = [
            await session.post("/v1/enrolments", {**good, "slots": [slot]}),
            await session.post("/v1/enrolments:batch", {"items": [good, {**good, "x": text}]}),
            await session.post("/v1/enrolments", {**good, text: 1}),
            await session.post("/v1/enrolments", {**good, "user": der.hex()}),
            await session.raw("POST", "/v1/enrolments", pem.encode(), [KEY]),
            await session.raw("POST", "/nowhere", text.encode(), []),
            await session.raw("GET", "/v1/log", b"", [("x-key", text)]),
            await session.raw("GET", f"/v1/devices/{der.hex()}", b"", []),
            await session.get("/v1/events", params={"key": pem}),
            await officer.post("/v1/certificates", {"name": "officer", "csr": pem}),
        ]
        for answer in answers:
            assert problem(answer) == (422, "private-key-material")
            assert text[30:60] not in answer.text
            assert der.hex()[60:100] not in answer.text
            assert "field" not in answer.json()
        assert await counted(made, "private-key-material") == len(answers)
        ledger = made.world.ledger
        assert ledger.head() == before
        assert ledger.count(Enrolment) == 0
        assert ledger.count(Idempotent, principal="messenger") == 0
    written = log.getvalue()
    assert "private-key-material" in written
    assert text[30:60] not in written
    assert der.hex()[60:100] not in written


async def test_refusals_are_counted_by_problem_and_change_nothing(tmp_path: Path):
    async with site(tmp_path) as made:
        session = made.caller("messenger")
        before = made.world.ledger.head()
        await session.post("/v1/enrolments", {})
        await session.get("/v1/certificates?limit=0")
        await made.caller(None).get("/v1/log")
        await session.get("/nowhere")
        await made.reader().get("/nowhere")
        items = [{}, {"user": "x"}]
        await session.post("/v1/enrolments:batch", {"items": items})
        assert await counted(made, "invalid-request") == 4
        assert await counted(made, "unauthenticated") == 1
        assert await counted(made, "not-found") == 2
        assert made.world.ledger.head() == before


async def chunks(sizes: Sequence[int]) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b" " * size


async def test_bodies_are_bounded_while_they_arrive(tmp_path: Path):
    async with site(tmp_path, HttpLimits(body=10_000)) as made:
        session = made.caller("messenger")
        for sizes in ([10_001], [9_000, 1_001], [5_000] * 1000):
            answer = await session.stream("/v1/enrolments", chunks(sizes))
            assert problem(answer) == (413, "body-too-large")
            assert answer.headers["connection"] == "close"
        fits = await session.stream("/v1/enrolments", chunks([9_998, 2]))
        assert problem(fits) == (400, "malformed-json")


async def trickle() -> AsyncIterator[bytes]:
    yield b"{"
    await asyncio.sleep(5)
    yield b"}"


async def test_bodies_are_bounded_in_time(tmp_path: Path):
    async with site(tmp_path, HttpLimits(body_seconds=0.05)) as made:
        answer = await made.caller("messenger").stream("/v1/enrolments", trickle())
        assert problem(answer) == (408, "request-timeout")


async def test_more_requests_than_places_are_sent_away(tmp_path: Path):
    """Those of slow senders hold places of their class, and of no other."""
    room = Room(1, 1, seconds=1.0, body=1000)
    limits = HttpLimits(body_seconds=1.0)
    async with site(tmp_path, limits, rooms={**ROOMS, CallClass.ENROLMENT: room}) as made:
        session = made.caller("messenger")
        slow = [asyncio.create_task(session.stream("/v1/enrolments", trickle())) for _ in range(2)]
        turns = made.admission.turns[CallClass.ENROLMENT]
        await until(lambda: turns.present == 2)
        answer = await session.post("/v1/enrolments", {})
        assert problem(answer) == (429, "too-many-requests")
        assert int(answer.headers["retry-after"]) >= 1
        assert (await session.get("/v1/log")).status_code == 200
        for task in slow:
            assert problem(await task) == (408, "request-timeout")
        assert problem(await session.post("/v1/enrolments", {}))[0] == 422
        assert turns.present == turns.serving == 0


async def test_bodies_are_bounded_by_what_their_class_needs(tmp_path: Path):
    async with site(tmp_path) as made:
        session = made.caller("messenger")
        for path, kind in (
            ("/v1/devices/phone/revoke", CallClass.REVOCATION),
            ("/v1/enrolments", CallClass.ENROLMENT),
        ):
            most = ROOMS[kind].body
            fits = await session.stream(path, chunks([most]))
            assert problem(fits) == (400, "malformed-json")
            assert problem(await session.stream(path, chunks([most + 1])))[0] == 413
        more = await session.stream("/v1/enrolments:batch", chunks([most + 1]))
        assert problem(more) == (400, "malformed-json")


async def test_who_is_disabled_while_waiting_for_a_turn_does_not_get_one(tmp_path: Path):
    """Whoever calls is known by certificate when the call comes, and anew when it is served."""
    room = Room(1, 3, seconds=60.0, body=1000)
    async with site(tmp_path, rooms={**ROOMS, CallClass.ENROLMENT: room}) as made:
        turns = made.admission.turns[CallClass.ENROLMENT]
        ahead = made.admission.enter(CallClass.ENROLMENT, ("ministry", "somebody"))
        await ahead.begin()
        waiting = asyncio.create_task(made.caller("stranger").post("/v1/enrolments", {}))
        await until(lambda: turns.waiting == 1)
        disabled = await made.caller("officer").post(
            "/v1/principals/stranger/disable", {"tenant": "other"}
        )
        assert disabled.status_code == 200, disabled.text
        ahead.leave()
        assert problem(await waiting) == (403, "unknown-principal")
        assert turns.present == 0


class FullDisk(MemoryLedger):
    """A ledger whose disk can be full."""

    full = False

    def commit(self, units: Sequence[Unit]) -> list[Any]:
        if self.full:
            raise LedgerUnavailableError("no space left on /secret/device")
        return super().commit(units)

    def get(self, kind: Any, *key: Any) -> Any:
        if self.full and kind is Idempotent:
            raise LedgerUnavailableError("no space left on /secret/device")
        return super().get(kind, *key)


async def test_a_full_disk_is_said_and_nothing_is_released(tmp_path: Path):
    ledger = FullDisk()
    async with site(tmp_path, ledger=ledger) as made:
        session = made.caller("messenger")
        body = new_device(made.world, "ada", "phone", IDENTITY).request("device-identity")
        ledger.full = True
        answer = await session.post("/v1/enrolments", body, key="k")
        assert problem(answer) == (503, "log-unavailable")
        assert answer.json()["retry"] == "same"
        assert "/secret" not in answer.text
        ledger.full = False
        assert (await session.post("/v1/enrolments", body, key="k")).status_code == 201


async def test_without_the_signer_nothing_is_certified_but_everything_is_revoked(tmp_path: Path):
    faulty: list[FaultySigner] = []

    def wrap(signer: Any) -> FaultySigner:
        faulty.append(FaultySigner(signer))
        return faulty[0]

    async with site(tmp_path, wrap_signer=wrap) as made:
        session = made.caller("messenger")
        await enrol(made.world, new_device(made.world, "ada", "phone", IDENTITY))
        device = new_device(made.world, "bob", "tablet", IDENTITY)
        order = (await session.post("/v1/enrolments", device.request("device-identity"))).json()
        faulty[0].away = True
        path = f"/v1/enrolments/{order['enrolment']}/proofs"
        answer = await session.post(path, device.prove(order), key="k")
        assert problem(answer) == (503, "signer-unavailable")
        assert answer.json()["retry"] == "same"
        gone = await session.post("/v1/users/ada/revoke", {})
        assert gone.status_code == 200
        assert gone.json()["receipt"] == {
            "status": "pending",
            "log": 1,
            "index": gone.json()["receipt"]["index"],
            "text": None,
        }
        ready = await made.monitor().get("/readyz")
        assert ready.status_code == 503
        faulty[0].away = False
        again = await session.post(path, device.prove(order), key="k")
        assert again.status_code == 201
        device.accept(again.json())


async def test_a_bug_is_answered_logged_and_not_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: StringIO
):
    async with site(tmp_path) as made:

        def broken(*_args: Any, **_options: Any) -> None:
            raise ZeroDivisionError("ada's secret")

        monkeypatch.setattr(type(made.services.lookup), "devices", broken)
        monkeypatch.setattr(type(made.services.orders), "create", broken)
        session = made.caller("messenger")
        body = new_device(made.world, "ada", "phone", IDENTITY).request("device-identity")
        for call in (
            lambda: session.get("/v1/users/ada/devices"),
            lambda: session.post("/v1/enrolments", body),
        ):
            answer = await call()
            assert problem(answer) == (500, "internal")
            lines = [json.loads(line) for line in log.getvalue().splitlines()]
            failed = [line for line in lines if line["event"] == "request.failed"][-1]
            assert failed["error_type"] == "ZeroDivisionError"
            assert failed["request_id"] == answer.headers["x-request-id"]
            assert "secret" not in log.getvalue()
            assert "secret" not in answer.text
        assert len([line for line in lines if line["event"] == "request.failed"]) == 2
        assert await counted(made, "internal") == 2


async def test_log_lines_carry_templates_and_no_names(tmp_path: Path, log: StringIO):
    async with site(tmp_path) as made:
        await enrol(made.world, new_device(made.world, "ada-lovelace", "engine-7", IDENTITY))
        session = made.caller("messenger")
        answer = await session.get("/v1/users/ada-lovelace/devices")
        await session.get("/v1/devices/engine-7?tenant=ministry")
        await session.get("/v1/nothing/ada-lovelace")
        await session.post("/v1/users/ada-lovelace/revoke", {})
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert "ada-lovelace" not in log.getvalue()
    assert "engine-7" not in log.getvalue()
    first = lines[0]
    assert first["route"] == "/v1/users/{user}/devices"
    assert (first["status"], first["method"], first["problem"]) == (200, "GET", None)
    assert first["request_id"] == answer.headers["x-request-id"]
