"""No number of a path reaches the ledger that its columns cannot hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms.api.places import MAX_EPOCH, MAX_TILE, entries_of, epoch_of, tile_of
from kms.services.errors import NotFoundError
from kms.tlog.errors import TreeError
from kms.tlog.tiles import TILE_WIDTH, entries_path, tile_path

INTEGERS = 2**63
"""What a column of the ledger holds, signed."""


def test_every_tile_has_indices_that_the_ledger_can_hold():
    assert MAX_TILE * TILE_WIDTH + TILE_WIDTH < INTEGERS


@given(st.integers(min_value=0, max_value=10**40))
def test_epochs_are_bounded(number: int):
    if 1 <= number <= MAX_EPOCH:
        assert epoch_of(str(number)) == number
        return
    with pytest.raises(NotFoundError):
        epoch_of(str(number))


@pytest.mark.parametrize(
    "text", ["", "0", "01", "-1", "+1", " 1", "1\n", "1_0", "\u0661", "1.0", "9" * 5000]
)
def test_an_epoch_has_one_spelling(text: str):
    with pytest.raises(NotFoundError):
        epoch_of(text)


@given(st.integers(min_value=0, max_value=10**36), st.integers(1, 256), st.integers(0, 63))
def test_tiles_are_bounded(number: int, width: int, level: int):
    hashes, entries = tile_path(level, number, width), entries_path(number, width)
    if number < MAX_TILE:
        named = tile_of(hashes)
        assert (named.level, named.number, named.width) == (level, number, width)
        assert entries_of(entries).number == number
        return
    for read, path in ((tile_of, hashes), (entries_of, entries)):
        with pytest.raises(NotFoundError):
            read(path)


def test_levels_end_at_63():
    with pytest.raises(TreeError):
        tile_path(64, 0)
    with pytest.raises(NotFoundError):
        tile_of("tile/64/000")
