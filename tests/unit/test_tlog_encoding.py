"""Texts of notes, checkpoints and receipts: one spelling for each value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms.tlog import encoding
from kms.tlog.errors import FormatError
from kms.tlog.hashing import HASH_SIZE

TEXTS = st.text("ABCz09+/=-_ \n", max_size=12) | st.text(max_size=12)


@given(st.binary(max_size=100))
def test_bytes_come_back(data: bytes):
    assert encoding.unb64(encoding.b64(data), "it") == data
    if len(data) == HASH_SIZE:
        assert encoding.unb64_hash(encoding.b64(data), "it") == data
    else:
        with pytest.raises(FormatError):
            encoding.unb64_hash(encoding.b64(data), "it")


@given(TEXTS)
def test_what_is_read_was_written_so(text: str):
    try:
        data = encoding.unb64(text, "it")
    except FormatError:
        return
    assert encoding.b64(data) == text


@given(st.integers(0, encoding.MAX_NUMBER) | st.text("0123456789+-_ ٣", max_size=22))
def test_numbers(given_: int | str):
    text = str(given_)
    try:
        number = encoding.decimal(text, "it")
    except FormatError:
        assert not isinstance(given_, int)
        return
    assert str(number) == text
    assert 0 <= number <= encoding.MAX_NUMBER
