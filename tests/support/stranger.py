"""A stranger who checks a log's files by the C2SP documents alone, sharing no code with kms."""

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.support.naive_log import leaf_hash, tree_hash

WIDTH = 256


@dataclass(frozen=True, slots=True)
class Verifier:
    """A signed-note verifier key: `<name>+<hash>+<base64 of type and key>`."""

    name: str
    key_id: bytes
    key: Ed25519PublicKey

    @classmethod
    def parse(cls, text: str) -> "Verifier":
        name, key_id, encoded = text.strip().split("+", 2)
        typed = base64.b64decode(encoded, validate=True)
        assert typed[0] == 1, "an Ed25519 key"
        assert hashlib.sha256(name.encode() + b"\n" + typed).digest()[:4].hex() == key_id
        return cls(name, bytes.fromhex(key_id), Ed25519PublicKey.from_public_bytes(typed[1:]))

    def open(self, note: bytes) -> tuple[int, bytes]:
        """Size and root of a checkpoint that this key signed."""
        text, _, signatures = note.decode().rpartition("\n\n")
        lines = (text + "\n").split("\n")
        origin, size, root = lines[0], lines[1], lines[2]
        assert origin == self.name
        assert size == str(int(size))
        found = [
            base64.b64decode(line.removeprefix(f"— {self.name} "), validate=True)
            for line in signatures.splitlines()
            if line.startswith(f"— {self.name} ")
        ]
        (signature,) = [item for item in found if item[:4] == self.key_id]
        self.key.verify(signature[4:], (text + "\n").encode())
        return int(size), base64.b64decode(root, validate=True)


def tile_name(number: int, width: int) -> str:
    """`x001/x234/067`, and `.p/<width>` where it is partial."""
    digits = f"{number:03d}" if number < 1000 else f"{number:06d}"
    assert number < 1_000_000
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    path = "/".join([f"x{group}" for group in groups[:-1]] + groups[-1:])
    return path if width == WIDTH else f"{path}.p/{width}"


def rows(count: int) -> Iterator[tuple[int, int]]:
    """Number and width of the tiles that hold so many things."""
    for first in range(0, count, WIDTH):
        yield first // WIDTH, min(WIDTH, count - first)


def entries(bundle: bytes) -> Iterator[bytes]:
    """The entries of a bundle, each after its length in 16 bits."""
    at = 0
    while at < len(bundle):
        size = int.from_bytes(bundle[at : at + 2], "big")
        assert at + 2 + size <= len(bundle)
        yield bundle[at + 2 : at + 2 + size]
        at += 2 + size


def read_log(folder: Path, verifier: Verifier) -> list[bytes]:
    """Every leaf; checkpoint, bundles and all tiles agree, and there is no other file."""
    size, root = verifier.open((folder / "checkpoint").read_bytes())
    expected = {"checkpoint"}
    leaves: list[bytes] = []
    for number, width in rows(size):
        name = f"tile/entries/{tile_name(number, width)}"
        expected.add(name)
        bundle = list(entries((folder / name).read_bytes()))
        assert len(bundle) == width
        leaves += bundle
    assert tree_hash([leaf_hash(leaf) for leaf in leaves]) == root
    level, hashes = 0, [leaf_hash(leaf) for leaf in leaves]
    while hashes:
        for number, width in rows(len(hashes)):
            name = f"tile/{level}/{tile_name(number, width)}"
            expected.add(name)
            part = hashes[number * WIDTH : number * WIDTH + width]
            assert (folder / name).read_bytes() == b"".join(part), name
        whole = len(hashes) // WIDTH
        hashes = [tree_hash(hashes[at * WIDTH : (at + 1) * WIDTH]) for at in range(whole)]
        level += 1
    assert {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    } == expected
    return leaves


def check_receipt(text: bytes, leaf: bytes, verifier: Verifier) -> tuple[int, int]:
    """Index and tree size of a tlog-proof that proves the leaf (RFC 9162 2.1.3.2)."""
    head, _, note = text.partition(b"\n\n")
    lines = head.decode().split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    index = int(lines[1].removeprefix("index "))
    path = [base64.b64decode(line, validate=True) for line in lines[2:]]
    size, root = verifier.open(note)
    assert index < size
    assert climb(index, size, leaf_hash(leaf), path) == root
    return index, size


def climb(index: int, size: int, found: bytes, path: list[bytes]) -> bytes:
    """The root that an audit path leads to."""
    node, last = index, size - 1
    for sibling in path:
        assert last, "the path is too long"
        if node & 1 or node == last:
            found = hashlib.sha256(b"\x01" + sibling + found).digest()
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = hashlib.sha256(b"\x01" + found + sibling).digest()
        node, last = node >> 1, last >> 1
    assert not last, "the path is too short"
    return found
