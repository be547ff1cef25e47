"""A ledger from before keys had lives keeps its keys: migration 0001 to 0002."""

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import create_engine

from kms.domain.key_records import NEVER, Key, KeyReplica, KeyVersion
from kms.domain.records import SYSTEM_TENANT
from kms.storage.migrate import _config, check, current, migrate
from kms.storage.sql import SqlLedger
from policies.key_life import KeyState

BORN = 1_800_000_000
ATTRIBUTES = {"sensitive": True, "extractable": False}


@pytest.fixture
def old(tmp_path: Path) -> str:
    """A ledger of the first schema, with two keys of a ceremony in it."""
    path = tmp_path / "kms.db"
    path.touch(mode=0o600)
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection, connection.begin():
        command.upgrade(_config(connection), "0001")
    engine.dispose()
    with sqlite3.connect(path) as database:
        for at, (name, standing) in enumerate([("root-1", "active"), ("log-0", "revoked")]):
            event = f"{at:032x}"
            database.execute("INSERT INTO keys VALUES ('authority', ?, 'log', ?)", (name, event))
            database.execute(
                "INSERT INTO key_versions VALUES ('authority', ?, 1, 'Ed25519', 'token', x'30', ?)",
                (name, standing),
            )
            database.execute(
                "INSERT INTO key_replicas VALUES ('authority', ?, 1, 'kms', ?, 'ab', ?)",
                (name, name, json.dumps(ATTRIBUTES)),
            )
            database.execute(
                "INSERT INTO events VALUES (1, ?, 'authority', ?, 'key.generated', ?, x'7b7d')",
                (at, event, BORN + at),
            )
    database.close()
    return f"sqlite:///{path}"


def test_keys_are_carried_over(old: str):
    migrate(old)
    assert current(old) == "0002"
    assert check(old) == []
    ledger = SqlLedger(old)
    born = datetime.fromtimestamp(BORN, UTC)
    key = ledger.get(Key, SYSTEM_TENANT, "root-1")
    assert key is not None
    assert (key.purpose, key.due, key.created) == ("log", NEVER, born)
    (version,) = ledger.find(KeyVersion, tenant=SYSTEM_TENANT, key="root-1")
    assert (version.state, version.activates, version.label) == (KeyState.ACTIVE, born, "root-1")
    assert (version.public_key, version.algorithm) == (b"\x30", "Ed25519")
    (replica,) = ledger.find(KeyReplica, tenant=SYSTEM_TENANT, key="root-1")
    assert (replica.token, replica.token_label, replica.key_id) == ("", "kms", "ab")
    assert dict(replica.attributes) == ATTRIBUTES
    (ended,) = ledger.find(KeyVersion, tenant=SYSTEM_TENANT, key="log-0")
    assert ended.state is KeyState.DEACTIVATED
    ids = {item.key_id for item in ledger.find(Key)}
    assert len(ids) == 2
    assert all(len(item) == 32 for item in ids)
    ledger.close()


def test_it_is_done_once(old: str):
    migrate(old)
    ledger = SqlLedger(old)
    before = ledger.find(Key)
    ledger.close()
    migrate(old)
    ledger = SqlLedger(old)
    assert ledger.find(Key) == before
    ledger.close()


def test_a_crash_within_leaves_the_old_keys(old: str, monkeypatch: pytest.MonkeyPatch):
    """All or nothing: what was dropped to be made anew is still there."""

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("crash")

    with monkeypatch.context() as patched:
        patched.setattr("alembic.op.bulk_insert", crash)
        with pytest.raises(RuntimeError, match="crash"):
            migrate(old)
    assert current(old) == "0001"
    migrate(old)
    ledger = SqlLedger(old)
    assert len(ledger.find(Key)) == 2
    ledger.close()
