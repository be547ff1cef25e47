"""The ledger in memory: what the SQL ledger means, without a disk. For tests and dry runs."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

from kms.domain.records import Checkpoint, Epoch, Idempotent, LogId, Record
from kms.services.ports import Change, Conflict, Delete, Insert, Placed, Replace, TreeHead, Unit
from kms.storage.growth import (
    Edge,
    check_epoch,
    check_reserved,
    committed_checkpoint,
    empty_head,
    grow,
    is_blocked,
    leaves_of,
    open_head,
    placed,
    unit_changes,
)
from kms.storage.mapping import Row, Shape, shape_of
from kms.storage.query import Query, key_row, query

R = TypeVar("R", bound=Record)


class MemoryLedger:
    """`Ledger` in memory, for any number of threads."""

    def __init__(self) -> None:
        # Guards everything below; readers take it too, so they see whole commits only.
        self._lock = threading.RLock()
        self._tables: dict[type[Record], _Table] = {}
        self._tiles: dict[tuple[int, int, int], bytes] = {}
        self._head: TreeHead | None = None

    def get(self, kind: type[R], *key: Any) -> R | None:
        """See `Ledger.get`."""
        with self._lock:
            row = self._table(kind).rows.get(key_row(kind, key))
        return None if row is None else shape_of(kind).record(row)

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
        rows = sorted(self._matching(wanted), key=wanted.place, reverse=descending)
        return [wanted.shape.record(row) for row in rows if wanted.is_between(row)][:limit]

    def count(self, kind: type[R], **equals: Any) -> int:
        """See `Ledger.count`."""
        return len(self._matching(query(kind, equals)))

    def values(self, kind: type[R], names: tuple[str, ...], **equals: Any) -> list[tuple[Any, ...]]:
        """See `Ledger.values`."""
        shape = shape_of(kind)
        places = [shape.names.index(shape.field(name).name) for name in names]
        rows = self._matching(query(kind, equals))
        return shape.decoded(names, [tuple(row[at] for at in places) for row in rows])

    def reserve(self, changes: Sequence[Change]) -> Conflict | None:
        """See `Ledger.reserve`."""
        check_reserved(changes)
        with self._lock, _Undo() as undo:
            return self._apply(changes, undo)

    def open_log(self, log: LogId, origin: str, key: str, vkey: str) -> None:
        """See `Ledger.open_log`."""
        epoch = Epoch(log, origin, key, vkey)
        with self._lock, _Undo() as undo:
            stored = self.get(Epoch, log)
            check_epoch(epoch, stored, self._head)
            if stored is None:
                self._apply([Insert(epoch)], undo)
                self._head = empty_head(epoch)

    def commit(self, units: Sequence[Unit]) -> list[Placed | Conflict]:
        """See `Ledger.commit`."""
        with self._lock, _Undo() as undo:
            head = open_head(self._head)
            indices: list[int | Conflict] = []
            done: list[Unit] = []
            size = head.size
            for unit in units:
                conflict = self._apply(unit_changes(unit, head, size, 0), undo)
                indices.append(conflict or size)
                if conflict is None:
                    done.append(unit)
                    size += len(unit.events)
            growth = grow(Edge(head, {}), self.tile, leaves_of(done))
            if growth.grown:
                self._apply([Insert(growth.checkpoint())], undo)
            self._give_size(done, growth.new, undo)
            self._tiles.update({(head.log, *at): tile for at, tile in growth.tiles.items()})
            self._head = growth.new
            return placed(growth.new, indices)

    def head(self) -> TreeHead | None:
        """See `Ledger.head`."""
        with self._lock:
            return self._head

    def tile(self, log: int, level: int, number: int) -> bytes | None:
        """See `Ledger.tile`."""
        with self._lock:
            return self._tiles.get((log, level, number))

    def store_note(self, log: LogId, size: int, note: bytes) -> None:
        """See `Ledger.store_note`."""
        with self._lock, _Undo() as undo:
            stored = committed_checkpoint(self.get(Checkpoint, log, size), log, size)
            if not stored.note:
                self._apply([Replace(replace(stored, note=note))], undo)

    def close(self) -> None:
        """Nothing to let go."""

    def _apply(self, changes: Sequence[Change], undo: "_Undo") -> Conflict | None:
        """All or none of them."""
        mark = len(undo.done)
        for change in changes:
            outcome = self._table(type(change.record)).apply(change)
            if isinstance(outcome, Conflict):
                undo.back_to(mark)
                return outcome
            undo.done.append(outcome)
        return None

    def _give_size(self, units: Sequence[Unit], head: TreeHead, undo: "_Undo") -> None:
        """Give the units' idempotency records the size that the whole commit led to."""
        for unit in units:
            if unit.idempotent is not None:
                shape = shape_of(Idempotent)
                stored = self.get(Idempotent, *shape.key(shape.row(unit.idempotent)))
                # A later unit of the commit may have deleted it.
                if stored is not None:
                    self._apply([Replace(replace(stored, size=head.size))], undo)

    def _matching(self, wanted: Query) -> list[Row]:
        with self._lock:
            rows = list(self._table(wanted.shape.kind).rows.values())
        return [row for row in rows if wanted.matches(row)]

    def _table(self, kind: type[Record]) -> "_Table":
        table = self._tables.get(kind)
        if table is None:
            table = self._tables[kind] = _Table(shape_of(kind))
        return table


@dataclass(frozen=True, slots=True)
class _Swap:
    """What one change did to a table."""

    table: "_Table"
    old: Row | None
    new: Row | None


@dataclass(slots=True)
class _Undo:
    """Takes back what was done when its block ends in an exception."""

    done: list[_Swap] = field(default_factory=list)

    def back_to(self, mark: int) -> None:
        """Take back everything after the first `mark` changes, the newest first."""
        while len(self.done) > mark:
            swap = self.done.pop()
            swap.table.swap(swap.new, swap.old)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        if failure is not None:
            self.back_to(0)


class _Table:
    """Rows of one record class by primary key, and who holds each value of its unique keys."""

    def __init__(self, shape: Shape[Any]) -> None:
        self.rows: dict[Row, Row] = {}
        self._shape = shape
        self._holders: list[dict[Row, Row]] = [{} for _ in shape.keys[1:]]

    def apply(self, change: Change) -> _Swap | Conflict:
        """Do one change, or say what stands in the way."""
        row = self._shape.row(change.record)
        key = self._shape.key(row)
        old = self.rows.get(key)
        if isinstance(change, Delete):
            return self.swap(old, None)
        if isinstance(change, Replace) and old is not None:
            row = self._shape.changed(old, change.record)
        taken = key if is_blocked(change, old) else self._held_by_another(row)
        return self.swap(old, row) if taken is None else self._conflict(taken)

    def swap(self, old: Row | None, new: Row | None) -> _Swap:
        """Put `new` where `old` stands."""
        if old is not None:
            key, *uniques = self._shape.key_values(old)
            del self.rows[key]
            for holders, values in zip(self._holders, uniques, strict=True):
                del holders[values]
        if new is not None:
            key, *uniques = self._shape.key_values(new)
            self.rows[key] = new
            for holders, values in zip(self._holders, uniques, strict=True):
                holders[values] = key
        return _Swap(self, old, new)

    def _held_by_another(self, row: Row) -> Row | None:
        key, *uniques = self._shape.key_values(row)
        for holders, values in zip(self._holders, uniques, strict=True):
            if holders.get(values, key) != key:
                return values
        return None

    def _conflict(self, key: Row) -> Conflict:
        return Conflict(self._shape.kind.__name__, key)
