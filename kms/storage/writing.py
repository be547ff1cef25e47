"""Writing changes inside a transaction: table by table when nothing is in conflict, else in order.

`write_together` is right whenever it succeeds: it inserts, then replaces, then deletes, so nothing
that a later change takes away can make room for an earlier one; and it declines whatever this order
could judge otherwise than the given one does.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from kms.domain.records import Idempotent, Record
from kms.services.ports import Change, Conflict, Delete, Insert, Replace, TreeHead, Unit
from kms.storage.growth import is_blocked
from kms.storage.mapping import Row, shape_of
from kms.storage.statements import GIVE_SIZE, execute_many, of, old


class ClashError(Exception):
    """The changes cannot be written together; in order they might."""


@dataclass(slots=True)
class _Groups:
    """Rows by kind of statement, each in the given order.

    Attributes:
        inserts: Rows.
        replaces: New rows of `Shape.change`, each followed by the primary key.
        expected: New rows of `Shape.change`, each followed by the old one.
        deletes: Primary keys.
        touched: Primary keys that are replaced or deleted.
    """

    inserts: dict[type[Record], list[Row]] = field(default_factory=lambda: defaultdict(list))
    replaces: dict[type[Record], list[Row]] = field(default_factory=lambda: defaultdict(list))
    expected: dict[type[Record], list[Row]] = field(default_factory=lambda: defaultdict(list))
    deletes: dict[type[Record], list[Row]] = field(default_factory=lambda: defaultdict(list))
    touched: dict[type[Record], set[Row]] = field(default_factory=lambda: defaultdict(set))


def write_together(connection: Connection, changes: Sequence[Change]) -> None:
    """Write all changes, table by table.

    Raises:
        ClashError: A replaced record was not as expected, or the order of changes matters.
        IntegrityError: A key is taken.
    """
    groups = _group(changes)
    for kind, rows in groups.inserts.items():
        sql = of(kind)
        execute_many(connection, sql.insert, sql.names, rows)
    for kind, rows in groups.replaces.items():
        sql = of(kind)
        names = sql.new_names + sql.old_key
        if execute_many(connection, sql.replace, names, rows) != len(rows):
            raise ClashError
    for kind, rows in groups.expected.items():
        sql = of(kind)
        names = sql.new_names + sql.old_names
        if execute_many(connection, sql.replace_expected, names, rows) != len(rows):
            raise ClashError
    for kind, keys in groups.deletes.items():
        execute_many(connection, of(kind).delete, of(kind).old_key, keys)


def _group(changes: Sequence[Change]) -> _Groups:
    groups = _Groups()
    for change in changes:
        kind = type(change.record)
        if isinstance(change, Insert):
            groups.inserts[kind].append(shape_of(kind).row(change.record))
            continue
        shape = shape_of(kind).change
        row = shape.row(change.record)
        key = shape.key(row)
        if key in groups.touched[kind]:
            raise ClashError
        groups.touched[kind].add(key)
        if isinstance(change, Delete):
            groups.deletes[kind].append(key)
        elif kind.UNIQUE:
            # One replacement may free a unique value that another takes: their order matters.
            raise ClashError
        elif change.expected is None:
            groups.replaces[kind].append(row + key)
        else:
            expected = shape.row(change.expected)
            if shape.key(expected) != key:
                raise ClashError
            groups.expected[kind].append(row + expected)
    for kind, touched in groups.touched.items():
        if not touched.isdisjoint(map(shape_of(kind).key, groups.inserts.get(kind, ()))):
            raise ClashError
    return groups


def write_in_order(connection: Connection, changes: Sequence[Change]) -> Conflict | None:
    """Write changes one by one: all, or none and the first conflict.

    Raises:
        IntegrityError: Another writer took a key between look and leap.
    """
    savepoint = connection.begin_nested()
    for change in changes:
        conflict = _write_one(connection, change)
        if conflict is not None:
            savepoint.rollback()
            return conflict
    savepoint.commit()
    return None


def _write_one(connection: Connection, change: Change) -> Conflict | None:
    kind = type(change.record)
    row = shape_of(kind).row(change.record)
    key = shape_of(kind).key(row)
    sql = of(kind)
    if isinstance(change, Delete):
        execute_many(connection, sql.delete, sql.old_key, [key])
        return None
    obstacle = _obstacle(connection, change, row)
    if obstacle is not None:
        return Conflict(kind.__name__, obstacle)
    if isinstance(change, Insert):
        execute_many(connection, sql.insert, sql.names, [row])
    else:
        new = shape_of(kind).change.row(change.record)
        execute_many(connection, sql.replace, sql.new_names + sql.old_key, [new + key])
    return None


def _obstacle(connection: Connection, change: Insert | Replace, row: Row) -> Row | None:
    """The key that stands in the way of a change."""
    kind = type(change.record)
    key, *uniques = shape_of(kind).key_values(row)
    stored = connection.execute(of(kind).get, old(kind.KEY, key)).first()
    if is_blocked(change, None if stored is None else tuple(stored)):
        return key
    for names, holder, values in zip(kind.UNIQUE, of(kind).holders, uniques, strict=True):
        found = connection.execute(holder, old(names, values)).first()
        if found is not None and tuple(found) != key:
            return values
    return None


def give_size(connection: Connection, units: Sequence[Unit], head: TreeHead) -> None:
    """Give the units' idempotency records the size that the whole commit led to."""
    shape = shape_of(Idempotent)
    answers = [shape.row(unit.idempotent) for unit in units if unit.idempotent is not None]
    if answers:
        rows = [(*shape.key(row), head.size) for row in answers]
        execute_many(connection, GIVE_SIZE, (*of(Idempotent).old_key, "new_size"), rows)
