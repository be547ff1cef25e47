"""Tile paths, entry bundles and the node cache."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms.tlog.append import append
from kms.tlog.errors import FormatError, TileError, TreeError
from kms.tlog.hashing import leaf_hash, node_hash
from kms.tlog.tiles import (
    MAX_ENTRY,
    NodeCache,
    TilePath,
    decode_entries,
    encode_entries,
    entries_path,
    parse_entries_path,
    parse_tile_path,
    tile_path,
)
from kms.tlog.tree import inclusion_proof


@pytest.mark.parametrize(
    ("level", "number", "width", "path"),
    [
        (0, 0, 256, "tile/0/000"),
        (0, 0, 1, "tile/0/000.p/1"),
        (1, 999, 255, "tile/1/999.p/255"),
        (63, 1000, 256, "tile/63/x001/000"),
        (0, 1234067, 256, "tile/0/x001/x234/067"),
        (2, 1234067, 17, "tile/2/x001/x234/067.p/17"),
    ],
)
def test_paths(level: int, number: int, width: int, path: str):
    assert tile_path(level, number, width) == path
    assert parse_tile_path(path) == TilePath(level, number, width)
    bundle = path.replace(f"tile/{level}/", "tile/entries/")
    assert entries_path(number, width) == bundle
    assert parse_entries_path(bundle) == TilePath(None, number, width)


@given(st.integers(0, 63), st.integers(0, 2**55), st.integers(1, 256))
def test_paths_round_trip(level: int, number: int, width: int):
    assert parse_tile_path(tile_path(level, number, width)) == TilePath(level, number, width)
    assert parse_entries_path(entries_path(number, width)) == TilePath(None, number, width)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/100/000",
        "tile/-1/000",
        "tile/0/x000/000",
        "tile/0/001/000",
        "tile/0/x001",
        "tile/0/x001/x000",
        "tile/0/000.p",
        "tile/0/000.p/",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/999",
        "tile/0/000.p/1000",
        "/tile/0/000",
        "tile/0/000/",
        "tile/0/000\n",
        "tile/0/../000",
        "tile/0/\u0660\u0660\u0660",
        "tile/0/x001/" * 9 + "000",
        "tile/0/" + "x001/" * 20 + "000",
        "tile/entries/000",
    ],
)
def test_other_paths_are_refused(path: str):
    with pytest.raises(FormatError):
        parse_tile_path(path)
    if not path.startswith("tile/entries"):
        with pytest.raises(FormatError):
            parse_entries_path(path.replace("tile/0", "tile/entries"))


def test_paths_that_cannot_be():
    for level, number, width in [(-1, 0, 1), (64, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257)]:
        with pytest.raises(TreeError):
            tile_path(level, number, width)
    for number, width in [(-1, 1), (0, 0), (0, 257)]:
        with pytest.raises(TreeError):
            entries_path(number, width)


def test_a_full_bundle():
    entries = [b"%d" % i for i in range(256)]
    assert decode_entries(encode_entries(entries)) == entries


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=256))
def test_bundles_round_trip(entries: list[bytes]):
    assert decode_entries(encode_entries(entries), len(entries)) == entries


def test_largest_entry():
    entry = b"x" * MAX_ENTRY
    assert decode_entries(encode_entries([entry]), 1) == [entry]
    with pytest.raises(TileError):
        encode_entries([entry + b"x"])


@pytest.mark.parametrize("entries", [[], [b""] * 257])
def test_bundles_of_other_widths_cannot_be(entries: list[bytes]):
    with pytest.raises(TileError):
        encode_entries(entries)


@pytest.mark.parametrize(
    ("bundle", "width"),
    [
        (b"", 1),
        (b"\0", 1),
        (b"\0\1", 1),
        (b"\0\2a", 1),
        (b"\0\1ab", 1),
        (b"\0\1a", 2),
        (b"\0\1a\0\1b", 1),
        (b"\0\0" * 300, 256),
    ],
)
def test_broken_bundles_are_refused(bundle: bytes, width: int):
    with pytest.raises(FormatError):
        decode_entries(bundle, width)


class CountingStore:
    """Tiles in memory that count their reads."""

    def __init__(self, size: int) -> None:
        self.leaves = [leaf_hash(str(i).encode()) for i in range(size)]
        self.tiles = append(lambda _level, _number: None, 0, self.leaves).tiles
        self.reads = 0

    def read(self, level: int, number: int):
        self.reads += 1
        return self.tiles.get((level, number))


def test_cache_follows_a_growing_tile():
    leaves = [leaf_hash(str(i).encode()) for i in range(700)]
    tiles: dict[tuple[int, int], bytes] = {}

    def read(level: int, number: int) -> bytes | None:
        return tiles.get((level, number))

    cache = NodeCache(read)
    size = 0
    for step in (1, 2, 5, 120, 128, 1, 255, 188):
        tiles.update(append(read, size, leaves[size:][:step]).tiles)
        size += step
        assert cache(0, size - 1) == leaves[size - 1]
        for level in range(10):
            for index in range(size >> level):
                if level:
                    left, right = cache(level - 1, 2 * index), cache(level - 1, 2 * index + 1)
                    assert cache(level, index) == node_hash(left, right)
            with pytest.raises(TileError):
                cache(level, size >> level)


def test_cache_reads_a_tile_once_while_it_suffices():
    store = CountingStore(1000)
    cache = NodeCache(store.read)
    for index in range(1000):
        inclusion_proof(index, 1000, cache)
    assert store.reads == 5


def test_cache_is_bounded_and_still_right():
    store = CountingStore(2000)
    cache, whole = NodeCache(store.read, max_tiles=2), NodeCache(store.read)
    for index in range(0, 2000, 37):
        assert inclusion_proof(index, 2000, cache) == inclusion_proof(index, 2000, whole)
    assert len(cache._tiles) == 2


@pytest.mark.parametrize("content", [None, b"", b"\0" * 31, b"\0" * 33, b"\0" * (257 * 32)])
def test_cache_refuses_damaged_tiles(content: bytes | None):
    cache = NodeCache(lambda _level, _number: content)
    with pytest.raises(TileError, match="tile 0/0"):
        cache(0, 0)


def test_cache_recovers_after_a_failed_read():
    answers = iter([None, b"\x01" * 32])
    cache = NodeCache(lambda _level, _number: next(answers))
    with pytest.raises(TileError):
        cache(0, 0)
    assert cache(0, 0) == b"\x01" * 32


def test_a_tile_that_shrinks_does_not_harm():
    tile = b"".join(leaf_hash(bytes([i])) for i in range(10))
    answers = iter([tile, tile[:32], tile[:32]])
    cache = NodeCache(lambda _level, _number: next(answers))
    assert cache(0, 9) == tile[-32:]
    with pytest.raises(TileError):
        cache(0, 10)
    assert cache(0, 9) == tile[-32:]


def test_nodes_that_cannot_be():
    cache = NodeCache(lambda _level, _number: b"\0" * 32)
    for level, index in [(-1, 0), (0, -1)]:
        with pytest.raises(TreeError):
            cache(level, index)


def test_cache_under_threads():
    store = CountingStore(3000)
    cache, expected = NodeCache(store.read, max_tiles=3), {}
    for index in range(0, 3000, 101):
        expected[index] = inclusion_proof(index, 3000, NodeCache(store.read))
    wrong = []

    def ask() -> None:
        wrong.extend(i for i, proof in expected.items() if inclusion_proof(i, 3000, cache) != proof)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.slow
def test_proofs_at_a_million_leaves_are_quick():
    """Generous bounds for a shared machine: ten times what an idle one needs."""
    size = 1_000_000
    content = b"".join(leaf_hash(str(i).encode()) for i in range(256))
    hashes = [content[at : at + 32] for at in range(0, len(content), 32)]
    tiles = append(lambda _level, _number: None, 0, hashes * 3906 + hashes[:64]).tiles
    assert len(hashes) * 3906 + 64 == size
    cold = NodeCache(lambda level, number: tiles.get((level, number)))
    start = time.perf_counter()
    inclusion_proof(123_456, size, cold)
    assert time.perf_counter() - start < 0.02
    warm = NodeCache(lambda level, number: tiles.get((level, number)))
    inclusion_proof(size - 1, size, warm)
    start = time.perf_counter()
    for index in range(size - 100, size):
        inclusion_proof(index, size, warm)
    assert time.perf_counter() - start < 0.05
