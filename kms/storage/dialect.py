"""Everything that is SQLite's own: how it is opened, how it begins, what its errors mean.

Another database gets its functions beside these; nothing else in this package knows which it is.
"""

import sqlite3
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

BUSY_SECONDS = 5.0
READERS = 8
MORE_READERS = 56

PRAGMAS = {
    "journal_mode": "wal",
    # FULL: an acknowledged commit survives a loss of power. NORMAL does not keep that promise.
    "synchronous": 2,
    "foreign_keys": 1,
    "busy_timeout": int(BUSY_SECONDS * 1000),
    # 64 MiB: the pages that a commit changes lie scattered over the indices.
    "cache_size": -65536,
    "wal_autocheckpoint": 4000,
    # What a long reader made the log grow beyond is cut off again.
    "journal_size_limit": 67108864,
}
"""Set on every connection; `kms.storage.integrity` reads them back."""

_MEANINGS = {
    "SQLITE_FULL": "the disk is full: make space",
    "SQLITE_BUSY": "another process holds its lock: find out which, and try again",
    "SQLITE_LOCKED": "another connection holds its lock: try again",
    "SQLITE_READONLY": "it is read-only: check the owner and mode of the file and its directory",
    "SQLITE_CORRUPT": "it is damaged: stop, and restore it from a backup",
    "SQLITE_NOTADB": "it is not a database: check the path",
    "SQLITE_CANTOPEN": "it cannot be opened: check the path, and run `kms init` to make it",
    "SQLITE_IOERR": "reading or writing failed: check the disk",
    "SQLITE_NOMEM": "there is no memory left",
}


def database_path(url: str) -> Path:
    """The file that a URL names.

    Raises:
        ValueError: Not a URL of a SQLite file.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        raise ValueError(f"no support for {parsed.get_backend_name()} databases: use sqlite:///…")
    if parsed.database in (None, "", ":memory:") or parsed.query:
        raise ValueError("the database must be a file, like sqlite:////var/lib/kms/kms.db")
    return Path(str(parsed.database))


def writer(url: str) -> Engine:
    """Engine with one connection, whose transactions hold the write lock from their first word."""
    engine = _engine(url, isolation_level=None, pool_size=1, max_overflow=0)
    # A deferred transaction that reads first can fail to become a writer, whatever the timeout.
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def readers(url: str) -> Engine:
    """Engine whose connections see the last commit at each statement, for many threads."""
    return _engine(url, isolation_level="AUTOCOMMIT", pool_size=READERS, max_overflow=MORE_READERS)


def _engine(url: str, *, isolation_level: str | None, pool_size: int, max_overflow: int) -> Engine:
    path = database_path(url)
    options = {} if isolation_level is None else {"isolation_level": isolation_level}
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        creator=lambda: _connect(path),
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_timeout=BUSY_SECONDS,
        # Bound values of failed statements stay out of messages: they are personal data.
        hide_parameters=True,
        **options,
    )
    event.listen(engine, "connect", _set_up)
    return engine


def _connect(path: Path) -> sqlite3.Connection:
    """Never creates the file: a wrong path must not begin an empty ledger, and so a second log."""
    return sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=rw",
        uri=True,
        timeout=BUSY_SECONDS,
        check_same_thread=False,
        isolation_level=None,
    )


def _set_up(connection: DBAPIConnection, _: object) -> None:
    cursor = connection.cursor()
    for name, value in PRAGMAS.items():
        cursor.execute(f"PRAGMA {name}={value}")
    cursor.close()


def explain(error: SQLAlchemyError, place: str) -> str:
    """One sentence: what failed, where, and what to do."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    name = str(getattr(cause, "sqlite_errorname", ""))
    meaning = next((text for code, text in _MEANINGS.items() if name.startswith(code)), None)
    if meaning is None:
        meaning = f"{type(cause).__name__}: {cause}" + (f" ({name})" if name else "")
    return f"the ledger at {place} failed: {meaning}"
