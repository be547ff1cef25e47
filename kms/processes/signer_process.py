"""A signer as a process: its socket, its start, its sign of life.

Used by the supervisor for a service, and by local commands (a ceremony) for their own while.
"""

import contextlib
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep

import structlog

from hsm_drivers.hardening import close_to_inspection, forbid_core_dumps
from kms.config import ConfigError
from kms.processes.accounts import Account, Separation, separate
from kms.processes.children import EXIT_PIN_REFUSED, spawn
from kms.processes.pin import Pin, PinError
from kms.settings import Settings

BACKLOG = 512
"""Connections that may wait while a signer restarts."""
STOP_GRACE = 10.0
"""Seconds that a signer gets to end its batch."""

BOOTSTRAP = (sys.executable, "-P", "-m", "kms.bootstrap")
SIGNER_COMMAND = (*BOOTSTRAP, "signer")

Probe = Callable[[Path], bool]
"""Whether the signer behind that socket answers; returns within two seconds, whatever happens."""

_log = structlog.get_logger()


class SignerStartError(Exception):
    """A signer for a local command did not come up; its own log line says why."""


class SignerSocket:
    """The signer's listening Unix socket: 0600, the worker's user's."""

    def __init__(self, path: Path, owner: Account | None) -> None:
        self.path = path
        _refuse_shared(path.parent)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        umask = os.umask(0o177)
        try:
            path.unlink(missing_ok=True)
            self._socket.bind(str(path))
        except OSError as error:
            self._socket.close()
            raise ConfigError(f"{path}: the signer's socket cannot be made: {error}") from error
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


class Pulse(threading.Thread):
    """Asks the signer for a sign of life, again and again."""

    def __init__(self, probe: Probe, path: Path, interval: float) -> None:
        super().__init__(name="pulse", daemon=True)
        self.last_answer = 0.0
        """`monotonic()` of the last one; written by this thread alone."""
        self.wanted = threading.Event()
        """Set while a signer runs."""
        self._probe = probe
        self._path = path
        self._interval = interval

    def run(self) -> None:
        """Probe while wanted, until the process ends."""
        while True:
            self.wanted.wait()
            try:
                if self._probe(self._path):
                    self.last_answer = monotonic()
            except Exception as error:  # noqa: BLE001  # without a pulse a healthy signer would be killed
                _log.warning("signer.probe-failed", exc_info=error)
            sleep(self._interval)


def start_signer(
    settings: Settings,
    pin: Pin,
    command: Sequence[str],
    listening: int,
    separation: Separation,
    *,
    ceremony: bool = False,
    clock_base: float | None = None,
) -> subprocess.Popen[bytes]:
    """Start a signer on a listening socket; it finds the PIN in a pipe and nowhere else.

    Its peers may be the worker's user and this process's (probes, local commands). With
    `clock_base` its clock is that of a service's other processes.
    """
    own = os.geteuid()
    uids = [own] if separation.worker is None else [own, separation.worker.uid]
    pin_fd = pin.pipe()
    try:
        flags = ["--config", str(settings.path), "--socket-fd", str(listening)]
        flags += ["--pin-fd", str(pin_fd), *(["--ceremony"] if ceremony else [])]
        flags += [] if clock_base is None else ["--clock-base", str(clock_base)]
        for uid in uids:
            flags += ["--allow-uid", str(uid)]
        return spawn(
            [*command, *flags],
            fds=(listening, pin_fd),
            account=separation.signer,
            environment=settings.token.environment,
        )
    finally:
        os.close(pin_fd)


@contextlib.contextmanager
def temporary_signer(
    settings: Settings,
    pin: Pin,
    probe: Probe,
    *,
    ceremony: bool = True,
    command: Sequence[str] = SIGNER_COMMAND,
    patience: float = 60.0,
) -> Iterator[Path]:
    """A signer for a local command: yields the path of its socket, ends it afterwards.

    The caller holds `home_lock`.

    Raises:
        PinError: The token refused the PIN.
        SignerStartError: The signer ended, or gave no answer in time.
        ConfigError: The configured users or the socket are not to be had.
    """
    forbid_core_dumps()
    close_to_inspection()
    separation = separate(settings, command[0])
    listening = SignerSocket(settings.signer_socket, None)
    try:
        process = start_signer(settings, pin, command, listening.fd, separation, ceremony=ceremony)
        listening.close()  # the signer's copy is the only one: when it dies, clients notice
        try:
            _await_answer(process, probe, listening.path, patience)
            yield listening.path
        finally:
            _end(process)
    finally:
        listening.remove()


def _await_answer(
    process: subprocess.Popen[bytes], probe: Probe, path: Path, patience: float
) -> None:
    deadline = monotonic() + patience
    while not _probed_apart(probe, path):
        code = process.poll()
        if code == EXIT_PIN_REFUSED:
            raise PinError("the token refused the PIN; after a few wrong ones it locks itself")
        if code is not None:
            raise SignerStartError(f"the signer ended with status {code}; see its message above")
        if monotonic() > deadline:
            raise SignerStartError(f"the signer gave no answer in {patience:.0f} s")
        sleep(0.05)


def _probed_apart(probe: Probe, path: Path) -> bool:
    """Probe in a thread: a probe may start an event loop, and the caller may stand in one."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(probe, path).result()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
