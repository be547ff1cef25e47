"""Listening Unix sockets that the supervisor makes and its children answer on."""

import os
import socket
import stat
from pathlib import Path

from kms.config import ConfigError
from kms.processes.accounts import Account

BACKLOG = 512
"""Connections that may wait while a process restarts."""


class SignerSocket:
    """A listening Unix socket, 0600, of the user who may connect."""

    def __init__(self, path: Path, owner: Account | None, *, shared: bool = True) -> None:
        """Bind and listen.

        Args:
            path: Where.
            owner: Who may connect besides this process's user.
            shared: Whether others reach the directory, too, and so it has to be looked at.

        Raises:
            ConfigError: The socket cannot be made, or its directory is not to be trusted.
        """
        self.path = path
        if shared:
            _refuse_shared(path.parent)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        umask = os.umask(0o177)
        try:
            path.unlink(missing_ok=True)
            self._socket.bind(str(path))
        except OSError as error:
            self._socket.close()
            raise ConfigError(f"{path}: this socket cannot be made: {error}") from error
        finally:
            os.umask(umask)
        if owner is not None:
            os.chown(path, owner.uid, owner.gid)
        self._socket.listen(BACKLOG)

    @property
    def fd(self) -> int:
        """Descriptor to pass on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Let this process's copy go; with the last copy, waiting connections are refused."""
        self._socket.close()

    def remove(self) -> None:
        """Close, and take the path away: clients fail at once instead of waiting."""
        self.close()
        self.path.unlink(missing_ok=True)


def _refuse_shared(directory: Path) -> None:
    """Whoever can write where the signer's socket is can put another one in its place.

    Raises:
        ConfigError: The directory belongs to someone else, or others may write in it.
    """
    found = directory.stat()
    own = found.st_uid in {os.geteuid(), directory.parent.stat().st_uid}
    if not own or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"{directory} must belong to the owner of the home and be open to no other's writing"
            f" (it is user {found.st_uid}'s, mode {stat.S_IMODE(found.st_mode):o}): remove it; the"
            " next start makes it anew"
        )
