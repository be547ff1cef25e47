"""The signer's KEM arithmetic against others' numbers: X-Wing, RFC 9180, wycheproof."""

import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm_drivers import der, kem
from hsm_drivers.errors import BadCiphertextError, HsmError
from hsm_drivers.unwrapped import open_seed
from policies.algorithms import Algorithm, Kind, algorithm, algorithms
from tests.support.vectors import folder, load_json

CRYPTO = folder("crypto")
XWING: list[dict[str, str]] = load_json(CRYPTO / "xwing-draft-test-vectors.json")
HPKE: list[dict[str, Any]] = [
    case
    for case in load_json(CRYPTO / "hpke-rfc9180-test-vectors-first4.json.gz")
    if (case["mode"], case["kdf_id"], case["aead_id"]) == (0, 1, 2) and case["kem_id"] in {16, 32}
]
MLKEM_GROUPS: list[dict[str, Any]] = load_json(CRYPTO / "wycheproof" / "mlkem_768_test.json.gz")[
    "testGroups"
]
ECDH: list[dict[str, Any]] = load_json(CRYPTO / "wycheproof" / "ecdh_secp256r1_test.json.gz")[
    "testGroups"
]
HKDF: list[dict[str, Any]] = load_json(CRYPTO / "wycheproof" / "hkdf_sha256_test.json.gz")[
    "testGroups"
]
X25519: list[dict[str, Any]] = load_json(CRYPTO / "wycheproof" / "x25519_test.json.gz")[
    "testGroups"
]


def by_hpke_id(number: int) -> Algorithm:
    return next(row for row in algorithms(Kind.KEM) if row.hpke_kem_id == number)


def diffie_hellman(row: Algorithm, private: bytes, sent: bytes) -> tuple[bytes, bytes]:
    """Result, and the private key's own point."""
    if row.curve is None:
        own = x25519.X25519PrivateKey.from_private_bytes(private)
        result = own.exchange(x25519.X25519PublicKey.from_public_bytes(sent))
        return result, own.public_key().public_bytes_raw()
    curve = ec.SECP256R1()
    key = ec.derive_private_key(int.from_bytes(private, "big"), curve)
    peer = ec.EllipticCurvePublicKey.from_encoded_point(curve, sent)
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return key.exchange(ec.ECDH(), peer), point


@pytest.mark.parametrize("case", XWING, ids=lambda case: case["seed"][:8])
def test_xwing(case: dict[str, str]) -> None:
    row = by_hpke_id(0x647A)
    expanded = hashlib.shake_256(bytes.fromhex(case["sk"])).digest(96)
    parts = [
        open_seed(algorithm(name), seed)
        for name, seed in zip(row.components, (expanded[:64], expanded[64:]), strict=True)
    ]
    assert b"".join(part.public_key for part in parts) == bytes.fromhex(case["pk"])
    sent = kem.split(row, bytes.fromhex(case["ct"]))
    secrets = [part.operate(given) for part, given in zip(parts, sent, strict=True)]
    secret = kem.shared_secret(row, secrets, sent, [part.public_key for part in parts])
    assert secret == bytes.fromhex(case["ss"])


@pytest.mark.parametrize("case", HPKE, ids=lambda case: str(case["kem_id"]))
def test_hpke_of_rfc_9180(case: dict[str, Any]) -> None:
    row = by_hpke_id(case["kem_id"])
    sent = kem.split(row, bytes.fromhex(case["enc"]))
    result, own = diffie_hellman(row, bytes.fromhex(case["skRm"]), sent[0])
    secret = kem.shared_secret(row, [result], sent, [own])
    assert secret == bytes.fromhex(case["shared_secret"])
    info, first = bytes.fromhex(case["info"]), case["encryptions"][0]
    key, nonce = kem.hpke_key(row, secret, info)
    assert (key.hex(), nonce.hex()) == (case["key"], case["base_nonce"])
    aad, ciphertext = bytes.fromhex(first["aad"]), bytes.fromhex(first["ct"])
    assert kem.open_hpke(row, secret, info, aad, ciphertext) == bytes.fromhex(first["pt"])
    with pytest.raises(BadCiphertextError):
        kem.open_hpke(row, secret, info, aad + b"x", ciphertext)


def test_there_are_vectors_of_both_kems() -> None:
    assert {case["kem_id"] for case in HPKE} == {16, 32}


@pytest.mark.parametrize("group", MLKEM_GROUPS, ids=lambda group: group["source"]["name"])
def test_ml_kem_of_wycheproof(group: dict[str, Any]) -> None:
    row = algorithm("ML-KEM-768")
    for case in group["tests"]:
        ciphertext = bytes.fromhex(case["c"])
        try:
            key = open_seed(row, bytes.fromhex(case["seed"]))
            secret = key.operate(kem.split(row, ciphertext)[0])
        except HsmError:
            assert case["result"] == "invalid", case["tcId"]
        else:
            right = secret == bytes.fromhex(case["K"])
            assert right is (case["result"] == "valid"), case["tcId"]


def test_points_of_wycheproof() -> None:
    """What is no uncompressed point of the curve never comes to a token."""
    row = algorithm("ECDH-P256")
    header = der.public_key(row, bytes(65))[:-65]
    seen = {"valid": 0, "invalid": 0}
    for case in ECDH[0]["tests"]:
        encoded = bytes.fromhex(case["public"])
        if not encoded.startswith(header) or case["result"] not in seen:
            continue  # of another curve, or compressed: never as long as a ciphertext
        seen[case["result"]] += 1
        sent = encoded[len(header) :]
        if case["result"] == "valid":
            assert kem.split(row, sent) == (sent,), case["tcId"]
        else:
            with pytest.raises(BadCiphertextError):
                kem.split(row, sent)
    assert min(seen.values()) > 0, seen


def test_zero_results_of_wycheproof() -> None:
    row = algorithm("X25519")
    found = 0
    for case in X25519[0]["tests"]:
        shared = bytes.fromhex(case["shared"])
        if not any(shared):
            found += 1
            with pytest.raises(BadCiphertextError):
                kem.shared_secret(row, [shared], [bytes(32)], [bytes(32)])
    assert found


@pytest.mark.parametrize("group", HKDF, ids=lambda group: str(group["keySize"]))
def test_hkdf_of_wycheproof(group: dict[str, Any]) -> None:
    for case in group["tests"]:
        salt, secret, info = (bytes.fromhex(case[name]) for name in ("salt", "ikm", "info"))
        if case["result"] == "valid":
            key = kem.extract("sha256", salt, secret)
            assert kem.expand("sha256", key, info, case["size"]).hex() == case["okm"], case["tcId"]
