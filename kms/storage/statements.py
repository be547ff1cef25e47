"""SQL statements, each built once per record class and form of question."""

from collections.abc import Callable, Iterable
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple, cast

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    Connection,
    Dialect,
    Select,
    UpdateBase,
    bindparam,
    false,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy import delete as sql_delete
from sqlalchemy import insert as sql_insert
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import Update

from kms.domain.records import Checkpoint, Epoch, Idempotent, Record
from kms.storage.access import Access, access
from kms.storage.dialect import unindexed
from kms.storage.mapping import Row, shape_of, tuple_getter
from kms.storage.query import Query
from kms.storage.tables import HEADS, TABLES, TILES

_FORMS = 256


class Wanted(NamedTuple):
    """A condition on a field: `values` parameters of which any will do, or `none` at all."""

    name: str
    values: int
    none: bool


class Form(NamedTuple):
    """What two questions share that one statement answers."""

    equals: tuple[Wanted, ...]
    order: tuple[str, ...]
    descending: bool
    limited: bool
    after: tuple[str, ...]
    before: tuple[str, ...]


class Asked(NamedTuple):
    """A question: the statement, and names and values of its parameters."""

    statement: Select[Any]
    names: tuple[str, ...]
    values: Row


class Statements:
    """The statements of one record class.

    Parameters are fields: `old_<field>` for what is looked for, `new_<field>` for what is put in
    its place; `insert` takes the fields under their own names.

    Attributes:
        insert: Adds rows.
        replace: Replaces what may change of the row of a primary key.
        replace_expected: Does so only where all that may change is as given.
        delete: Removes the row of a primary key.
        get: The row of a primary key.
        holders: Per unique key, the primary key of the row that has its values.
        names: Names of the fields.
        new_names: Names of the `new_` parameters, in the order of a row of `Shape.change`.
        old_names: Names of the `old_` parameters, in the same order.
        old_key: Names of the `old_` parameters of the primary key.
    """

    def __init__(self, kind: type[Record]) -> None:
        self._table = table = TABLES[kind]
        own_key = [_is(column) for column in table.primary_key.columns]
        changing = shape_of(kind).change.names
        self.insert = sql_insert(table)
        self.replace = self._update(own_key, changing)
        expected = [_is(table.columns[name]) for name in changing]
        self.replace_expected = self._update(expected, changing)
        self.delete = sql_delete(table).where(*own_key)
        self.get = select(table).where(*own_key)
        self.holders = [
            select(*table.primary_key.columns).where(*(_is(table.columns[name]) for name in unique))
            for unique in kind.UNIQUE
        ]
        self.names = tuple(column.name for column in table.columns)
        self.new_names = tuple(f"new_{name}" for name in changing)
        self.old_names = tuple(f"old_{name}" for name in changing)
        self.old_key = tuple(f"old_{name}" for name in kind.KEY)
        self._find = lru_cache(maxsize=_FORMS)(self._build_find)
        self._count = lru_cache(maxsize=_FORMS)(self._build_count)
        self._values = lru_cache(maxsize=_FORMS)(self._build_values)

    def find(self, query: Query) -> Asked:
        """The rows a query asks for."""
        equals, names, values = _wanted(query)
        after, before = _bound(query, query.after), _bound(query, query.before)
        names += [*(f"after_{name}" for name in after), *(f"before_{name}" for name in before)]
        values += [*after.values(), *before.values()]
        if query.limit is not None:
            names.append("limit")
            values.append(query.limit)
        form = Form(
            equals,
            query.order,
            query.descending,
            query.limit is not None,
            tuple(after),
            tuple(before),
        )
        return Asked(self._find(form), tuple(names), tuple(values))

    def count(self, query: Query) -> Asked:
        """How many rows a query asks for."""
        equals, names, values = _wanted(query)
        return Asked(self._count(equals), tuple(names), tuple(values))

    def values(self, fields: tuple[str, ...], query: Query) -> Asked:
        """Those fields of the rows a query asks for."""
        equals, names, values = _wanted(query)
        return Asked(self._values(fields, equals), tuple(names), tuple(values))

    def _update(self, where: list[ColumnElement[bool]], changing: tuple[str, ...]) -> Update:
        columns = [self._table.columns[name] for name in changing]
        rest = [column for column in columns if not column.primary_key]
        new = {column: bindparam(f"new_{column.name}", type_=column.type) for column in rest}
        return update(self._table).where(*where).values(new)

    def _build_find(self, form: Form) -> Select[Any]:
        way = self._access(form.equals, form.order)
        columns = {name: self._column(name, indexed=way.sorts) for name in form.order}
        statement = select(self._table).where(*self._conditions(form.equals, way))
        low, high = ("before", "after") if form.descending else ("after", "before")
        bounds = {"after": form.after, "before": form.before}
        if bounds[low]:
            place, given = _places(low, bounds[low], columns)
            statement = statement.where(place > given)
        if bounds[high]:
            place, given = _places(high, bounds[high], columns)
            statement = statement.where(place < given)
        ordered = [
            column.desc() if form.descending else column.asc() for column in columns.values()
        ]
        statement = statement.order_by(*ordered)
        return statement.limit(bindparam("limit")) if form.limited else statement

    def _build_count(self, equals: tuple[Wanted, ...]) -> Select[Any]:
        conditions = self._conditions(equals, self._access(equals, ()))
        return select(func.count()).select_from(self._table).where(*conditions)

    def _build_values(self, fields: tuple[str, ...], equals: tuple[Wanted, ...]) -> Select[Any]:
        conditions = self._conditions(equals, self._access(equals, ()))
        return select(*(self._table.columns[name] for name in fields)).where(*conditions)

    def _access(self, equals: tuple[Wanted, ...], order: tuple[str, ...]) -> Access:
        one = [item.name for item in equals if item.values + item.none == 1]
        several = [item.name for item in equals if item.values > 1 and not item.none]
        return access(self._table, one, several, order)

    def _column(self, name: str, *, indexed: bool) -> ColumnElement[Any]:
        column = self._table.columns[name]
        return column if indexed else unindexed(column)

    def _conditions(self, equals: tuple[Wanted, ...], way: Access) -> list[ColumnElement[bool]]:
        conditions: list[ColumnElement[bool]] = []
        for wanted in equals:
            column = self._column(wanted.name, indexed=wanted.name in way.finds)
            parameters = [
                bindparam(f"old_{wanted.name}_{at}", type_=column.type)
                for at in range(wanted.values)
            ]
            if len(parameters) == 1:
                condition = column == parameters[0]
            else:
                condition = column.in_(parameters) if parameters else false()
            conditions.append(condition | column.is_(None) if wanted.none else condition)
        return conditions


def _places(
    bound: str, names: tuple[str, ...], columns: dict[str, ColumnElement[Any]]
) -> tuple[Any, Any]:
    """Where a row stands in sort order, and the place to compare it with."""
    given = [bindparam(f"{bound}_{name}", type_=columns[name].type) for name in names]
    return tuple_(*(columns[name] for name in names)), tuple_(*given)


def _bound(query: Query, place: Row | None) -> dict[str, Any]:
    """Field to value of a place in sort order, as far as it tells rows apart.

    Leading fields that every row has the same value in are left out: with them SQLite would enter
    the index at their beginning, and read a whole log to find its last page.
    """
    if place is None:
        return {}
    fields = list(zip(query.order, place, strict=False))
    while len(fields) > 1 and query.equals.get(fields[0][0]) == fields[0][1]:
        del fields[0]
    return dict(fields)


def of(kind: type[Record]) -> Statements:
    """The statements of a record class."""
    statements = _STATEMENTS.get(kind)
    if statements is None:
        statements = _STATEMENTS[kind] = Statements(kind)
    return statements


_STATEMENTS: dict[type[Record], Statements] = {}


@lru_cache(maxsize=4 * _FORMS)
def compiled(
    statement: ClauseElement, names: tuple[str, ...], dialect: Dialect
) -> tuple[str, Callable[[Row], Row]]:
    """The text of a statement, and how its parameters are picked from values of those names."""
    text = cast("SQLCompiler", statement.compile(dialect=dialect))
    wanted = text.positiontup
    if wanted is None:
        raise TypeError(f"{dialect.name} must be set to a positional paramstyle")
    # A dialect adds constants of its own, SQLite an offset to every limit.
    own = [name for name in wanted if name not in names]
    if any(text.binds[name].required for name in own):
        raise TypeError(f"no value for some of {', '.join(own)}")
    constants: Row = tuple(text.params[name] for name in own)
    places = (*names, *own)
    pick = tuple_getter(itemgetter, map(places.index, wanted)) if wanted else lambda _: ()
    return text.string, (lambda row: pick((*row, *constants))) if own else pick


def execute_many(
    connection: Connection, statement: UpdateBase, names: tuple[str, ...], rows: Iterable[Row]
) -> int:
    """Execute once per row of values of those names; returns how many rows that changed.

    Rows hold what drivers take as it is, so SQLAlchemy's work per value is left out: it would
    cost as much as the database's.
    """
    text, pick = compiled(statement, names, connection.dialect)
    return connection.exec_driver_sql(text, [pick(row) for row in rows]).rowcount


def old(names: Iterable[str], values: Row) -> dict[str, Any]:
    """Parameters that look for those values."""
    return {f"old_{name}": value for name, value in zip(names, values, strict=True)}


def _is(column: ColumnElement[Any]) -> ColumnElement[bool]:
    """Equality that None passes too, where there can be one: an index serves only plain `=`."""
    old = bindparam(f"old_{column.key}", type_=column.type)
    return column.is_not_distinct_from(old) if getattr(column, "nullable", False) else column == old


def _wanted(query: Query) -> tuple[tuple[Wanted, ...], list[str], list[Any]]:
    """The conditions of a query, and names and values of their parameters."""
    conditions: list[Wanted] = []
    names: list[str] = []
    values: list[Any] = []
    for name, value in query.equals.items():
        given = value if isinstance(value, frozenset) else (value,)
        some = [item for item in given if item is not None]
        # The last value again and again: so a few statements answer for any number of values.
        some += some[-1:] * ((1 << (len(some) - 1).bit_length()) - len(some)) if some else []
        conditions.append(Wanted(name, len(some), None in given))
        names += [f"old_{name}_{at}" for at in range(len(some))]
        values += some
    return tuple(conditions), names, values


_EPOCHS, _CHECKPOINTS = TABLES[Epoch], TABLES[Checkpoint]

HEAD = (
    select(HEADS.c.log, _EPOCHS.c.origin, HEADS.c.size, HEADS.c.root)
    .join(_EPOCHS, _EPOCHS.c.log == HEADS.c.log)
    .where(HEADS.c.log == select(func.max(HEADS.c.log)).scalar_subquery())
)
"""Head of the newest epoch."""

_LATER = HEADS.alias("later")

SWAP_HEAD = (
    update(HEADS)
    .where(HEADS.c.log == bindparam("of_log"), HEADS.c.size == bindparam("old_size"))
    .where(HEADS.c.root == bindparam("old_root"))
    .where(~select(_LATER.c.log).where(_LATER.c.log > bindparam("of_log")).exists())
    .values(size=bindparam("new_size"), root=bindparam("new_root"))
)
"""Compare-and-swap of the head of the newest epoch.

No row means that another writer has appended or has begun a new epoch.
"""

ADD_HEAD = sql_insert(HEADS)

TILE = select(TILES.c.hashes).where(
    TILES.c.log == bindparam("of_log"),
    TILES.c.level == bindparam("at_level"),
    TILES.c.number == bindparam("at_number"),
)
TILE_NAMES = ("of_log", "at_level", "at_number")
"""Names of its parameters."""

ADD_TILE = sql_insert(TILES)

GROW_TILE = (
    update(TILES)
    .where(TILES.c.log == bindparam("of_log"))
    .where(TILES.c.level == bindparam("at_level"), TILES.c.number == bindparam("at_number"))
    .values(hashes=bindparam("hashes"))
)

STORE_NOTE = (
    update(_CHECKPOINTS)
    .where(_CHECKPOINTS.c.log == bindparam("of_log"))
    .where(_CHECKPOINTS.c.size == bindparam("at_size"), _CHECKPOINTS.c.note == b"")
    .values(note=bindparam("new_note"))
)
"""Only where there is none yet: the first note wins."""

_ANSWERS = TABLES[Idempotent]

GIVE_SIZE = (
    update(_ANSWERS)
    .where(*(_is(column) for column in _ANSWERS.primary_key.columns))
    .values(size=bindparam("new_size"))
)
"""Gives idempotency records the size of the commit that made them."""
