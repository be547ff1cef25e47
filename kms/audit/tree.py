"""The log itself: signed head, leaves, tree and tiles, recomputed from the leaves up. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kms.audit.findings import Check, event
from kms.tlog.append import Appended, append
from kms.tlog.checkpoint import Checkpoint, parse_checkpoint
from kms.tlog.errors import TlogError
from kms.tlog.hashing import HASH_SIZE, leaf_hash
from kms.tlog.notes import VerifierKey, parse_note, verify_note
from kms.tlog.proofs import verify_consistency
from kms.tlog.tiles import (
    TILE_WIDTH,
    NodeCache,
    decode_entries,
    entries_path,
    parse_entries_path,
    parse_tile_path,
    tile_path,
)
from kms.tlog.tree import consistency_proof, root

CHECKPOINT = "log/checkpoint"


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree recomputed from leaves: every tile, and any node or root of it."""

    appended: Appended
    nodes: NodeCache

    @classmethod
    def of(cls, leaves: Sequence[bytes]) -> "Tree":
        """The tree over these leaves."""
        appended = append(lambda _level, _number: None, 0, [leaf_hash(leaf) for leaf in leaves])
        return cls(appended, NodeCache(lambda *key: appended.tiles.get(key)))

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self.appended.size

    def root_at(self, size: int) -> bytes:
        """Root over the first `size` leaves."""
        return root(size, self.nodes)


def read_key(text: str | None) -> tuple[Check, VerifierKey | None]:
    """The log's verifier key."""
    check = Check("key", "the log's verifier key is readable", examined=1)
    if text is None:
        check.fail("log.vkey", "missing; give one with --vkey")
        return check, None
    try:
        return check, VerifierKey.parse(text)
    except TlogError as error:
        check.fail("log.vkey", str(error))
        return check, None


def read_head(
    note: bytes | None, key: VerifierKey | None, where: str = CHECKPOINT
) -> tuple[Check, Checkpoint | None]:
    """The head, if the log's key signed it under the log's name."""
    check = Check("checkpoint", "the log's key signed the head")
    if note is None:
        check.fail(where, "missing")
    elif key is None:
        check.fail(where, "cannot be verified without the log's key")
    else:
        check.examined = 1
        try:
            return check, _verified(note, key)
        except TlogError as error:
            check.fail(where, str(error))
    return check, None


def _verified(note: bytes, key: VerifierKey) -> Checkpoint:
    parsed = parse_note(note)
    verify_note(parsed, [key])
    checkpoint = parse_checkpoint(parsed.text)
    if checkpoint.origin != key.name:
        raise TlogError(f"it is of the log {checkpoint.origin!r}, the key is {key.name!r}'s")
    return checkpoint


def gather_leaves(
    events: Mapping[int, bytes], tiles: Mapping[str, bytes], head: Checkpoint | None
) -> tuple[Check, list[bytes]]:
    """The leaves in order, from `events/` and from the entry bundles, which must agree.

    Returns:
        As many leaves from the first on as are at hand without a gap.
    """
    check = Check("leaves", "every leaf is there, and events/ and the entry bundles agree")
    bundled = _bundled(check, tiles)
    found = {**bundled, **events}
    size = head.size if head else len(found)
    for index in sorted(bundled.keys() & events.keys()):
        same = bundled[index] == events[index]
        check.expect(same, f"events/{index}.json", "differs from the entry bundle")
    for present, what in ((bundled, "log/tile/entries"), (events, "events")):
        missing = [index for index in range(size) if index not in present] if present else []
        for index in missing:
            check.fail(f"{what}", f"leaf {index} is missing")
    for index in sorted(found):
        if index >= size:
            check.fail(event(index), f"lies beyond the head of {size} leaves")
    leaves: list[bytes] = []
    while len(leaves) < size and len(leaves) in found:
        leaves.append(found[len(leaves)])
    if len(leaves) < size and not found:
        check.fail("events", f"none of the {size} leaves is there")
    check.examined = len(leaves)
    return check, leaves


def _bundled(check: Check, tiles: Mapping[str, bytes]) -> dict[int, bytes]:
    """Leaves of the entry bundles; the widest bundle of a number counts, narrower must agree."""
    found: dict[int, bytes] = {}
    for path, content in tiles.items():
        if not path.startswith("tile/entries/"):
            continue
        try:
            parsed = parse_entries_path(path)
            entries = decode_entries(content, parsed.width)
        except TlogError as error:
            check.fail(f"log/{path}", str(error))
            continue
        for offset, entry in enumerate(entries):
            index = parsed.number * TILE_WIDTH + offset
            if found.setdefault(index, entry) != entry:
                check.fail(f"log/{path}", f"leaf {index} differs from another bundle's")
    return found


def check_tree(tree: Tree, head: Checkpoint | None, tiles: Mapping[str, bytes]) -> Check:
    """The recomputed tree is the signed one, and every tile is part of it."""
    check = Check("tree", "the tree over the leaves has the signed root, and every tile fits")
    if head is None:
        check.fail(CHECKPOINT, "there is no verified head to compare with")
    elif check.expect(tree.size == head.size, CHECKPOINT, _size_message(tree, head)):
        same = tree.appended.root == head.root
        check.expect(same, CHECKPOINT, "the leaves do not have the signed root")
    for path, content in tiles.items():
        if not path.startswith("tile/entries/"):
            check.examined += 1
            _check_tile(check, tree, path, content)
    for (level, number), content in tree.appended.tiles.items():
        needed = tile_path(level, number, len(content) // HASH_SIZE)
        check.expect(needed in tiles, f"log/{needed}", "missing")
    return check


def _size_message(tree: Tree, head: Checkpoint) -> str:
    return f"{tree.size} leaves are at hand, the head covers {head.size}"


def _check_tile(check: Check, tree: Tree, path: str, content: bytes) -> None:
    where = f"log/{path}"
    try:
        parsed = parse_tile_path(path)
    except TlogError as error:
        check.fail(where, str(error))
        return
    own = tree.appended.tiles.get((parsed.level or 0, parsed.number), b"")
    size = parsed.width * HASH_SIZE
    if len(own) < size:
        check.fail(where, "lies beyond the tree")
    else:
        check.expect(content == own[:size], where, "is not what the leaves hash to")


def check_extends(
    old: bytes, where: str, key: VerifierKey | None, head: Checkpoint | None, tree: Tree
) -> Check:
    """The log is a continuation of an older signed head."""
    check = Check("continuation", "the log extends the older checkpoint")
    old_check, before = read_head(old, key, where)
    check.failures += old_check.failures
    if before is None:
        return check
    if head is None or head.size != tree.size:
        check.fail(where, "the log itself does not verify; there is nothing to compare with")
        return check
    check.examined = 1
    try:
        proof = consistency_proof(before.size, head.size, tree.nodes)
        verify_consistency(before.size, head.size, proof, before.root, head.root)
    except TlogError as error:
        check.fail(where, str(error))
    return check


def entry_bundle(index: int, size: int) -> tuple[str, int, int]:
    """Path and width of the bundle that holds a leaf in a tree of `size`, and the place in it."""
    number, offset = divmod(index, TILE_WIDTH)
    width = min(TILE_WIDTH, size - number * TILE_WIDTH)
    return entries_path(number, width), width, offset
