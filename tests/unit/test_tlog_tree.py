"""The tree against a plain transcription of RFC 6962 2.1, grown in random steps."""

import random
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kms.tlog.append import Appended, append
from kms.tlog.errors import ProofError, TileError, TreeError
from kms.tlog.hashing import EMPTY_ROOT, leaf_hash, node_hash, subtree_hash
from kms.tlog.proofs import verify_consistency, verify_inclusion
from kms.tlog.tiles import TILE_BYTES, NodeCache
from kms.tlog.tree import NodeReader, consistency_proof, inclusion_proof, root


def naive_root(leaves: list[bytes]):
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_path(m: int, leaves: list[bytes]):
    if len(leaves) == 1:
        return []
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_consistency(m: int, leaves: list[bytes], whole: bool):
    if m == len(leaves):
        return [] if whole else [naive_root(leaves)]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m <= k:
        return [*naive_consistency(m, leaves[:k], whole), naive_root(leaves[k:])]
    return [*naive_consistency(m - k, leaves[k:], False), naive_root(leaves[:k])]


def make_leaves(count: int):
    return [leaf_hash(str(i).encode()) for i in range(count)]


def node_reader(leaves: list[bytes]) -> NodeReader:
    """Hashes only subtrees that are complete in the given leaves."""

    def node(level: int, index: int) -> bytes:
        part = leaves[index << level : (index + 1) << level]
        assert len(part) == 1 << level, "asked for an incomplete subtree"
        return subtree_hash(b"".join(part))

    return node


class Store(dict[tuple[int, int], bytes]):
    """Tiles in memory."""

    def read(self, level: int, number: int) -> bytes | None:
        return self.get((level, number))

    def grow(self, size: int, leaves: list[bytes]) -> Appended:
        appended = append(self.read, size, leaves)
        for key, content in appended.tiles.items():
            before = self.get(key)
            assert before is None or content.startswith(before)
            assert content != before, "an unchanged tile was reported"
        self.update(appended.tiles)
        return appended


def test_empty_tree():
    assert EMPTY_ROOT == sha256(b"").digest() == naive_root([])
    assert root(0, node_reader([])) == EMPTY_ROOT
    appended = append(Store().read, 0, [])
    assert (appended.size, appended.root, appended.tiles) == (0, EMPTY_ROOT, {})


@pytest.mark.parametrize("size", [*range(1, 34), 63, 64, 65, 127, 128, 129])
def test_against_rfc_6962_exhaustively(size: int):
    leaves = make_leaves(size)
    node = node_reader(leaves)
    head = root(size, node)
    assert head == naive_root(leaves)
    for index in range(size):
        proof = inclusion_proof(index, size, node)
        assert proof == naive_path(index, leaves)
        verify_inclusion(leaves[index], index, size, proof, head)
    for old in range(1, size + 1):
        proof = consistency_proof(old, size, node)
        assert proof == naive_consistency(old, leaves, True)
        verify_consistency(old, size, proof, naive_root(leaves[:old]), head)


@given(st.lists(st.integers(0, 400), min_size=1, max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_grown_in_chunks_equals_built_at_once(chunks: list[int], rng: random.Random):
    leaves = make_leaves(sum(chunks))
    store, at = Store(), 0
    cache = NodeCache(store.read)
    for chunk in chunks:
        appended = store.grow(at, leaves[at : at + chunk])
        at += chunk
        assert appended.size == at
        assert appended.root == root(at, cache)
        if at:
            index, old = rng.randrange(at), rng.randint(1, at)
            verify_inclusion(
                leaves[index], index, at, inclusion_proof(index, at, cache), appended.root
            )
            verify_consistency(
                old, at, consistency_proof(old, at, cache), root(old, cache), appended.root
            )
    once = append(Store().read, 0, leaves)
    assert once.root == appended.root == naive_root(leaves)
    assert once.tiles == store


@pytest.mark.parametrize("size", [255, 256, 257, 511, 512, 65_535, 65_536, 65_537])
def test_tile_widths_at_the_edges(size: int):
    tiles = append(Store().read, 0, make_leaves(size)).tiles
    level = 0
    while size >> (8 * level):
        full, partial = divmod(size >> (8 * level), 256)
        widths = [len(tiles[key]) // 32 for key in sorted(tiles) if key[0] == level]
        assert widths == [256] * full + [partial] * (partial > 0)
        level += 1
    assert {key[0] for key in tiles} == set(range(level))


def test_upper_tile_hashes_full_tiles_below():
    store = Store()
    store.grow(0, make_leaves(1000))
    for number in range(3):
        content = store[0, number]
        hashes = [content[at : at + 32] for at in range(0, TILE_BYTES, 32)]
        assert store[1, 0][number * 32 : number * 32 + 32] == naive_root(hashes)
    assert len(store[1, 0]) == 3 * 32


def test_leftovers_of_an_uncommitted_append_are_overwritten():
    leaves = make_leaves(300)
    store = Store()
    store.grow(0, leaves[:200])
    store[0, 0] += b"\xff" * 64
    store.update(append(store.read, 200, leaves[200:]).tiles)
    assert store == append(Store().read, 0, leaves).tiles


@pytest.mark.parametrize("damage", [None, b"", b"\0" * 31, b"\0" * (199 * 32)])
def test_append_refuses_a_damaged_edge(damage: bytes | None):
    store = Store()
    store.grow(0, make_leaves(200))
    store[0, 0] = damage
    with pytest.raises(TileError, match="0/0"):
        append(store.read, 200, make_leaves(1))


def test_append_refuses_odd_input():
    with pytest.raises(TreeError):
        append(Store().read, -1, [])
    for bad in (b"", b"\0" * 31, b"\0" * 33):
        with pytest.raises(TileError):
            append(Store().read, 0, [bad])


def test_questions_outside_the_tree():
    node = node_reader(make_leaves(5))
    for index, size in [(5, 5), (-1, 5), (0, 0), (0, -1)]:
        with pytest.raises(TreeError):
            inclusion_proof(index, size, node)
    for old, new in [(6, 5), (-1, 5), (-2, -1)]:
        with pytest.raises(TreeError):
            consistency_proof(old, new, node)
    with pytest.raises(TreeError):
        root(-1, node)
    assert consistency_proof(0, 5, node) == []
    assert consistency_proof(5, 5, node) == []


@given(st.integers(1, 600), st.data())
@settings(max_examples=60, deadline=None)
def test_any_changed_inclusion_proof_is_refused(size: int, data: st.DataObject):
    leaves = make_leaves(size)
    node = node_reader(leaves)
    head = root(size, node)
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, node)
    verify_inclusion(leaves[index], index, size, proof, head)
    for changed in changes(proof, data):
        with pytest.raises(ProofError):
            verify_inclusion(leaves[index], index, size, changed, head)
    for other in {index - 1, index + 1, index ^ 1, 0, size - 1, size, -1} - {index}:
        with pytest.raises(ProofError):
            verify_inclusion(leaves[index], other, size, proof, head)
    with pytest.raises(ProofError):
        verify_inclusion(leaf_hash(b"other"), index, size, proof, head)
    with pytest.raises(ProofError):
        verify_inclusion(leaves[index], index, size, proof, flip(head, data))


@given(st.integers(2, 600), st.data())
@settings(max_examples=60, deadline=None)
def test_any_changed_consistency_proof_is_refused(size: int, data: st.DataObject):
    leaves = make_leaves(size)
    node = node_reader(leaves)
    old = data.draw(st.integers(1, size))
    old_root, head = root(old, node), root(size, node)
    proof = consistency_proof(old, size, node)
    verify_consistency(old, size, proof, old_root, head)
    for changed in changes(proof, data):
        with pytest.raises(ProofError):
            verify_consistency(old, size, changed, old_root, head)
    for first, second in [(flip(old_root, data), head), (old_root, flip(head, data))]:
        with pytest.raises(ProofError):
            verify_consistency(old, size, proof, first, second)
    if old < size:
        with pytest.raises(ProofError):
            verify_consistency(old, size, proof, head, old_root)


def flip(value: bytes, data: st.DataObject):
    at = data.draw(st.integers(0, len(value) * 8 - 1))
    changed = bytearray(value)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


def changes(proof: list[bytes], data: st.DataObject):
    """Shorter, longer, reordered and bit-flipped versions of a proof."""
    yield [*proof, b"\0" * 32]
    yield [b"\0" * 32, *proof]
    yield [*proof, b""]
    if proof:
        yield proof[:-1]
        yield proof[1:]
        yield [*proof, proof[-1]]
        at = data.draw(st.integers(0, len(proof) - 1))
        yield [*proof[:at], flip(proof[at], data), *proof[at + 1 :]]
        yield [*proof[:at], proof[at][:-1], *proof[at + 1 :]]
        yield [*proof[:at], proof[at] + b"\0", *proof[at + 1 :]]
    if len(proof) > 1:
        yield [proof[1], proof[0], *proof[2:]]


def test_nothing_follows_from_an_empty_tree():
    for new_size, new_root in [(0, EMPTY_ROOT), (1, leaf_hash(b""))]:
        with pytest.raises(ProofError):
            verify_consistency(0, new_size, [], EMPTY_ROOT, new_root)


def test_sizes_beyond_the_format_are_refused():
    with pytest.raises(ProofError):
        verify_inclusion(b"\0" * 32, 0, 2**63, [b"\0" * 32] * 63, b"\0" * 32)
    with pytest.raises(ProofError):
        verify_consistency(1, 2**63, [b"\0" * 32] * 63, b"\0" * 32, b"\0" * 32)


def test_the_largest_tree_of_the_format():
    path = [leaf_hash(bytes([level])) for level in range(63)]
    head = leaf_hash(b"first")
    for item in path:
        head = node_hash(head, item)
    verify_inclusion(leaf_hash(b"first"), 0, 2**63 - 1, path, head)
    verify_consistency(1, 2**63 - 1, path, leaf_hash(b"first"), head)


def test_leaf_cannot_pass_for_a_node():
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)


def test_hashing_an_append_is_bounded(monkeypatch: pytest.MonkeyPatch):
    """About one hash a leaf, and a logarithmic number for the edge."""
    store = Store()
    size, leaves = 0, make_leaves(20_000)
    store.grow(0, leaves[:19_000])
    size = 19_000
    count = 0

    def counting(left: bytes, right: bytes) -> bytes:
        nonlocal count
        count += 1
        return node_hash(left, right)

    monkeypatch.setattr("kms.tlog.hashing.node_hash", counting)
    monkeypatch.setattr("kms.tlog.append.node_hash", counting)
    append(store.read, size, [])
    count = 0
    for _ in range(10):
        store.grow(size, leaves[size : size + 100])
        size += 100
    assert count <= 10 * (100 + 40)
