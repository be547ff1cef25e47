"""Proofs of possession that must not count, over the wire: wrong, swapped, foreign, used."""

import base64
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kms.device import Device
from tests.support.calling import Client
from tests.support.hostile import N_P256, integer, tlv
from tests.support.running import COLLEAGUE, MESSENGER, STRANGER, Service
from tests.support.watching import (
    changing_nothing,
    check_refusal,
    post_refused,
    refusing,
    until_listed,
)

KEM = "MLKEM768-X25519"
ORDERS = "/v1/enrolments"


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.home, MESSENGER) as made:
        yield made


class Begun:
    """An enrolment between its two calls, and the proofs that would complete it."""

    def __init__(self, service: Service, client: Client, **slots: str) -> None:
        name = secrets.token_hex(6)
        slots = slots or {"identity": "ECDSA-P256", "kem": KEM}
        self.device: Device = service.home.device(f"user-{name}", name, **slots)
        bundle = "device" if "kem" in slots else "device-identity"
        answer = client.post(ORDERS, self.device.request(bundle))
        assert answer.status == 201, answer.body
        self.answer: dict[str, Any] = answer.document
        self.path = f"{ORDERS}/{self.answer['enrolment']}/proofs"
        self.body = self.device.prove(self.answer)

    @property
    def proofs(self) -> dict[str, str]:
        return dict(self.body["proofs"])

    def but(self, **proofs: str) -> dict[str, Any]:
        """The right proofs, but for these."""
        return {"proofs": {**self.proofs, **proofs}}


def flipped(text: str, at: int = -1) -> str:
    """Base64 of the same bytes, one of them changed."""
    data = bytearray(base64.b64decode(text))
    data[at] ^= 1
    return base64.b64encode(data).decode()


def test_wrong_proofs_and_then_the_right_ones(service: Service, client: Client):
    one, other = Begun(service, client), Begun(service, client)
    identity, kem = one.proofs["identity"], one.proofs["kem"]
    random = base64.b64encode(secrets.token_bytes(32)).decode()
    for slot, proof in (
        ("identity", flipped(identity)),
        ("identity", flipped(identity, 0)),
        ("identity", other.proofs["identity"]),
        ("identity", base64.b64encode(b"\x30\x00").decode()),
        ("identity", random),
        ("identity", kem),
        ("kem", flipped(kem)),
        ("kem", other.proofs["kem"]),
        ("kem", base64.b64encode(bytes(32)).decode()),
        ("kem", base64.b64encode(base64.b64decode(kem)[:31]).decode()),
        ("kem", base64.b64encode(base64.b64decode(kem) + b"\x00").decode()),
        ("kem", identity),
    ):
        body = one.but(**{slot: proof})
        post_refused(service, client, one.path, body, "proof-failed", f"proofs.{slot}")
    swapped = {"proofs": {"identity": kem, "kem": identity}}
    post_refused(service, client, one.path, swapped, "proof-failed", "proofs.identity")
    assert client.post(one.path, one.body).status == 201, "refusals used nothing up"


@pytest.mark.parametrize("change", ["missing", "extra", "renamed", "empty"])
def test_other_slots_than_the_bundles(service: Service, client: Client, change: str):
    begun = Begun(service, client)
    identity, kem = begun.proofs["identity"], begun.proofs["kem"]
    bodies = {
        "missing": {"identity": identity},
        "extra": {**begun.proofs, "spare": identity},
        "renamed": {"identity": identity, "kern": kem},
        "empty": {},
    }
    problem = "invalid-request" if change == "empty" else "bundle-mismatch"
    post_refused(service, client, begun.path, {"proofs": bodies[change]}, problem, "proofs")


def test_signatures_have_one_encoding(service: Service, client: Client):
    begun = Begun(service, client, identity="ECDSA-P256")
    good = base64.b64decode(begun.proofs["identity"])
    r, s = decode_dss_signature(good)
    raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    padded = tlv(0x02, b"\x00" + r.to_bytes(33, "big"))
    for name, data in {
        "trailing byte": good + b"\x00",
        "long length": b"\x30\x81" + good[1:],
        "indefinite length": b"\x30\x80" + good[2:] + b"\x00\x00",
        "padded integer": tlv(0x30, padded, integer(s)),
        "negative integer": tlv(0x30, tlv(0x02, b"\xff" + r.to_bytes(32, "big")), integer(s)),
        "r beyond the order": tlv(0x30, integer(r + N_P256), integer(s)),
        "a third integer": tlv(0x30, integer(r), integer(s), integer(1)),
        "raw": raw,
        "zeroes": tlv(0x30, integer(0), integer(0)),
        "inside": tlv(0x30, tlv(0x30, integer(r), integer(s))),
    }.items():
        body = begun.but(identity=base64.b64encode(data).decode())
        with refusing(service, "proof-failed"):
            answer = client.post(begun.path, body)
        assert answer.problem == "proof-failed", f"{name}: {answer.body!r}"
        check_refusal(answer, "proof-failed", "proofs.identity")


def test_a_proof_over_other_words_is_none(service: Service, client: Client):
    """Signed by the right key, but not over this service's statement of this transcript."""
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    encoded = base64.b64encode(spki).decode()
    slot = {"name": "identity", "algorithm": "ECDSA-P256", "public_key": encoded}
    order = {"user": "mallory", "device": "m-1", "bundle": "device-identity", "slots": [slot]}
    answers = [client.post(ORDERS, order).document for _ in range(2)]
    transcript, other = (base64.b64decode(item["transcript"]) for item in answers)
    path = f"{ORDERS}/{answers[0]['enrolment']}/proofs"
    label = b"sovereign-kms/enrol/sign/v1\x00"

    def proof(message: bytes, digest: hashes.HashAlgorithm) -> dict[str, Any]:
        signature = key.sign(message, ec.ECDSA(digest))
        return {"proofs": {"identity": base64.b64encode(signature).decode()}}

    sha256 = hashes.SHA256()
    for message in (
        transcript,
        label + other,
        label + transcript + b" ",
        label[:-1] + transcript,
        b"sovereign-kms/enrol/mac/v1\x00" + transcript,
        label + transcript.replace(b"mallory", b"alice@x"),
    ):
        body = proof(message, sha256)
        post_refused(service, client, path, body, "proof-failed", "proofs.identity")
    body = proof(label + transcript, hashes.SHA384())
    post_refused(service, client, path, body, "proof-failed", "proofs.identity")
    assert client.post(path, proof(label + transcript, sha256)).status == 201


def test_a_challenge_serves_once(service: Service, client: Client):
    begun = Begun(service, client)
    first = client.post(begun.path, begun.body, "its-key")
    assert first.status == 201
    post_refused(service, client, begun.path, begun.body, "challenge-used", None)
    with changing_nothing(service):
        assert client.post(begun.path, begun.body, "its-key").body == first.body
    with refusing(service, "idempotency-key-reused"):
        answer = client.post(begun.path, begun.but(kem=begun.proofs["identity"]), "its-key")
    check_refusal(answer, "idempotency-key-reused", "Idempotency-Key")


def test_a_challenge_is_its_owners_alone(service: Service, client: Client):
    begun = Begun(service, client)
    for name in (STRANGER, COLLEAGUE):
        with Client(service.home, name) as other:
            post_refused(service, other, begun.path, begun.body, "not-found", "enrolment")
            item = {"enrolment": begun.answer["enrolment"], **begun.body}
            with_batch = other.post(f"{ORDERS}:batch-proofs", {"items": [item]})
            (result,) = with_batch.document["results"]
            assert (result["status"], result["problem"]["type"][-9:]) == (404, "not-found")
    unknown = f"{ORDERS}/{secrets.token_hex(16)}/proofs"
    post_refused(service, client, unknown, begun.body, "not-found", "enrolment")
    for enrolment in ("x", "A" * 32, "0" * 31):
        answer = client.post(f"{ORDERS}/{enrolment}/proofs", begun.body)
        assert answer.status in (404, 422)
    assert client.post(begun.path, begun.body).status == 201


def test_of_two_orders_for_a_device_one_is_completed(service: Service, client: Client):
    device = service.home.device("twin", "twin-phone", identity="Ed25519")
    orders = [client.post(ORDERS, device.request("device-identity")).document for _ in range(2)]
    bodies = []
    for answer in orders:
        device.request("device-identity")
        bodies.append(device.prove(answer))
    paths = [f"{ORDERS}/{answer['enrolment']}/proofs" for answer in orders]
    assert client.post(paths[0], bodies[0]).status == 201
    post_refused(service, client, paths[1], bodies[1], "conflict", "device")


def test_of_two_devices_with_one_key_one_is_certified(service: Service, client: Client):
    device = service.home.device("amy", "amy-1", identity="Ed25519")
    copy = {**device.request("device-identity"), "device": "amy-2"}
    other = client.post(ORDERS, copy).document
    answer = client.post(ORDERS, device.request("device-identity")).document
    path = f"{ORDERS}/{answer['enrolment']}/proofs"
    assert client.post(path, device.prove(answer)).status == 201
    transcript = base64.b64decode(other["transcript"])
    proof = device.keys["identity"].prove("identity", transcript, b"")
    body = {"proofs": {"identity": base64.b64encode(proof).decode()}}
    path = f"{ORDERS}/{other['enrolment']}/proofs"
    field = "slots.identity.public_key"
    post_refused(service, client, path, body, "key-reused", field)


def test_bad_proofs_do_not_sink_a_batch(service: Service, client: Client):
    begun = [Begun(service, client, identity="Ed25519") for _ in range(4)]
    items = [{"enrolment": item.answer["enrolment"], **item.body} for item in begun]
    items[1]["proofs"] = {"identity": begun[0].proofs["identity"]}
    items[2]["enrolment"] = secrets.token_hex(16)
    items.append(dict(items[0]))
    refused = {"proof-failed": 1, "not-found": 1}
    before = {name: service.metric("kms_refusals_total", problem=name) for name in refused}
    answer = client.post(f"{ORDERS}:batch-proofs", {"items": items})
    assert answer.status == 200
    results = answer.document["results"]
    assert [item["status"] for item in results[:4]] == [201, 422, 404, 201]
    assert results[4]["status"] == 409, "the same enrolment twice in a batch"
    begun[0].device.accept(results[0]["body"])
    begun[3].device.accept(results[3]["body"])
    for name, count in refused.items():
        assert service.metric("kms_refusals_total", problem=name) == before[name] + count


def test_who_is_revoked_meanwhile_is_not_certified(service: Service, client: Client):
    old = Begun(service, client, identity="Ed25519")
    assert client.post(old.path, old.body).status == 201
    user = old.device.user
    device = service.home.device(user, "his-second", identity="Ed25519")
    answer = client.post(ORDERS, device.request("device-identity")).document
    body = device.prove(answer)
    with until_listed(service):
        path = f"/v1/users/{user}/revoke"
        assert client.post(path, {"reason": "key-compromise"}).status == 200
    path = f"{ORDERS}/{answer['enrolment']}/proofs"
    post_refused(service, client, path, body, "revoked", "user")
    third = service.home.device(user, "his-third", identity="Ed25519")
    post_refused(service, client, ORDERS, third.request("device-identity"), "revoked", "user")
