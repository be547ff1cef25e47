"""The server's side of an enrolment, from the documented format alone: wire and cryptography."""

import hashlib
import hmac
import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import (
    ec,
    ed25519,
    mldsa,
    mlkem,
    padding,
    rsa,
    x25519,
)
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from kms import wire
from kms.device import Expectations
from tests.support.authority import Authority
from tests.support.naive_log import NaiveLog

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DOMAIN = "id.interior.example"
POLICY = hashlib.sha256(b"a policy").hexdigest()
COMPOSITES = {  # algorithm to (size of the ML-KEM key, of the SPKI's header), RFC 9935 sizes
    "MLKEM768-X25519": (1184, 1216),
    "MLKEM1024-P384": (1568, 1665),
}


def verify(public_key: Any, signature: bytes, data: bytes) -> None:
    """Raise `InvalidSignature` unless the signature holds."""
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        p384 = isinstance(public_key.curve, ec.SECP384R1)
        public_key.verify(signature, data, ec.ECDSA(hashes.SHA384() if p384 else hashes.SHA256()))
    elif isinstance(public_key, rsa.RSAPublicKey):
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        public_key.verify(signature, data, pss, hashes.SHA256())
    else:
        assert isinstance(
            public_key, ed25519.Ed25519PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey
        )
        public_key.verify(signature, data)


def seal(algorithm: str, spki: bytes, info: bytes, secret: bytes) -> bytes:
    """HPKE base mode; `enc ‖ ct`."""
    kem, key = _hpke_key(algorithm, spki)
    suite = hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    return suite.encrypt(secret, key, info)


def _hpke_key(algorithm: str, spki: bytes) -> tuple[hpke.KEM, Any]:
    if algorithm not in COMPOSITES:
        kems = {
            "X25519": hpke.KEM.X25519,
            "ECDH-P256": hpke.KEM.P256,
            "ML-KEM-768": hpke.KEM.MLKEM768,
            "ML-KEM-1024": hpke.KEM.MLKEM1024,
        }
        return kems[algorithm], load_der_public_key(spki)
    cut, size = COMPOSITES[algorithm]
    raw = spki[-size:]
    if algorithm == "MLKEM768-X25519":
        return hpke.KEM.MLKEM768_X25519, hpke.MLKEM768X25519PublicKey(
            mlkem.MLKEM768PublicKey.from_public_bytes(raw[:cut]),
            x25519.X25519PublicKey.from_public_bytes(raw[cut:]),
        )
    return hpke.KEM.MLKEM1024_P384, hpke.MLKEM1024P384PublicKey(
        mlkem.MLKEM1024PublicKey.from_public_bytes(raw[:cut]),
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), raw[cut:]),
    )


class EnrolmentService:
    """Answers as the API does. Attributes may be changed between calls to play a dishonest one."""

    def __init__(self, tenant: str = "interior", origin: str = "log.example/1") -> None:
        self.tenant = tenant
        self.root = Authority.create("root", None, 1, NOW - timedelta(days=30))
        self.people = Authority.create("people", self.root, 2, NOW - timedelta(days=30))
        self.log = NaiveLog(origin, os.urandom(32))
        self.log.append(b"something older")
        self.pending: dict[str, tuple[wire.Transcript, dict[str, bytes]]] = {}
        self.uris: dict[str, str] = {}
        self.names: list[x509.GeneralName] | None = None

    def expectations(self) -> Expectations:
        return Expectations(
            self.tenant,
            self.log.origin,
            hashlib.sha256(self.people.certificate).hexdigest(),
            self.log.vkey,
            self.root.certificate,
        )

    def begin(self, request: dict[str, Any]) -> dict[str, Any]:
        """POST /v1/enrolments."""
        slots = tuple(
            wire.TranscriptSlot(item["name"], item["algorithm"], wire.unb64(item["public_key"]))
            for item in request["slots"]
        )
        transcript = wire.Transcript(
            origin=self.log.origin,
            authority=hashlib.sha256(self.people.certificate).hexdigest(),
            tenant=self.tenant,
            enrolment=os.urandom(16).hex(),
            purpose=wire.EnrolmentPurpose(request["purpose"]),
            user=request["user"],
            device=request["device"],
            bundle=request["bundle"],
            policy=POLICY,
            nonce=os.urandom(32),
            expires=NOW + timedelta(minutes=10),
            slots=slots,
        )
        return self.offer(transcript)

    def offer(self, transcript: wire.Transcript) -> dict[str, Any]:
        """The answer that hands out this transcript, with challenges that fit it."""
        encoded = transcript.encode()
        challenges, expected = {}, {}
        for slot in transcript.slots:
            if slot.algorithm == "X25519" or "KEM" in slot.algorithm or "ECDH" in slot.algorithm:
                secret = os.urandom(32)
                sealed = seal(slot.algorithm, slot.spki, wire.hpke_info(encoded), secret)
                challenges[slot.name] = wire.b64(sealed)
                expected[slot.name] = wire.kem_mac(secret, slot.name, encoded, sealed)
        self.pending[transcript.enrolment] = (transcript, expected)
        return {
            "enrolment": transcript.enrolment,
            "expires": wire.timestamp(transcript.expires),
            "transcript": wire.b64(encoded),
            "policy": {"hash": POLICY, "rules": {slot.name: "any" for slot in transcript.slots}},
            "challenges": challenges,
        }

    def finish(self, enrolment: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST /v1/enrolments/{id}/proofs; a proof that does not hold is an AssertionError."""
        transcript, expected = self.pending.pop(enrolment)
        proofs = {name: wire.unb64(text) for name, text in body["proofs"].items()}
        assert set(proofs) == {slot.name for slot in transcript.slots}
        for slot in transcript.slots:
            if slot.name in expected:
                assert hmac.compare_digest(proofs[slot.name], expected[slot.name])
            else:
                message = wire.sign_message(transcript.encode())
                verify(load_der_public_key(slot.spki), proofs[slot.name], message)
        return self.certify(transcript)

    def certify(self, transcript: wire.Transcript) -> dict[str, Any]:
        """Issue, log, and answer."""
        begin, end = NOW - timedelta(minutes=5), NOW + timedelta(days=90)
        uri = f"https://{DOMAIN}/users/{transcript.user}/devices/{transcript.device}"
        issued = []
        for slot in transcript.slots:
            serial = int.from_bytes(os.urandom(16), "big")
            named = self.uris.get(slot.name, uri)
            der = self.people.issue(slot.spki, named, serial, begin, end, names=self.names)
            issued.append((f"device-{slot.name}", wire.serial_hex(serial), slot.name, der))
        openings = [
            wire.Opening(field, self.tenant, value, os.urandom(32))
            for field, value in (
                (wire.Committed.TENANT, self.tenant),
                (wire.Committed.ACTOR, "matrix"),
                (wire.Committed.USER, transcript.user),
                (wire.Committed.DEVICE, transcript.device),
            )
        ]
        leaf = wire.Leaf(
            event=os.urandom(16).hex(),
            type=wire.EventType.DEVICE_ENROLLED,
            time=NOW,
            origin=self.log.origin,
            commitments={item.field: item.commitment() for item in openings},
            certificates=tuple(
                wire.LeafCertificate(
                    "people", serial, profile, slot, hashlib.sha256(der).hexdigest()
                )
                for profile, serial, slot, der in issued
            ),
            policy={"hash": transcript.policy, "rules": {}},
        ).encode()
        index = self.log.append(leaf)
        self.log.append(b"something newer")
        return {
            "enrolment": transcript.enrolment,
            "user": transcript.user,
            "device": transcript.device,
            "certificates": [
                {
                    "slot": slot,
                    "profile": profile,
                    "serial": serial,
                    "not_before": wire.timestamp(begin),
                    "not_after": wire.timestamp(end),
                    "certificate": wire.b64(der),
                }
                for profile, serial, slot, der in issued
            ],
            "chain": [wire.b64(self.people.certificate), wire.b64(self.root.certificate)],
            "receipt": {
                "status": "final",
                "index": index,
                "log": 1,
                "text": self.log.receipt(index).decode(),
            },
            "leaf": wire.b64(leaf),
            "openings": [item.document() for item in openings],
        }


def copied(document: Any) -> Any:
    """A deep copy, as JSON would make it."""
    return json.loads(json.dumps(document))


__all__ = ["DOMAIN", "NOW", "POLICY", "Encoding", "EnrolmentService", "copied", "seal", "verify"]
