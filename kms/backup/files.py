"""Small things that are done with files of backups."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

_PIECE = 1 << 20


class Source(Protocol):
    """What bytes are read from, one after the other."""

    def read(self, size: int, /) -> bytes:
        """So many bytes; fewer at the end alone."""

    def readline(self, size: int, /) -> bytes:
        """A line, but no more bytes than that."""


class Hashed:
    """A source, and the digest of all that was read of it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._digest = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        """As `Source.read`."""
        return self._told(self._source.read(size))

    def readline(self, size: int, /) -> bytes:
        """As `Source.readline`."""
        return self._told(self._source.readline(size))

    def _told(self, data: bytes) -> bytes:
        self._digest.update(data)
        return data

    @property
    def sha256(self) -> str:
        """Of what was read so far, hex."""
        return self._digest.hexdigest()


@contextlib.contextmanager
def passing_directory(parent: Path, prefix: str) -> Iterator[Path]:
    """A directory of one's own, 0700, for what is not encrypted; gone afterwards.

    What a crash left under the same prefix is removed first; what somebody works in is locked.

    Raises:
        OSError: It cannot be made.
    """
    for left in parent.glob(f"{prefix}*"):
        _remove_left(left)
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(fd)


def _remove_left(directory: Path) -> None:
    """Remove a directory that nobody holds; another user's is not ours to remove."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if os.fstat(fd).st_uid == os.geteuid():
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
    except BlockingIOError:
        return
    finally:
        os.close(fd)


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
