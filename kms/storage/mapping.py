"""Records to rows and back, worked out once per record class.

A row is the tuple of a record's fields in plain database values: text, integers, bytes, None. Times
become whole seconds since 1970 and structured values canonical JSON text, so that rows compare and
sort in every store exactly as their records do. Both ledgers keep rows, so both mean the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from operator import attrgetter, itemgetter
from types import NoneType, UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from kms.domain.records import Record

R = TypeVar("R", bound=Record)
Row = tuple[Any, ...]
Codec = Callable[[Any], Any]

_LARGEST = 2**63 - 1


class Column(StrEnum):
    """How a field is stored."""

    TEXT = "text"
    INTEGER = "integer"
    BYTES = "bytes"
    TIME = "time"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record; a codec of None means the value is stored as it is."""

    name: str
    column: Column
    nullable: bool
    encode: Codec | None
    decode: Codec | None


class Shape(Generic[R]):
    """What is known of a record class: its fields and keys, and the way to rows and back.

    Attributes:
        kind: The record class.
        fields: Its fields in order, which is the order of a row.
        names: Their names.
        keys: Field names of the primary key, then of each unique key.
        change: The shape of what replacing a record compares and writes: key and `MUTABLE`
            fields, or all of it. Its rows hold no more, and it has no other keys.
    """

    def __init__(self, kind: type[R], only: tuple[str, ...] | None = None) -> None:
        self.kind = kind
        hints = get_type_hints(kind)
        # A record class is a dataclass by convention, which its root cannot say in types.
        declared = [item.name for item in fields(kind)]  # type: ignore[arg-type]
        self.fields = tuple(_field(name, hints[name]) for name in only or declared)
        self.names = tuple(field.name for field in self.fields)
        self.keys: tuple[tuple[str, ...], ...] = (kind.KEY, *kind.UNIQUE)
        self.change: Shape[R] = self
        if only is None and kind.MUTABLE is not None:
            self.change = Shape(kind, kind.KEY + kind.MUTABLE)
        self._changing = [declared.index(name) for name in self.change.names]
        self._by_name = {field.name: field for field in self.fields}
        self._values = tuple_getter(attrgetter, self.names)
        self._pickers = [tuple_getter(itemgetter, map(self.names.index, key)) for key in self.keys]
        self._encoders = [(at, f.encode) for at, f in enumerate(self.fields) if f.encode]
        self._decoders = [(at, f.decode) for at, f in enumerate(self.fields) if f.decode]
        self._required = [at for at, field in enumerate(self.fields) if not field.nullable]

    def row(self, record: R) -> Row:
        """The record as it is stored.

        Raises:
            ValueError: A value that no row can hold: a time that is not aware or has fractions of
                a second, a number beyond 64 bits, or None where the record class allows none.
        """
        values = list(self._values(record))
        for at, encode in self._encoders:
            if values[at] is not None:
                values[at] = encode(values[at])
        if None in values:
            missing = [self.names[at] for at in self._required if values[at] is None]
            if missing:
                raise ValueError(f"{self.kind.__name__} without {', '.join(missing)}")
        return tuple(values)

    def record(self, row: Row) -> R:
        """The record that `row` holds."""
        values = list(row)
        for at, decode in self._decoders:
            if values[at] is not None:
                values[at] = decode(values[at])
        return self.kind(*values)

    def decoded(self, names: tuple[str, ...], rows: Sequence[Row]) -> list[Row]:
        """Rows of those fields alone, with the values that records have."""
        decoders = [(at, self.field(name).decode) for at, name in enumerate(names)]
        wanted = [(at, decode) for at, decode in decoders if decode]
        return [_decoded(row, wanted) for row in rows]

    def changing(self, row: Row) -> Row:
        """Of a whole row, what `change` has."""
        return tuple([row[at] for at in self._changing])

    def changed(self, row: Row, record: R) -> Row:
        """The whole row after it was replaced by that record."""
        values = list(row)
        for at, value in zip(self._changing, self.change.row(record), strict=True):
            values[at] = value
        return tuple(values)

    def key(self, row: Row) -> Row:
        """The row's primary key."""
        return self._pickers[0](row)

    def key_values(self, row: Row) -> list[Row]:
        """The row's primary key, then its unique keys, in the order of `keys`."""
        return [pick(row) for pick in self._pickers]

    def field(self, name: str) -> Field:
        """The field of that name.

        Raises:
            ValueError: The record class has none.
        """
        field = self._by_name.get(name)
        if field is None:
            raise ValueError(f"{self.kind.__name__} has no field {name!r}")
        return field

    def value(self, name: str, value: Any) -> Any:
        """A field's value as it is stored, to look for it.

        A number too large to be stored becomes the largest: nothing is there or beyond.
        """
        field = self.field(name)
        if value is None or field.encode is None:
            return value
        if field.column is Column.INTEGER:
            return max(-_LARGEST, min(value, _LARGEST))
        return field.encode(value)


def _decoded(row: Row, decoders: Sequence[tuple[int, Codec]]) -> Row:
    values = list(row)
    for at, decode in decoders:
        if values[at] is not None:
            values[at] = decode(values[at])
    return tuple(values)


def shape_of(kind: type[R]) -> Shape[R]:
    """The shape of a record class."""
    shape = _SHAPES.get(kind)
    if shape is None:
        shape = _SHAPES[kind] = Shape(kind)
    return shape


_SHAPES: dict[type[Record], Shape[Any]] = {}


def tuple_getter(maker: Callable[..., Callable[[Any], Any]], parts: Any) -> Callable[[Any], Row]:
    """An `attrgetter` or `itemgetter` that gives a tuple for a single part too."""
    wanted = tuple(parts)
    get = maker(*wanted)
    return get if len(wanted) > 1 else lambda source: (get(source),)


def _field(name: str, hint: Any) -> Field:
    nullable = False
    # A NewType gives the older form.
    if get_origin(hint) in (UnionType, Union):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
        nullable = True
    hint = getattr(hint, "__supertype__", hint)
    column, encode, decode = _codec(hint)
    return Field(name, column, nullable, encode, decode)


def _codec(hint: Any) -> tuple[Column, Codec | None, Codec | None]:
    origin = get_origin(hint)
    if origin is tuple:
        return Column.JSON, _dump, lambda text: tuple(_load(text))
    if origin is Mapping:
        return Column.JSON, _dump, _load
    if issubclass(hint, StrEnum):
        return Column.TEXT, str, hint
    if hint is str:
        return Column.TEXT, None, None
    if hint is bytes:
        return Column.BYTES, None, None
    if hint is int:
        return Column.INTEGER, _integer, None
    if hint is datetime:
        return Column.TIME, _seconds, _time
    raise TypeError(f"no column can hold {hint}")


def _integer(number: int) -> int:
    if not -_LARGEST < number < _LARGEST:
        raise ValueError(f"{number} does not fit 64 bits")
    return number


def _seconds(time: datetime) -> int:
    if time.tzinfo is None or time.microsecond:
        raise ValueError(f"{time.isoformat()} is not an aware time of whole seconds")
    return int(time.timestamp())


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


_json = msgspec.json.Encoder(order="sorted", enc_hook=dict)
_load = msgspec.json.Decoder().decode


def _dump(value: Any) -> str:
    return _json.encode(value).decode()
