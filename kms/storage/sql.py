"""The ledger in an SQL database."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from kms.domain.records import Checkpoint, Epoch, LogId, Record
from kms.services.ports import (
    Change,
    Conflict,
    Insert,
    LedgerUnavailableError,
    Placed,
    TreeHead,
    Unit,
)
from kms.storage import dialect, statements
from kms.storage.connections import Readers, Store, Writer
from kms.storage.growth import (
    Edge,
    Growth,
    check_epoch,
    check_reserved,
    committed_checkpoint,
    empty_head,
    first_indices,
    grow,
    is_sound,
    leaves_of,
    open_head,
    placed,
    unit_changes,
)
from kms.storage.mapping import shape_of
from kms.storage.query import key_row, query
from kms.storage.writing import ClashError, give_size, write_in_order, write_together
from kms.tlog.errors import TileError

R = TypeVar("R", bound=Record)
T = TypeVar("T")
Faults = Callable[[str], None]
"""Told the name of each step of a transaction: begin, write, before-commit, after-commit."""

_ATTEMPTS = 5


class _HeadMovedError(Exception):
    """Another writer has appended or has begun a new epoch."""


def _no_faults(_: str) -> None:
    pass


class SqlLedger:
    """`Ledger` in an SQL database that `kms.storage.migrate` has made.

    One thread writes at a time, others wait; any number read meanwhile. The head and the tiles
    of the right edge are remembered between commits. The database is asked in each commit whether
    they still stand, and any failure makes them forgotten.

    Args:
        url: SQLAlchemy URL, `sqlite:////path/to/file`.
        faults: Called at the steps of every transaction; tests crash or fail there.

    Raises:
        ValueError: A URL of a kind that is not supported.
    """

    def __init__(self, url: str, *, faults: Faults = _no_faults) -> None:
        self._place = str(dialect.database_path(url))
        store = Store(self._place)
        self._writer = Writer(dialect.writer(url), store)
        self._readers = Readers(dialect.readers(url), store)
        self._faults = faults
        # Held for every transaction; guards `_edge`.
        self._lock = threading.Lock()
        self._edge: Edge | None = None

    def get(self, kind: type[R], *key: Any) -> R | None:
        """See `Ledger.get`."""
        sql = statements.of(kind)
        rows = self._readers.fetch(sql.get, sql.old_key, key_row(kind, key))
        return shape_of(kind).record(rows[0]) if rows else None

    def find(
        self,
        kind: type[R],
        *,
        order: tuple[str, ...] = (),
        descending: bool = False,
        limit: int | None = None,
        after: tuple[Any, ...] | None = None,
        before: tuple[Any, ...] | None = None,
        **equals: Any,
    ) -> list[R]:
        """See `Ledger.find`."""
        wanted = query(
            kind, equals, order, descending=descending, limit=limit, after=after, before=before
        )
        rows = self._readers.fetch(*statements.of(kind).find(wanted))
        return [shape_of(kind).record(row) for row in rows]

    def count(self, kind: type[R], **equals: Any) -> int:
        """See `Ledger.count`."""
        ((number,),) = self._readers.fetch(*statements.of(kind).count(query(kind, equals)))
        return int(number)

    def values(self, kind: type[R], names: tuple[str, ...], **equals: Any) -> list[tuple[Any, ...]]:
        """See `Ledger.values`."""
        shape = shape_of(kind)
        fields = tuple(shape.field(name).name for name in names)
        asked = statements.of(kind).values(fields, query(kind, equals))
        return shape.decoded(fields, self._readers.fetch(*asked))

    def head(self) -> TreeHead | None:
        """See `Ledger.head`."""
        rows = self._readers.fetch(statements.HEAD, (), ())
        return TreeHead(*rows[0]) if rows else None

    def tile(self, log: int, level: int, number: int) -> bytes | None:
        """See `Ledger.tile`."""
        at = (log, level, number)
        rows = self._readers.fetch(statements.TILE, statements.TILE_NAMES, at)
        return rows[0][0] if rows else None

    def reserve(self, changes: Sequence[Change]) -> Conflict | None:
        """See `Ledger.reserve`."""
        check_reserved(changes)
        return self._writing(lambda: self._reserve(changes))

    def open_log(self, log: LogId, origin: str, key: str, vkey: str) -> None:
        """See `Ledger.open_log`."""
        self._writing(lambda: self._open_log(Epoch(log, origin, key, vkey)))

    def commit(self, units: Sequence[Unit]) -> list[Placed | Conflict]:
        """See `Ledger.commit`."""
        return self._writing(lambda: self._commit(units))

    def store_note(self, log: LogId, size: int, note: bytes) -> None:
        """See `Ledger.store_note`."""
        with self._lock, self._transaction() as connection:
            at = {"of_log": log, "at_size": size, "new_note": note}
            stored = connection.execute(statements.STORE_NOTE, at).rowcount
        if not stored:
            committed_checkpoint(self.get(Checkpoint, log, size), log, size)

    def close(self) -> None:
        """See `Ledger.close`."""
        self._readers.close()
        with self._lock:
            self._writer.close()

    def _writing(self, work: Callable[[], T]) -> T:
        """Do the work alone, and again if a writer elsewhere came in between."""
        with self._lock:
            for _ in range(_ATTEMPTS):
                try:
                    return work()
                except (_HeadMovedError, IntegrityError):
                    self._edge = None
        raise LedgerUnavailableError(
            f"other writers to {self._place} came in between {_ATTEMPTS} times; try again"
        )

    def _reserve(self, changes: Sequence[Change]) -> Conflict | None:
        try:
            with self._transaction() as connection:
                write_together(connection, changes)
        except (IntegrityError, ClashError):
            with self._transaction() as connection:
                return write_in_order(connection, changes)
        return None

    def _open_log(self, epoch: Epoch) -> None:
        stored, head = self.get(Epoch, epoch.log), self.head()
        check_epoch(epoch, stored, head)
        if stored is not None:
            return
        new = empty_head(epoch)
        with self._transaction() as connection:
            if head is not None:
                # Holds up whoever appends to the old epoch, and is held up by them.
                _swap_head(connection, head, head)
            write_together(connection, [Insert(epoch)])
            row = {"log": new.log, "size": new.size, "root": new.root}
            connection.execute(statements.ADD_HEAD, row)
        self._edge = Edge(new, {})

    def _commit(self, units: Sequence[Unit]) -> list[Placed | Conflict]:
        try:
            return self._commit_together(self._known_edge(), units)
        except (IntegrityError, ClashError):
            return self._commit_in_order(self._known_edge(), units)

    def _commit_together(self, edge: Edge, units: Sequence[Unit]) -> list[Placed | Conflict]:
        """The usual case: no unit is in conflict, and rows are written table by table."""
        growth = self._grow(edge, units)
        indices = first_indices(units, growth.old.size)
        changes = [
            change
            for unit, index in zip(units, indices, strict=True)
            for change in unit_changes(unit, growth.old, index, growth.new.size)
        ]
        with self._transaction() as connection:
            self._advance(connection, growth)
            self._faults("write")
            write_together(connection, changes)
        self._edge = growth.edge
        return placed(growth.new, indices)

    def _commit_in_order(self, edge: Edge, units: Sequence[Unit]) -> list[Placed | Conflict]:
        """The rare case: unit by unit, leaving out those in conflict.

        The size that answers get is known at the end; until then they hold 0.
        """
        head = edge.head
        outcomes: list[int | Conflict] = []
        done: list[Unit] = []
        size = head.size
        with self._transaction() as connection:
            _swap_head(connection, head, head)
            self._faults("write")
            for unit in units:
                conflict = write_in_order(connection, unit_changes(unit, head, size, 0))
                outcomes.append(conflict or size)
                if conflict is None:
                    done.append(unit)
                    size += len(unit.events)
            growth = self._grow(edge, done)
            self._advance(connection, growth)
            give_size(connection, done, growth.new)
        self._edge = growth.edge
        return placed(growth.new, outcomes)

    def _advance(self, connection: Connection, growth: Growth) -> None:
        """Swap the head, write the tiles and the unsigned checkpoint."""
        _swap_head(connection, growth.old, growth.new)
        if not growth.grown:
            return
        log = growth.new.log
        new, grown = [], []
        for (level, number), hashes in growth.tiles.items():
            if growth.is_new(level, number):
                new.append({"log": log, "level": level, "number": number, "hashes": hashes})
            else:
                at = {"of_log": log, "at_level": level, "at_number": number}
                grown.append({**at, "hashes": hashes})
        if new:
            connection.execute(statements.ADD_TILE, new)
        if grown:
            connection.execute(statements.GROW_TILE, grown)
        write_together(connection, [Insert(growth.checkpoint())])

    def _grow(self, edge: Edge, units: Sequence[Unit]) -> Growth:
        try:
            return grow(edge, self.tile, leaves_of(units))
        except TileError as error:
            raise self._damaged(str(error)) from error

    def _known_edge(self) -> Edge:
        """The right edge that is remembered, or else the one that is stored."""
        if self._edge is None:
            edge = Edge(open_head(self.head()), {})
            try:
                if not is_sound(edge, self.tile):
                    raise self._damaged("the tiles do not lead to the head's root")
            except TileError as error:
                raise self._damaged(str(error)) from error
            self._edge = edge
        return self._edge

    def _damaged(self, what: str) -> LedgerUnavailableError:
        return LedgerUnavailableError(
            f"the tree in {self._place} is damaged ({what}): run `kms doctor`, append nothing"
        )

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """One durable transaction: committed where the block ends, undone where it raises.

        A crash before COMMIT returns leaves nothing of it or, at the very end, all of it.
        """
        try:
            with self._writer.transaction() as connection:
                self._faults("begin")
                yield connection
                self._faults("before-commit")
            self._faults("after-commit")
        except BaseException:
            self._edge = None
            raise


def _swap_head(connection: Connection, old: TreeHead, new: TreeHead) -> None:
    """Compare-and-swap; from here on the transaction is the only one that appends."""
    swap = {"of_log": old.log, "old_size": old.size, "old_root": old.root}
    swap |= {"new_size": new.size, "new_root": new.root}
    if connection.execute(statements.SWAP_HEAD, swap).rowcount != 1:
        raise _HeadMovedError
