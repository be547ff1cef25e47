"""Writing changes inside a transaction: table by table when nothing is in conflict, else in order.

`write_together` is right whenever it succeeds: it inserts, then replaces, then deletes, so nothing
that a later change takes away can make room for an earlier one; and it declines whatever this order
could judge otherwise than the given one does.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from kms.domain.records import Idempotent, Record
from kms.services.ports import Change, Conflict, Delete, Insert, Replace, TreeHead, Unit
from kms.storage import statements
from kms.storage.growth import is_blocked
from kms.storage.mapping import Row, shape_of

Parameters = list[dict[str, Any]]


class ClashError(Exception):
    """The changes cannot be written together; in order they might."""


@dataclass(slots=True)
class _Groups:
    """Changes by kind of statement, each in the given order."""

    inserts: dict[type[Record], list[Row]] = field(default_factory=lambda: defaultdict(list))
    replaces: dict[tuple[type[Record], bool], Parameters] = field(
        default_factory=lambda: defaultdict(list)
    )
    deletes: dict[type[Record], Parameters] = field(default_factory=lambda: defaultdict(list))
    touched: dict[type[Record], set[Row]] = field(default_factory=lambda: defaultdict(set))

    def touch(self, kind: type[Record], key: Row) -> None:
        """Note a key that is replaced or deleted; it may be changed once only."""
        keys = self.touched[kind]
        if key in keys:
            raise ClashError
        keys.add(key)


def write_together(connection: Connection, changes: Sequence[Change]) -> None:
    """Write all changes, table by table.

    Raises:
        ClashError: A replaced record was not as expected, or the order of changes matters.
        IntegrityError: A key is taken.
    """
    groups = _group(changes)
    for kind, rows in groups.inserts.items():
        names = shape_of(kind).names
        connection.execute(
            statements.of(kind).insert, [dict(zip(names, row, strict=True)) for row in rows]
        )
    for (kind, expected), replaced in groups.replaces.items():
        of_kind = statements.of(kind)
        statement = of_kind.replace_expected if expected else of_kind.replace
        if connection.execute(statement, replaced).rowcount != len(replaced):
            raise ClashError
    for kind, deleted in groups.deletes.items():
        connection.execute(statements.of(kind).delete, deleted)


def _group(changes: Sequence[Change]) -> _Groups:
    groups = _Groups()
    for change in changes:
        kind = type(change.record)
        shape = shape_of(kind)
        row = shape.row(change.record)
        if isinstance(change, Insert):
            groups.inserts[kind].append(row)
            continue
        groups.touch(kind, shape.key(row))
        if isinstance(change, Delete):
            groups.deletes[kind].append(_old(kind.KEY, shape.key(row)))
        elif kind.UNIQUE:
            # One replacement may free a unique value that the other takes: their order matters.
            raise ClashError
        else:
            expected = change.expected is not None
            groups.replaces[kind, expected].append(_replacement(change, row))
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
    shape = shape_of(kind)
    row = shape.row(change.record)
    if isinstance(change, Delete):
        connection.execute(statements.of(kind).delete, _old(kind.KEY, shape.key(row)))
        return None
    obstacle = _obstacle(connection, change, row)
    if obstacle is not None:
        return Conflict(kind.__name__, obstacle)
    if isinstance(change, Insert):
        connection.execute(statements.of(kind).insert, dict(zip(shape.names, row, strict=True)))
    else:
        unconditional = Replace(change.record)
        connection.execute(statements.of(kind).replace, _replacement(unconditional, row))
    return None


def _obstacle(connection: Connection, change: Insert | Replace, row: Row) -> Row | None:
    """The key that stands in the way of a change."""
    kind = type(change.record)
    key, *uniques = shape_of(kind).key_values(row)
    stored = connection.execute(statements.of(kind).get, _old(kind.KEY, key)).first()
    if is_blocked(change, None if stored is None else tuple(stored)):
        return key
    for unique, statement, values in zip(
        kind.UNIQUE, statements.of(kind).holders, uniques, strict=True
    ):
        holder = connection.execute(statement, _old(unique, values)).first()
        if holder is not None and tuple(holder) != key:
            return values
    return None


def give_size(connection: Connection, units: Sequence[Unit], head: TreeHead) -> None:
    """Give the units' idempotency records the size that the whole commit led to."""
    shape = shape_of(Idempotent)
    answers = [shape.row(unit.idempotent) for unit in units if unit.idempotent is not None]
    if answers:
        connection.execute(
            statements.GIVE_SIZE,
            [_old(Idempotent.KEY, shape.key(row)) | {"new_size": head.size} for row in answers],
        )


def _replacement(change: Replace, row: Row) -> dict[str, Any]:
    kind = type(change.record)
    shape = shape_of(kind)
    of_kind = statements.of(kind)
    parameters = dict(zip(of_kind.new_names, row, strict=True))
    if change.expected is None:
        return parameters | _old(kind.KEY, shape.key(row))
    expected = shape.row(change.expected)
    if shape.key(expected) != shape.key(row):
        raise ClashError
    return parameters | dict(zip(of_kind.old_names, expected, strict=True))


def _old(names: Sequence[str], values: Row) -> dict[str, Any]:
    return {f"old_{name}": value for name, value in zip(names, values, strict=True)}
