"""A copy of the whole ledger as it is at one commit, made while a service works on it."""

from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from kms.services.ports import LedgerUnavailableError
from kms.storage import dialect


def copy(url: str, target: Path) -> None:
    """Write what the ledger holds at this moment into a new file, 0600.

    Readers and writers go on meanwhile. Only live rows are copied: of what was deleted before,
    erased openings of commitments above all, nothing goes into the copy. An error or a crash may
    leave an incomplete file, which its maker has to remove.

    Args:
        url: Of the ledger.
        target: In a directory that nobody else can write in; must not exist.

    Raises:
        ValueError: A URL of a kind that is not supported.
        LedgerUnavailableError: It cannot be read, or the copy not be written.
    """
    dialect.create(f"sqlite:///{target}")
    engine = dialect.readers(url)
    try:
        with engine.connect() as connection:
            dialect.copy_into(connection, target)
    except SQLAlchemyError as error:
        place = str(dialect.database_path(url))
        raise LedgerUnavailableError(
            f"no copy of the ledger could be made: {dialect.explain(error, place)}"
        ) from error
    finally:
        engine.dispose()
