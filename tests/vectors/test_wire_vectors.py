"""Our own vectors: the code makes them, and they follow from the document by hand.

The second half uses the standard library and `cryptography` only, as a porter would.
"""

import base64
import hashlib
import hmac
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, x25519
from cryptography.hazmat.primitives.serialization import load_der_public_key

from kms import wire
from kms.audit.leaves import parse_leaf
from kms.tlog.notes import VerifierKey
from kms.tlog.receipt import verify_receipt

ROOT = Path(__file__).resolve().parents[2]
VECTORS: dict[str, Any] = json.loads((ROOT / "tests/vectors/wire.json").read_text())
POSSESSION, LOG = VECTORS["possession"], VECTORS["log"]
TRANSCRIPT = base64.b64decode(POSSESSION["transcript"])


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("v", ROOT / "scripts/wire_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_code_still_makes_them() -> None:
    assert script().vectors(VECTORS) == VECTORS


def test_a_fresh_file_differs_in_the_sealed_challenges_only() -> None:
    fresh = script().vectors({})
    for slot, challenge in fresh["possession"]["challenges"].items():
        kept = VECTORS["possession"]["challenges"][slot]
        assert challenge["secret"] == kept["secret"]
        challenge.update(kept)
    assert fresh == VECTORS


# By hand


def test_transcripts_are_canonical_json() -> None:
    document = json.loads(TRANSCRIPT)
    assert sorted(document) == list(document)
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    assert text.encode() == TRANSCRIPT
    assert sorted(document) == [
        "authority",
        "bindings",
        "bundle",
        "device",
        "enrolment",
        "expires",
        "nonce",
        "origin",
        "policy",
        "previous",
        "purpose",
        "slots",
        "tenant",
        "user",
        "version",
    ]
    assert hashlib.sha256(TRANSCRIPT).hexdigest() == POSSESSION["transcript_sha256"]


def test_signatures() -> None:
    message = b"sovereign-kms/enrol/sign/v1\x00" + TRANSCRIPT
    assert hashlib.sha256(message).hexdigest() == POSSESSION["sign_message_sha256"]
    keys = {
        name: load_der_public_key(base64.b64decode(POSSESSION["spki"][name]))
        for name in ("Ed25519", "ECDSA-P256")
    }
    one, two = keys["Ed25519"], keys["ECDSA-P256"]
    assert isinstance(one, ed25519.Ed25519PublicKey)
    assert isinstance(two, ec.EllipticCurvePublicKey)
    one.verify(base64.b64decode(POSSESSION["signatures"]["identity"]), message)
    signature = base64.b64decode(POSSESSION["signatures"]["second"])
    two.verify(signature, message, ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("slot", ["kem", "plain"])
def test_challenges(slot: str) -> None:
    digest = hashlib.sha256(TRANSCRIPT).digest()
    info = b"sovereign-kms/enrol/hpke/v1\x00" + digest
    assert info.hex() == POSSESSION["hpke_info"]
    seeds = POSSESSION["keys"]["MLKEM768-X25519"]
    traditional = x25519.X25519PrivateKey.from_private_bytes(
        bytes.fromhex(seeds["x25519_private_raw"])
    )
    private: Any = traditional
    kem = hpke.KEM.X25519
    if slot == "kem":
        seed = bytes.fromhex(seeds["ml_kem_seed"])
        post_quantum = mlkem.MLKEM768PrivateKey.from_seed_bytes(seed)
        private = hpke.MLKEM768X25519PrivateKey(post_quantum, traditional)
        kem = hpke.KEM.MLKEM768_X25519
    suite = hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    challenge = POSSESSION["challenges"][slot]
    sealed = base64.b64decode(challenge["sealed"])
    secret = suite.decrypt(sealed, private, info)
    assert secret.hex() == challenge["secret"]
    message = b"sovereign-kms/enrol/mac/v1\x00" + slot.encode() + b"\x00"
    message += digest + hashlib.sha256(sealed).digest()
    mac = hmac.new(secret, message, "sha256").digest()
    assert base64.b64encode(mac).decode() == challenge["mac"]


def test_composite_keys_in_spki() -> None:
    spki = base64.b64decode(POSSESSION["spki"]["MLKEM768-X25519"])
    seeds = POSSESSION["keys"]["MLKEM768-X25519"]
    seed = bytes.fromhex(seeds["ml_kem_seed"])
    first = mlkem.MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()
    raw = bytes.fromhex(seeds["x25519_private_raw"])
    second = x25519.X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw()
    header = bytes.fromhex("308204d1300a06082b0601050507063a038204c100")
    assert spki == header + first + second


def test_commitments() -> None:
    key = hashlib.sha256(b"sovereign-kms/commitment/v1").digest()
    assert key.hex() == VECTORS["commitment_key"]
    for item in VECTORS["commitments"]:
        message = base64.b64decode(item["opening"]) + item["field"].encode()
        for text in (item["tenant"].encode(), item["value"].encode()):
            message += len(text).to_bytes(2, "big") + text
        mac = hmac.new(key, message, "sha256").digest()
        assert base64.b64encode(mac).decode() == item["commitment"]


def test_leaves_and_their_tree() -> None:
    leaves = [base64.b64decode(text) for text in LOG["leaves"]]
    digests = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]
    assert [digest.hex() for digest in digests] == LOG["leaf_hashes"]
    left = hashlib.sha256(b"\x01" + digests[0] + digests[1]).digest()
    assert hashlib.sha256(b"\x01" + left + digests[2]).hexdigest() == LOG["root"]
    document = json.loads(leaves[1])
    commitments = {item["field"]: item["commitment"] for item in VECTORS["commitments"][:4]}
    assert document["commitments"] == commitments
    assert parse_leaf(leaves[0]).type is wire.EventType.LOG_OPENED
    assert parse_leaf(leaves[1]).encode() == leaves[1]


def test_the_receipt() -> None:
    header, index, sibling, last, rest = LOG["receipt"].split("\n", 4)
    assert (header, index) == ("c2sp.org/tlog-proof@v1", "index 1")
    assert base64.b64decode(sibling).hex() == LOG["leaf_hashes"][0]
    assert base64.b64decode(last).hex() == LOG["leaf_hashes"][2]
    assert rest == "\n" + LOG["checkpoint"]
    body, signature = LOG["checkpoint"].split("\n\n")
    root = base64.b64encode(bytes.fromhex(LOG["root"])).decode()
    assert body == f"log.example/1\n3\n{root}"
    name, key_id, typed = LOG["vkey"].split("+", 2)
    raw = base64.b64decode(typed)
    assert hashlib.sha256(name.encode() + b"\n" + raw).hexdigest()[:8] == key_id
    blob = base64.b64decode(signature.split(" ")[2])
    assert blob[:4].hex() == key_id
    ed25519.Ed25519PublicKey.from_public_bytes(raw[1:]).verify(blob[4:], f"{body}\n".encode())
    leaf = base64.b64decode(LOG["leaves"][1])
    verify_receipt(LOG["receipt"].encode(), leaf, [VerifierKey.parse(LOG["vkey"])], name)


def test_serials() -> None:
    for number, text in VECTORS["serials"].items():
        assert int(text, 16) == int(number)
        assert len(text) % 2 == 0
