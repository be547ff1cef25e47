"""The ledger's records: one frozen dataclass per table, its key first.

`tenant` is part of every key (DESIGN section 8). Times are aware UTC datetimes with whole seconds.
What belongs to the authority itself stands under `SYSTEM_TENANT`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, NewType

from kms.wire import EnrolmentPurpose

TenantId = NewType("TenantId", str)
UserId = NewType("UserId", str)
DeviceId = NewType("DeviceId", str)
EventId = NewType("EventId", str)
EnrolmentId = NewType("EnrolmentId", str)
Serial = NewType("Serial", str)
"""Lower-case hex without 0x, even length."""
LogId = NewType("LogId", int)
"""Epoch number, from 1."""

SYSTEM_TENANT = TenantId("authority")
"""Officers and auditors of the authority; its members act across tenants."""


class Role(StrEnum):
    """What a principal is; `kms.domain.authorisation` says what a role may do."""

    OFFICER = "officer"
    AUDITOR = "auditor"
    MESSAGING_SERVER = "messaging-server"


class Standing(StrEnum):
    """Whether a tenant, principal, user or device may act."""

    ACTIVE = "active"
    REVOKED = "revoked"


class CertificateStatus(StrEnum):
    """ORPHANED: signed but never committed; revoked on discovery, its DER unknown."""

    GOOD = "good"
    REVOKED = "revoked"
    ORPHANED = "orphaned"


class Reason(StrEnum):
    """CRL reasons (RFC 5280 5.3.1) that the service gives."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "key-compromise"
    CA_COMPROMISE = "ca-compromise"
    AFFILIATION_CHANGED = "affiliation-changed"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessation-of-operation"
    PRIVILEGE_WITHDRAWN = "privilege-withdrawn"


class EnrolmentStatus(StrEnum):
    """PENDING may become any other; the others are final."""

    PENDING = "pending"
    COMPLETED = "completed"
    REFUSED = "refused"
    EXPIRED = "expired"


class Record:
    """Root of all records.

    Attributes:
        KEY: Names the primary key.
        UNIQUE: Further unique keys.
        MUTABLE: Where only these fields ever change, the others being written once: replacing a
            record compares and writes no others. None where any may change.
    """

    __slots__ = ()
    KEY: ClassVar[tuple[str, ...]]
    UNIQUE: ClassVar[tuple[tuple[str, ...], ...]] = ()
    MUTABLE: ClassVar[tuple[str, ...] | None] = None


@dataclass(frozen=True, slots=True)
class Tenant(Record):
    """A ministry or agency; its identity domain stands in the SAN URIs of its people."""

    KEY: ClassVar = ("tenant",)
    UNIQUE: ClassVar = (("identity_domain",),)

    tenant: TenantId
    identity_domain: str
    standing: Standing
    event: EventId


@dataclass(frozen=True, slots=True)
class Principal(Record):
    """Who may call the API; found by the URI SAN of the client certificate."""

    KEY: ClassVar = ("tenant", "name")
    UNIQUE: ClassVar = (("tenant", "uri"),)

    tenant: TenantId
    name: str
    uri: str
    role: Role
    bundles: tuple[str, ...]
    standing: Standing
    event: EventId


@dataclass(frozen=True, slots=True)
class Authority(Record):
    """A certification authority of one generation."""

    KEY: ClassVar = ("tenant", "name", "generation")

    tenant: TenantId
    name: str
    generation: int
    key: str
    algorithm: str
    certificate: bytes
    issuer: str
    standing: Standing
    event: EventId


@dataclass(frozen=True, slots=True)
class User(Record):
    """A person of a tenant."""

    KEY: ClassVar = ("tenant", "user")

    tenant: TenantId
    user: UserId
    standing: Standing
    event: EventId


@dataclass(frozen=True, slots=True)
class Device(Record):
    """A device of one user; `bundle` is the profile it was last certified under."""

    KEY: ClassVar = ("tenant", "device")

    tenant: TenantId
    device: DeviceId
    user: UserId
    bundle: str
    standing: Standing
    event: EventId


@dataclass(frozen=True, slots=True)
class Certificate(Record):
    """An issued certificate; `user`, `device`, `slot` for people's, `principal` for others.

    Attributes:
        tenant: Owner.
        authority: Issuing authority's name.
        generation: Its generation.
        der: Empty for an orphan.
        sha256: Hex digest of `der`; for an orphan, of nothing: empty.
        tbs_sha256: Hex digest of the TBSCertificate, as the signer's journal has it.
        event: The event that issued it.
        revoked_by: The event that revoked it.
        crl_shard: Which CRL lists it; 0 while there is one.
        evidence: Evidence class of the key (`asserted` today).
    """

    KEY: ClassVar = ("tenant", "authority", "serial")

    tenant: TenantId
    authority: str
    serial: Serial
    generation: int
    profile: str
    profile_version: int
    algorithm: str
    user: UserId | None
    device: DeviceId | None
    slot: str | None
    principal: str | None
    der: bytes
    sha256: str
    tbs_sha256: str
    not_before: datetime
    not_after: datetime
    status: CertificateStatus
    event: EventId
    revoked_by: EventId | None = None
    revoked_at: datetime | None = None
    reason: Reason | None = None
    crl_shard: int = 0
    evidence: str = "asserted"
    policy: str = ""
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Fingerprint(Record):
    """A component key that is registered; a second registration in the tenant is refused.

    `fingerprint` is SHA-256 (hex) of the component's SPKI DER; `owner` is `<device>/<slot>` or
    `principal/<name>`; `modulus` (hex) is set for RSA alone (`scheme` tells), so that shared
    factors can be found.
    """

    KEY: ClassVar = ("tenant", "fingerprint")

    tenant: TenantId
    fingerprint: str
    owner: str
    scheme: str
    modulus: str | None = None


@dataclass(frozen=True, slots=True)
class Enrolment(Record):
    """A reserved enrolment between its two calls.

    `slots` is a tuple of JSON objects: name, algorithm, spki (base64), profile, serial,
    not_before, not_after, rule, and for KEM slots sealed (base64) and mac_sha256 (hex).
    """

    KEY: ClassVar = ("tenant", "enrolment")
    MUTABLE: ClassVar = ("status",)

    tenant: TenantId
    enrolment: EnrolmentId
    principal: str
    user: UserId
    device: DeviceId
    bundle: str
    purpose: EnrolmentPurpose
    transcript: bytes
    slots: tuple[Mapping[str, Any], ...]
    expires: datetime
    status: EnrolmentStatus


@dataclass(frozen=True, slots=True)
class Reservation(Record):
    """A serial given out before its certificate is signed (infrastructure certificates)."""

    KEY: ClassVar = ("tenant", "authority", "serial")
    UNIQUE: ClassVar = (("tenant", "principal", "route", "idempotency_key"),)

    tenant: TenantId
    authority: str
    serial: Serial
    principal: str
    route: str
    idempotency_key: str
    not_before: datetime
    not_after: datetime
    expires: datetime


@dataclass(frozen=True, slots=True)
class Event(Record):
    """An event as it stands in the log; `leaf` is the exact leaf."""

    KEY: ClassVar = ("log", "index")
    UNIQUE: ClassVar = (("tenant", "event"),)

    log: LogId
    index: int
    tenant: TenantId
    event: EventId
    type: str
    time: datetime
    leaf: bytes


@dataclass(frozen=True, slots=True)
class EventOpenings(Record):
    """What opens the commitments of an event, apart from the log: a person's can be erased.

    `openings` are the documents of `kms.wire.Opening`.
    """

    KEY: ClassVar = ("tenant", "event")

    tenant: TenantId
    event: EventId
    openings: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Epoch(Record):
    """One log; `vkey` is its verifier key (C2SP signed-note)."""

    KEY: ClassVar = ("log",)

    log: LogId
    origin: str
    key: str
    vkey: str


@dataclass(frozen=True, slots=True)
class Checkpoint(Record):
    """A committed head; `note` is empty until the signer has signed it, then its exact bytes."""

    KEY: ClassVar = ("log", "size")

    log: LogId
    size: int
    root: bytes
    note: bytes


@dataclass(frozen=True, slots=True)
class Crl(Record):
    """A CRL number given out; `der` is empty until the list is signed and committed."""

    KEY: ClassVar = ("tenant", "authority", "shard", "number")

    tenant: TenantId
    authority: str
    shard: int
    number: int
    generation: int
    this_update: datetime
    next_update: datetime
    entries: int
    der: bytes
    event: EventId | None


@dataclass(frozen=True, slots=True)
class Idempotent(Record):
    """The answer to a call that changed state; kept at least seven days.

    Attributes:
        body_sha256: Hash of the request body.
        log: Epoch of its events.
        first_index: Index of its first event.
        events: How many events it made; they follow each other.
        size: Tree size its receipts prove against.
        answer: What `kms.services.answers` renders to the exact bytes, JSON.
    """

    KEY: ClassVar = ("tenant", "principal", "route", "idempotency_key")

    tenant: TenantId
    principal: str
    route: str
    idempotency_key: str
    body_sha256: str
    log: LogId
    first_index: int
    events: int
    size: int
    answer: bytes
    created: datetime


@dataclass(frozen=True, slots=True)
class PolicyVersion(Record):
    """A policy that was in force; `source` is the exact file."""

    KEY: ClassVar = ("tenant", "policy")

    tenant: TenantId
    policy: str
    name: str
    source: bytes
    event: EventId


@dataclass(frozen=True, slots=True)
class SignerMark(Record):
    """How far the signer's journal has been reconciled with the ledger."""

    KEY: ClassVar = ("token",)

    token: str
    counter: int
