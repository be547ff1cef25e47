"""Records of keys with a life: the key, its versions, where they live, who may use them.

As in `kms.domain.records`, `tenant` is part of every key, and times are aware UTC datetimes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar, NewType

from kms.domain.records import EventId, Record, Serial, TenantId
from policies.key_life import KeyState

KeyId = NewType("KeyId", str)
"""32 hex digits."""

NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""A moment that does not come, where rows are sorted by it."""

GENERATED = "generated"
"""How a key version came to the token that it was made on."""


class LogUses(StrEnum):
    """Which uses of a key become events; what changes its state always does."""

    NONE = "none"
    COUNT = "count"
    """One event for a request: how many items, and a digest of what was asked."""
    EVERY = "every"
    """One event for every item."""


@dataclass(frozen=True, slots=True)
class Key(Record):
    """A named key of the organisation, or a KEM slot of it; what it is made of are its versions.

    Attributes:
        key: Its name in the tenant; never given again, though all versions be destroyed.
        key_id: 32 hex digits, random: how the log, ciphertexts and labels on tokens name it.
        purpose: A `KeyPurpose`; `authority` and `log` for keys that a ceremony made.
        slot: Of a KEM slot, what it is for, as the policy has it; else empty.
        algorithm: Asked for by its owner, for every version; empty: the first that policy allows.
        protection: As `algorithm`.
        token: Where versions are made, by its name in the configuration; empty: the service's own.
        rotation_days: From the activation of a version to the next one; 0 for never.
        originator_days: See `policies.key_life.Cryptoperiods`.
        recipient_days: As above.
        overlap_days: How long a version stays active beside the one that follows it.
        retention_days: From deactivation to scheduled destruction; 0 for never.
        log_uses: Which uses become events.
        hold: Reference of the legal hold that blocks destruction; empty for none.
        due: When upkeep has something to do next: `NEVER`, or a moment that may be past.
        event: The event that made it.
    """

    KEY: ClassVar = ("tenant", "key")
    UNIQUE: ClassVar = (("tenant", "key_id"),)

    tenant: TenantId
    key: str
    key_id: KeyId
    purpose: str
    slot: str
    algorithm: str
    protection: str
    token: str
    rotation_days: int
    originator_days: int
    recipient_days: int
    overlap_days: int
    retention_days: int
    log_uses: LogUses
    hold: str
    due: datetime
    created: datetime
    event: EventId


@dataclass(frozen=True, slots=True)
class KeyVersion(Record):
    """One version of a key.

    Attributes:
        version: From 1, without gaps.
        label: Its name on every token that holds it.
        algorithm: Registry name.
        protection: The weakest of its components'.
        components: Of a key held in parts, `{"algorithm", "protection", "label", "sha256"}` of
            each (the digest of its raw public key); else empty.
        public_key: SPKI DER, what is encapsulated to or verified with; empty for a secret key.
        state: Where it is in its life.
        created: When it was made.
        activates: When it became active, or is to.
        originator_end: See `policies.key_life.Life`.
        recipient_end: As above.
        deactivates: When it became deactivated, or is to.
        compromised: Since when it is held to be compromised.
        recover_until: See `policies.key_life.Life`.
        destroys: When its destruction is due; None where none is scheduled.
        destroyed: When it was.
        certificate: Serial of the certificate of its public key, if there is one.
        policy: Hash of the policy that decided on it.
        rule: Rule of that policy.
        event: The event of its birth.
    """

    KEY: ClassVar = ("tenant", "key", "version")
    UNIQUE: ClassVar = (("tenant", "label"),)

    tenant: TenantId
    key: str
    version: int
    label: str
    algorithm: str
    protection: str
    components: tuple[Mapping[str, Any], ...]
    public_key: bytes
    state: KeyState
    created: datetime
    activates: datetime | None
    originator_end: datetime | None
    recipient_end: datetime | None
    deactivates: datetime | None
    compromised: datetime | None
    recover_until: datetime | None
    destroys: datetime | None
    destroyed: datetime | None
    certificate: Serial | None
    policy: str
    rule: str
    event: EventId


@dataclass(frozen=True, slots=True)
class KeyReplica(Record):
    """Where a key version lives.

    Attributes:
        token: Name of the token in the configuration; empty for the service's own.
        token_label: CKA_LABEL of that token when the key came to it.
        key_id: CKA_ID there, hex; empty where the token holds no object of this key's own.
        how: `GENERATED`, or a `hsm_drivers.ports.Replication`.
        attributes: As read back when it came there.
        added: When that was.
        destroyed: When it was destroyed there, and looked that it is gone.
    """

    KEY: ClassVar = ("tenant", "key", "version", "token")

    tenant: TenantId
    key: str
    version: int
    token: str
    token_label: str
    key_id: str
    how: str
    attributes: Mapping[str, Any]
    added: datetime
    destroyed: datetime | None


@dataclass(frozen=True, slots=True)
class KeyPermission(Record):
    """What a principal of the tenant may do with a key: `Operation`s, and `manage`."""

    KEY: ClassVar = ("tenant", "key", "principal")

    tenant: TenantId
    key: str
    principal: str
    operations: tuple[str, ...]
    event: EventId


@dataclass(frozen=True, slots=True)
class KeyReservation(Record):
    """A key version on its way: its label is given out before the signer makes it.

    A crash between that and the commit leaves a key on the token that nothing names but this: the
    same request comes back to it, and once it has expired upkeep has the key destroyed.

    Attributes:
        key_id: Of the key, which need not exist yet.
        work: What makes it: `<principal>|<route>|<Idempotency-Key> <body hash>`, or `rotation`.
    """

    KEY: ClassVar = ("tenant", "label")
    UNIQUE: ClassVar = (("tenant", "work"),)

    tenant: TenantId
    label: str
    key: str
    key_id: KeyId
    version: int
    work: str
    expires: datetime
