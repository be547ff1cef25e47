"""Sizes that the formats promise, to the byte: a limit that moves is another format."""

import pytest

from kms.tlog.errors import FormatError
from kms.tlog.receipt import MAX_EXTRA, MAX_RECEIPT, Receipt, parse_receipt

HEADER = b"c2sp.org/tlog-proof@v1\nindex 0\n\n"


def test_the_limits_are_these():
    assert (MAX_EXTRA, MAX_RECEIPT) == (65_535, 262_144 + 131_070)


def test_a_receipt_of_exactly_the_largest_size_is_read():
    largest = HEADER + b"x" * (MAX_RECEIPT - len(HEADER))
    assert parse_receipt(largest) == Receipt(0, (), largest[len(HEADER) :], None)
    with pytest.raises(FormatError, match="larger"):
        parse_receipt(largest + b"x")


def test_a_receipt_has_no_extra_data_unless_it_is_given():
    assert Receipt(0, (), b"note").extra is None
