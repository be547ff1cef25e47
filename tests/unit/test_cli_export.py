"""An exported log is the log: every byte of it, for trees of every shape."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms.cli.client import ApiClient
from kms.cli.errors import MalformedAnswerError
from kms.cli.export import bundle_tiles, epoch_of, export_log, hash_tiles
from kms.cli.output import progress
from kms.tlog.checkpoint import Checkpoint
from kms.tlog.hashing import EMPTY_ROOT, leaf_hash, node_hash
from kms.tlog.notes import NoteSignature, format_note
from kms.tlog.tiles import TILE_WIDTH, NodeCache, decode_entries, encode_entries, tile_path
from kms.tlog.tree import root
from tests.support.cli import PUBLIC, SERVER, FakeService

ORIGIN = "log.test.example/3"


def _tiles(leaves: list[bytes]) -> dict[tuple[int, int], bytes]:
    """All tiles, by the definition: level n + 1 holds the roots of full tiles of level n."""
    found, row, level = {}, [leaf_hash(leaf) for leaf in leaves], 0
    while row:
        for at in range(0, len(row), TILE_WIDTH):
            found[level, at // TILE_WIDTH] = b"".join(row[at : at + TILE_WIDTH])
        row = [
            _root(row[at : at + TILE_WIDTH])
            for at in range(0, len(row) - TILE_WIDTH + 1, TILE_WIDTH)
        ]
        level += 1
    return found


def _root(row: list[bytes]) -> bytes:
    while len(row) > 1:
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]


def _serve(leaves: list[bytes]) -> tuple[FakeService, bytes]:
    service, tiles, size = FakeService(), _tiles(leaves), len(leaves)
    node = NodeCache(lambda level, number: tiles.get((level, number)))
    head = Checkpoint(ORIGIN, size, root(size, node))
    note = format_note(head.body(), [NoteSignature(ORIGIN, b"\x01\x02\x03\x04", b"x" * 64)])
    service.on("GET", "/v1/log", {"vkey": f"{ORIGIN}+01020304+AQ==", "size": size})
    service.on("GET", "/log/checkpoint", note)
    for level, number, width in hash_tiles(size):
        path = tile_path(level, number, width)
        service.on("GET", f"/log/3/{path}", tiles[level, number])
    for number, width in bundle_tiles(size):
        part = leaves[number * TILE_WIDTH :][:width]
        path = tile_path(0, number, width).replace("tile/0/", "tile/entries/")
        service.on("GET", f"/v1/log/3/{path}", encode_entries(part))
    events = [{"index": at, "openings": _openings(at)} for at in range(size)]
    service.on("GET", "/v1/events", {"events": events, "next": None})
    return service, note


def _openings(index: int) -> list[dict[str, Any]]:
    """Of every third event they were erased."""
    if index % 3 == 0:
        return []
    return [{"field": "user", "tenant": "m", "value": str(index), "opening": "AA=="}]


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 513])
def test_an_export_is_the_whole_log(tmp_path: Path, size: int) -> None:
    leaves = [b'{"n":%d}' % at for at in range(size)]
    service, note = _serve(leaves)
    runtime = service.runtime
    with progress() as bar:
        done = export_log(
            ApiClient(runtime.public(SERVER)), ApiClient(runtime.public(PUBLIC)), tmp_path, bar
        )
    assert (done.origin, done.size) == (ORIGIN, size)
    assert (tmp_path / "log" / "checkpoint").read_bytes() == note
    assert (tmp_path / "log.vkey").read_text() == f"{ORIGIN}+01020304+AQ==\n"
    events = [(tmp_path / "events" / f"{at}.json").read_bytes() for at in range(size)]
    assert events == leaves
    bundles = sorted((tmp_path / "log" / "tile" / "entries").rglob("*"))
    held = [
        leaf
        for path in bundles
        if path.is_file()
        for leaf in decode_entries(path.read_bytes(), int(path.name) if path.parent.suffix else 256)
    ]
    assert sorted(held) == sorted(leaves)
    assert _rebuilt(tmp_path, size) in note.decode()


def _rebuilt(directory: Path, size: int) -> str:
    """The root that the exported tiles lead to, base64."""

    def read(level: int, number: int) -> bytes | None:
        widths = {(lv, n): width for lv, n, width in hash_tiles(size)}
        if (level, number) not in widths:
            return None
        return (directory / "log" / tile_path(level, number, widths[level, number])).read_bytes()

    return Checkpoint(ORIGIN, size, root(size, NodeCache(read))).body().decode()


def test_openings_are_by_index_and_private(tmp_path: Path) -> None:
    service, _ = _serve([b"{}"] * 5)
    runtime = service.runtime
    with progress() as bar:
        export_log(
            ApiClient(runtime.public(SERVER)), ApiClient(runtime.public(PUBLIC)), tmp_path, bar
        )
    path = tmp_path / "openings.json"
    assert json.loads(path.read_bytes()) == {str(at): _openings(at) for at in (1, 2, 4)}
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_checkpoint_comes_last(tmp_path: Path) -> None:
    """A directory with a checkpoint is a whole one."""
    service, _ = _serve([b"{}"] * 3)
    service.on("GET", "/v1/events", b"not json")
    runtime = service.runtime
    with progress() as bar, pytest.raises(MalformedAnswerError):
        export_log(
            ApiClient(runtime.public(SERVER)), ApiClient(runtime.public(PUBLIC)), tmp_path, bar
        )
    assert not (tmp_path / "log" / "checkpoint").exists()


@given(st.integers(1, 1 << 17))
def test_the_tiles_of_a_tree_hold_every_complete_subtree_once(size: int) -> None:
    levels: dict[int, int] = {}
    for level, number, width in hash_tiles(size):
        levels[level] = levels.get(level, 0) + width
        assert number * TILE_WIDTH + width <= size >> (8 * level)
    assert levels == {level: size >> (8 * level) for level in range(3) if size >> (8 * level)}


@pytest.mark.parametrize("origin", ["log", "log/", "log/current", "log/-1", "log/\u0661"])
def test_an_origin_without_epoch_is_refused(origin: str) -> None:
    with pytest.raises(MalformedAnswerError, match="epoch"):
        epoch_of(Checkpoint(origin, 0, EMPTY_ROOT))
