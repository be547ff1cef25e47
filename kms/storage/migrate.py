"""Making and changing the tables (Alembic, set up here so that no file of its own is needed)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from kms.services.ports import LedgerUnavailableError
from kms.storage import dialect
from kms.storage.tables import METADATA

_SCRIPTS = Path(__file__).parent / "migrations"
_VERSIONS = _SCRIPTS / "versions"


def migrate(url: str, *, create: bool = False) -> None:
    """Bring the database to this program's schema.

    Args:
        url: SQLAlchemy URL.
        create: Make the file (0600) if there is none: a new ledger, and with it a new log.

    Raises:
        ValueError: A URL of a kind that is not supported.
        LedgerUnavailableError: The store failed; the schema is as it was.
    """
    if create:
        dialect.create(url)
    with _connection(dialect.writer(url), url) as connection, connection.begin():
        command.upgrade(_config(connection), "head")


def current(url: str) -> str | None:
    """Number of the newest migration that was applied; None if none was.

    Raises:
        ValueError: A URL of a kind that is not supported.
        LedgerUnavailableError: The store failed.
    """
    with _connection(dialect.readers(url), url) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def is_known(number: str) -> bool:
    """Whether this program has the migration of that number; a newer one has more."""
    scripts = ScriptDirectory(str(_SCRIPTS), version_locations=[str(_VERSIONS)])
    return number in {script.revision for script in scripts.walk_revisions()}


def check(url: str) -> list[str]:
    """Where the database's schema differs from this program's tables; empty if nowhere.

    Raises:
        ValueError: A URL of a kind that is not supported.
        LedgerUnavailableError: The store failed.
    """
    with _connection(dialect.readers(url), url) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return [str(difference) for difference in compare_metadata(context, METADATA)]


def draft(url: str, message: str, folder: Path = _VERSIONS) -> Path:
    """Write the next migration, for a developer to read, correct and test.

    Args:
        url: A database that has all migrations so far.
        message: What changes, a few words.
        folder: Where to put the file.

    Raises:
        ValueError: A URL of a kind that is not supported.
        LedgerUnavailableError: The store failed.
    """
    with _connection(dialect.writer(url), url) as connection:
        config = _config(connection, folder)
        newest = ScriptDirectory.from_config(config).get_current_head() or "0000"
        number = f"{int(newest) + 1:04}"
        command.revision(
            config, message, autogenerate=True, rev_id=number, version_path=str(folder)
        )
    (path,) = folder.glob(f"{number}_*.py")
    return path


def _config(connection: Connection, *folders: Path) -> Config:
    """Settings; migrations are looked for in those folders too."""
    versions = os.pathsep.join(dict.fromkeys(map(str, (_VERSIONS, *folders))))
    options = {
        "script_location": str(_SCRIPTS),
        "version_locations": versions,
        "path_separator": "os",
    }
    config = Config(attributes={"connection": connection})
    for name, value in options.items():
        config.set_main_option(name, value.replace("%", "%%"))
    return config


@contextmanager
def _connection(engine: Engine, url: str) -> Iterator[Connection]:
    try:
        with engine.connect() as connection:
            yield connection
    except SQLAlchemyError as error:
        place = str(dialect.database_path(url))
        raise LedgerUnavailableError(dialect.explain(error, place)) from error
    finally:
        engine.dispose()
