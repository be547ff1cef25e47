"""Small files that a crash leaves as they were or as they were to become, for their owner alone."""

import os
from pathlib import Path

from hsm_drivers.errors import TokenFailureError


def private_directory(directory: Path) -> None:
    """Make the directory, or see that nobody else may use it.

    Raises:
        TokenFailureError: It is open to other users, or cannot be used.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = directory.stat().st_mode & 0o777
    except OSError as error:
        raise TokenFailureError(
            f"the signer's directory {directory} cannot be used: {error.strerror}"
        ) from error
    if mode & 0o077:
        raise TokenFailureError(
            f"the signer's directory {directory} is open to other users (mode {mode:o});"
            " take their rights away with chmod 700"
        )


def replace(path: Path, data: bytes) -> None:
    """Write durably: after a crash the file is the old one or the new one."""
    new = path.with_suffix(".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(fd)
    finally:
        os.close(fd)
    new.rename(path)
    _sync(path.parent)


def remove(path: Path) -> None:
    """Remove durably."""
    path.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
