"""A small ministry with CAs, a log and devices, and the audit directory it leaves behind.

Made from the documented formats alone: wire, `cryptography` and the naive log.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kms import wire
from kms.device import SlotKey
from kms.wire import Committed, EventType, LeafCertificate, Opening
from policies.policy import shipped
from tests.support.authority import Authority, spki
from tests.support.naive_log import NaiveLog

START = datetime(2026, 3, 1, 8, 0, 0, tzinfo=UTC)
TENANT, SYSTEM = "interior", "authority"
DOMAIN = "id.interior.example"
HELD = {
    "local": True,
    "sensitive": True,
    "always_sensitive": True,
    "extractable": False,
    "never_extractable": True,
    "private": True,
    "on_token": True,
    "sign": True,
}
RULES = {"identity": "identity-elliptic", "kem": "kem-hybrid"}
_CLIENT = ["1.3.6.1.5.5.7.3.2"]
USAGES = {
    "device-identity": ["1.3.6.1.5.5.7.3.40"],
    "messaging-server": _CLIENT,
    "officer": _CLIENT,
    "auditor": _CLIENT,
    "tls-server": ["1.3.6.1.5.5.7.3.1"],
}
REASONS = {
    "key-compromise": x509.ReasonFlags.key_compromise,
    "unspecified": x509.ReasonFlags.unspecified,
    "cessation-of-operation": x509.ReasonFlags.cessation_of_operation,
}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Ministry:
    """Every public method is something that happened; `write` leaves the files."""

    def __init__(self) -> None:
        self.log = NaiveLog("log.interior.example/1", os.urandom(32))
        self.openings: dict[int, list[Opening]] = {}
        self.files: dict[str, bytes] = {}
        self.listed: list[dict[str, Any]] = []
        self.revoked: dict[str, list[tuple[str, datetime, str]]] = {}
        self.numbers: dict[str, int] = {}
        self.devices: dict[str, tuple[str, list[LeafCertificate]]] = {}
        self.policy = shipped().hash
        self.now = START
        self.cas: dict[str, Authority] = {}
        self.log_birth: dict[str, Any] = {}

    def ceremony(self) -> None:
        """Log key first, then the CAs, the policy, a tenant and its server."""
        born = {"public_key_sha256": digest(spki(self.log.key.public_key()))}
        detail = {**self._birth("log", "Ed25519", born), "vkey": self.log.vkey}
        self.event(EventType.LOG_OPENED, SYSTEM, {}, detail=detail | self.log_birth)
        self.born("spare", "Ed25519", b"spare")
        for name, parent in (("root", None), ("people", "root"), ("infrastructure", "root")):
            self.found_authority(name, parent)
        detail = {"name": "sovereign-2026", "hash": self.policy}
        self.event(EventType.POLICY_ACTIVATED, SYSTEM, {}, detail=detail)
        self.register(TENANT)
        self.event(
            EventType.PRINCIPAL_REGISTERED,
            TENANT,
            {Committed.USER: "matrix"},
            detail={"role": "messaging-server"},
        )
        self.certify_server("matrix")

    def event(
        self,
        kind: EventType,
        tenant: str,
        values: Mapping[Committed, str],
        *,
        certificates: Sequence[LeafCertificate] = (),
        policy: Mapping[str, Any] | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> int:
        self.now += timedelta(seconds=7)
        everyone = {Committed.TENANT: tenant, Committed.ACTOR: "officer-1", **values}
        openings = [
            Opening(field, tenant, value, os.urandom(32)) for field, value in everyone.items()
        ]
        leaf = wire.Leaf(
            event=os.urandom(16).hex(),
            type=kind,
            time=self.now,
            origin=self.log.origin,
            commitments={item.field: item.commitment() for item in openings},
            certificates=tuple(certificates),
            policy=policy,
            detail=detail,
        )
        index = self.log.append(leaf.encode())
        self.openings[index] = openings
        return index

    def register(self, tenant: str, domain: str | None = None) -> int:
        detail = {"identity_domain": domain or f"id.{tenant}.example"}
        return self.event(EventType.TENANT_REGISTERED, tenant, {}, detail=detail)

    def born(self, label: str, algorithm: str, public_key: bytes, **change: Any) -> None:
        detail = self._birth(label, algorithm, {"public_key_sha256": digest(public_key)} | change)
        self.event(EventType.KEY_GENERATED, SYSTEM, {}, detail=detail)

    def _birth(self, label: str, algorithm: str, change: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "label": label,
            "algorithm": algorithm,
            "purposes": ["certificate"],
            "protection": "token",
            "attributes": HELD,
            **change,
        }

    def found_authority(self, name: str, parent: str | None) -> None:
        serial = int.from_bytes(os.urandom(16), "big")
        made = Authority.create(
            name, self.cas[parent] if parent else None, serial, START - timedelta(minutes=5)
        )
        self.cas[name] = made
        self.born(f"{name}-1", "ECDSA-P256", made.spki())
        profile = "issuing-ca" if parent else "root-ca"
        certificate = LeafCertificate(
            parent or name, wire.serial_hex(serial), profile, None, digest(made.certificate)
        )
        detail = {"name": name, "generation": 1}
        self.event(
            EventType.AUTHORITY_CREATED, SYSTEM, {}, certificates=[certificate], detail=detail
        )
        self.pem(f"ca/{name}.pem", made.certificate)

    def pem(self, path: str, der: bytes) -> None:
        self.files[path] = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)

    def issue(
        self, authority: str, profile: str, slot: str | None, public_key: bytes, uri: str
    ) -> tuple[LeafCertificate, bytes]:
        serial = int.from_bytes(os.urandom(16), "big")
        begin, end = self.now - timedelta(minutes=5), self.now + timedelta(days=90)
        signs, usages = slot != "kem", USAGES.get(profile, ())
        names = [x509.DNSName("kms.example")] if profile == "tls-server" else None
        der = self.cas[authority].issue(
            public_key, uri, serial, begin, end, signs=signs, usages=usages, names=names
        )
        logged = LeafCertificate(authority, wire.serial_hex(serial), profile, slot, digest(der))
        return logged, der

    def certify_server(self, name: str) -> int:
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        public_key = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        profile = "messaging-server"
        uri = f"https://{DOMAIN}/principals/{name}"
        logged, der = self.issue("infrastructure", profile, None, public_key, uri)
        index = self.event(
            EventType.CERTIFICATE_ISSUED,
            TENANT,
            {Committed.USER: name},
            certificates=[logged],
            policy={"hash": self.policy, "rules": {profile: "infrastructure-elliptic"}},
        )
        self.pem(f"clients/{name}.pem", der)
        self.list(f"clients/{name}.pem", logged, "ECDSA-P256", index, name, None)
        return index

    def list(
        self,
        path: str,
        logged: LeafCertificate,
        algorithm: str,
        index: int,
        user: str,
        device: str | None,
    ) -> None:
        entry = {
            "path": path,
            "serial": logged.serial,
            "algorithm": algorithm,
            "profile": logged.profile,
            "status": "good",
            "user": user,
            "device": device,
            "index": index,
        }
        self.listed.append(entry)

    def enrol(
        self,
        user: str,
        device: str,
        slots: Mapping[str, str] | None = None,
        rules: Mapping[str, str] | None = None,
    ) -> int:
        slots = slots or {"identity": "ECDSA-P256", "kem": "MLKEM768-X25519"}
        uri = f"https://{DOMAIN}/users/{user}/devices/{device}"
        made = [
            (
                algorithm,
                *self.issue(
                    "people",
                    f"device-{slot}",
                    slot,
                    SlotKey.generate(algorithm).public_key,
                    uri,
                ),
            )
            for slot, algorithm in slots.items()
        ]
        chosen = {slot: RULES[slot] for slot in slots}
        index = self.event(
            EventType.DEVICE_ENROLLED,
            TENANT,
            {Committed.USER: user, Committed.DEVICE: device},
            certificates=[logged for _, logged, _ in made],
            policy={"hash": self.policy, "rules": dict(rules or chosen)},
        )
        for algorithm, logged, der in made:
            path = f"devices/{user}/{device}/{logged.slot}.pem"
            self.pem(path, der)
            self.list(path, logged, algorithm, index, user, device)
        self.files[f"receipts/{user}/{device}.tlog-proof"] = self.log.receipt(index)
        self.devices[device] = (user, [logged for _, logged, _ in made])
        return index

    def revoke(self, kind: EventType, names: Sequence[str], reason: str = "key-compromise") -> int:
        """Revoke devices, by one event about their user (or about the only device)."""
        user = self.devices[names[0]][0]
        certificates = [item for name in names for item in self.devices[name][1]]
        values = {Committed.USER: user}
        if kind is EventType.DEVICE_REVOKED:
            values[Committed.DEVICE] = names[0]
        index = self.event(
            kind, TENANT, values, certificates=certificates, detail={"reason": reason}
        )
        for item in certificates:
            self.revoked.setdefault(item.authority, []).append((item.serial, self.now, reason))
        gone = {item.serial for item in certificates}
        for entry in self.listed:
            entry["status"] = "revoked" if entry["serial"] in gone else entry["status"]
        return index

    def orphan(self, authority: str, number: int | None = None) -> int:
        number = int.from_bytes(os.urandom(16), "big") if number is None else number
        serial = wire.serial_hex(number)
        index = self.event(
            EventType.CERTIFICATE_ORPHANED,
            SYSTEM,
            {},
            certificates=[LeafCertificate(authority, serial, "unknown", None, None)],
        )
        entry = (serial, self.now, "cessation-of-operation")
        self.revoked.setdefault(authority, []).append(entry)
        return index

    def crl(self, authority: str, number: int) -> bytes:
        entries = [
            (int(serial, 16), moment, REASONS[reason])
            for serial, moment, reason in self.revoked.get(authority, [])
        ]
        end = self.now + timedelta(days=7)
        return self.cas[authority].crl(entries, number, self.now, end)

    def publish(self, authority: str) -> int:
        number = self.numbers[authority] = self.numbers.get(authority, 0) + 1
        der = self.crl(authority, number)
        detail = {
            "authority": authority,
            "number": number,
            "sha256": digest(der),
            "entries": len(self.revoked.get(authority, [])),
            "this_update": wire.timestamp(self.now),
            "next_update": wire.timestamp(self.now + timedelta(days=7)),
        }
        index = self.event(EventType.CRL_ISSUED, SYSTEM, {}, detail=detail)
        self.store_crl(authority, der)
        return index

    def store_crl(self, authority: str, der: bytes) -> None:
        self.files[f"ca/{authority}.crl"] = der
        pem = x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)
        self.files[f"ca/{authority}.crl.pem"] = pem

    def publish_all(self) -> None:
        for authority in self.cas:
            self.publish(authority)

    def summary(self) -> dict[str, Any]:
        return {
            "log_size": len(self.log.leaves),
            "devices": len(self.devices),
            "certificates": self.listed,
        }

    def write(self, folder: Path) -> Path:
        self.log.write(folder / "log")
        self.files["log.vkey"] = self.log.vkey.encode() + b"\n"
        self.files["summary.json"] = json.dumps(self.summary()).encode()
        self.files["openings.json"] = json.dumps(
            {
                str(index): [item.document() for item in items]
                for index, items in self.openings.items()
            }
        ).encode()
        for index, leaf in enumerate(self.log.leaves):
            self.files[f"events/{index}.json"] = leaf
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder


def busy_ministry() -> Ministry:
    """Three people, five devices, one of the people revoked, one orphan, CRLs."""
    ministry = Ministry()
    ministry.ceremony()
    ministry.publish_all()
    ministry.enrol("ada", "ada-phone")
    ministry.enrol("ada", "ada-laptop", {"identity": "Ed25519", "kem": "MLKEM1024-P384"})
    ministry.enrol("bob", "bob-phone", {"identity": "ECDSA-P256"})
    ministry.enrol(
        "eve",
        "eve-phone",
        {"identity": "ML-DSA-65", "kem": "MLKEM768-X25519"},
        {"identity": "identity-post-quantum", "kem": "kem-hybrid"},
    )
    ministry.enrol("eve", "eve-tablet")
    ministry.orphan("people")
    ministry.revoke(EventType.USER_REVOKED, ["eve-phone", "eve-tablet"])
    ministry.publish_all()
    return ministry
