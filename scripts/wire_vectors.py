"""Writes `tests/vectors/wire.json`: fixed inputs and what the wire format makes of them.

Everything is derived from fixed keys and counters, with one exception: HPKE sealing is randomised,
so a challenge already in the file is kept as long as it opens. Run it after a deliberate change of
the format, and read the difference:

    python scripts/wire_vectors.py
"""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kms import wire
from kms.device import der
from kms.tlog.append import append
from kms.tlog.checkpoint import Checkpoint
from kms.tlog.hashing import leaf_hash
from kms.tlog.notes import NoteSignature, VerifierKey, format_note, vkey
from kms.tlog.receipt import format_receipt
from kms.tlog.tiles import NodeCache
from kms.tlog.tree import inclusion_proof

TARGET = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "wire.json"
ORIGIN = "log.example/1"
NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
_MLKEM768_X25519 = bytes.fromhex("06082b0601050507063a")


def fixed(label: str, size: int = 32) -> bytes:
    """Bytes that anyone can derive: SHAKE-256 of a label."""
    return hashlib.shake_256(f"sovereign-kms/test-vector/{label}".encode()).digest(size)


class Keys:
    """The private test keys; published, good for nothing else."""

    def __init__(self) -> None:
        self.ed25519 = ed25519.Ed25519PrivateKey.from_private_bytes(fixed("ed25519"))
        self.p256 = ec.derive_private_key(int.from_bytes(fixed("p256"), "big") >> 1, ec.SECP256R1())
        self.x25519 = x25519.X25519PrivateKey.from_private_bytes(fixed("x25519"))
        self.mlkem = mlkem.MLKEM768PrivateKey.from_seed_bytes(fixed("mlkem768", 64))
        self.log = ed25519.Ed25519PrivateKey.from_private_bytes(fixed("log"))

    def spki(self) -> dict[str, bytes]:
        """Public keys by algorithm."""
        composite = self.mlkem.public_key().public_bytes_raw()
        composite += self.x25519.public_key().public_bytes_raw()
        plain = {"Ed25519": self.ed25519, "ECDSA-P256": self.p256, "X25519": self.x25519}
        return {
            name: key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            for name, key in plain.items()
        } | {"MLKEM768-X25519": der.spki(_MLKEM768_X25519, composite)}


def transcript(keys: Keys, slots: dict[str, str]) -> wire.Transcript:
    """A transcript with these slots."""
    spki = keys.spki()
    return wire.Transcript(
        origin=ORIGIN,
        authority=fixed("authority").hex(),
        tenant="interior",
        enrolment=fixed("enrolment", 16).hex(),
        purpose=wire.EnrolmentPurpose.ENROL,
        user="ada@interior.example",
        device="phone-1",
        bundle="device",
        policy=fixed("policy").hex(),
        nonce=fixed("nonce"),
        expires=NOW,
        slots=tuple(
            wire.TranscriptSlot(name, algorithm, spki[algorithm])
            for name, algorithm in slots.items()
        ),
    )


def possession(keys: Keys, old: dict[str, Any]) -> dict[str, Any]:
    """Transcript, what is signed, signatures, and a KEM challenge with its answer."""
    signing = {"identity": "Ed25519", "second": "ECDSA-P256"}
    slots = signing | {"kem": "MLKEM768-X25519", "plain": "X25519"}
    made = transcript(keys, slots)
    encoded = made.encode()
    message = wire.sign_message(encoded)
    deterministic = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    challenges = {
        slot: _challenge(keys, slot, encoded, old) for slot in slots if slot not in signing
    }
    return {
        "keys": {
            "Ed25519": {"private_raw": fixed("ed25519").hex()},
            "ECDSA-P256": {"private_scalar": f"{keys.p256.private_numbers().private_value:064x}"},
            "X25519": {"private_raw": fixed("x25519").hex()},
            "MLKEM768-X25519": {
                "ml_kem_seed": fixed("mlkem768", 64).hex(),
                "x25519_private_raw": fixed("x25519").hex(),
            },
        },
        "spki": {name: wire.b64(spki) for name, spki in keys.spki().items()},
        "transcript": wire.b64(encoded),
        "transcript_sha256": hashlib.sha256(encoded).hexdigest(),
        "sign_message_sha256": hashlib.sha256(message).hexdigest(),
        "hpke_info": wire.hpke_info(encoded).hex(),
        "signatures": {
            "identity": wire.b64(keys.ed25519.sign(message)),
            "second": wire.b64(keys.p256.sign(message, deterministic)),
        },
        "challenges": challenges,
    }


def _challenge(keys: Keys, slot: str, encoded: bytes, old: dict[str, Any]) -> dict[str, str]:
    secret = fixed(f"secret/{slot}")
    private: Any = keys.x25519
    kem = hpke.KEM.X25519
    if slot == "kem":
        private = hpke.MLKEM768X25519PrivateKey(keys.mlkem, keys.x25519)
        kem = hpke.KEM.MLKEM768_X25519
    suite = hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    info = wire.hpke_info(encoded)
    sealed = wire.unb64(
        old.get("possession", {}).get("challenges", {}).get(slot, {}).get("sealed", "")
    )
    try:
        opened = suite.decrypt(sealed, private, info)
    except InvalidTag:
        opened = b""
    if opened != secret:
        sealed = suite.encrypt(secret, private.public_key(), info)
    return {
        "secret": secret.hex(),
        "sealed": wire.b64(sealed),
        "mac": wire.b64(wire.kem_mac(secret, slot, encoded, sealed)),
    }


def openings() -> list[wire.Opening]:
    """One for each field; a value that is not ASCII among them."""
    values = {
        wire.Committed.TENANT: "interior",
        wire.Committed.ACTOR: "matrix",
        wire.Committed.USER: "ada@interior.example",
        wire.Committed.DEVICE: "phone-1",
    }
    made = [
        wire.Opening(kind, "interior", value, fixed(f"opening/{kind}"))
        for kind, value in values.items()
    ]
    return [*made, wire.Opening(wire.Committed.ACTOR, "intérieur", "", fixed("opening/odd"))]


def commitments() -> list[dict[str, str]]:
    """Openings and what they open."""
    return [{**item.document(), "commitment": item.commitment()} for item in openings()]


def leaves() -> list[bytes]:
    """The smallest leaf, and one with everything in it."""
    opened = wire.Leaf(
        event=fixed("event/0", 16).hex(),
        type=wire.EventType.LOG_OPENED,
        time=NOW,
        origin=ORIGIN,
        commitments={},
        detail={"vkey": vkey(ORIGIN, Keys().log.public_key().public_bytes_raw())},
    )
    enrolled = wire.Leaf(
        event=fixed("event/1", 16).hex(),
        type=wire.EventType.DEVICE_ENROLLED,
        time=NOW,
        origin=ORIGIN,
        commitments={item.field: item.commitment() for item in openings()[:4]},
        certificates=tuple(
            wire.LeafCertificate(
                "people",
                fixed(f"serial/{slot}", 16).hex(),
                f"device-{slot}",
                slot,
                fixed(f"certificate/{slot}").hex(),
            )
            for slot in ("identity", "kem")
        ),
        policy={
            "hash": fixed("policy").hex(),
            "rules": {"identity": "identity-elliptic", "kem": "kem-hybrid"},
        },
        detail={},
    )
    return [opened.encode(), enrolled.encode(), b'{"the":"next"}']


def log(keys: Keys) -> dict[str, Any]:
    """Leaves, their hashes, a checkpoint over them, and a receipt for the second."""
    data = leaves()
    tree = append(lambda _level, _number: None, 0, [leaf_hash(leaf) for leaf in data])
    nodes = NodeCache(lambda *key: tree.tiles.get(key))
    body = Checkpoint(ORIGIN, tree.size, tree.root).body()
    key = VerifierKey.parse(vkey(ORIGIN, keys.log.public_key().public_bytes_raw()))
    signature = NoteSignature(ORIGIN, key.key_id, keys.log.sign(body))
    note = format_note(body, [signature])
    receipt = format_receipt(1, inclusion_proof(1, tree.size, nodes), note)
    return {
        "private_raw": fixed("log").hex(),
        "vkey": key.text(),
        "leaves": [wire.b64(leaf) for leaf in data],
        "leaf_hashes": [leaf_hash(leaf).hex() for leaf in data],
        "root": tree.root.hex(),
        "checkpoint": note.decode(),
        "receipt": receipt.decode(),
    }


def vectors(old: dict[str, Any]) -> dict[str, Any]:
    """The whole file; `old` is the one that is there."""
    keys = Keys()
    return {
        "about": "docs/wire-format.md; made by scripts/wire_vectors.py; test keys, published",
        "possession": possession(keys, old),
        "commitment_key": wire.COMMITMENT_KEY.hex(),
        "commitments": commitments(),
        "log": log(keys),
        "serials": {str(number): wire.serial_hex(number) for number in (0, 1, 255, 256, 2**127)},
    }


def main() -> None:
    """Rewrite the file."""
    old = json.loads(TARGET.read_text()) if TARGET.exists() else {}
    text = json.dumps(vectors(old), indent=1, ensure_ascii=False) + "\n"
    TARGET.write_text(text)
    print(f"{TARGET}: {len(text)} characters")


if __name__ == "__main__":
    main()
