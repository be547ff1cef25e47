"""Hashes of an RFC 6962 tree (section 2.1): SHA-256, leaves and nodes told apart by a prefix."""

from functools import lru_cache
from hashlib import sha256

HASH_SIZE = 32
EMPTY_ROOT = sha256().digest()
"""Root of the tree without leaves."""

_MEMO_FROM = 8 * HASH_SIZE


def leaf_hash(data: bytes) -> bytes:
    """Hash of a leaf."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


def subtree_hash(hashes: bytes) -> bytes:
    """Root of the complete subtree over 2**k concatenated hashes."""
    if len(hashes) == HASH_SIZE:
        return hashes
    if len(hashes) < _MEMO_FROM:
        return _join(hashes)
    return _remembered(hashes)


def _join(hashes: bytes) -> bytes:
    middle = len(hashes) // 2
    return node_hash(subtree_hash(hashes[:middle]), subtree_hash(hashes[middle:]))


# The right edge of the tree is hashed again at every append. Remembered by content, not by place,
# an answer can never be stale. At most 1,024 blocks of at most 8 KiB.
_remembered = lru_cache(maxsize=1024)(_join)
