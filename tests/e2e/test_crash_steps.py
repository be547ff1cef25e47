"""kill -9 of worker or signer between any two steps of an enrolment, a revocation and a CRL.

Clients send the same request with the same Idempotency-Key until it is answered. Afterwards the
books of the stopped service are held against each other and against what was acknowledged.
"""

import contextlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from kms.device import Device
from tests.support.acknowledged import Acknowledged
from tests.support.books import books_of, sweep_later
from tests.support.calling import LOST, Client
from tests.support.crashing import COMMAND, arm
from tests.support.running import MESSENGER, OFFICER, TENANT, Home, Service, running, wait_for

pytestmark = pytest.mark.timeout(600)

COMMITS = [
    f"worker:{kind}.{step}"
    for kind in ("commit", "note")
    for step in ("begin", "before-commit", "after-commit")
]
HEADS = ["worker:log-1.ask", "worker:log-1.told"]
HEADS += ["signer:head.remember", "signer:head.remembered"]
HEADS += [f"signer:log-1.{step}" for step in ("journal", "journalled", "sign", "signed")]
SIGNING = ["worker:people-1.ask", "worker:people-1.told"]
SIGNING += [f"signer:people-1.{step}" for step in ("journal", "journalled", "sign", "signed")]
ALL = [*SIGNING, *COMMITS, *HEADS]
ORDERS = [f"worker:order.{step}" for step in ("begin", "before-commit", "after-commit")]

USUAL = {
    "order": ["worker:order.before-commit", "worker:order.after-commit"],
    "enrol": [
        "worker:people-1.told",
        "worker:commit.before-commit",
        "worker:commit.after-commit",
        "worker:log-1.told",
        "signer:people-1.journalled",
        "signer:head.remembered",
        "signer:log-1.signed",
    ],
    "batch": ["signer:people-1.signed", "worker:commit.after-commit", "worker:note.after-commit"],
    "revoke": ["worker:commit.after-commit", "signer:head.remember"],
    "crl": ["worker:people-1.told", "worker:commit.before-commit"],
    "certify": ["worker:infrastructure-1.told"],
}
EVERY = {
    "order": ORDERS,
    "enrol": ALL,
    "batch": ALL,
    "revoke": [*COMMITS, *HEADS],
    "crl": [*ALL, "worker:reserve.after-commit"],
    "certify": [
        *(point.replace("people", "infrastructure") for point in SIGNING),
        *COMMITS,
        "worker:reserve.after-commit",
    ],
}
BATCH = 6


def csr() -> str:
    """A request for a fresh key."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


class Ministry:
    """Clients of one service that is killed under them."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.home = service.home
        self.acknowledged = Acknowledged()
        self.count = 0
        self.messenger = Client(self.home, MESSENGER)
        self.officer = Client(self.home, OFFICER)

    def close(self) -> None:
        self.messenger.close()
        self.officer.close()

    def die(self, point: str, passing: int, work: Callable[[], Any]) -> Any:
        """Do some work while a process dies at that point, and see that it did."""
        process = point.partition(":")[0]
        before = self.service.pid(process)
        arm(self.home.path, point, passing)
        result = work()
        why = f"{process} did not die at {point}"
        wait_for(lambda: self.service.pid(process) not in (0, before), 30, why)
        return result

    def devices(self, count: int, **slots: str) -> list[Device]:
        self.count += count
        first = self.count - count
        names = [f"device-{number}" for number in range(first, self.count)]
        return [self.home.device(f"user-{name}", name, **slots) for name in names]

    def post(self, path: str, body: object) -> Any:
        return self.acknowledged.post(self.messenger, path, body, secrets.token_hex(8)).document

    def enrol(self, point: str = "", passing: int = 1, *, at: str = "proofs") -> Device:
        """Certify a device in two calls, one of which meets the fail point."""
        (device,) = self.devices(1, identity="ECDSA-P256", kem="MLKEM768-X25519")
        order = device.request("device")

        def ask() -> Any:
            return self.post("/v1/enrolments", order)

        begun = self.die(point, passing, ask) if point and at == "order" else ask()
        path, proofs = f"/v1/enrolments/{begun['enrolment']}/proofs", device.prove(begun)

        def prove() -> Any:
            return self.post(path, proofs)

        ended = self.die(point, passing, prove) if point and at == "proofs" else prove()
        device.accept(ended)
        return device

    def enrol_batch(self, point: str, passing: int) -> None:
        devices = self.devices(BATCH, identity="Ed25519")
        items = [device.request("device-identity") for device in devices]
        answer = self.post("/v1/enrolments:batch", {"items": items})
        begun = [item["body"] for item in answer["results"]]
        proofs = [
            {"enrolment": item["enrolment"], **device.prove(item)}
            for device, item in zip(devices, begun, strict=True)
        ]
        ended = self.die(
            point, passing, lambda: self.post("/v1/enrolments:batch-proofs", {"items": proofs})
        )
        for device, item in zip(devices, ended["results"], strict=True):
            device.accept(item["body"])

    def revoke(self, point: str) -> None:
        device = self.enrol().device
        path = f"/v1/devices/{device}/revoke"
        self.die(point, 1, lambda: self.post(path, {"reason": "key-compromise"}))

    def publish(self, point: str) -> None:
        path, key = "/v1/authorities/people/crl", secrets.token_hex(8)
        answer = self.die(point, 1, lambda: self.officer.until_answered(path, {}, key))
        assert answer.status == 201, answer.body
        assert self.officer.until_answered(path, {}, key).body == answer.body

    def certify(self, point: str) -> None:
        """A server's certificate, and a client that comes back with another request instead."""
        path, key = "/v1/certificates", secrets.token_hex(8)
        first, second = ({"tenant": TENANT, "name": MESSENGER, "csr": csr()} for _ in range(2))
        with contextlib.suppress(*LOST):
            self.die(point, 1, lambda: self.officer.post(path, first, key))
        answer = self.officer.until_answered(path, second, key)
        assert answer.status in (201, 422), answer.body
        if answer.status == 422:
            assert answer.problem == "idempotency-key-reused"
            assert self.officer.until_answered(path, first, key).status == 201

    def at(self, kind: str, point: str) -> None:
        """One kind of work while a process dies at that point."""
        if kind in ("order", "enrol"):
            self.enrol(point, at="order" if kind == "order" else "proofs")
        elif kind == "batch":
            # In the middle of the batch, where the step is passed for each of its items.
            self.enrol_batch(
                point, 3 if point.endswith(("people-1.sign", "people-1.signed")) else 1
            )
        elif kind == "revoke":
            self.revoke(point)
        elif kind == "certify":
            self.certify(point)
        else:
            self.publish(point)


@pytest.fixture
def ministry(new_home: Callable[..., Home]) -> Iterator[Ministry]:
    with running(new_home(), COMMAND) as service:
        made = Ministry(service)
        yield made
        made.close()


def prove_the_books(ministry: Ministry, folder: Path) -> None:
    """Nothing acknowledged is missing, nothing was issued twice, the same bytes come again."""
    ministry.service.wait_ready()
    ministry.acknowledged.replay(ministry.messenger)
    assert ministry.service.stop() == 0
    sweep_later(ministry.home)
    with books_of(ministry.home, folder / "books") as books:
        books.check()
        books.check_head_is_signed()
        vkey = (ministry.home.root / "log.vkey").read_text()
        ministry.acknowledged.check(books, vkey)


@pytest.mark.parametrize(
    "kinds", [("order", "enrol"), ("batch", "revoke", "crl", "certify")], ids=["single", "others"]
)
def test_killed_between_steps(ministry: Ministry, tmp_path: Path, kinds: tuple[str, ...]):
    for kind in kinds:
        for point in USUAL[kind]:
            ministry.at(kind, point)
    prove_the_books(ministry, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY)
def test_killed_between_any_two_steps(ministry: Ministry, tmp_path: Path, kind: str):
    for point in EVERY[kind]:
        ministry.at(kind, point)
    prove_the_books(ministry, tmp_path)
