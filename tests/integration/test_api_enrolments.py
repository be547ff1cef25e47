"""Enrolment over HTTP with the reference client, one by one and in batches."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from kms.api import answer_schemas as answers
from kms.domain.records import Idempotent
from tests.support.api import OTHER, Session, Site, site
from tests.support.flow import IDENTITY, new_device

pytestmark = pytest.mark.anyio


async def ordered(session: Session, made: Site, device: str, user: str = "ada") -> tuple[Any, Any]:
    new = new_device(made.world, user, device, IDENTITY)
    answer = await session.post("/v1/enrolments", new.request("device-identity"))
    assert answer.status_code == 201
    return new, answer.json()


async def test_two_calls_certify_a_device_and_the_answers_are_as_documented(tmp_path: Path):
    async with site(tmp_path) as made:
        session = made.caller("messenger")
        device = new_device(made.world, "ada@ministry.example", "phone")
        first = await session.post("/v1/enrolments", device.request("device"))
        assert first.status_code == 201
        answers.EnrolmentAnswer.model_validate_json(first.content)
        path = f"/v1/enrolments/{first.json()['enrolment']}/proofs"
        second = await session.post(path, device.prove(first.json()))
        assert second.status_code == 201
        answers.CertifiedAnswer.model_validate_json(second.content)
        device.accept(second.json())
        assert second.headers["content-type"] == "application/json"
        assert second.headers["cache-control"] == "no-store"
        assert len(second.headers["x-request-id"]) == 16


async def test_the_same_key_gives_the_same_bytes_and_another_body_none(tmp_path: Path):
    async with site(tmp_path) as made:
        session = made.caller("messenger")
        body = new_device(made.world, "ada", "phone", IDENTITY).request("device-identity")
        first = await session.post("/v1/enrolments", body, key="k")
        again = await session.post("/v1/enrolments", body, key="k")
        assert (again.status_code, again.content) == (first.status_code, first.content)
        other = await session.post("/v1/enrolments", {**body, "user": "bob"}, key="k")
        assert other.status_code == 422
        assert other.json()["type"].endswith(":idempotency-key-reused")


async def test_the_same_key_elsewhere_is_another_call(tmp_path: Path):
    async with site(tmp_path) as made:
        session = made.caller("messenger")
        one, first = await ordered(session, made, "phone")
        two, second = await ordered(session, made, "tablet", "bob")
        for device, answer in ((one, first), (two, second)):
            path = f"/v1/enrolments/{answer['enrolment']}/proofs"
            proven = await session.post(path, device.prove(answer), key="same")
            assert proven.status_code == 201
        for user in ("ada", "bob"):
            gone = await session.post(f"/v1/users/{user}/revoke", {}, key="same")
            assert gone.status_code == 200
            assert gone.json()["user"] == user


async def test_a_key_must_be_there_and_printable(tmp_path: Path):
    async with site(tmp_path) as made:
        body = json.dumps(new_device(made.world, "a", "b").request("device")).encode()
        for keys in ([], [""], ["has space"], ["x" * 129], ["\u00e9"], ["one", "two"]):
            headers = [("content-type", "application/json")]
            headers += [("idempotency-key", key) for key in keys]
            session = made.caller("messenger")
            answer = await session.raw("POST", "/v1/enrolments", body, headers)
            assert answer.status_code == (422 if keys else 400)
            assert answer.json()["field"] == "Idempotency-Key"
        assert made.services.core.ledger.count(Idempotent, principal="messenger") == 0


async def test_batches_answer_each_item_in_its_place(tmp_path: Path):
    async with site(tmp_path) as made:
        session = made.caller("messenger")
        devices = [new_device(made.world, "ada", f"d{n}", IDENTITY) for n in range(4)]
        items: list[Any] = [device.request("device-identity") for device in devices]
        items[1] = {**items[1], "slots": [{**items[1]["slots"][0], "public_key": "?"}]}
        items.append(["not an order"])
        items.append({**items[2], "user": "someone-else"})
        first = await session.post("/v1/enrolments:batch", {"items": items})
        assert first.status_code == 200
        answers.EnrolmentBatchAnswer.model_validate_json(first.content)
        results = first.json()["results"]
        assert [item["status"] for item in results] == [201, 422, 201, 201, 422, 201]
        assert results[1]["problem"]["field"] == "slots[0].public_key"
        assert "field" not in results[4]["problem"]
        good = [(devices[n], results[n]["body"]) for n in (0, 2, 3)]
        proofs: list[Any] = [
            {"enrolment": answer["enrolment"], **device.prove(answer)} for device, answer in good
        ]
        proofs[1]["proofs"] = proofs[0]["proofs"]
        proofs.append({"enrolment": "nonsense", "proofs": {"identity": "AAAA"}})
        second = await session.post("/v1/enrolments:batch-proofs", {"items": proofs})
        answers.CertifiedBatchAnswer.model_validate_json(second.content)
        outcome = second.json()["results"]
        assert [item["status"] for item in outcome] == [201, 422, 201, 422]
        assert outcome[1]["problem"]["type"].endswith(":proof-failed")
        assert outcome[3]["problem"]["field"] == "enrolment"
        good[0][0].accept(outcome[0]["body"])
        good[2][0].accept(outcome[2]["body"])


async def test_what_is_no_batch_is_refused_as_a_whole(tmp_path: Path):
    bodies: list[Any] = [[], {}, {"items": {}}, {"items": []}, {"items": [1], "x": 1}]
    bodies.append({"items": [{}] * 1001})
    async with site(tmp_path) as made:
        for body in bodies:
            for path in ("/v1/enrolments:batch", "/v1/enrolments:batch-proofs"):
                answer = await made.caller("messenger").post(path, body)
                assert answer.status_code == 422
                assert answer.json()["field"] == "items"


Spoil = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]


@pytest.mark.parametrize(
    ("spoil", "status", "name"),
    [
        (lambda *_: {"proofs": {}}, 422, "invalid-request"),
        (lambda proofs, _: {**proofs, "extra": 1}, 422, "invalid-request"),
        (lambda *_: {"proofs": {"kem": "AAAA"}}, 422, "bundle-mismatch"),
        (lambda *_: {"proofs": {"identity": "AAAA"}}, 422, "proof-failed"),
        (lambda _, other: other, 422, "proof-failed"),
    ],
)
async def test_bad_proofs_leave_everything_as_it_was(
    tmp_path: Path, spoil: Spoil, status: int, name: str
):
    async with site(tmp_path) as made:
        session = made.caller("messenger")
        device, answer = await ordered(session, made, "phone")
        other, order = await ordered(session, made, "tablet")
        before = made.world.ledger.head()
        path = f"/v1/enrolments/{answer['enrolment']}/proofs"
        refused = await session.post(path, spoil(device.prove(answer), other.prove(order)))
        assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (status, name)
        assert made.world.ledger.head() == before
        assert (await session.post(path, device.prove(answer))).status_code == 201


async def test_an_enrolment_is_its_own_servers(tmp_path: Path):
    async with site(tmp_path) as made:
        device, answer = await ordered(made.caller("messenger"), made, "phone")
        path = f"/v1/enrolments/{answer['enrolment']}/proofs"
        stranger = await made.caller("stranger").post(path, device.prove(answer))
        assert stranger.status_code == 404
        unknown = await made.caller("messenger").post(
            f"/v1/enrolments/{'0' * 32}/proofs", device.prove(answer)
        )
        assert unknown.json()["detail"] == stranger.json()["detail"]


async def test_one_key_may_be_registered_in_two_tenants(tmp_path: Path):
    async with site(tmp_path) as made:
        device, _ = await ordered(made.caller("messenger"), made, "phone")
        stranger = made.caller("stranger")
        answer = await stranger.post("/v1/enrolments", device.request("device-identity"))
        assert answer.status_code == 201
        assert json.loads(_transcript(answer.json()))["tenant"] == OTHER


def _transcript(answer: dict[str, Any]) -> bytes:
    return TypeAdapter(bytes, config={"val_json_bytes": "base64"}).validate_json(
        json.dumps(answer["transcript"])
    )


async def test_a_classical_kem_alone_is_refused_with_the_rule(tmp_path: Path):
    async with site(tmp_path) as made:
        slots = {"identity": "ECDSA-P256", "kem": "X25519"}
        body = new_device(made.world, "ada", "phone", slots).request("device")
        answer = await made.caller("messenger").post("/v1/enrolments", body)
        assert answer.status_code == 422
        assert answer.json()["type"].endswith(":algorithm-refused")
        assert answer.json()["field"] == "slots[1].algorithm"
