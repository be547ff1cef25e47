"""Everything that is SQLite's own: how it is opened, how it begins, what its errors mean.

Another database gets its functions beside these; nothing else in this package knows which it is.
"""

import errno
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, ColumnElement, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from sqlalchemy.sql.elements import UnaryExpression
from sqlalchemy.sql.operators import custom_op

from kms.services.ports import LedgerUnavailableError

BUSY_SECONDS = 5.0

PRAGMAS = {
    "journal_mode": "wal",
    # FULL: an acknowledged commit survives a loss of power. NORMAL does not keep that promise.
    "synchronous": 2,
    "foreign_keys": 1,
    "busy_timeout": int(BUSY_SECONDS * 1000),
    "wal_autocheckpoint": 4000,
    # What a long reader made the log grow beyond is cut off again.
    "journal_size_limit": 67108864,
}
"""Set on every connection; `kms.storage.integrity` reads them back."""

WRITER_CACHE, READER_CACHE = 32 << 10, 8 << 10
"""KiB of pages that a connection keeps. What a commit changes lies scattered over the indices, and
spills where it does not fit. Readers, of which there are many, find the rest in the system's cache.
"""

_MEANINGS = {
    "SQLITE_FULL": "the disk is full: make space",
    "SQLITE_BUSY": "another process holds its lock: find out which, and try again",
    "SQLITE_LOCKED": "another connection holds its lock: try again",
    "SQLITE_READONLY": "it is read-only: check the owner and mode of the file and its directory",
    "SQLITE_CORRUPT": "it is damaged: stop, and restore it from a backup",
    "SQLITE_NOTADB": "it is not a database: check the path",
    "SQLITE_CANTOPEN": "it cannot be opened: check path, owner, mode, and the limit of open files",
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


def create(url: str) -> None:
    """Make the file, empty and 0600, if there is none; SQLite gives its journals the same mode.

    A symbolic link is not followed: root would make a file of its own wherever it leads.

    Raises:
        ValueError: A URL of a kind that is not supported.
        LedgerUnavailableError: It cannot be made, or a symbolic link stands there.
    """
    path = database_path(url)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link_refused(path) from error
        raise LedgerUnavailableError(
            f"the ledger at {path} cannot be made ({error.strerror}): check its directory"
        ) from error


def writer(url: str) -> Engine:
    """Engine whose transactions hold the write lock from their first word.

    A transaction that reads first and then wants to write may be refused, whatever the timeout.
    """
    return _engine(url, begin="BEGIN IMMEDIATE", cache=WRITER_CACHE)


def snapshots(url: str) -> Engine:
    """Engine whose transactions see one commit throughout, and hinder nobody."""
    return _engine(url, begin="BEGIN")


def readers(url: str) -> Engine:
    """Engine without transactions: each statement sees the last commit."""
    return _engine(url, begin=None)


def _engine(url: str, *, begin: str | None, cache: int = READER_CACHE) -> Engine:
    path = database_path(url)
    options = {"isolation_level": "AUTOCOMMIT"} if begin is None else {}
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        creator=lambda: _connect(path),
        # Whoever uses the engine keeps its connections open.
        poolclass=NullPool,
        # Bound values of failed statements stay out of messages: they are personal data.
        hide_parameters=True,
        **options,
    )
    pragmas = PRAGMAS | {"cache_size": -cache}
    event.listen(engine, "connect", lambda connection, _: _set_up(connection, pragmas))
    if begin is not None:
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _connect(path: Path) -> sqlite3.Connection:
    """Never creates the file: a wrong path must not begin an empty ledger, and so a second log.

    Raises:
        LedgerUnavailableError: The path is a symbolic link, which SQLite would follow.
    """
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=rw",
        uri=True,
        timeout=BUSY_SECONDS,
        check_same_thread=False,
        isolation_level=None,
    )
    # What SQLite has opened, not what stands there now. Of journals it follows no link itself.
    ((_, _, opened),) = connection.execute("PRAGMA database_list")
    if opened != str(path.parent.resolve() / path.name):
        connection.close()
        raise _link_refused(path)
    return connection


def _link_refused(path: Path) -> LedgerUnavailableError:
    return LedgerUnavailableError(
        f"the ledger at {path} is a symbolic link: put the file there, or set database.url"
    )


def _set_up(connection: DBAPIConnection, pragmas: Mapping[str, object]) -> None:
    cursor = connection.cursor()
    for name, value in pragmas.items():
        cursor.execute(f"PRAGMA {name}={value}")
    cursor.close()


def unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The same values, which no index is used for: neither to find rows nor to sort them.

    https://www.sqlite.org/optoverview.html, section 2.
    """
    return UnaryExpression(column, operator=custom_op("+"), type_=column.type)


def check_settings(connection: Connection, url: str) -> list[str]:
    """Which settings did not take effect, and whether others may read the file."""
    problems = []
    for name, wanted in PRAGMAS.items():
        value = connection.exec_driver_sql(f"PRAGMA {name}").scalar()
        if value != wanted:
            problems.append(f"SQLite's {name} is {value}, not {wanted}: check the file system")
    path = database_path(url)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        problems.append(f"{path} has mode {mode:o}: run `chmod 600 {path}`")
    return problems


def copy_into(connection: Connection, target: Path) -> None:
    """Write all live rows, as one commit left them, into an empty file.

    https://www.sqlite.org/lang_vacuum.html, section 3: one read transaction, which holds up nobody
    (`Connection.backup` begins anew whenever another process has written). Not synced.
    """
    connection.exec_driver_sql("VACUUM INTO ?", (str(target),))


def check_pages(connection: Connection) -> list[str]:
    """What SQLite's own check of its pages finds."""
    found = connection.exec_driver_sql("PRAGMA quick_check(10)").scalars().all()
    return [f"SQLite: {line}" for line in found if line != "ok"]


def is_damage(error: Exception) -> bool:
    """Whether the database itself is damaged."""
    return _name(error).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def _name(error: Exception) -> str:
    """SQLite's name of an error; empty for others."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(cause, "sqlite_errorname", ""))


def explain(error: Exception, place: str) -> str:
    """One sentence: what failed, where, and what to do."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    name = _name(error)
    meaning = next((text for code, text in _MEANINGS.items() if name.startswith(code)), None)
    if str(cause).startswith(("no such table", "no such column")):
        meaning = f"{cause}: its schema is older than this program, run `kms init`"
    if meaning is None:
        meaning = f"{type(cause).__name__}: {cause}" + (f" ({name})" if name else "")
    return f"the ledger at {place} failed: {meaning}"
