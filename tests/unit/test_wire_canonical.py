"""Both writers of canonical JSON agree wherever the quick one is taken (RFC 8785)."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from kms import wire

texts = st.text() | st.text(alphabet='"\\/\x00\x08\t\n\f\r\x1b\x7f\u2028é€😀')
numbers = (
    st.integers() | st.integers(-(2**53) - 2, -(2**53) + 2) | st.integers(2**53 - 2, 2**53 + 2)
)
scalars = st.none() | st.booleans() | numbers | texts | st.floats()
names = st.text(alphabet="abAB_09é\ufb33😀", max_size=4) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(names, inner),
    max_leaves=25,
)


def expected(value: Any) -> bytes | None:
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        return None


@given(values)
@example({"\ufb33": 1, "😀": 2})  # UTF-16 sorts these the other way round than code points
@example([2**53 - 1, -(2**53) + 1, 0, -0.0, 1e21])
@example({"a": {"b": [(), [], {}], "": "\x7f\u2028"}})
def test_same_bytes_or_refused_alike(value: Any) -> None:
    wanted = expected(value)
    if wanted is None:
        with pytest.raises(wire.WireError):
            wire.canonical(value)
    else:
        assert wire.canonical(value) == wanted


@pytest.mark.parametrize(
    "value",
    [2**53, -(2**53), float("nan"), "\ud800", {"\udfff": 1}, {1: "a"}, {"a": b"x"}, object()],
)
def test_what_has_no_canonical_form(value: Any) -> None:
    with pytest.raises(wire.WireError):
        wire.canonical(value)
    with pytest.raises(wire.WireError):
        wire.canonical({"inside": [value]})


def test_nesting_without_end() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(wire.WireError):
        wire.canonical(value)


def test_the_quick_writer_is_taken_for_leaves() -> None:
    leaf = {"version": 1, "type": "x", "commitments": {"tenant": "YQ=="}, "detail": {}, "a": [None]}
    assert wire._is_plain(leaf)
    assert not wire._is_plain({"ratio": 0.5})
    assert json.loads(wire.canonical(leaf)) == leaf


@given(
    st.datetimes(
        datetime(1000, 1, 2),  # noqa: DTZ001 - bounds are given without a zone
        datetime(9999, 12, 30),  # noqa: DTZ001 - as above
        timezones=st.just(timezone(timedelta(hours=2))),
    )
)
def test_timestamps_are_utc_and_come_back_without_their_fractions(moment: datetime) -> None:
    text = wire.timestamp(moment)
    assert text == moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert wire.parse_timestamp(text) == moment.replace(microsecond=0)
