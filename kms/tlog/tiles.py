"""Tiles and entry bundles as others fetch them (C2SP tlog-tiles), and reading nodes out of tiles.

The tile (level, number) holds the hashes of 256 consecutive complete subtrees of 256**level
leaves; at the tree's right edge it is partial and grows, hash by hash, until it is full.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kms.tlog.errors import FormatError, TileError, TreeError
from kms.tlog.hashing import HASH_SIZE, node_hash

TILE_BITS = 8
TILE_WIDTH = 1 << TILE_BITS
TILE_BYTES = TILE_WIDTH * HASH_SIZE
MAX_LEVEL = 63
MAX_ENTRY = 65_535
"""Largest entry in bytes: a bundle gives its length in 16 bits."""

TileReader = Callable[[int, int], bytes | None]
"""(level, number) to the tile's hashes, full or as far as it goes; None if there are none."""

_NUMBER = r"(?P<number>(?:x[0-9]{3}/)*[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
_TILE = re.compile(rf"tile/(?P<level>0|[1-9][0-9]?)/{_NUMBER}", re.ASCII)
_ENTRIES = re.compile(rf"tile/entries/{_NUMBER}", re.ASCII)
_MAX_PATH = 64


@dataclass(frozen=True, slots=True)
class TilePath:
    """What a path names; `level` is None for an entry bundle, `width` 256 for a full tile."""

    level: int | None
    number: int
    width: int


def tile_path(level: int, number: int, width: int = TILE_WIDTH) -> str:
    """Path of a hash tile below the log's prefix.

    Raises:
        TreeError: Level, number or width out of range.
    """
    if not 0 <= level <= MAX_LEVEL:
        raise TreeError(f"no tile level {level}")
    return f"tile/{level}/{_number_path(number, width)}"


def entries_path(number: int, width: int = TILE_WIDTH) -> str:
    """Path of an entry bundle below the log's prefix.

    Raises:
        TreeError: Number or width out of range.
    """
    return f"tile/entries/{_number_path(number, width)}"


def parse_tile_path(path: str) -> TilePath:
    """Undo `tile_path`; no other spelling of a path is accepted.

    Raises:
        FormatError: Not the path of a tile.
    """
    match = _match(_TILE, path)
    level = int(match["level"])
    if level > MAX_LEVEL:
        raise FormatError(f"no tile level {level}")
    return _parsed(match, level)


def parse_entries_path(path: str) -> TilePath:
    """Undo `entries_path`; no other spelling of a path is accepted.

    Raises:
        FormatError: Not the path of an entry bundle.
    """
    return _parsed(_match(_ENTRIES, path), None)


def _number_path(number: int, width: int) -> str:
    if number < 0 or not 1 <= width <= TILE_WIDTH:
        raise TreeError(f"no tile {number} of width {width}")
    groups = [f"{number % 1000:03}"]
    while number := number // 1000:
        groups.append(f"x{number % 1000:03}")
    suffix = "" if width == TILE_WIDTH else f".p/{width}"
    return "/".join(reversed(groups)) + suffix


def _match(pattern: re.Pattern[str], path: str) -> re.Match[str]:
    match = pattern.fullmatch(path) if len(path) <= _MAX_PATH else None
    if match is None:
        raise FormatError(f"not the path of a tile: {path[:_MAX_PATH]!r}")
    return match


def _parsed(match: re.Match[str], level: int | None) -> TilePath:
    number = match["number"]
    if number.startswith("x000/"):
        raise FormatError(f"tile number with leading zeros: {number}")
    width = int(match["width"] or TILE_WIDTH)
    if match["width"] is not None and width >= TILE_WIDTH:
        raise FormatError(f"a partial tile is narrower than {width}")
    return TilePath(level, int(number.replace("/", "").replace("x", "")), width)


def encode_entries(entries: Sequence[bytes]) -> bytes:
    """An entry bundle: each entry behind its length in two bytes, big-endian.

    Raises:
        TileError: Not 1 to 256 entries, or one too large.
    """
    if not 1 <= len(entries) <= TILE_WIDTH:
        raise TileError(f"a bundle holds 1 to {TILE_WIDTH} entries, not {len(entries)}")
    if any(len(entry) > MAX_ENTRY for entry in entries):
        raise TileError(f"an entry has more than {MAX_ENTRY} bytes")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def decode_entries(bundle: bytes, width: int = TILE_WIDTH) -> list[bytes]:
    """The `width` entries of a bundle.

    Raises:
        FormatError: The bundle does not hold exactly so many whole entries.
    """
    entries: list[bytes] = []
    at = 0
    while at < len(bundle) and len(entries) <= width:
        end = at + 2 + int.from_bytes(bundle[at : at + 2], "big")
        if end > len(bundle):
            raise FormatError(f"entry {len(entries)} of the bundle is cut off")
        entries.append(bundle[at + 2 : end])
        at = end
    if len(entries) != width:
        raise FormatError(f"the bundle does not hold exactly {width} entries")
    return entries


class NodeCache:
    """A `NodeReader` over tiles that remembers what it has hashed.

    A complete subtree never changes, so nothing it remembers can become wrong as the log grows:
    a tile that has grown keeps its old hashes and gains new ones. `read_tile` must therefore show
    committed tiles only; one that was read and then rolled back would stay.

    May be called from several threads; one at a time reads tiles.
    """

    def __init__(self, read_tile: TileReader, max_tiles: int = 256) -> None:
        """Remember up to `max_tiles` tiles, about 40 KB each when full."""
        self._read_tile = read_tile
        self._max_tiles = max_tiles
        self._tiles: OrderedDict[tuple[int, int], _TileNodes] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, level: int, index: int) -> bytes:
        """Hash of that complete subtree of 2**level leaves.

        Raises:
            TreeError: A negative level or index.
            TileError: The tiles do not hold it.
        """
        if level < 0 or index < 0:
            raise TreeError(f"no node {index} at level {level}")
        tile_level, inner = divmod(level, TILE_BITS)
        number, position = divmod(index, TILE_WIDTH >> inner)
        with self._lock:
            nodes = self._nodes(tile_level, number)
            if position >= len(nodes.levels[inner]):
                self._grow(nodes, tile_level, number)
            if position >= len(nodes.levels[inner]):
                raise TileError(f"tile {tile_level}/{number} does not hold node {level}/{index}")
            return nodes.levels[inner][position]

    def _nodes(self, level: int, number: int) -> "_TileNodes":
        key = level, number
        nodes = self._tiles.get(key)
        if nodes is None:
            nodes = self._tiles[key] = _TileNodes()
            if len(self._tiles) > self._max_tiles:
                self._tiles.popitem(last=False)
        else:
            self._tiles.move_to_end(key)
        return nodes

    def _grow(self, nodes: "_TileNodes", level: int, number: int) -> None:
        content = self._read_tile(level, number)
        if content is None:
            raise TileError(f"tile {level}/{number} is missing")
        if len(content) > TILE_BYTES or len(content) % HASH_SIZE:
            raise TileError(f"tile {level}/{number} has {len(content)} bytes")
        nodes.extend(content)


class _TileNodes:
    """The complete subtrees inside one tile: `levels[k]` those over 2**k of its hashes."""

    __slots__ = ("levels",)

    def __init__(self) -> None:
        self.levels: list[list[bytes]] = [[] for _ in range(TILE_BITS)]

    def extend(self, content: bytes) -> None:
        """Take in the hashes that `content` has beyond those already known."""
        known = len(self.levels[0]) * HASH_SIZE
        self.levels[0] += [
            content[at : at + HASH_SIZE] for at in range(known, len(content), HASH_SIZE)
        ]
        for below, above in zip(self.levels, self.levels[1:], strict=False):
            for at in range(2 * len(above), len(below) - 1, 2):
                above.append(node_hash(below[at], below[at + 1]))
