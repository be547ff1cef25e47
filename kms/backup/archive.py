"""Writing a backup's file, and reading one back: whole or not at all."""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from kms.backup.collect import Gathered
from kms.backup.errors import BackupError, DamagedBackupError, OtherBackupError
from kms.backup.files import Hashed, Source, sha256_of, sync_directory
from kms.backup.format import (
    FileEntry,
    Header,
    Manifest,
    check_size,
    open_content,
    read_header,
    seal_header,
)
from kms.backup.recovery import RecoveryKey
from kms.backup.shares import Share
from kms.backup.stream import seal

Take = Callable[[FileEntry, Iterator[bytes]], None]
"""Told each file of a backup and its bytes, which must be read to their end."""


def write(gathered: Gathered, keys: Sequence[RecoveryKey], target: Path) -> str:
    """Encrypt what was gathered into a new file, 0600; answer the file's SHA-256, hex.

    The file bears its name only when all of it is on the disk: a crash leaves `.<name>.<…>.part`,
    which ends in the middle and opens with nothing.

    Raises:
        BackupError: There is such a file, or the disk refused; nothing is left.
    """
    if target.exists():
        raise BackupError(f"{target} exists already: a backup is never written over another file")
    sealed = seal_header(gathered.manifest, keys)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    digest = hashlib.sha256()
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            for part in chain([sealed.header], seal(sealed.key, gathered.content())):
                digest.update(part)
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        show(partial)  # what cannot be read again is no backup
        _name(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise BackupError(
            f"{target} could not be written: {error.strerror}; nothing is left of it"
        ) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return digest.hexdigest()


def _name(partial: Path, target: Path) -> None:
    """Give a file its name, for good or not at all."""
    partial.rename(target)
    try:
        sync_directory(target.parent)
    except OSError:
        target.unlink()
        raise


def show(path: Path) -> Header:
    """What a backup says of itself; the file is whole, but nothing proves what it says.

    Raises:
        ForeignFileError: Not a backup.
        DamagedBackupError: Cut short.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return _header(path, file, file.fileno())


def _header(path: Path, file: Source, fd: int) -> Header:
    header = read_header(file, str(path))
    check_size(header, os.fstat(fd).st_size, str(path))
    return header


def refuse_other(path: Path, sha256: str) -> None:
    """Stop where a file is not the one that was meant; this opens nothing of it.

    Raises:
        OtherBackupError: Its digest is another.
        OSError: It cannot be read.
    """
    _compare(path, sha256_of(path), sha256)


def read(
    path: Path, shares: Mapping[str, Share], take: Take, sha256: str | None = None
) -> Manifest:
    """Decrypt a whole backup; every byte of it is checked on the way.

    Args:
        path: The backup.
        shares: A quorum, by where each comes from.
        take: Told each file in turn. What it was given counts only when this returns.
        sha256: Digest of the file, hex. Anyone can encrypt to a recovery key, so that this alone
            tells whose backup it is; it is held against the very bytes that were decrypted.

    Raises:
        BackupError: As its subclasses say.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        source = Hashed(file)
        header = _header(path, source, file.fileno())
        content = _Content(open_content(header, source, shares))
        for entry in header.manifest.files:
            digest = hashlib.sha256()
            take(entry, _hashed(content.take(entry.size), digest.update))
            if digest.hexdigest() != entry.sha256:
                raise DamagedBackupError(f"{path}: {entry.name} is not what the manifest says")
        content.end()
    if sha256 is not None:
        _compare(path, source.sha256, sha256)
    return header.manifest


def _compare(path: Path, found: str, wanted: str) -> None:
    if found != wanted.strip().lower():
        raise OtherBackupError(
            f"{path}: its SHA-256 is {found}, not the one given: this is another backup, or"
            " somebody changed it; look for the one that was made"
        )


def verify(path: Path, shares: Mapping[str, Share], sha256: str | None = None) -> Manifest:
    """Decrypt a whole backup and keep nothing.

    Raises:
        BackupError: As its subclasses say.
        OSError: It cannot be read.
    """

    def pass_over(_: FileEntry, pieces: Iterator[bytes]) -> None:
        for _piece in pieces:
            pass

    return read(path, shares, pass_over, sha256)


def unpack(
    path: Path, shares: Mapping[str, Share], directory: Path, sha256: str | None = None
) -> Manifest:
    """Decrypt a whole backup into a directory of the caller's, files 0600, directories 0700.

    Raises:
        BackupError: As its subclasses say; what lies in the directory is of no use.
        OSError: A file cannot be read or written.
    """

    def keep(entry: FileEntry, pieces: Iterator[bytes]) -> None:
        target = directory / entry.name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(fd)

    return read(path, shares, keep, sha256)


class _Content:
    """Decrypted chunks as one run of bytes."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = b""

    def take(self, size: int) -> Iterator[bytes]:
        """The next bytes, so many."""
        while size:
            self._rest = self._rest or next(self._parts, b"")
            if not self._rest:
                raise DamagedBackupError("the content ends before the manifest's files do")
            piece, self._rest = self._rest[:size], self._rest[size:]
            size -= len(piece)
            yield piece

    def end(self) -> None:
        """Nothing is left, and the last chunk was the last one."""
        if self._rest or any(self._parts):
            raise DamagedBackupError("the content goes on after the manifest's files")


def _hashed(pieces: Iterator[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    for piece in pieces:
        update(piece)
        yield piece
