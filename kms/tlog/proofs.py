"""Verifying inclusion and consistency proofs (RFC 9162 sections 2.1.3.2 and 2.1.4.2)."""

from collections.abc import Sequence

from kms.tlog.encoding import MAX_NUMBER
from kms.tlog.errors import ProofError
from kms.tlog.hashing import HASH_SIZE, node_hash


def verify_inclusion(
    leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that the leaf stands at `index` in the tree of `size` leaves with that root.

    Raises:
        ProofError: It does not, or the proof is not one.
    """
    if not 0 <= index < size <= MAX_NUMBER:
        raise ProofError(f"a tree of {size} leaves has no leaf {index}")
    _check_hashes([leaf_hash, root, *proof])
    position, last = index, size - 1
    result = leaf_hash
    for item in proof:
        if last == 0:
            raise ProofError("the inclusion proof is too long")
        if position & 1 or position == last:
            result = node_hash(item, result)
            while position and not position & 1:
                position >>= 1
                last >>= 1
        else:
            result = node_hash(result, item)
        position >>= 1
        last >>= 1
    if last:
        raise ProofError("the inclusion proof is too short")
    if result != root:
        raise ProofError(f"leaf {index} is not in the tree of {size} leaves with that root")


def verify_consistency(
    old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> None:
    """Check that the new tree begins with the leaves of the old one.

    An `old_size` of 0 is refused: the empty tree is a prefix of every tree, so nothing would
    be shown. Who has seen nothing yet has nothing to check.

    Raises:
        ProofError: It does not, or the proof is not one.
    """
    if not 0 < old_size <= new_size <= MAX_NUMBER:
        raise ProofError(f"a tree of {new_size} leaves cannot be shown to extend one of {old_size}")
    _check_hashes([old_root, new_root, *proof])
    if old_size == new_size:
        if proof:
            raise ProofError("trees of one size need no proof, yet there is one")
        if old_root != new_root:
            raise ProofError(f"two roots for one size of {old_size} leaves")
        return
    if _both_roots(old_size, new_size, proof, old_root) != (old_root, new_root):
        raise ProofError(f"the tree of {new_size} leaves does not extend that of {old_size}")


def _both_roots(
    old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes
) -> tuple[bytes, bytes]:
    """Old and new root that the proof leads to; RFC 9162 2.1.4.2 names `fn` and `sn`."""
    exact = old_size & (old_size - 1) == 0
    path = [old_root, *proof] if exact else list(proof)
    if not path:
        raise ProofError("the consistency proof is empty")
    position, last = old_size - 1, new_size - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old = new = path[0]
    for item in path[1:]:
        if last == 0:
            raise ProofError("the consistency proof is too long")
        if position & 1 or position == last:
            old, new = node_hash(item, old), node_hash(item, new)
            while position and not position & 1:
                position >>= 1
                last >>= 1
        else:
            new = node_hash(new, item)
        position >>= 1
        last >>= 1
    if last:
        raise ProofError("the consistency proof is too short")
    return old, new


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(item) != HASH_SIZE for item in hashes):
        raise ProofError(f"roots, leaves and proofs consist of {HASH_SIZE}-byte hashes")
