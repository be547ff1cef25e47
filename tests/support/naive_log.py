"""A log as RFC 6962 and C2SP define it, written down naively and sharing no code with kms.tlog."""

import base64
import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def leaf_hash(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


def tree_hash(hashes: list[bytes]) -> bytes:
    """MTH of RFC 6962 2.1 over leaf hashes."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = _split(len(hashes))
    return hashlib.sha256(b"\x01" + tree_hash(hashes[:k]) + tree_hash(hashes[k:])).digest()


def audit_path(index: int, hashes: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962 2.1.1."""
    if len(hashes) == 1:
        return []
    k = _split(len(hashes))
    if index < k:
        return [*audit_path(index, hashes[:k]), tree_hash(hashes[k:])]
    return [*audit_path(index - k, hashes[k:]), tree_hash(hashes[:k])]


def _split(size: int) -> int:
    k = 1
    while 2 * k < size:
        k *= 2
    return k


class GrowingTree:
    """The same root after each leaf: complete subtrees so far, the largest first."""

    def __init__(self) -> None:
        self._subtrees: list[tuple[int, bytes]] = []

    def append(self, leaf: bytes) -> None:
        """Add a leaf hash."""
        size, found = 1, leaf
        while self._subtrees and self._subtrees[-1][0] == size:
            found = hashlib.sha256(b"\x01" + self._subtrees.pop()[1] + found).digest()
            size *= 2
        self._subtrees.append((size, found))

    def root(self) -> bytes:
        if not self._subtrees:
            return hashlib.sha256(b"").digest()
        *left, (_, found) = self._subtrees
        for _, subtree in reversed(left):
            found = hashlib.sha256(b"\x01" + subtree + found).digest()
        return found


class NaiveLog:
    """Leaves, an Ed25519 key, and the files and texts that C2SP derives from them."""

    def __init__(self, origin: str, seed: bytes = bytes(32)) -> None:
        self.origin = origin
        self.key = Ed25519PrivateKey.from_private_bytes(seed)
        self.leaves: list[bytes] = []

    @property
    def vkey(self) -> str:
        typed = b"\x01" + self.key.public_key().public_bytes_raw()
        return f"{self.origin}+{self._key_id().hex()}+{base64.b64encode(typed).decode()}"

    def _key_id(self) -> bytes:
        typed = b"\x01" + self.key.public_key().public_bytes_raw()
        return hashlib.sha256(self.origin.encode() + b"\n" + typed).digest()[:4]

    def append(self, leaf: bytes) -> int:
        self.leaves.append(leaf)
        return len(self.leaves) - 1

    def checkpoint(self, size: int | None = None) -> bytes:
        size = len(self.leaves) if size is None else size
        root = tree_hash([leaf_hash(leaf) for leaf in self.leaves[:size]])
        return self.sign(f"{self.origin}\n{size}\n{base64.b64encode(root).decode()}\n")

    def sign(self, body: str) -> bytes:
        signature = base64.b64encode(self._key_id() + self.key.sign(body.encode())).decode()
        return f"{body}\n\N{EM DASH} {self.origin} {signature}\n".encode()

    def receipt(self, index: int, size: int | None = None) -> bytes:
        size = len(self.leaves) if size is None else size
        path = audit_path(index, [leaf_hash(leaf) for leaf in self.leaves[:size]])
        lines = ["c2sp.org/tlog-proof@v1", f"index {index}"]
        lines += [base64.b64encode(item).decode() for item in path]
        return ("\n".join(lines) + "\n\n").encode() + self.checkpoint(size)

    def write(self, prefix: Path) -> None:
        """Checkpoint, hash tiles and entry bundles below `prefix` (C2SP tlog-tiles)."""
        prefix.mkdir(parents=True)
        (prefix / "checkpoint").write_bytes(self.checkpoint())
        level, hashes = 0, [leaf_hash(leaf) for leaf in self.leaves]
        while hashes:
            _write_tiles(prefix / "tile" / str(level), [(h, b"") for h in hashes])
            whole = len(hashes) // 256
            hashes = [tree_hash(hashes[at * 256 : at * 256 + 256]) for at in range(whole)]
            level += 1
        bundles = [(leaf, len(leaf).to_bytes(2, "big")) for leaf in self.leaves]
        _write_tiles(prefix / "tile" / "entries", bundles)


def _write_tiles(folder: Path, items: list[tuple[bytes, bytes]]) -> None:
    for number in range(-(-len(items) // 256)):
        part = items[number * 256 : number * 256 + 256]
        assert number < 1000
        name = f"{number:03}" if len(part) == 256 else f"{number:03}.p/{len(part)}"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(prefix + data for data, prefix in part))
