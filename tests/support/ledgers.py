"""Ledgers for tests, and records and units to put into them."""

import hashlib
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kms.domain.records import (
    Certificate,
    CertificateStatus,
    DeviceId,
    EnrolmentId,
    EnrolmentPurpose,
    EnrolmentStatus,
    EventId,
    Fingerprint,
    Idempotent,
    LogId,
    Principal,
    Role,
    Serial,
    Standing,
    TenantId,
    UserId,
)
from kms.domain.records import Enrolment as EnrolmentRecord
from kms.services.ports import Change, EventDraft, Insert, Replace, Unit
from kms.storage.migrate import migrate
from kms.wire import Committed, Opening

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
TENANT = TenantId("ministry")
LOG = LogId(1)
EPOCH = (LOG, "log.example/1", "log-key", "vkey")


@cache
def _template() -> bytes:
    """A migrated, empty database; making one costs more than most tests."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "template.db"
        migrate(f"sqlite:///{path}", create=True)
        return path.read_bytes()


def database(folder: Path) -> str:
    """URL of a fresh database in that folder."""
    path = folder / "kms.db"
    path.touch(mode=0o600)
    path.write_bytes(_template())
    return f"sqlite:///{path}"


def copy_database(url: str, folder: Path) -> str:
    """URL of a copy, journal files included, as a crash of the machine would leave it."""
    source = Path(url.removeprefix("sqlite:///"))
    for name in (source.name, f"{source.name}-wal"):
        if (source.parent / name).exists():
            shutil.copyfile(source.parent / name, folder / name)
    (folder / source.name).chmod(0o600)
    return f"sqlite:///{folder / source.name}"


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def draft(name: str, *, openings: int = 2, tenant: TenantId = TENANT) -> EventDraft:
    fields = list(Committed)[:openings]
    return EventDraft(
        event=EventId(digest(name)[:32]),
        tenant=tenant,
        type="certificate.issued",
        time=NOW,
        leaf=f"leaf of {name}".encode(),
        openings=tuple(
            Opening(item, tenant, f"{item.value} of {name}", hashlib.sha256(name.encode()).digest())
            for item in fields
        ),
    )


def idempotent(key: str, answer: bytes = b"{}") -> Idempotent:
    return Idempotent(
        TENANT, "server", "POST /v1/x", key, digest(key), LogId(0), 0, 0, 0, answer, NOW
    )


def certificate(name: str, **changes: Any) -> Certificate:
    values = {
        "tenant": TENANT,
        "authority": "people",
        "serial": Serial(digest(name)[:32]),
        "generation": 1,
        "profile": "device",
        "profile_version": 1,
        "algorithm": "ECDSA-P256",
        "user": UserId("anna"),
        "device": DeviceId("phone"),
        "slot": "identity",
        "principal": None,
        "der": name.encode() * 50,
        "sha256": digest(name),
        "tbs_sha256": digest("tbs " + name),
        "not_before": NOW,
        "not_after": NOW + timedelta(days=365),
        "status": CertificateStatus.GOOD,
        "event": EventId(digest(name)[:32]),
    }
    return Certificate(**{**values, **changes})


def fingerprint(name: str, owner: str = "phone/identity") -> Fingerprint:
    return Fingerprint(TENANT, digest(name), owner, "EC")


def principal(name: str, uri: str, tenant: TenantId = TENANT) -> Principal:
    return Principal(
        tenant, name, uri, Role.MESSAGING_SERVER, ("device",), Standing.ACTIVE, EventId("e")
    )


def enrolment(
    name: str, status: EnrolmentStatus = EnrolmentStatus.PENDING, **changes: Any
) -> EnrolmentRecord:
    values = {
        "tenant": TENANT,
        "enrolment": EnrolmentId(digest(name)[:32]),
        "principal": "server",
        "user": UserId("anna"),
        "device": DeviceId("phone"),
        "bundle": "device",
        "purpose": next(iter(EnrolmentPurpose)),
        "transcript": b"{}",
        "slots": ({"name": "identity", "spki": "AAAA", "rules": ["r", 1, None]}, {"name": "kem"}),
        "expires": NOW + timedelta(minutes=10),
        "status": status,
    }
    return EnrolmentRecord(**{**values, **changes})


def unit(name: str, *changes: Change, events: int = 1, key: str | None = None) -> Unit:
    """A unit with its own fingerprint, event(s) and idempotency key beside the given changes."""
    return Unit(
        changes=(Insert(fingerprint(name)), *changes),
        events=tuple(draft(f"{name}/{at}") for at in range(events)),
        idempotent=idempotent(key or name),
    )


def enrolment_units(first: int, count: int) -> tuple[Sequence[Change], list[Unit]]:
    """What a batch of enrolments reserves, and the units that complete it."""
    reserved: list[Change] = []
    units = []
    for at in range(first, first + count):
        pending = enrolment(f"enrolment {at}")
        completed = enrolment(f"enrolment {at}", EnrolmentStatus.COMPLETED)
        reserved.append(Insert(pending))
        issued = Insert(certificate(f"certificate {at}"))
        units.append(unit(f"unit {at}", issued, Replace(completed, pending)))
    return reserved, units
