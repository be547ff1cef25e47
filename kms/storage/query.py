"""What `Ledger.find` is asked for, checked and in stored values: the same for every ledger."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kms.domain.records import Record
from kms.storage.mapping import Column, Row, Shape, shape_of


@dataclass(frozen=True, slots=True)
class Query:
    """A checked question.

    Attributes:
        shape: Of the records asked for.
        equals: Field to stored value, None, or a set of which any will do (None among them too).
        order: Fields to sort by, ties broken by the rest of the primary key.
        descending: Sort downwards.
        limit: At most so many.
        after: Stored values of the first fields of `order` to come after.
        before: Such values to come before.
    """

    shape: Shape[Any]
    equals: Mapping[str, Any]
    order: tuple[str, ...]
    descending: bool = False
    limit: int | None = None
    after: Row | None = None
    before: Row | None = None

    def matches(self, row: Row) -> bool:
        """Whether the row has the wanted values."""
        for name, value in self.equals.items():
            stored = row[self.shape.names.index(name)]
            if stored not in value if isinstance(value, frozenset) else stored != value:
                return False
        return True

    def place(self, row: Row) -> Row:
        """Where the row stands in sort order."""
        return tuple(row[self.shape.names.index(name)] for name in self.order)

    def is_between(self, row: Row) -> bool:
        """Whether the row comes strictly after `after` and strictly before `before`."""
        low, high = (self.before, self.after) if self.descending else (self.after, self.before)
        place = self.place(row)
        return (low is None or place[: len(low)] > low) and (
            high is None or place[: len(high)] < high
        )


def query(
    kind: type[Record],
    equals: Mapping[str, Any],
    order: tuple[str, ...] = (),
    *,
    descending: bool = False,
    limit: int | None = None,
    after: tuple[Any, ...] | None = None,
    before: tuple[Any, ...] | None = None,
) -> Query:
    """Check a question.

    Raises:
        ValueError: A field that the record lacks or that cannot be compared, an `after` or
            `before` that does not fit `order`, or a negative limit.
    """
    shape = shape_of(kind)
    order = order or kind.KEY
    for name in order:
        if shape.field(name).nullable or shape.field(name).column is Column.JSON:
            raise ValueError(f"{kind.__name__} cannot be sorted by {name!r}")
    if limit is not None and limit < 0:
        raise ValueError(f"a limit of {limit}")
    return Query(
        shape=shape,
        equals={name: _wanted(shape, name, value) for name, value in equals.items()},
        order=order + tuple(name for name in kind.KEY if name not in order),
        descending=descending,
        limit=limit,
        after=_bound(shape, "after", order, after),
        before=_bound(shape, "before", order, before),
    )


def _bound(
    shape: Shape[Any], name: str, order: tuple[str, ...], values: tuple[Any, ...] | None
) -> Row | None:
    if values is None:
        return None
    if len(values) != len(order):
        raise ValueError(f"`{name}` needs a value for each of {', '.join(order)}")
    return tuple(shape.value(*pair) for pair in zip(order, values, strict=True))


def _wanted(shape: Shape[Any], name: str, value: Any) -> Any:
    if shape.field(name).column is Column.JSON:
        raise ValueError(f"{shape.kind.__name__} cannot be found by {name!r}")
    if isinstance(value, tuple):
        return frozenset(shape.value(name, item) for item in value)
    return shape.value(name, value)


def key_row(kind: type[Record], key: tuple[Any, ...]) -> Row:
    """A primary key in stored values.

    Raises:
        ValueError: Not one value per field of `KEY`.
    """
    if len(key) != len(kind.KEY):
        raise ValueError(f"{kind.__name__} has the key {kind.KEY}, not {len(key)} values")
    shape = shape_of(kind)
    return tuple(shape.value(*pair) for pair in zip(kind.KEY, key, strict=True))
