"""Connections kept open: one that writes, and as many that read as threads read at once."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import ClauseElement, Connection, Engine, PoolProxiedConnection
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from kms.services.ports import LedgerUnavailableError
from kms.storage.dialect import explain, is_damage
from kms.storage.mapping import Row
from kms.storage.statements import compiled


@dataclass(slots=True)
class Store:
    """The database that readers and writer share.

    Attributes:
        place: Names it in messages.
        damage: What the first damaged page was told by; empty while none was met. What is written
            after that could make it worse, and would be lost when a backup is restored.
    """

    place: str
    damage: str = ""

    def failed(self, error: Exception, *, maybe_done: bool = False) -> LedgerUnavailableError:
        """What a driver's error means to the ledger's users."""
        text = explain(error, self.place)
        if is_damage(error):
            self.damage = self.damage or text
        return LedgerUnavailableError(text, maybe_done=maybe_done)

    def refuse_damaged(self) -> None:
        """Let nothing be written to a database with a damaged page.

        Raises:
            LedgerUnavailableError: One was met since this process began.
        """
        if self.damage:
            raise LedgerUnavailableError(self.damage)


class Readers:
    """Reads from any number of threads; each statement sees the last commit.

    Args:
        engine: Its connections commit by themselves, so an idle one holds no snapshot.
        store: What it reads.
    """

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine = engine
        self._store = store
        self._driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error
        # Appending to and popping from a deque is atomic; who popped a connection owns it.
        self._idle: deque[PoolProxiedConnection] = deque()

    def fetch(self, statement: ClauseElement, names: tuple[str, ...], values: Row) -> list[Row]:
        """All rows of a statement whose parameters have these names and values.

        It goes straight to the driver: around reading one row SQLAlchemy would do ten times the
        database's work.

        Raises:
            LedgerUnavailableError: The store failed.
        """
        text, pick = compiled(statement, names, self._engine.dialect)
        connection: PoolProxiedConnection | None = None
        try:
            connection = self._borrow()
            cursor = connection.cursor()
            cursor.execute(text, pick(values))
            rows = list(cursor.fetchall())
            cursor.close()
        except BaseException as error:
            if connection is not None:
                connection.invalidate()
            if isinstance(error, SQLAlchemyError | self._driver_error):
                raise self._store.failed(error) from error
            raise
        self._idle.append(connection)
        return rows

    def _borrow(self) -> PoolProxiedConnection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._engine.raw_connection()

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()
        self._engine.dispose()


class Writer:
    """One connection that writes; its user holds a lock around it.

    Args:
        engine: Its transactions hold the database's write lock from their beginning.
        store: What it writes to.
    """

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine = engine
        self._store = store
        self._connection: Connection | None = None

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Committed where the block ends, undone where it raises.

        Raises:
            IntegrityError: As it comes from the block.
            LedgerUnavailableError: The store failed, `maybe_done` if that was in COMMIT itself; or
                it is damaged.
        """
        self._store.refuse_damaged()
        try:
            connection = self._open()
            connection.begin()
            yield connection
        except IntegrityError:
            self._roll_back()
            raise
        except SQLAlchemyError as error:
            self.close()
            raise self._store.failed(error) from error
        except BaseException:
            self._roll_back()
            raise
        self._commit(connection)

    def close(self) -> None:
        """Close the connection, undoing what is not committed; the next transaction opens one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            _discard(connection)
        self._engine.dispose()

    def _open(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _commit(self, connection: Connection) -> None:
        try:
            connection.commit()
        except SQLAlchemyError as error:
            self.close()
            raise self._store.failed(error, maybe_done=True) from error
        except BaseException:
            self.close()
            raise

    def _roll_back(self) -> None:
        if self._connection is None:
            return
        try:
            self._connection.rollback()
        except SQLAlchemyError:
            self.close()


def _discard(connection: Connection) -> None:
    """Close for good: what a connection holds after a failure is not worth knowing."""
    connection.invalidate()
    connection.close()
