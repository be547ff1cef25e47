"""Separate system users for worker and signer, where the machine allows it.

An intruder in the worker then cannot read the signer's memory, its journal or the token's files.
"""

import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kms.config import ConfigError, child_environment
from kms.settings import Settings

DEFAULT_WORKER = "kms-worker"
DEFAULT_SIGNER = "kms-signer"

_ABLE = """
import os, sys
MODES = {"r": os.R_OK, "w": os.R_OK | os.W_OK | os.X_OK, "x": os.X_OK}
for wish in sys.argv[1:]:
    if not os.access(wish[1:], MODES[wish[0]]):
        sys.exit(f"it cannot reach {wish[1:]}")
try:
    import kms.config
except ImportError as error:
    sys.exit(f"it cannot import the service ({error.name})")
"""


@dataclass(frozen=True, slots=True)
class Account:
    """A system user to run a process as; `groups` are its supplementary ones (an HSM's, say)."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Separation:
    """Who the children run as: both accounts, or none and the reason."""

    worker: Account | None = None
    signer: Account | None = None
    reason: str = ""

    @property
    def separated(self) -> bool:
        """Whether worker and signer run under users of their own."""
        return self.worker is not None and self.signer is not None


def package_root() -> Path:
    """Directory that the children import the service from: the one this process uses."""
    return Path(__file__).parents[2]


def separate(settings: Settings, python: str = sys.executable) -> Separation:
    """Decide on the users, make and hand over their directories, and try whether they can work.

    Args:
        settings: Users and directories.
        python: Interpreter of the children.

    Raises:
        ConfigError: Users are configured and cannot be used; there is no silent falling back.
    """
    for directory in (settings.data_dir, settings.tls_dir, settings.signer_state):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    configured = settings.users.worker is not None or settings.users.signer is not None
    try:
        worker, signer = _accounts(settings)
        _hand_over(settings, worker, signer)
        _try(worker, python, _worker_needs(settings))
        _try(signer, python, _signer_needs(settings))
    except _ImpossibleError as error:
        if configured:
            raise ConfigError(f"{settings.path}: users: {error}") from None
        return Separation(reason=str(error))
    return Separation(worker, signer)


def refuse_foreign(directory: Path, settings: Settings) -> None:
    """As root, work on files only where nobody but root and the worker can put them.

    Raises:
        ConfigError: The directory is a symbolic link, belongs to someone else, or is open to them.
    """
    if os.geteuid() != 0:
        return
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{directory} is no directory of its own: put one there, not a link")
    worker = settings.users.worker or DEFAULT_WORKER
    if found.st_uid not in {0, _uid(worker)}:
        raise ConfigError(
            f"{directory} belongs to user {found.st_uid}, neither root nor the worker ({worker}): "
            "run this as that user, or change the owner"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"others may write in {directory} (mode {stat.S_IMODE(found.st_mode):o}): "
            "take that right away with chmod go-w"
        )


def _uid(name: str) -> int:
    """0, which root has anyway, where there is no such user."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return 0


class _ImpossibleError(Exception):
    """Why the processes cannot be separated."""


def _accounts(settings: Settings) -> tuple[Account, Account]:
    if os.geteuid() != 0:
        raise _ImpossibleError("the service was not started as root")
    worker = _account(settings.users.worker or DEFAULT_WORKER)
    signer = _account(settings.users.signer or DEFAULT_SIGNER)
    if worker.uid == signer.uid or 0 in {worker.uid, signer.uid}:
        raise _ImpossibleError("worker and signer need two different users, neither of them root")
    return worker, signer


def _account(name: str) -> Account:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise _ImpossibleError(
            f"there is no user {name}; scripts/users.sh makes the default ones"
        ) from None
    groups = os.getgrouplist(name, entry.pw_gid)
    return Account(name, entry.pw_uid, entry.pw_gid, tuple(groups))


def _hand_over(settings: Settings, worker: Account, signer: Account) -> None:
    for directory in (settings.data_dir, settings.tls_dir):
        give(directory, worker)
    give(settings.signer_state, signer)
    for token in settings.estate.values():
        if token.directory is not None:
            give(token.directory, signer)


def give(directory: Path, account: Account) -> None:
    """Make the directory and what root left in it (a ceremony's files) the account's, 0700.

    Symbolic links are not followed and files with several names are left alone: the account could
    have put them there to be given a file of root's.
    """
    for folder, _, files, folder_fd in os.fwalk(directory, follow_symlinks=False):
        os.fchown(folder_fd, account.uid, account.gid)
        if Path(folder) == directory:
            os.fchmod(folder_fd, 0o700)
        for name in files:
            _give_file(name, folder_fd, account)


def _give_file(name: str, folder_fd: int, account: Account) -> None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder_fd)
    except OSError:
        return  # a link, a socket, or gone: nothing that a ceremony leaves
    try:
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            os.fchown(fd, account.uid, account.gid)
    finally:
        os.close(fd)


def _worker_needs(settings: Settings) -> list[str]:
    return [
        f"r{settings.path}",
        f"x{settings.run_dir}",
        f"w{settings.data_dir}",
        f"w{settings.tls_dir}",
    ]


def _signer_needs(settings: Settings) -> list[str]:
    needs = [f"r{settings.path}", f"w{settings.signer_state}"]
    for token in settings.estate.values():
        if token.chroot is None:  # inside one, paths mean something else
            files = [value for value in token.environment.values() if Path(value).is_absolute()]
            needs.append(f"r{token.module}")
            needs += [f"r{value}" for value in files if Path(value).exists()]
        if token.directory is not None:
            needs.append(f"w{token.directory}")
    return needs


def _try(account: Account, python: str, needs: Sequence[str]) -> None:
    """Start Python as that user: is everything readable that it will need?"""
    try:
        done = subprocess.run(
            [python, "-P", "-c", _ABLE, *needs],
            env=child_environment({"PYTHONPATH": str(package_root())}),
            cwd="/",
            user=account.uid,
            group=account.gid,
            extra_groups=account.groups,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        raise _ImpossibleError(f"user {account.name} cannot run {python}") from None
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it cannot start"]
        raise _ImpossibleError(f"user {account.name}: {lines[-1]}")
