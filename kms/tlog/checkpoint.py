"""Checkpoints: the text that a log signs (C2SP tlog-checkpoint)."""

from dataclasses import dataclass

from kms.tlog.encoding import MAX_NUMBER, b64, decimal, unb64_hash
from kms.tlog.errors import FormatError
from kms.tlog.hashing import EMPTY_ROOT, HASH_SIZE

MAX_ORIGIN = 255
"""Longest origin in bytes: an ML-DSA-44 cosignature gives its length in one."""
MAX_EXTENSIONS = 16


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Head of a log.

    Attributes:
        origin: Names the log.
        size: Leaves in its tree.
        root: Root of its tree.
        extensions: Further lines. Other logs may have them; ours never does, because nobody can
            audit them and an ML-DSA-44 cosignature does not cover them.

    Raises:
        FormatError: A value that has no text form.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for line in (self.origin, *self.extensions):
            if not line or any(ord(letter) < 0x20 for letter in line):
                raise FormatError("a checkpoint line is empty or has control characters")
        if len(self.origin.encode()) > MAX_ORIGIN or len(self.extensions) > MAX_EXTENSIONS:
            raise FormatError("the checkpoint's origin is too long or its extensions too many")
        if not 0 <= self.size <= MAX_NUMBER:
            raise FormatError(f"a log cannot have {self.size} leaves")
        if len(self.root) != HASH_SIZE:
            raise FormatError(f"a root has {HASH_SIZE} bytes, not {len(self.root)}")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise FormatError("the empty tree has another root")

    def body(self) -> bytes:
        """The note text to sign; ends with a newline."""
        lines = (self.origin, str(self.size), b64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines).encode()


def parse_checkpoint(text: bytes) -> Checkpoint:
    """The checkpoint in the text of a note (the part before the signatures).

    `parse_checkpoint(text).body() == text` holds for all that is accepted.

    Raises:
        FormatError: Not the text of a checkpoint.
    """
    try:
        lines = text.decode().split("\n")
    except UnicodeDecodeError as error:
        raise FormatError("the checkpoint is not UTF-8") from error
    if len(lines) < 4 or lines[-1]:
        raise FormatError("a checkpoint has at least three lines, each ended by a newline")
    size = decimal(lines[1], "the checkpoint's size")
    root = unb64_hash(lines[2], "the checkpoint's root")
    return Checkpoint(lines[0], size, root, tuple(lines[3:-1]))
