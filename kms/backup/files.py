"""Small things that are done with files of backups."""

import hashlib
import os
from pathlib import Path

_PIECE = 1 << 20


def sha256_of(path: Path) -> str:
    """Digest of a file, hex, in the memory of a piece.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def begins_with(whole: Path, part: Path) -> bool:
    """Whether a file has the bytes of another at its beginning.

    Raises:
        OSError: One cannot be read.
    """
    with whole.open("rb") as longer, part.open("rb") as shorter:
        while piece := shorter.read(_PIECE):
            if longer.read(len(piece)) != piece:
                return False
    return True


def sync_directory(directory: Path) -> None:
    """Make names in it survive a loss of power."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
