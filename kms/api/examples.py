"""Examples that the description of answers shows; tests hold them against the schemas."""

from typing import Any

TIMES: dict[str, Any] = {
    "not_before": "2026-03-01T07:55:00Z",
    "not_after": "2027-03-01T07:55:00Z",
}
SERIAL = "5f0c1f0e6f0b4a529a650f6f0f6f2c11"
DER = "MIIB..."
RECEIPT: dict[str, Any] = {
    "status": "final",
    "log": 1,
    "index": 41,
    "text": "c2sp.org/tlog-proof@v1\nindex 41\n...",
}
OPENING: dict[str, Any] = {
    "field": "user",
    "tenant": "interior",
    "value": "alice@interior.example",
    "opening": "q83v...",
}
ENROLMENT: dict[str, Any] = {
    "enrolment": "8f14e45fceea167a5a36dedd4bea2543",
    "expires": "2026-03-01T08:10:00Z",
    "transcript": "eyJh...",
    "policy": {"hash": "9c56...", "rules": {"identity": "identity-elliptic"}},
    "challenges": {},
}
CERTIFIED: dict[str, Any] = {
    "enrolment": "8f14e45fceea167a5a36dedd4bea2543",
    "user": "alice@interior.example",
    "device": "phone-1",
    "certificates": [
        {
            "slot": "identity",
            "profile": "device-identity",
            "serial": SERIAL,
            **TIMES,
            "certificate": DER,
        }
    ],
    "chain": [DER, DER],
    "receipt": RECEIPT,
    "leaf": "eyJh...",
    "openings": [OPENING],
}
PRINCIPAL: dict[str, Any] = {
    "tenant": "interior",
    "name": "matrix-1",
    "role": "messaging-server",
    "bundles": ["device"],
    "uri": "https://id.interior.example/principals/matrix-1",
}
CRL: dict[str, Any] = {
    "number": 7,
    "this_update": "2026-03-01T08:00:00Z",
    "next_update": "2026-03-02T08:00:00Z",
    "entries": 3,
}
PROBLEM: dict[str, Any] = {
    "type": "urn:sovereign-kms:problem:weak-key",
    "title": "The public key is weak",
    "status": 422,
    "detail": "the RSA modulus shares a factor with that of another key",
    "retry": "never",
    "field": "slots[0].public_key",
}
CERTIFICATE: dict[str, Any] = {
    "tenant": "interior",
    "authority": "people",
    "serial": SERIAL,
    "profile": "device-identity",
    "algorithm": "ECDSA-P256",
    "user": "alice@interior.example",
    "device": "phone-1",
    "slot": "identity",
    "principal": None,
    **TIMES,
    "status": "revoked",
    "revoked_at": "2026-04-01T10:00:00Z",
    "reason": "key-compromise",
    "sha256": "0b9c...",
    "certificate": DER,
    "index": 41,
}
DEVICE: dict[str, Any] = {
    "user": "alice@interior.example",
    "device": "phone-1",
    "bundle": "device",
    "standing": "active",
}
EVENT: dict[str, Any] = {
    "index": 41,
    "event": "6f1ed002ab5595859014ebf0951522d9",
    "type": "device.enrolled",
    "time": "2026-03-01T08:00:00Z",
    "leaf": "eyJh...",
    "openings": [OPENING],
}
AUTHORITY: dict[str, Any] = {
    "name": "people",
    "generation": 1,
    "algorithm": "ECDSA-P256",
    "issuer": "root",
    "certificate": DER,
    "crl": CRL,
}
