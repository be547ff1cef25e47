"""Appending leaves: which tiles change, and what the new root is."""

from collections.abc import Sequence
from dataclasses import dataclass

from kms.tlog.errors import TileError, TreeError
from kms.tlog.hashing import EMPTY_ROOT, HASH_SIZE, node_hash, subtree_hash
from kms.tlog.tiles import TILE_BITS, TILE_BYTES, TILE_WIDTH, TileReader


@dataclass(frozen=True, slots=True)
class Appended:
    """A tree after leaves were appended.

    Attributes:
        size: Leaves now in the tree.
        root: Its root.
        tiles: (level, number) to the content of every tile that changed, partial or full.
    """

    size: int
    root: bytes
    tiles: dict[tuple[int, int], bytes]


def append(read_tile: TileReader, size: int, leaf_hashes: Sequence[bytes]) -> Appended:
    """The tree of `size` leaves with more leaves behind them.

    Costs about one hash per new leaf, and one read per tile level.

    Args:
        read_tile: Yields the right-edge tiles of the tree of `size` leaves; what a tile holds
            beyond that size (left by a write that was never committed) is overwritten.
        size: Leaves in the tree so far.
        leaf_hashes: `leaf_hash` of each new leaf, in order.

    Raises:
        TreeError: A negative size.
        TileError: A right-edge tile is missing or too short, or a leaf hash has the wrong size.
    """
    if size < 0:
        raise TreeError(f"a tree cannot have {size} leaves")
    if any(len(item) != HASH_SIZE for item in leaf_hashes):
        raise TileError(f"a leaf hash must have {HASH_SIZE} bytes")
    new_size = size + len(leaf_hashes)
    tiles: dict[tuple[int, int], bytes] = {}
    edges = []
    entries = b"".join(leaf_hashes)
    for level in range(-(-new_size.bit_length() // TILE_BITS)):
        width = size >> (level * TILE_BITS)
        content = _edge(read_tile, level, width) + entries
        full, edge = _fill(content)
        number = width // TILE_WIDTH
        if entries:
            tiles.update({(level, number + i): tile for i, tile in enumerate(full)})
        if entries and edge:
            tiles[level, number + len(full)] = edge
        edges.append(edge)
        entries = b"".join(map(subtree_hash, full))
    return Appended(new_size, _edge_root(edges), tiles)


def _edge(read_tile: TileReader, level: int, width: int) -> bytes:
    """The partial tile at the end of a level that holds `width` hashes; empty if none is."""
    number, count = divmod(width, TILE_WIDTH)
    if not count:
        return b""
    content = read_tile(level, number)
    if content is None or len(content) < count * HASH_SIZE:
        raise TileError(f"tile {level}/{number} must hold {count} hashes and does not")
    return content[: count * HASH_SIZE]


def _fill(content: bytes) -> tuple[list[bytes], bytes]:
    """Cut into full tiles and the partial rest."""
    end = len(content) // TILE_BYTES * TILE_BYTES
    return [content[at : at + TILE_BYTES] for at in range(0, end, TILE_BYTES)], content[end:]


def _edge_root(edges: Sequence[bytes]) -> bytes:
    """Root of the tree, folded up from the partial tile of every level, lowest first."""
    result: bytes | None = None
    for edge in edges:
        end = len(edge)
        while end:
            # The lowest bit of the width is the size of the rightmost complete subtree.
            begin = end - (end & -end)
            part = subtree_hash(edge[begin:end])
            result = part if result is None else node_hash(part, result)
            end = begin
    return EMPTY_ROOT if result is None else result
