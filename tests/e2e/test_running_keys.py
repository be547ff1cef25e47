"""Keys and certification requests that must not be certified, over the wire."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support import hostile
from tests.support.calling import Client, enrol
from tests.support.running import MESSENGER, OFFICER, STRANGER, TENANT, Service
from tests.support.vectors import folder as vectors
from tests.support.watching import check_refusal, post_refused, refusing

ORDERS, CERTIFICATES = "/v1/enrolments", "/v1/certificates"
CSRS = vectors("csr")
EXPECTED = json.loads((CSRS / "expected.json").read_text())
KEM = "MLKEM768-X25519"


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.home, MESSENGER) as made:
        yield made


@pytest.fixture
def officer(service: Service) -> Iterator[Client]:
    with Client(service.home, OFFICER) as made:
        yield made


def slot(name: str, algorithm: str, key: bytes) -> dict[str, str]:
    encoded = base64.b64encode(key).decode()
    return {"name": name, "algorithm": algorithm, "public_key": encoded}


def order(*slots: dict[str, str], bundle: str = "device-identity") -> dict[str, Any]:
    return {"user": "eve", "device": "evil-phone", "bundle": bundle, "slots": list(slots)}


def identity() -> dict[str, str]:
    return slot("identity", "ECDSA-P256", hostile.p256())


def test_keys_that_are_badly_encoded(service: Service, client: Client):
    for name, algorithm, key in hostile.bad_encodings():
        with refusing(service, "invalid-key"):
            answer = client.post(ORDERS, order(slot("identity", algorithm, key)))
        assert answer.problem == "invalid-key", f"{name}: {answer.body!r}"
        check_refusal(answer, "invalid-key", "slots[0].public_key")
    for name, key in hostile.bad_kem_encodings():
        with refusing(service, "invalid-key"):
            answer = client.post(ORDERS, order(identity(), slot("kem", KEM, key), bundle="device"))
        assert answer.problem == "invalid-key", f"{name}: {answer.body!r}"
        check_refusal(answer, "invalid-key", "slots[1].public_key")


def test_keys_that_are_weak(service: Service, client: Client):
    for name, algorithm, key in hostile.weak_keys():
        with refusing(service, "weak-key"):
            answer = client.post(ORDERS, order(slot("identity", algorithm, key)))
        assert answer.problem == "weak-key", f"{name}: {answer.body!r}"
        check_refusal(answer, "weak-key", "slots[0].public_key")
    for point in hostile.low_order_x25519():
        kem = slot("kem", KEM, hostile.mlkem768_x25519(traditional=point))
        body = order(identity(), kem, bundle="device")
        post_refused(service, client, ORDERS, body, "weak-key", "slots[1].public_key")


def test_algorithms_that_the_policy_refuses(service: Service, client: Client):
    key = hostile.p256()
    for name in ("RSA-2048", "ML-DSA-44", "X25519", "MD5", "ECDSA-P521", "Ed448", "none"):
        body = order(slot("identity", name, key))
        post_refused(service, client, ORDERS, body, "algorithm-refused", "slots[0].algorithm")
    for name in ("X25519", "ECDH-P256", "ML-KEM-768", "ML-KEM-1024", "ECDSA-P256"):
        body = order(identity(), slot("kem", name, key), bundle="device")
        post_refused(service, client, ORDERS, body, "algorithm-refused", "slots[1].algorithm")


def test_slots_that_are_not_the_bundles(service: Service, client: Client):
    kem = slot("kem", KEM, hostile.mlkem768_x25519())
    for body in (
        order(identity(), kem),
        order(kem),
        order(identity(), identity()),
        order(identity(), bundle="device"),
        order(kem, bundle="device"),
        order(identity(), kem, slot("spare", "Ed25519", b"x"), bundle="device"),
        order(slot("identify", "ECDSA-P256", hostile.p256())),
    ):
        post_refused(service, client, ORDERS, body, "bundle-mismatch", "slots")
    body = order(identity(), bundle="officer")
    post_refused(service, client, ORDERS, body, "unknown-bundle", "bundle")


def test_a_key_stands_once_whole_or_in_part(service: Service, client: Client):
    device = service.home.device("ada", "ada-phone", identity="ECDSA-P256", kem=KEM)
    enrol(client, device)
    taken = {name: key.public_key for name, key in device.keys.items()}
    field = "slots.identity.public_key"
    again = order(slot("identity", "ECDSA-P256", taken["identity"]))
    post_refused(service, client, ORDERS, again, "key-reused", field)
    parts = (
        hostile.mlkem768_x25519(post_quantum=taken["kem"][-1216:-32]),
        hostile.mlkem768_x25519(traditional=taken["kem"][-32:]),
        taken["kem"],
    )
    for key in parts:
        body = order(identity(), slot("kem", KEM, key), bundle="device")
        post_refused(service, client, ORDERS, body, "key-reused", "slots.kem.public_key")


def test_a_component_stands_once_within_a_bundle(service: Service, client: Client):
    shared = ec.generate_private_key(ec.SECP384R1()).public_key()
    point = shared.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    kem = slot("kem", "MLKEM1024-P384", hostile.mlkem1024_p384(point))
    body = order(slot("identity", "ECDSA-P384", hostile.spki(shared)), kem, bundle="device")
    with refusing(service, "key-reused"):
        answer = client.post(ORDERS, body)
    assert answer.problem in {"key-reused", "weak-key"}
    check_refusal(answer, "key-reused", "slots.kem.public_key")


def test_reuse_reveals_nothing_of_other_tenants(service: Service, client: Client):
    device = service.home.device("ada", "ada-tablet", identity="Ed25519")
    enrol(client, device)
    with Client(service.home, STRANGER) as stranger:
        answer = stranger.post(ORDERS, device.request("device-identity"))
    assert answer.status == 201, "another tenant is not told that the key is known here"


def test_a_device_enrols_once_and_belongs_to_one_user(service: Service, client: Client):
    enrol(client, service.home.device("ada", "ada-watch"))
    body = service.home.device("ada", "ada-watch").request("device-identity")
    post_refused(service, client, ORDERS, body, "conflict", "device")
    body = service.home.device("bob", "ada-watch").request("device-identity")
    post_refused(service, client, ORDERS, body, "conflict", "device")
    renewal = {**service.home.device("ada", "unknown").request("device-identity")}
    post_refused(service, client, ORDERS, {**renewal, "purpose": "renew"}, "conflict", "device")


def csr_text(path: Path) -> str:
    if path.suffix == ".pem":
        return path.read_text()
    return base64.b64encode(path.read_bytes()).decode()


def is_small_rsa(path: Path) -> bool:
    """A key that the policy refuses, whatever the request is like."""
    data = path.read_bytes()
    load = x509.load_pem_x509_csr if path.suffix == ".pem" else x509.load_der_x509_csr
    key = load(data).public_key()
    return isinstance(key, rsa.RSAPublicKey) and key.key_size < 3072


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_odd_requests_of_others(service: Service, officer: Client, name: str):
    body = {"tenant": TENANT, "name": MESSENGER, "csr": csr_text(CSRS / name)}
    answer = officer.post(CERTIFICATES, body)
    if answer.status == 201:
        assert EXPECTED[name]["expect"] in {"accept-pop", "either"}
        issued = x509.load_der_x509_certificate(base64.b64decode(answer.document["certificate"]))
        check_nothing_leaked(issued)
        return
    assert EXPECTED[name]["expect"] in {"refuse", "either"} or is_small_rsa(CSRS / name)
    assert answer.problem in {"invalid-csr", "algorithm-refused", "weak-key", "invalid-key"}
    with refusing(service, answer.problem):
        again = officer.post(CERTIFICATES, body)
    check_refusal(again, answer.problem, "csr")


def check_nothing_leaked(issued: x509.Certificate) -> None:
    """Of what a request asked for, only the key is in the certificate."""
    names = [name.value for name in issued.subject]
    assert MESSENGER in names
    assert set(names) <= {MESSENGER, "id.ministry.example"}
    constraints = issued.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca
    alternative = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert len(alternative) == 1
    assert (
        "id.ministry.example" in alternative.get_values_for_type(x509.UniformResourceIdentifier)[0]
    )


def test_requests_that_are_none(service: Service, officer: Client):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    good = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    flipped = good[:-1] + bytes((good[-1] ^ 1,))
    pem = base64.encodebytes(good).decode()
    armour = "-----{} CERTIFICATE REQUEST-----\n"
    texts = [
        "x",
        "AAAA",
        base64.b64encode(good + b"\x00").decode(),
        base64.b64encode(good[:-4]).decode(),
        base64.b64encode(flipped).decode(),
        base64.b64encode(b"\x30\x83\x00" + good[2:]).decode(),
        armour.format("BEGIN") + pem,
        armour.format("BEGIN") + "!!!!\n" + armour.format("END"),
        (armour.format("BEGIN") + pem + armour.format("END")) * 2,
        "-----BEGIN CERTIFICATE-----\n" + pem + "-----END CERTIFICATE-----\n",
    ]
    for text in texts:
        body = {"tenant": TENANT, "name": MESSENGER, "csr": text}
        post_refused(service, officer, CERTIFICATES, body, "invalid-csr", "csr")
    for text in ("", "x" * 40_000):
        body = {"tenant": TENANT, "name": MESSENGER, "csr": text}
        post_refused(service, officer, CERTIFICATES, body, "invalid-request", "csr")


def test_requests_for_nobody_and_with_a_known_key(service: Service, officer: Client):
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    body = {"tenant": TENANT, "name": "nobody", "csr": csr}
    post_refused(service, officer, CERTIFICATES, body, "not-found", "name")
    body = {"tenant": "nowhere", "name": MESSENGER, "csr": csr}
    post_refused(service, officer, CERTIFICATES, body, "not-found", "tenant")
    assert (
        officer.post(CERTIFICATES, {"tenant": TENANT, "name": MESSENGER, "csr": csr}).status == 201
    )
    body = {"tenant": TENANT, "name": MESSENGER, "csr": csr}
    post_refused(service, officer, CERTIFICATES, body, "key-reused", "csr")
