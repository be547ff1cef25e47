"""Epochs and tiles as paths name them; what no log can have never reaches the ledger."""

import re

from kms.domain.records import LogId
from kms.services.errors import NotFoundError
from kms.tlog.errors import FormatError
from kms.tlog.tiles import TILE_BITS, TilePath, parse_entries_path, parse_tile_path

MAX_EPOCH = 2**31 - 1
MAX_TILE = 2**53 >> TILE_BITS
"""Tiles of a log whose every index is exact in JSON, and fits the databases' integers."""

_EPOCH = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)


def epoch_of(text: str) -> LogId:
    """The epoch of that number, in decimal as the log writes it.

    Raises:
        NotFoundError: Not the number of an epoch.
    """
    if _EPOCH.fullmatch(text) is None or int(text) > MAX_EPOCH:
        raise NotFoundError("there is no such log")
    return LogId(int(text))


def tile_of(path: str) -> TilePath:
    """The hash tile of a path (C2SP tlog-tiles).

    Raises:
        NotFoundError: No log has such a tile.
    """
    try:
        return _bounded(parse_tile_path(path))
    except FormatError as error:
        raise NotFoundError("there is no such tile") from error


def entries_of(path: str) -> TilePath:
    """The entry bundle of a path (C2SP tlog-tiles).

    Raises:
        NotFoundError: No log has such a bundle.
    """
    try:
        return _bounded(parse_entries_path(path))
    except FormatError as error:
        raise NotFoundError("there is no such entry bundle", field="path") from error


def _bounded(named: TilePath) -> TilePath:
    if named.number >= MAX_TILE:
        raise FormatError(f"no log has a tile {named.number}")
    return named
