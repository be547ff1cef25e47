"""Every record class survives the way to a row and back."""

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms.domain import key_records, records
from kms.domain.records import Record, Tenant
from kms.storage.mapping import shape_of
from kms.storage.tables import METADATA, TABLES

KINDS = [
    item
    for _, item in sorted({**vars(records), **vars(key_records)}.items())
    if isinstance(item, type) and issubclass(item, Record) and item is not Record
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
TIMES = st.datetimes(datetime(1950, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)).map(  # noqa: DTZ001 - hypothesis wants naive bounds
    lambda time: time.replace(microsecond=0)
)
PLAIN = {
    datetime: TIMES,
    int: st.integers(2 - 2**63, 2**63 - 2),
    Mapping[str, Any]: st.dictionaries(st.text(max_size=3), JSON, max_size=3),
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    if hint in PLAIN:
        return PLAIN[hint]
    if hasattr(hint, "__supertype__"):
        return values(hint.__supertype__)
    if get_origin(hint) is tuple:
        return st.lists(values(get_args(hint)[0]), max_size=2).map(tuple)
    if get_args(hint):
        return st.one_of([values(part) for part in get_args(hint)])
    return st.from_type(hint)


def made(kind: type[Record]) -> st.SearchStrategy[Record]:
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return st.builds(kind, **{name: values(hints[name]) for name in names})


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_there_and_back(kind: type[Record], data: st.DataObject):
    record = data.draw(made(kind))
    shape = shape_of(kind)
    row = shape.row(record)
    assert all(type(value) in (str, int, bytes, type(None)) for value in row)
    back = shape.record(row)
    assert back == record
    assert shape.row(back) == row
    for field in dataclasses.fields(record):  # type: ignore[arg-type]
        assert isinstance(getattr(back, field.name), type(getattr(record, field.name)))
    assert shape.key(row) == tuple(shape.value(name, getattr(record, name)) for name in kind.KEY)


def test_every_record_class_has_a_table():
    assert set(TABLES) == set(KINDS)
    assert {table.name for table in TABLES.values()} | {"heads", "tiles"} == set(METADATA.tables)


def test_tenant_is_part_of_every_key():
    """But for what belongs to the log, the signer's marks, and what is unique across tenants."""
    exempt = {"Event", "Epoch", "Checkpoint", "SignerMark"}
    for kind in KINDS:
        assert "tenant" in kind.KEY or kind.__name__ in exempt
        assert all("tenant" in unique for unique in kind.UNIQUE) or kind is Tenant


def test_times_of_other_zones_and_fractions():
    shape = shape_of(records.Enrolment)
    assert shape.value("expires", datetime(1970, 1, 1, tzinfo=UTC)) == 0
    with pytest.raises(ValueError, match="aware time"):
        shape.value("expires", datetime(2030, 1, 1))  # noqa: DTZ001 - what is refused
    with pytest.raises(ValueError, match="whole seconds"):
        shape.value("expires", datetime(2030, 1, 1, microsecond=1, tzinfo=UTC))


def test_a_type_without_a_column_is_refused():
    @dataclasses.dataclass(frozen=True, slots=True)
    class Odd:
        KEY = ("ratio",)
        UNIQUE = ()
        ratio: float

    with pytest.raises(TypeError, match="no column can hold"):
        shape_of(Odd)  # type: ignore[type-var]
