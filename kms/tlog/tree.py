"""Roots and proofs of a tree whose complete subtrees can be read (RFC 6962 section 2.1).

The ranges asked of a `NodeReader` begin where RFC 6962 splits, so a tree of n leaves costs
at most about 2 log2 n reads and log2 n hashes for a root or a proof.
"""

from collections.abc import Callable

from kms.tlog.errors import TreeError
from kms.tlog.hashing import EMPTY_ROOT, node_hash

NodeReader = Callable[[int, int], bytes]
"""(level, index) to the hash of that complete subtree of 2**level leaves.

Asked only for subtrees that lie wholly inside the tree size of the call.
"""


def root(size: int, node: NodeReader) -> bytes:
    """Root of the tree of the first `size` leaves.

    Raises:
        TreeError: A negative size.
    """
    if size < 0:
        raise TreeError(f"a tree cannot have {size} leaves")
    return _range_hash(0, size, node) if size else EMPTY_ROOT


Ranges = dict[tuple[int, int], bytes]
"""Hashes by begin and end of their range."""


def inclusion_proof(
    index: int, size: int, node: NodeReader, known: Ranges | None = None
) -> list[bytes]:
    """Audit path of a leaf (RFC 6962 2.1.1), the leaf's sibling first.

    Args:
        index: Of the leaf.
        size: Of the tree.
        node: Reads complete subtrees.
        known: Filled and used; give the same one for several proofs in the same tree, which share
            most of their paths.

    Raises:
        TreeError: The tree of that size has no such leaf.
    """
    if not 0 <= index < size:
        raise TreeError(f"a tree of {size} leaves has no leaf {index}")
    known = {} if known is None else known
    path = []
    begin, end = 0, size
    while end - begin > 1:
        split = _split(begin, end)
        if index < split:
            sibling, end = (split, end), split
        else:
            sibling, begin = (begin, split), split
        found = known.get(sibling)
        if found is None:
            found = known[sibling] = _range_hash(*sibling, node)
        path.append(found)
    path.reverse()
    return path


def consistency_proof(old: int, new: int, node: NodeReader) -> list[bytes]:
    """Proof that the tree of `new` leaves extends the one of `old` (RFC 6962 2.1.2).

    Empty for equal sizes, and for `old` = 0: every tree extends the empty one, which is why
    `verify_consistency` refuses to take that as evidence of anything.

    Raises:
        TreeError: `old` is negative or larger than `new`.
    """
    if not 0 <= old <= new:
        raise TreeError(f"a tree of {new} leaves cannot extend one of {old}")
    if old == 0:
        return []
    path = []
    begin, end = 0, new
    while end != old:
        split = _split(begin, end)
        if old <= split:
            path.append(_range_hash(split, end, node))
            end = split
        else:
            path.append(_range_hash(begin, split, node))
            begin = split
    # When the descent never turned right, what is left is the old tree itself, and the verifier
    # knows its root.
    if begin:
        path.append(_range_hash(begin, end, node))
    path.reverse()
    return path


def _split(begin: int, end: int) -> int:
    """Where RFC 6962 splits a range: after the largest power of two smaller than its length."""
    return begin + (1 << ((end - begin - 1).bit_length() - 1))


def _range_hash(begin: int, end: int, node: NodeReader) -> bytes:
    """Hash of the subtree over [begin, end), which starts at one of the tree's splits."""
    parts = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        parts.append(node(level, begin >> level))
        begin += 1 << level
    result = parts.pop()
    while parts:
        result = node_hash(parts.pop(), result)
    return result
