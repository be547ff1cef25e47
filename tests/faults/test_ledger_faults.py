"""The ledger when things break: killed processes, full disks, locks, and lost answers."""

import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kms.domain.records import Checkpoint, Enrolment, Event, Fingerprint, Idempotent
from kms.services.ports import Conflict, Insert, Ledger, LedgerUnavailableError, Placed, Replace
from kms.storage.faulty import Fault, FaultyLedger
from kms.storage.integrity import integrity
from kms.storage.memory import MemoryLedger
from kms.storage.migrate import current, migrate
from kms.storage.sql import SqlLedger
from tests.support.ledgers import (
    EPOCH,
    LOG,
    certificate,
    copy_database,
    database,
    enrolment_units,
    fingerprint,
    unit,
)

ROOT = Path(__file__).parents[2]
STEPS = ["begin", "write", "before-commit", "after-commit"]


@pytest.fixture
def url(tmp_path: Path) -> str:
    made = database(tmp_path)
    ledger = SqlLedger(made)
    ledger.open_log(*EPOCH)
    ledger.close()
    return made


@pytest.fixture
def ledger(url: str) -> Iterator[SqlLedger]:
    made = SqlLedger(url)
    yield made
    made.close()


def child(script: str, url: str, *arguments: str) -> subprocess.Popen[str]:
    """A process that runs the script with `url`, `argv` and this package's helpers at hand."""
    prelude = f"""
        import os, signal, sys
        from kms.services.ports import *
        from kms.storage.sql import SqlLedger
        from tests.support.ledgers import *
        url, argv = {url!r}, {arguments!r}
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(script)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


DIES_AT_A_STEP = """
    step, conflict = argv
    # In conflict, a first transaction begins to write, is rolled back, and a second goes in order.
    left = 2 if conflict and step in ("begin", "write") else 1
    def die(at):
        global left
        left -= at == step and armed
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
    armed = False
    ledger = SqlLedger(url, faults=die)
    reserved, units = enrolment_units(0, 20)
    ledger.reserve(reserved)
    ledger.commit(units[:10])
    armed = True
    ledger.commit([*units[10:], *(units[:1] if conflict else [])])
"""


@pytest.mark.parametrize("conflict", ["", "conflict"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_a_commit_is_whole_or_nothing(url: str, step: str, conflict: str):
    with child(DIES_AT_A_STEP, url, step, conflict) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    expected = 20 if step == "after-commit" else 10
    ledger = SqlLedger(url)
    head = ledger.head()
    assert head is not None
    assert head.size == expected
    for kind in (Event, Fingerprint, Idempotent):
        assert ledger.count(kind) == expected
    assert ledger.count(Enrolment, status="completed") == expected
    assert [item.size for item in ledger.find(Checkpoint)] == [10, 20][: expected // 10]
    assert integrity(url) == []

    _, units = enrolment_units(0, 20)
    retried = ledger.commit(units[10:])
    assert {type(item) for item in retried} == ({Conflict} if expected == 20 else {Placed})
    assert ledger.count(Event) == 20
    ledger.close()
    assert integrity(url) == []


COMMITS_AND_TELLS = """
    ledger = SqlLedger(url)
    at = ledger.head().size
    while True:
        ledger.commit([unit(str(at)), unit(str(at + 1)), unit(str(at), key=f"again {at}")])
        at += 2
        print(at, flush=True)
"""


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_nothing_acknowledged_is_missing(url: str, seed: int):
    wait = random.Random(seed).uniform(0.005, 0.08)  # noqa: S311 - moments, not secrets
    with child(COMMITS_AND_TELLS, url) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "2\n"
        time.sleep(wait)
        process.kill()
        acknowledged = int((process.stdout.read().split() or ["2"])[-1])
    ledger = SqlLedger(url)
    head = ledger.head()
    assert head is not None
    assert head.size - acknowledged in (0, 2)
    assert ledger.count(Event) == ledger.count(Fingerprint) == head.size
    ledger.close()
    assert integrity(url) == []


def test_the_files_of_a_running_ledger_are_a_ledger(ledger: SqlLedger, url: str, tmp_path: Path):
    """What lies on the disk between commits, without what the process knows."""
    for at in range(5):
        ledger.commit([unit(str(at))])
        folder = tmp_path / str(at)
        folder.mkdir()
        copy = copy_database(url, folder)
        assert integrity(copy) == []
        other = SqlLedger(copy)
        assert other.head() == ledger.head()
        other.close()


def test_killed_while_the_schema_is_made(tmp_path: Path):
    script = """
        from alembic import op
        from kms.storage.migrate import migrate
        real, left = op.create_table, [12]
        def create(*arguments, **options):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)
        op.create_table = create
        migrate(url, create=True)
    """
    url = f"sqlite:///{tmp_path}/kms.db"
    with child(script, url) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert current(url) is None
    migrate(url)
    assert current(url) == "0002"


def damage_page(path: Path, table: str) -> None:
    """Overwrite the first page of a table's tree."""
    with closing(sqlite3.connect(path)) as connection:
        ((size,),) = connection.execute("PRAGMA page_size")
        wanted = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        ((page,),) = connection.execute(wanted, (table,))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)


class TestDisk:
    """Failures of the store itself."""

    def test_a_full_disk_refuses_and_nothing_was_done(self, ledger: SqlLedger, url: str):
        reserved, units = enrolment_units(0, 200)
        ledger.reserve(reserved)
        ledger.commit(units[:5])
        head = ledger.head()
        connection = ledger._writer._open()
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 1}")
        connection.rollback()
        for units_in_question in (units[5:], [*units[5:], units[0]]):
            with pytest.raises(LedgerUnavailableError, match="disk is full: make space") as caught:
                ledger.commit(units_in_question)
            assert not caught.value.maybe_done
            assert ledger.head() == head
            assert ledger.count(Event) == 5
            connection = ledger._writer._open()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 1}")
            connection.rollback()
        ledger._writer.close()
        assert {type(item) for item in ledger.commit(units[5:])} == {Placed}
        ledger.close()
        assert integrity(url) == []

    def test_a_full_disk_in_the_slow_way(self, ledger: SqlLedger, url: str):
        """The failure strikes inside a savepoint."""
        _, units = enrolment_units(0, 1)
        ledger.commit([unit("taken")])
        connection = ledger._writer._open()
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        connection.rollback()
        large = certificate("large", der=b"x" * 200_000)
        changes = [Insert(fingerprint("taken")), Insert(fingerprint("x"))]
        assert ledger.reserve(changes) is not None
        with pytest.raises(LedgerUnavailableError, match="disk is full"):
            ledger.commit([unit("taken"), unit("a", Insert(large))])
        assert ledger.commit([unit("taken"), *units]) != []
        ledger.close()
        assert integrity(url) == []

    def test_a_failing_commit_may_or_may_not_be_done(self, ledger: SqlLedger, url: str):
        """The journal cannot grow: the write fails inside COMMIT."""
        reserved, units = enrolment_units(0, 300)
        ledger.reserve(reserved)
        journal = Path(f"{url.removeprefix('sqlite:///')}-wal")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal.stat().st_size + 10_000, hard))
        try:
            with pytest.raises(LedgerUnavailableError, match=r"disk|failed") as caught:
                ledger.commit(units)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.maybe_done
        done = ledger.count(Event)
        assert done in (0, 300)
        assert ledger.count(Idempotent) == done
        assert len(ledger.commit(units)) == 300
        assert ledger.count(Event) == 300
        ledger.close()
        assert integrity(url) == []

    def test_a_database_that_became_read_only(self, ledger: SqlLedger):
        connection = ledger._writer._open()
        connection.exec_driver_sql("PRAGMA query_only=1")
        connection.rollback()
        with pytest.raises(LedgerUnavailableError, match="read-only: check the owner") as caught:
            ledger.commit([unit("a")])
        assert not caught.value.maybe_done
        assert ledger.find(Event) == []
        assert ledger.commit([unit("a")]) == [Placed(LOG, 0, 1)]

    def test_a_file_of_somebody_else(self, url: str):
        """As a user who may read it and not write."""
        path = Path(url.removeprefix("sqlite:///"))
        script = """
            ledger = SqlLedger(url)
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            try:
                ledger.commit([unit("a")])
            except LedgerUnavailableError as error:
                print(error)
        """
        # Root becomes nobody, who must be able to come as far as the folder.
        closed = [folder for folder in path.parent.parents if not folder.stat().st_mode & 0o001]
        above = closed if os.geteuid() == 0 else []
        modes = {folder: folder.stat().st_mode for folder in [path.parent, *above]}
        try:
            path.chmod(0o444)
            for folder in modes:
                folder.chmod(0o555)
            with child(script, url) as process:
                output, _ = process.communicate()
        finally:
            for folder, mode in modes.items():
                folder.chmod(mode)
        assert "read-only: check the owner" in output

    def test_another_process_holds_the_lock(
        self, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ):
        monkeypatch.setattr("kms.storage.dialect.BUSY_SECONDS", 0.05)
        monkeypatch.setitem(sys.modules["kms.storage.dialect"].PRAGMAS, "busy_timeout", 50)
        ledger = SqlLedger(url)
        holder = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerUnavailableError, match="another process holds its lock"):
            ledger.commit([unit("a")])
        assert ledger.count(Event) == 0
        holder.execute("ROLLBACK")
        holder.close()
        assert ledger.commit([unit("a")]) == [Placed(LOG, 0, 1)]
        ledger.close()

    def test_a_damaged_page_ends_writing_and_not_reading(
        self, ledger: SqlLedger, url: str, tmp_path: Path
    ):
        path = Path(url.removeprefix("sqlite:///"))
        ledger.commit([unit("a", Insert(certificate("a")))])
        ledger.close()
        (tmp_path / "backup").mkdir()
        backup = copy_database(url, tmp_path / "backup")
        damage_page(path, "certificates")
        damaged = SqlLedger(url)
        assert damaged.commit([unit("b")]), "nothing is known of it yet"
        with pytest.raises(LedgerUnavailableError, match="damaged: stop, and restore it"):
            damaged.find(type(certificate("a")))
        for write in (
            lambda: damaged.commit([unit("c")]),
            lambda: damaged.reserve([]),
            lambda: damaged.store_note(LOG, 1, b"note"),
        ):
            with pytest.raises(LedgerUnavailableError, match="damaged: stop, and restore it"):
                write()
        assert damaged.count(Event) == 2
        damaged.close()
        restored = SqlLedger(backup)
        assert restored.commit([unit("b")]) == [Placed(LOG, 1, 2)]
        restored.close()

    def test_not_a_database(self, tmp_path: Path):
        path = tmp_path / "kms.db"
        path.write_bytes(b"This is a letter, not a database. " * 300)
        url = f"sqlite:///{path}"
        for attempt in (
            lambda: SqlLedger(url).head(),
            lambda: SqlLedger(url).commit([unit("a")]),
            lambda: migrate(url),
            lambda: current(url),
            lambda: integrity(url),
        ):
            with pytest.raises(LedgerUnavailableError, match="not a database: check the path"):
                attempt()

    def test_the_place_for_the_file_is_missing(self, tmp_path: Path):
        with pytest.raises(LedgerUnavailableError, match=r"cannot be made \(No such file"):
            migrate(f"sqlite:///{tmp_path}/missing/kms.db", create=True)

    def test_messages_carry_no_values(self, ledger: SqlLedger):
        ledger.reserve([Insert(fingerprint("a"))])
        connection = ledger._writer._open()
        connection.exec_driver_sql("ALTER TABLE certificates RENAME TO gone")
        connection.commit()
        with pytest.raises(LedgerUnavailableError) as caught:
            ledger.find(type(certificate("a")), user="anna-the-secret")
        error: BaseException | None = caught.value
        while error is not None:
            assert "anna-the-secret" not in str(error)
            error = error.__cause__ or error.__context__


@pytest.mark.parametrize("step", STEPS)
def test_a_failure_of_any_kind_at_any_step_is_survived(url: str, step: str):
    """An exception from the middle of a transaction: nothing of it stays, nothing is stuck."""
    armed = True

    def fail(at: str) -> None:
        if at == step and armed:
            raise KeyboardInterrupt

    ledger = SqlLedger(url, faults=fail)
    with pytest.raises(KeyboardInterrupt):
        ledger.commit([unit("a")])
    armed = False
    done = step == "after-commit"
    assert ledger.count(Event) == done
    assert ledger.commit([unit("b")]) == [Placed(LOG, done, 1 + done)]
    ledger.close()
    assert integrity(url) == []


class TestFaultyLedger:
    """The three ways to fail, over any ledger."""

    @pytest.fixture(params=["sql", "memory"])
    def inner(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
        made: Ledger = MemoryLedger()
        if request.param == "sql":
            made = SqlLedger(database(tmp_path))
        made.open_log(*EPOCH)
        yield made
        made.close()

    @pytest.mark.parametrize(
        ("fault", "maybe_done", "done"),
        [(Fault.REFUSED, False, 0), (Fault.LOST, True, 0), (Fault.DONE, True, 1)],
    )
    def test_a_commit_fails_as_told(self, inner: Ledger, fault: Fault, maybe_done: bool, done: int):
        ledger = FaultyLedger(inner)
        ledger.fail_next("commit", fault)
        with pytest.raises(LedgerUnavailableError, match="on command") as caught:
            ledger.commit([unit("a")])
        assert caught.value.maybe_done is maybe_done
        assert inner.count(Event) == done
        (outcome,) = ledger.commit([unit("a")])
        assert isinstance(outcome, Conflict if done else Placed)

    def test_every_method_can_fail_and_only_as_often_as_told(self, inner: Ledger):
        ledger = FaultyLedger(inner)
        ledger.commit([unit("a")])
        calls = {
            "get": lambda: ledger.get(Checkpoint, LOG, 1),
            "find": lambda: ledger.find(Event),
            "count": lambda: ledger.count(Event),
            "reserve": lambda: ledger.reserve([Replace(fingerprint("x"))]),
            "open_log": lambda: ledger.open_log(*EPOCH),
            "commit": lambda: ledger.commit([]),
            "head": ledger.head,
            "tile": lambda: ledger.tile(LOG, 0, 0),
            "store_note": lambda: ledger.store_note(LOG, 1, b"note"),
        }
        for name, call in calls.items():
            ledger.fail_next(name, Fault.REFUSED, Fault.LOST)
            for _ in range(2):
                with pytest.raises(LedgerUnavailableError):
                    call()
            call()
        with pytest.raises(ValueError, match="no method 'sing'"):
            ledger.fail_next("sing", Fault.LOST)
        ledger.close()
