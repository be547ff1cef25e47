"""The auditor's tree checks against a whole log made by another implementation (tessera)."""

import pytest

from kms.audit import tree
from tests.support import vectors

TLOG = vectors.folder("tlog")
SIZES = (8, 12, 15)


def _log(size: int) -> tuple[bytes, str, dict[str, bytes]]:
    folder = TLOG / "tessera-log"
    names = [f"tile/0/000.p/{size}", f"tile/entries/000.p/{size}"]
    tiles = {name: (folder / name).read_bytes() for name in names}
    vkey = (TLOG / "tessera-log.vkey").read_text().strip()
    return (folder / f"checkpoint.{size}").read_bytes(), vkey, tiles


@pytest.mark.parametrize("size", SIZES)
def test_a_foreign_log_verifies(size: int) -> None:
    note, vkey, tiles = _log(size)
    key_check, key = tree.read_key(vkey)
    head_check, head = tree.read_head(note, key)
    leaves_check, leaves = tree.gather_leaves({}, tiles, head)
    tree_check = tree.check_tree(tree.Tree.of(leaves), head, tiles)
    for check in (key_check, head_check, leaves_check, tree_check):
        assert check.failures == []
    assert len(leaves) == size


@pytest.mark.parametrize("size", SIZES)
def test_a_foreign_log_changed_does_not(size: int) -> None:
    note, vkey, tiles = _log(size)
    _, key = tree.read_key(vkey)
    _, head = tree.read_head(note, key)
    name = f"tile/entries/000.p/{size}"
    tiles[name] = tiles[name][:-1] + bytes([tiles[name][-1] ^ 1])
    _, leaves = tree.gather_leaves({}, tiles, head)
    found = [str(item) for item in tree.check_tree(tree.Tree.of(leaves), head, tiles).failures]
    assert "log/checkpoint: the leaves do not have the signed root" in found
    assert any("is not what the leaves hash to" in item for item in found)


def test_a_foreign_log_continues_its_older_heads() -> None:
    note, vkey, tiles = _log(15)
    _, key = tree.read_key(vkey)
    _, head = tree.read_head(note, key)
    _, leaves = tree.gather_leaves({}, tiles, head)
    for size in SIZES:
        older, _, _ = _log(size)
        check = tree.check_extends(older, "older", key, head, tree.Tree.of(leaves))
        assert check.failures == []
    # Every tree extends the empty one: that shows nothing, and is not passed off as evidence.
    empty = (TLOG / "tessera-log/checkpoint.0").read_bytes()
    check = tree.check_extends(empty, "older", key, head, tree.Tree.of(leaves))
    assert len(check.failures) == 1
