"""Reading and writing files: bounded, whole or not at all."""

import os
import secrets
from pathlib import Path

from kms.cli.errors import UsageProblemError

PRIVATE = 0o600
PUBLIC = 0o644
MAX_INPUT = 1 << 20
"""Largest file that a command reads whole, in bytes."""


def read_small(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        UsageProblemError: It is absent, unreadable or larger than `MAX_INPUT`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_INPUT + 1)
    except OSError as error:
        raise UsageProblemError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_INPUT:
        raise UsageProblemError(f"{path}: larger than {MAX_INPUT} bytes")
    return data


def write(path: Path, data: bytes, mode: int = PUBLIC, *, durably: bool = True) -> None:
    """Put a file in place, making its directories: readers see the old bytes or the new.

    Args:
        path: Where.
        data: All of it.
        mode: Permissions of a new file.
        durably: Survive a loss of power; without it, the caller syncs after many files.

    Raises:
        OSError: The disk refused; an old file stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            if durably:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def must_be_new(path: Path | None) -> None:
    """Say no before anything is done, not after.

    Raises:
        UsageProblemError: The file exists, or there is no directory for it.
    """
    if path is None:
        return
    if path.exists():
        raise UsageProblemError(f"{path}: exists already", "name another file, or move it away")
    if not path.absolute().parent.is_dir():
        raise UsageProblemError(f"{path.parent}: no such directory", "make it first")
