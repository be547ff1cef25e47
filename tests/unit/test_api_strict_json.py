"""JSON that two parsers could read differently is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms.api import strict_json
from kms.api.errors import MalformedJsonError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((depth(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth(item) for item in value), default=0)
    return 0


def all_strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [*value, *(text for item in value.values() for text in all_strings(item))]
    if isinstance(value, list):
        return [text for item in value for text in all_strings(item)]
    return []


@given(VALUES)
def test_what_is_fine_is_read_as_it_is(value: Any):
    assert strict_json.parse(json.dumps(value).encode()) == value
    assert strict_json.parse(json.dumps(value, ensure_ascii=False).encode()) == value


@given(VALUES)
def test_every_string_is_found_names_included(value: Any):
    if depth(value) <= strict_json.MAX_DEPTH:
        assert sorted(strict_json.strings(value)) == sorted(all_strings(value))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{} {}",
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": 1, "a": 1}',
        b'{"x": [{"b": 1, "b": 2}]}',
        b'{"a": 1, "\\u0061": 2}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b"[-Infinity]",
        b"\xff\xfe{\x00}\x00",
        b'{"a": "\xff"}',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": "\n"}',
        b"1" * 5000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"// comment\n{}",
    ],
)
def test_what_is_not_strict_is_refused(body: bytes):
    with pytest.raises(MalformedJsonError) as refused:
        list(strict_json.strings(strict_json.parse(body)))
    assert refused.value.__cause__ is None or refused.value.detail


@pytest.mark.parametrize("body", [b'["\\ud800"]', b'{"\\udfff x": 1}', b'["a\\ud83d"]'])
def test_half_a_surrogate_pair_is_no_text(body: bytes):
    with pytest.raises(MalformedJsonError):
        list(strict_json.strings(strict_json.parse(body)))


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_is_bounded_exactly(opening: str):
    closing = {"[": "]", '{"a":': "}"}[opening]

    def nested(levels: int) -> bytes:
        return (opening * levels + '"x"' + closing * levels).encode()

    assert "x" in list(strict_json.strings(strict_json.parse(nested(strict_json.MAX_DEPTH))))
    with pytest.raises(MalformedJsonError):
        list(strict_json.strings(strict_json.parse(nested(strict_json.MAX_DEPTH + 1))))


@pytest.mark.parametrize("value", ["[]", "{}", "1", '""'])
def test_values_are_bounded(value: str):
    def many(count: int) -> bytes:
        return ("[" + ",".join([value] * count) + "]").encode()

    strict_json.parse(many(strict_json.MAX_VALUES // 2))
    with pytest.raises(MalformedJsonError):
        strict_json.parse(many(strict_json.MAX_VALUES + 1))


def test_strings_are_bounded_and_their_beginnings_seen():
    longest = "x" * strict_json.MAX_STRING
    assert list(strict_json.strings([longest])) == [longest]
    with pytest.raises(MalformedJsonError):
        list(strict_json.strings({longest + "y": 1}))
    found = strict_json.strings([longest + "y"])
    assert next(found) == longest


def test_nothing_of_the_body_is_repeated():
    with pytest.raises(MalformedJsonError) as refused:
        strict_json.parse(b'{"secret-name": 1, "secret-name": 2}')
    assert "secret" not in refused.value.detail
