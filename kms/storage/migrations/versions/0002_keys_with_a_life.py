"""Keys with a life: states, periods, replicas by token name, permissions, reservations."""

import secrets
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NEVER = 253402300799
"""9999-12-31T23:59:59Z, as a time is stored."""


def upgrade() -> None:
    """Keys of ceremonies are carried over: active since the event that made them, and endless."""
    keys, versions, replicas = _read("keys"), _read("key_versions"), _read("key_replicas")
    born = _births()
    for table in ("keys", "key_versions", "key_replicas"):
        op.drop_table(table)
    _create_tables()
    made = {(row["tenant"], row["key"]): row["event"] for row in keys}
    since = {name: born.get((name[0], event), 0) for name, event in made.items()}
    _insert("keys", [_key(row, since[row["tenant"], row["key"]]) for row in keys])
    _insert("key_versions", [_version(row, made, since) for row in versions])
    _insert("key_replicas", [_replica(row, since) for row in replicas])


def _read(table: str) -> list[dict[str, Any]]:
    query = sa.text(f"SELECT * FROM {table}")  # noqa: S608 - the names above
    return [dict(row) for row in op.get_bind().execute(query).mappings()]


def _births() -> dict[tuple[str, str], int]:
    """When each key's event happened."""
    rows = op.get_bind().execute(
        sa.text(
            "SELECT keys.tenant, keys.event, events.time FROM keys"
            " JOIN events ON events.tenant = keys.tenant AND events.event = keys.event"
        )
    )
    return {(tenant, event): time for tenant, event, time in rows}


def _insert(table: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in rows[0]]
        op.bulk_insert(sa.table(table, *columns), rows)


def _key(row: dict[str, Any], since: int) -> dict[str, Any]:
    return {
        **row,
        "key_id": secrets.token_hex(16),
        "slot": "",
        "algorithm": "",
        "protection": "",
        "token": "",
        "rotation_days": 0,
        "originator_days": 0,
        "recipient_days": 0,
        "overlap_days": 0,
        "retention_days": 0,
        "log_uses": "none",
        "hold": "",
        "due": _NEVER,
        "created": since,
    }


def _version(row: dict[str, Any], made: Any, since: Any) -> dict[str, Any]:
    name = row["tenant"], row["key"]
    standing = row.pop("standing")
    return {
        **row,
        "label": row["key"],
        "components": "[]",
        "state": "active" if standing == "active" else "deactivated",
        "created": since[name],
        "activates": since[name],
        "policy": "",
        "rule": "",
        "event": made[name],
    }


def _replica(row: dict[str, Any], since: Any) -> dict[str, Any]:
    del row["label"]
    return {
        **row,
        "token": "",
        "token_label": row["token"],
        "how": "generated",
        "added": since[row["tenant"], row["key"]],
    }


def _create_tables() -> None:
    op.create_table(
        "keys",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("algorithm", sa.Text(), nullable=False),
        sa.Column("protection", sa.Text(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("rotation_days", sa.BigInteger(), nullable=False),
        sa.Column("originator_days", sa.BigInteger(), nullable=False),
        sa.Column("recipient_days", sa.BigInteger(), nullable=False),
        sa.Column("overlap_days", sa.BigInteger(), nullable=False),
        sa.Column("retention_days", sa.BigInteger(), nullable=False),
        sa.Column("log_uses", sa.Text(), nullable=False),
        sa.Column("hold", sa.Text(), nullable=False),
        sa.Column("due", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", name="pk_keys"),
        sa.UniqueConstraint("tenant", "key_id", name="uq_keys_tenant_key_id"),
    )
    op.create_index("ix_keys_due", "keys", ["due"])
    op.create_index("ix_keys_key_id", "keys", ["key_id"])
    op.create_table(
        "key_versions",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("algorithm", sa.Text(), nullable=False),
        sa.Column("protection", sa.Text(), nullable=False),
        sa.Column("components", sa.Text(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("activates", sa.BigInteger(), nullable=True),
        sa.Column("originator_end", sa.BigInteger(), nullable=True),
        sa.Column("recipient_end", sa.BigInteger(), nullable=True),
        sa.Column("deactivates", sa.BigInteger(), nullable=True),
        sa.Column("compromised", sa.BigInteger(), nullable=True),
        sa.Column("recover_until", sa.BigInteger(), nullable=True),
        sa.Column("destroys", sa.BigInteger(), nullable=True),
        sa.Column("destroyed", sa.BigInteger(), nullable=True),
        sa.Column("certificate", sa.Text(), nullable=True),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", "version", name="pk_key_versions"),
        sa.UniqueConstraint("tenant", "label", name="uq_key_versions_tenant_label"),
    )
    op.create_table(
        "key_replicas",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("token_label", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("how", sa.Text(), nullable=False),
        sa.Column("attributes", sa.Text(), nullable=False),
        sa.Column("added", sa.BigInteger(), nullable=False),
        sa.Column("destroyed", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "key", "version", "token", name="pk_key_replicas"),
    )
    op.create_table(
        "key_permissions",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("operations", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", "principal", name="pk_key_permissions"),
    )
    op.create_index(
        "ix_key_permissions_tenant_principal", "key_permissions", ["tenant", "principal"]
    )
    op.create_table(
        "key_reservations",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("work", sa.Text(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "label", name="pk_key_reservations"),
        sa.UniqueConstraint("tenant", "work", name="uq_key_reservations_tenant_work"),
    )
    op.create_index("ix_key_reservations_expires", "key_reservations", ["expires"])
