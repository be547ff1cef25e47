"""The tables: one per record class, and the tree (DESIGN section 8).

Columns are the record's fields, in their order. `kms.storage.migrations` makes the tables;
a test compares the two.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeEngine

from kms.domain.key_records import (
    Key,
    KeyPermission,
    KeyReplica,
    KeyReservation,
    KeyVersion,
)
from kms.domain.records import (
    Authority,
    Certificate,
    Checkpoint,
    Crl,
    Device,
    Enrolment,
    Epoch,
    Event,
    EventOpenings,
    Fingerprint,
    Idempotent,
    PolicyVersion,
    Principal,
    Record,
    Reservation,
    SignerMark,
    Tenant,
    User,
)
from kms.storage.mapping import Column as Stored
from kms.storage.mapping import shape_of

METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

_TYPES: dict[Stored, TypeEngine[Any]] = {
    Stored.TEXT: Text(),
    Stored.INTEGER: BigInteger(),
    Stored.BYTES: LargeBinary(),
    Stored.TIME: BigInteger(),
    Stored.JSON: Text(),
}


def _table(name: str, kind: type[Record], *indices: tuple[str, ...], rowid: bool = True) -> Table:
    """The table of a record class; without a rowid its rows stand in the primary key's own tree.

    That spares SQLite a second tree, and a page written, where rows are short. Not for tables with
    other indices: SQLite would rather read along the primary key than enter those.
    """
    shape = shape_of(kind)
    return Table(
        name,
        METADATA,
        *(
            Column(field.name, _TYPES[field.column], nullable=field.nullable, autoincrement=False)
            for field in shape.fields
        ),
        PrimaryKeyConstraint(*kind.KEY),
        *(UniqueConstraint(*unique) for unique in kind.UNIQUE),
        *(Index(None, *columns) for columns in indices),
        sqlite_with_rowid=rowid,
    )


TABLES: dict[type[Record], Table] = {
    Tenant: _table("tenants", Tenant),
    Principal: _table("principals", Principal, ("uri",)),
    Authority: _table("authorities", Authority),
    Key: _table("keys", Key, ("due",), ("key_id",)),
    KeyVersion: _table("key_versions", KeyVersion),
    KeyReplica: _table("key_replicas", KeyReplica),
    KeyPermission: _table("key_permissions", KeyPermission, ("tenant", "principal")),
    KeyReservation: _table("key_reservations", KeyReservation, ("expires",)),
    User: _table("users", User, rowid=False),
    Device: _table("devices", Device, ("tenant", "user")),
    Certificate: _table(
        "certificates",
        Certificate,
        ("tenant", "user"),
        ("tenant", "device"),
        ("tenant", "serial"),
        ("serial",),
        ("authority", "status"),
    ),
    Fingerprint: _table("fingerprints", Fingerprint, rowid=False),
    Enrolment: _table("enrolments", Enrolment, ("status", "expires"), ("expires",)),
    Reservation: _table("reservations", Reservation, ("expires",)),
    Event: _table("events", Event, ("tenant", "log", "index")),
    EventOpenings: _table("openings", EventOpenings, rowid=False),
    Epoch: _table("epochs", Epoch),
    Checkpoint: _table("checkpoints", Checkpoint),
    Crl: _table("crls", Crl),
    Idempotent: _table("idempotency", Idempotent, ("created",)),
    PolicyVersion: _table("policy_versions", PolicyVersion),
    SignerMark: _table("signer_marks", SignerMark),
}

HEADS = Table(
    "heads",
    METADATA,
    Column("log", BigInteger(), ForeignKey("epochs.log"), nullable=False, autoincrement=False),
    Column("size", BigInteger(), nullable=False),
    Column("root", LargeBinary(), nullable=False),
    PrimaryKeyConstraint("log"),
)
"""One row per epoch; whoever appends must swap it, so two writers never append to one head."""

TILES = Table(
    "tiles",
    METADATA,
    Column("log", BigInteger(), ForeignKey("epochs.log"), nullable=False, autoincrement=False),
    Column("level", BigInteger(), nullable=False, autoincrement=False),
    Column("number", BigInteger(), nullable=False, autoincrement=False),
    Column("hashes", LargeBinary(), nullable=False),
    PrimaryKeyConstraint("log", "level", "number"),
)
"""The tree's hash tiles (C2SP tlog-tiles), the partial ones as far as they go."""
