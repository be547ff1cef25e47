"""The signer wedges, its token goes away, its PIN is wrong: errors are typed, recovery unaided."""

import base64
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.support.books import books_of, sweep_later
from tests.support.calling import Answer, Client, enrol
from tests.support.crashing import COMMAND
from tests.support.outages import begin, check_retryable, checks
from tests.support.running import MESSENGER, Home, Service, alive, running, wait_for
from tests.support.stranger import Verifier, check_receipt

pytestmark = pytest.mark.timeout(300)

MakeHome = Callable[..., Home]
WEDGE = 2
"""Seconds, the least that can be configured."""
MANY = 70
"""More unsigned heads in a row than any page of them holds."""


@contextmanager
def token_away(service: Service) -> Iterator[None]:
    """The token's files are gone while the context lasts."""
    tokens = service.home.token / "tokens"
    hidden = tokens.with_name("hidden")
    tokens.rename(hidden)
    try:
        yield
    finally:
        hidden.rename(tokens)


@contextmanager
def signer_away(service: Service) -> Iterator[None]:
    """The signer is dead and cannot start again while the context lasts."""
    with token_away(service):
        killed = service.kill("signer")
        wait_for(lambda: not alive(killed))
        yield


def enrol_many(home: Home, client: Client, count: int) -> list[str]:
    """Devices of one user each, certified together; their names."""
    made = [home.device(f"user-{n}", f"device-{n}", identity="Ed25519") for n in range(count)]
    items = [device.request("device-identity") for device in made]
    begun = client.post("/v1/enrolments:batch", {"items": items}).document["results"]
    proofs = [
        {"enrolment": item["body"]["enrolment"], **device.prove(item["body"])}
        for device, item in zip(made, begun, strict=True)
    ]
    ended = client.post("/v1/enrolments:batch-proofs", {"items": proofs}).document["results"]
    assert {item["status"] for item in ended} == {201}
    return [device.device for device in made]


def test_a_wedged_signer_is_replaced(new_home: MakeHome):
    home = new_home(wedge_seconds=WEDGE)
    with running(home) as service, Client(home, MESSENGER) as client:
        path, proofs = begin(home, client)
        wedged = service.kill("signer", signal.SIGSTOP)
        started = time.monotonic()
        check_retryable(client.post(path, proofs, "k"))
        assert client.get("/v1/log").status == 200, "reading goes on"
        answer = client.until_answered(path, proofs, "k")
        assert answer.status == 201
        assert time.monotonic() - started < WEDGE + 12
        assert not alive(wedged)
        assert service.state()["signer"]["restarts"] == 1
        assert service.state()["worker"]["restarts"] == 0
        assert client.post(path, proofs, "k").body == answer.body
        service.wait_ready()


def test_a_token_that_goes_away_comes_back(new_home: MakeHome):
    home = new_home()
    with running(home) as service, Client(home, MESSENGER) as client:
        path, proofs = begin(home, client)
        with token_away(service):
            service.kill("signer")
            for _ in range(3):
                answer = client.post(path, proofs, "k")
                check_retryable(answer)
                assert answer.problem == "signer-unavailable"
            status, page = service.operator("/readyz")
            assert status == 503
            assert "signer" in page
            assert service.operator("/healthz")[0] == 200
            assert service.public("/log/checkpoint")[0] == 200
            order = home.device("late", "late").request("device-identity")
            check_retryable(client.post("/v1/enrolments", order))
        assert client.until_answered(path, proofs, "k").status == 201
        service.wait_ready()
        assert service.state()["worker"]["restarts"] == 0


def test_files_that_vanish_under_a_running_signer(new_home: MakeHome):
    home = new_home()
    with running(home) as service, Client(home, MESSENGER) as client:
        path, proofs = begin(home, client)
        with token_away(service):
            for number in range(3):
                check_retryable(client.post(path, proofs, "k"))
                other, more = begin(home, client)
                check_retryable(client.post(other, more, f"k{number}"))
        assert client.until_answered(path, proofs, "k").status == 201
        service.wait_ready()


def test_a_revocation_takes_effect_without_the_signer(new_home: MakeHome, tmp_path: Path):
    home = new_home()
    with running(home, COMMAND) as service, Client(home, MESSENGER) as client:
        device = home.device("ada", "ada-phone")
        certified = enrol(client, device)
        path = "/v1/users/ada/revoke"
        with signer_away(service):
            answer = client.post(path, {"reason": "key-compromise"}, "k")
            assert answer.status == 200
            receipt = answer.document["receipt"]
            assert (receipt["status"], receipt["text"]) == ("pending", None)
            again = home.device("ada", "ada-2").request("device-identity")
            assert client.post("/v1/enrolments", again).problem == "revoked"
            assert client.get("/v1/devices/ada-phone").document["standing"] == "revoked"
            assert service.metric("kms_log_signed_size") < service.metric("kms_log_size")
        service.wait_ready()
        where = f"/v1/events/{receipt['index']}/receipt"
        final = wait_for(lambda: _final(client.get(where)))
        event = client.get(f"/v1/events/{receipt['index']}").document
        leaf = _bytes(event["leaf"])
        verifier = Verifier.parse((home.root / "log.vkey").read_text())
        assert check_receipt(final["text"].encode(), leaf, verifier)[0] == receipt["index"]
        serial = int(certified["certificates"][0]["serial"], 16)
        wait_for(lambda: serial in _listed(service), why="the list follows by itself")
        assert service.stop() == 0
    sweep_later(home)
    with books_of(home, tmp_path / "books") as books:
        books.check()
        books.check_head_is_signed()


def _final(answer: Answer) -> Any:
    if answer.status != 200 or answer.document["status"] != "final":
        return None
    return answer.document


def _listed(service: Service) -> set[int]:
    crl = x509.load_der_x509_crl(service.public("/pki/people.crl")[1])
    return {item.serial_number for item in crl}


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


@pytest.mark.parametrize("number", [7, pytest.param(MANY, marks=pytest.mark.slow)])
def test_many_revocations_without_the_signer(new_home: MakeHome, tmp_path: Path, number: int):
    """Each leaves a head that is never signed by itself; the next signed one covers them all."""
    home = new_home()
    with running(home, COMMAND) as service, Client(home, MESSENGER) as client:
        names = enrol_many(home, client, number)
        path, proofs = begin(home, client)
        with signer_away(service):
            check_retryable(client.post(path, proofs, "late"))
            for name in names:
                answer = client.post(f"/v1/devices/{name}/revoke", {}, name)
                assert answer.status == 200, answer.body
            # The last signed head is still what everyone is shown.
            assert service.public("/log/checkpoint")[0] == 200
            assert client.get(f"/v1/devices/{names[0]}").status == 200
            assert service.state()["worker"]["restarts"] == 0
            killed = service.kill("worker")
            client.close()
            wait_for(lambda: service.pid("worker") not in (0, killed))
            wait_for(lambda: service.state()["worker"]["ready"])
            assert service.public("/log/checkpoint")[0] == 200
            assert service.public("/pki/people.crl")[0] == 200
            assert client.get("/v1/devices/device-0").document["standing"] == "revoked"
        service.wait_ready()
        assert service.public("/log/checkpoint")[0] == 200
        for name in (names[0], names[number // 2], names[-1]):
            answer = client.until_answered(f"/v1/devices/{name}/revoke", {}, name)
            assert answer.status == 200
            assert answer.document["receipt"]["status"] == "final"
            again = client.post(f"/v1/devices/{name}/revoke", {}, name)
            assert again.body == answer.body
        assert client.until_answered(path, proofs, "late").status == 201
        wait_for(lambda: len(_listed(service)) == number)
        assert service.stop() == 0
    sweep_later(home)
    with books_of(home, tmp_path / "books") as books:
        books.check()
        books.check_head_is_signed()


def test_a_wrong_pin_is_tried_once(new_home: MakeHome):
    home = new_home()
    with running(home) as service, Client(home, MESSENGER) as client:
        enrol(client, home.device("ada", "phone"))
    pin = home.token / "pin"
    right = pin.read_bytes()
    pin.write_bytes(b"0" * len(right))
    with running(home, ready=False) as service, Client(home, MESSENGER) as client:
        wait_for(lambda: service.state().get("signer", {}).get("state") == "pin-refused")
        wait_for(lambda: service.state()["worker"]["ready"])
        assert service.state()["signer"] == {"state": "pin-refused", "restarts": 0}
        assert service.operator("/readyz")[0] == 503
        assert "refused the PIN" in checks(service)["processes"]["detail"]
        assert client.get("/v1/devices/phone").status == 200
        path, proofs = begin(home, client)
        check_retryable(client.post(path, proofs))
        assert client.post("/v1/devices/phone/revoke", {}).document["receipt"]["text"] is None
        time.sleep(1.5)
        log = home.log.read_text()
        assert log.count("signer.pin-refused") == 1, "one attempt"
        assert "0" * len(right) not in log
        assert service.state()["signer"] == {"state": "pin-refused", "restarts": 0}
        assert service.stop() == 0
    pin.write_bytes(right)
    with running(home) as service, Client(home, MESSENGER) as client:
        enrol(client, home.device("bob", "phone-2"))


def test_a_wrong_pin_at_the_very_first_start(new_home: MakeHome):
    """Nothing can be served without a certificate; what is wrong is said, once, and it can end."""
    home = new_home()
    pin = home.token / "pin"
    right = pin.read_bytes()
    pin.write_bytes(b"0" * len(right))
    with running(home, ready=False) as service:
        wait_for(lambda: service.state().get("signer", {}).get("state") == "pin-refused")
        found = wait_for(lambda: checks(service), why="the operator's listener is up")
        assert not found["signer"]["ok"]
        assert "the token refused the PIN; it was tried once" in found["processes"]["detail"]
        assert "server certificate" in found["listeners"]["detail"]
        assert service.operator("/healthz")[0] == 200
        assert service.metric("kms_log_size") > 0
        time.sleep(1.5)
        assert service.state()["worker"]["ready"] is False
        assert home.log.read_text().count("signer.pin-refused") == 1
        assert service.stop() == 0
    pin.write_bytes(right)
    with running(home) as service:
        assert all(check["ok"] for check in checks(service).values())
