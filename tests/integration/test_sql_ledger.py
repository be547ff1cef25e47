"""The SQL ledger on a real file: reopening, readers and writers beside it, schema, size."""

import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kms.domain.records import (
    Certificate,
    CertificateStatus,
    Checkpoint,
    Crl,
    Device,
    DeviceId,
    Enrolment,
    Event,
    EventOpenings,
    Fingerprint,
    Idempotent,
    Principal,
    Record,
    Reservation,
    UserId,
)
from kms.services.ports import Delete, Insert, LedgerUnavailableError, Placed, Replace, Unit
from kms.storage import dialect, statements
from kms.storage.integrity import integrity
from kms.storage.migrate import check, current, migrate
from kms.storage.migrate import draft as draft_migration
from kms.storage.query import query
from kms.storage.sql import SqlLedger
from tests.support.ledgers import (
    EPOCH,
    LOG,
    NOW,
    TENANT,
    certificate,
    database,
    digest,
    draft,
    enrolment_units,
    unit,
)

LEDGER_FILES = {"kms.db", "kms.db-wal", "kms.db-shm"}


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with an open log."""
    made = database(tmp_path)
    ledger = SqlLedger(made)
    ledger.open_log(*EPOCH)
    ledger.close()
    return made


def test_what_was_committed_is_there_after_reopening(url: str):
    ledger = SqlLedger(url)
    ledger.commit([unit("a"), unit("b")])
    head = ledger.head()
    ledger.close()
    again = SqlLedger(url)
    assert again.head() == head
    assert again.count(Fingerprint) == 2
    assert again.commit([unit("c")]) == [Placed(LOG, 2, 3)]
    again.close()
    assert integrity(url) == []


def test_a_closed_ledger_leaves_one_file_and_nobody_else_may_read_it(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/kms.db"
    migrate(url, create=True)
    ledger = SqlLedger(url)
    ledger.open_log(*EPOCH)
    assert {path.name for path in tmp_path.iterdir()} == LEDGER_FILES
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    ledger.close()
    assert {path.name for path in tmp_path.iterdir()} == {"kms.db"}


def test_a_hundred_thousand_entries_reopen_at_once(url: str):
    ledger = SqlLedger(url)
    for part in range(5):
        drafts = [draft(f"{part}/{at}", openings=0) for at in range(20_000)]
        ledger.commit([Unit((), tuple(drafts))])
    ledger.close()
    started = time.perf_counter()
    again = SqlLedger(url)
    assert again.commit([unit("a")]) == [Placed(LOG, 100_000, 100_001)]
    assert time.perf_counter() - started < 0.5
    again.close()
    assert integrity(url) == []


def test_readers_see_whole_commits_while_they_happen(url: str):
    ledger = SqlLedger(url)
    stop = threading.Event()

    def read() -> int:
        rounds = 0
        while not stop.is_set():
            head = ledger.head()
            assert head is not None
            # A checkpoint that is seen stands for entries and answers that are seen.
            for checkpoint in ledger.find(Checkpoint, descending=True, limit=1):
                assert checkpoint.size >= head.size
                assert ledger.count(Event, log=LOG) >= checkpoint.size
                assert ledger.count(Idempotent) >= checkpoint.size
            rounds += 1
        return rounds

    with ThreadPoolExecutor(4) as threads:
        readers = [threads.submit(read) for _ in range(4)]
        try:
            for at in range(60):
                ledger.commit([unit(f"{at}/{item}") for item in range(5)])
        finally:
            stop.set()
        assert all(reader.result() > 3 for reader in readers)
    ledger.close()
    assert integrity(url) == []


def test_one_ledger_used_by_many_threads(url: str):
    ledger = SqlLedger(url)

    def work(thread: int) -> None:
        for at in range(20):
            assert ledger.reserve([Insert(certificate(f"{thread}/{at}"))]) is None
            (placed,) = ledger.commit([unit(f"{thread}/{at}")])
            assert isinstance(placed, Placed)
            ledger.store_note(LOG, placed.size, b"note")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert ledger.count(Event) == 80
    ledger.close()
    assert integrity(url) == []


def test_two_writers_share_a_log(url: str):
    """Each holds a head of its own and learns in the transaction that it has moved."""
    ledgers = [SqlLedger(url), SqlLedger(url)]
    for at in range(4):
        (placed,) = ledgers[at % 2].commit([unit(str(at))])
        assert placed == Placed(LOG, at, at + 1)
    # Through the slow way too.
    outcomes = ledgers[0].commit([unit("4"), unit("5", key="0")])
    assert outcomes[0] == Placed(LOG, 4, 5)
    assert ledgers[1].commit([unit("5", key="0"), unit("6")])[1] == Placed(LOG, 5, 6)

    def work(number: int) -> None:
        for at in range(25):
            ledgers[number].commit([unit(f"{number}/{at}")])

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, range(2)))
    assert ledgers[0].head() == ledgers[1].head()
    for ledger in ledgers:
        ledger.close()
    assert integrity(url) == []


def test_a_new_epoch_of_another_writer_is_noticed(url: str):
    first, second = SqlLedger(url), SqlLedger(url)
    first.commit([unit("a")])
    second.open_log(2, "log.example/2", "k", "v")  # type: ignore[arg-type]
    assert first.commit([unit("b")]) == [Placed(2, 0, 1)]  # type: ignore[arg-type]
    first.close()
    second.close()


def test_large_batches_with_conflicts(url: str):
    ledger = SqlLedger(url)
    reserved, units = enrolment_units(0, 300)
    assert ledger.reserve(reserved) is None
    ledger.commit([units[7]])
    outcomes = ledger.commit(units)
    assert [at for at, item in enumerate(outcomes) if not isinstance(item, Placed)] == [7]
    head = ledger.head()
    assert head is not None
    assert head.size == 300
    ledger.close()
    assert integrity(url) == []


def test_a_commit_without_conflict_is_one_transaction(url: str):
    """Being right by way of the slow path would be too slow."""
    steps: list[str] = []
    ledger = SqlLedger(url, faults=steps.append)
    reserved, units = enrolment_units(0, 20)
    ledger.reserve(reserved)
    ledger.commit(units)
    good = ledger.find(Certificate)
    revoked = [replace(item, status=CertificateStatus.REVOKED, revoked_at=NOW) for item in good]
    changes = [Replace(new, old) for new, old in zip(revoked, good, strict=True)]
    deletes = [Delete(item) for item in ledger.find(EventOpenings)]
    ledger.commit([Unit((*changes, *deletes), (draft("revoked"),))])
    assert ledger.find(Certificate) == revoked
    assert steps.count("begin") == steps.count("after-commit") == 3
    ledger.close()


def plan(url: str, asked: statements.Asked) -> list[str]:
    """What SQLite is going to do."""
    engine = dialect.readers(url)
    text, pick = statements.compiled(asked.statement, asked.names, engine.dialect)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", pick(asked.values)).all()
    return [row[3] for row in rows]


def sample(names: list[str]) -> dict[str, Any]:
    """Any values; a name with a star stands for several."""
    number = {"log", "shard"}
    return {
        name.strip("*"): 1 if name in number else ("x", "y") if name.endswith("*") else "x"
        for name in names
    }


PAGE = {"limit": 100}
DUE = {"order": ("expires",), "before": (NOW,), "limit": 1000}
BY_SERIAL = {"order": ("serial",), "after": ("0",), **PAGE}
LAST = {"descending": True, "limit": 1}
NEWEST = {"order": ("size",), "descending": True, "limit": 64}


@pytest.mark.parametrize(
    ("kind", "equals", "options", "entered"),
    [
        (Certificate, ["authority", "serial"], {"limit": 2}, "serial=?"),
        (Certificate, ["serial"], {"limit": 8}, "serial=?"),
        (Certificate, ["tenant", "serial"], {"limit": 8}, "tenant=? AND serial=?"),
        (Certificate, ["tenant", "user", "status"], {}, "tenant=? AND user=?"),
        (Certificate, ["tenant", "user"], BY_SERIAL, "tenant=? AND user=?"),
        (Certificate, ["tenant", "user", "status"], BY_SERIAL, "tenant=? AND user=?"),
        (Certificate, ["tenant", "device"], BY_SERIAL, "tenant=? AND device=?"),
        (Certificate, ["tenant", "device", "status"], {}, "tenant=? AND device=?"),
        (Certificate, ["tenant", "device", "slot", "status"], {}, "tenant=? AND device=?"),
        (Certificate, ["authority", "status"], {}, "authority=? AND status=?"),
        (Certificate, ["authority", "status*"], {}, "authority=? AND status=?"),
        (Device, ["tenant", "user"], {}, "tenant=? AND user=?"),
        (Device, ["tenant", "device*"], {}, "tenant=? AND device=?"),
        (Device, ["tenant", "user"], {"order": ("device",), **PAGE}, "tenant=? AND user=?"),
        (Enrolment, ["status"], {}, "status=?"),
        (Event, ["tenant", "event"], {"limit": 1}, "tenant=? AND event=?"),
        (Fingerprint, ["tenant", "fingerprint*"], {}, "tenant=? AND fingerprint=?"),
        (EventOpenings, ["tenant", "event"], {}, "tenant=? AND event=?"),
        (Principal, ["uri"], {"limit": 2}, "uri=?"),
        (
            Reservation,
            ["tenant", "principal", "route", "idempotency_key"],
            {"limit": 1},
            "tenant=? AND principal=? AND route=? AND idempotency_key=?",
        ),
    ],
)
def test_frequent_questions_enter_the_index_that_finds_most(
    url: str, kind: type[Record], equals: list[str], options: dict[str, Any], entered: str
):
    """An index that only sorts would have all of a tenant read."""
    wanted = query(kind, sample(equals), **options)
    first, *rest = plan(url, statements.of(kind).find(wanted))
    assert first.startswith("SEARCH ")
    assert first.endswith(f" ({entered})")
    assert set(rest) <= {"USE TEMP B-TREE FOR ORDER BY"}
    (counted,) = plan(url, statements.of(kind).count(query(kind, sample(equals))))
    assert counted.endswith(f" ({entered})")


@pytest.mark.parametrize(
    ("kind", "equals", "options", "entered"),
    [
        (Certificate, [], BY_SERIAL, "serial>?"),
        (Certificate, ["tenant"], BY_SERIAL, "tenant=? AND serial>?"),
        (Certificate, ["tenant", "status"], BY_SERIAL, "tenant=? AND serial>?"),
        (Certificate, ["tenant"], {"order": ("serial",), **PAGE}, "tenant=?"),
        (Checkpoint, ["log"], NEWEST, "log=?"),
        (Checkpoint, ["log"], {**NEWEST, "after": (7,)}, "log=? AND size<?"),
        (Checkpoint, ["log"], {"order": ("size",), "after": (7,)}, "log=? AND size>?"),
        (Crl, ["tenant", "authority"], LAST, "tenant=? AND authority=?"),
        (Crl, ["tenant", "authority", "shard"], LAST, "tenant=? AND authority=? AND shard=?"),
        (Enrolment, [], DUE, "expires<?"),
        (Enrolment, ["status"], DUE, "status=? AND expires<?"),
        (Enrolment, ["status"], {"order": ("expires",), "limit": 1000}, "status=?"),
        (Event, ["log"], {"after": (1, 5), **PAGE}, "log=? AND index>?"),
        (Event, ["log"], {"after": (1, 5), "before": (1, 9)}, "log=? AND index>? AND index<?"),
        (Event, ["log", "tenant"], {"after": (1, 5), **PAGE}, "tenant=? AND log=? AND index>?"),
        (Idempotent, [], {"order": ("created",), "before": (NOW,), **PAGE}, "created<?"),
        (Principal, ["tenant"], {}, "tenant=?"),
        (Reservation, [], DUE, "expires<?"),
    ],
)
def test_pages_are_read_in_the_order_of_an_index(
    url: str, kind: type[Record], equals: list[str], options: dict[str, Any], entered: str
):
    """No page is sorted out of everything: at most rows that stand equal in the index are."""
    first, *rest = plan(url, statements.of(kind).find(query(kind, sample(equals), **options)))
    assert first.startswith("SEARCH ")
    assert first.endswith(f" ({entered})")
    assert set(rest) <= {"USE TEMP B-TREE FOR RIGHT PART OF ORDER BY"}


@pytest.mark.parametrize(
    ("kind", "order"),
    [(Enrolment, "expires"), (Idempotent, "created"), (Reservation, "expires")],
)
def test_the_oldest_come_first_out_of_an_index(url: str, kind: type[Record], order: str):
    asked = statements.of(kind).find(query(kind, {}, (order,), limit=1000))
    first, *rest = plan(url, asked)
    assert first.endswith(f"_{order}")
    assert set(rest) <= {"USE TEMP B-TREE FOR RIGHT PART OF ORDER BY"}


def work(url: str, asked: statements.Asked) -> tuple[int, int]:
    """How many rows come, after how many thousands of steps of SQLite's machine."""
    engine, done = dialect.readers(url), [0]

    def step() -> int:
        done[0] += 1
        return 0

    with engine.connect() as connection:
        driver = connection.connection.dbapi_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.set_progress_handler(step, 1000)
        text, pick = statements.compiled(asked.statement, asked.names, engine.dialect)
        return len(connection.exec_driver_sql(text, pick(asked.values)).all()), done[0]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One tenant with 20000 certificates of 10000 devices of 5000 people, and their events."""
    made = database(tmp_path_factory.mktemp("large"))
    ledger = SqlLedger(made)
    ledger.open_log(*EPOCH)
    ledger.reserve(
        [
            Insert(
                certificate(
                    str(at),
                    user=UserId(f"user {at % 5_000}"),
                    device=DeviceId(f"device {at % 10_000}"),
                    der=b"",
                )
            )
            for at in range(20_000)
        ]
    )
    ledger.commit([Unit((), tuple(draft(str(at), openings=0) for at in range(20_000)))])
    ledger.close()
    return made


@pytest.mark.parametrize(
    ("kind", "equals", "options", "rows"),
    [
        (Certificate, {"tenant": TENANT, "user": "user 77", "status": "good"}, {}, 4),
        (Certificate, {"tenant": TENANT, "user": "user 77"}, BY_SERIAL, 4),
        (Certificate, {"tenant": TENANT, "device": "device 77", "slot": "identity"}, {}, 2),
        (Certificate, {"tenant": TENANT, "serial": digest("77")[:32]}, {"limit": 8}, 1),
        (Certificate, {"authority": "people", "serial": digest("77")[:32]}, {}, 1),
        (Certificate, {"authority": "people", "status": ("revoked", "orphaned")}, {}, 0),
        (Certificate, {"tenant": TENANT}, BY_SERIAL, 100),
        (Event, {"log": LOG}, {"after": (LOG, 19_899), **PAGE}, 100),
        (Event, {"log": LOG, "tenant": TENANT}, {"after": (LOG, 19_899), **PAGE}, 100),
    ],
)
def test_work_does_not_grow_with_the_tenant(
    large: str, kind: type[Record], equals: dict[str, Any], options: dict[str, Any], rows: int
):
    """20000 rows read one by one are several hundred thousand steps; a hundred, some thousand."""
    found, thousands = work(large, statements.of(kind).find(query(kind, equals, **options)))
    assert found == rows
    assert thousands <= (10 if rows > 10 else 1)


def test_the_schema_is_what_the_tables_say(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/kms.db"
    migrate(url, create=True)
    assert current(url) == "0002"
    assert check(url) == []
    migrate(url)
    with sqlite3.connect(tmp_path / "kms.db") as connection:
        connection.execute("ALTER TABLE users ADD COLUMN nickname TEXT")
        connection.execute("DROP INDEX ix_certificates_serial")
    connection.close()
    differences = "".join(check(url))
    assert "nickname" in differences
    assert "ix_certificates_serial" in differences


def test_the_next_migration_is_drafted_with_the_rules(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/kms.db"
    migrate(url, create=True)
    with sqlite3.connect(tmp_path / "kms.db") as connection:
        connection.execute("DROP INDEX ix_certificates_serial")
    connection.close()
    path = draft_migration(url, "find by serial", tmp_path)
    assert path.name == "0003_find_by_serial.py"
    text = path.read_text()
    compile(text, str(path), "exec")
    assert "lock_timeout" in text
    assert "down_revision = '0002'" in text
    assert "op.create_index" in text


def test_a_database_without_a_schema(tmp_path: Path):
    path = tmp_path / "kms.db"
    path.touch()
    url = f"sqlite:///{path}"
    assert current(url) is None
    with pytest.raises(LedgerUnavailableError, match=r"no such table: .*older than this program"):
        SqlLedger(url).head()


def test_opening_never_makes_a_database(tmp_path: Path):
    """A wrong path must not become an empty ledger, and a second log with it."""
    ledger = SqlLedger(f"sqlite:///{tmp_path}/missing.db")
    with pytest.raises(LedgerUnavailableError, match=r"missing\.db failed: it cannot be opened"):
        ledger.head()
    with pytest.raises(LedgerUnavailableError, match="cannot be opened"):
        ledger.open_log(*EPOCH)
    assert list(tmp_path.iterdir()) == []


def test_only_founding_makes_a_database(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/kms.db"
    with pytest.raises(LedgerUnavailableError, match="cannot be opened"):
        migrate(url)
    assert list(tmp_path.iterdir()) == []
    migrate(url, create=True)
    migrate(url, create=True)
    assert current(url) == "0002"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_not_followed_by_anyone(tmp_path: Path, there: bool):
    """Whoever may write in the directory must not have root make or change files elsewhere."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "data"
    elsewhere.mkdir()
    folder.mkdir()
    target = Path(database(elsewhere).removeprefix("sqlite:///"))
    if not there:
        target.unlink()
    (folder / "kms.db").symlink_to(target)
    before = target.read_bytes() if there else None
    url = f"sqlite:///{folder}/kms.db"
    for attempt in (
        lambda: migrate(url, create=True),
        lambda: migrate(url),
        lambda: check(url),
        lambda: integrity(url),
        lambda: SqlLedger(url).head(),
        lambda: SqlLedger(url).open_log(*EPOCH),
    ):
        with pytest.raises(LedgerUnavailableError, match=r"is a symbolic link: put|cannot be open"):
            attempt()
    assert [path.name for path in elsewhere.iterdir()] == (["kms.db"] if there else [])
    assert [path.name for path in folder.iterdir()] == ["kms.db"]
    assert before is None or target.read_bytes() == before


def test_a_directory_may_be_reached_by_a_link(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to("disk")
    url = f"sqlite:///{tmp_path}/data/kms.db"
    migrate(url, create=True)
    ledger = SqlLedger(url)
    ledger.open_log(*EPOCH)
    assert ledger.commit([unit("a")]) == [Placed(LOG, 0, 1)]
    ledger.close()
    assert integrity(url) == []


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "postgresql://host/kms", "sqlite:///a?mode=memory"]
)
def test_what_is_not_a_file_is_refused(url: str):
    with pytest.raises(ValueError, match=r"must be a file|use sqlite"):
        SqlLedger(url)


def test_migrations_are_part_of_the_installed_package(tmp_path: Path):
    """Built and used from a wheel's file tree, in a directory that knows nothing of the source."""
    root = Path(__file__).parents[2]
    built = tmp_path / "built"
    subprocess.run(
        [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "build_py",
         "--build-lib", str(built)],
        cwd=root, check=True, capture_output=True,
    )  # fmt: skip
    script = (
        "import sys; from kms.storage import migrate; "
        f"url = 'sqlite:///{tmp_path}/kms.db'; migrate.migrate(url, create=True); "
        "print(migrate.__file__, migrate.current(url), migrate.check(url))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env={"PYTHONPATH": str(built)}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(built / "kms/storage/migrate.py"), "0002", "[]"]
    assert (built / "kms/storage/migrations/script.py.mako").exists()


class TestIntegrity:
    """What `kms doctor` must notice."""

    @pytest.fixture
    def filled(self, url: str) -> str:
        ledger = SqlLedger(url)
        for start in range(0, 600, 100):
            ledger.commit([unit(str(at), events=1) for at in range(start, start + 100)])
        ledger.close()
        assert integrity(url) == []
        return url

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            ("UPDATE events SET leaf = x'00' WHERE \"index\" = 317", "log 1: entry 317 is not"),
            ('DELETE FROM events WHERE "index" = 100', "log 1: entry 100 is missing"),
            ('DELETE FROM events WHERE "index" = 599', "log 1: entry 599 is missing"),
            (
                "UPDATE tiles SET hashes = zeroblob(8192) WHERE level = 0 AND number = 1",
                "log 1: entry 256 is not",
            ),
            (
                "UPDATE tiles SET hashes = zeroblob(64) WHERE level = 1",
                "log 1: node 0 of tile level 1 is not",
            ),
            ("DELETE FROM tiles WHERE number = 2", "log 1: entry 512 is not"),
            ("INSERT INTO tiles VALUES (1, 2, 0, zeroblob(32))", "log 1: 5 tiles are stored"),
            (
                "UPDATE tiles SET hashes = CAST(hashes || zeroblob(32) AS BLOB) WHERE level = 1",
                "log 1: tile 1/0 goes beyond size 600",
            ),
            (
                "UPDATE checkpoints SET root = zeroblob(32) WHERE size = 300",
                "log 1: the entries do not lead to the checkpoint of size 300",
            ),
            ("DELETE FROM checkpoints WHERE size = 600", "log 1: entry 500 is beyond"),
            ("UPDATE heads SET size = 500", "log 1: the head says size 500"),
            ("UPDATE heads SET root = zeroblob(32)", "log 1: the head says size 600"),
            ("DELETE FROM heads", "log 1: the head says no size"),
        ],
    )  # fmt: skip
    def test_damage_is_found_and_placed(self, filled: str, damage: str, message: str):
        with sqlite3.connect(filled.removeprefix("sqlite:///")) as connection:
            connection.execute(damage)
        connection.close()
        (problem,) = integrity(filled)
        assert problem.startswith(message)

    def test_a_damaged_edge_is_never_appended_to(self, filled: str):
        with sqlite3.connect(filled.removeprefix("sqlite:///")) as connection:
            connection.execute("UPDATE tiles SET hashes = zeroblob(2816) WHERE number = 2")
        connection.close()
        ledger = SqlLedger(filled)
        with pytest.raises(LedgerUnavailableError, match=r"damaged .*run `kms doctor`"):
            ledger.commit([unit("x")])
        ledger.close()

    def test_damaged_pages_and_open_files(self, filled: str):
        path = Path(filled.removeprefix("sqlite:///"))
        content = bytearray(path.read_bytes())
        content[4096 * 40 : 4096 * 41] = b"\xff" * 4096
        path.write_bytes(content)
        path.chmod(0o644)
        try:
            problems = integrity(filled)
        except LedgerUnavailableError as error:
            problems = [str(error)]
        assert any("SQLite:" in item or "damaged" in item for item in problems)
        assert any("mode 644" in item for item in problems) or len(problems) == 1

    def test_it_runs_beside_a_writer(self, filled: str):
        ledger = SqlLedger(filled)
        done = threading.Event()

        def write() -> None:
            at = 0
            while not done.is_set():
                ledger.commit([unit(f"x{at}")])
                at += 1

        with ThreadPoolExecutor(1) as threads:
            writer = threads.submit(write)
            try:
                assert integrity(filled) == []
            finally:
                done.set()
            writer.result()
        ledger.close()
