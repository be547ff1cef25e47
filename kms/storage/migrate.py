"""Making and changing the tables (Alembic, set up here so that no file of its own is needed)."""

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy.exc import SQLAlchemyError

from kms.services.ports import LedgerUnavailableError
from kms.storage import dialect
from kms.storage.tables import METADATA

_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(url: str) -> None:
    """Bring the database to this program's schema, making the file (0600) if there is none.

    Raises:
        ValueError: A URL of a kind that is not supported.
        LedgerUnavailableError: The store failed; the schema is as it was.
    """
    path = dialect.database_path(url)
    try:
        # The journal files that SQLite puts beside it get the same mode.
        path.touch(mode=0o600, exist_ok=True)
    except OSError as error:
        raise LedgerUnavailableError(f"{path} cannot be made: {error.strerror}") from error
    engine = dialect.writer(url)
    try:
        with engine.begin() as connection:
            config = Config()
            config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except SQLAlchemyError as error:
        raise LedgerUnavailableError(dialect.explain(error, str(path))) from error
    finally:
        engine.dispose()


def current(url: str) -> str | None:
    """Number of the newest migration that was applied; None if none was.

    Raises:
        ValueError: A URL of a kind that is not supported.
        LedgerUnavailableError: The store failed.
    """
    engine = dialect.readers(url)
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except SQLAlchemyError as error:
        place = str(dialect.database_path(url))
        raise LedgerUnavailableError(dialect.explain(error, place)) from error
    finally:
        engine.dispose()


def check(url: str) -> list[str]:
    """Where the database's schema differs from this program's tables; empty if nowhere.

    Raises:
        ValueError: A URL of a kind that is not supported.
        LedgerUnavailableError: The store failed.
    """
    engine = dialect.readers(url)
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            return [str(difference) for difference in compare_metadata(context, METADATA)]
    except SQLAlchemyError as error:
        place = str(dialect.database_path(url))
        raise LedgerUnavailableError(dialect.explain(error, place)) from error
    finally:
        engine.dispose()
