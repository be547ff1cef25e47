"""A signer as a process: its socket, its start, its sign of life.

Used by the supervisor for a service, and by local commands (a ceremony) for their own while.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep

import structlog

from hsm_drivers.hardening import close_to_inspection, forbid_core_dumps
from kms.processes.accounts import Separation, separate
from kms.processes.children import EXIT_PIN_REFUSED, STOP_GRACE, spawn
from kms.processes.pin import Pin, PinError, all_pins
from kms.processes.sockets import SignerSocket
from kms.processes.token_processes import for_a_while
from kms.settings import Settings

BOOTSTRAP = (sys.executable, "-P", "-m", "kms.bootstrap")
SIGNER_COMMAND = (*BOOTSTRAP, "signer")

Probe = Callable[[Path], bool]
"""Whether the signer behind that socket answers; returns within two seconds, whatever happens."""

_log = structlog.get_logger()


class SignerStartError(Exception):
    """A signer for a local command did not come up; its own log line says why."""


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
    `clock_base` its clock is that of a service's other processes. Where tokens have processes of
    their own it gets no PIN at all.
    """
    own = os.geteuid()
    uids = [own] if separation.worker is None else [own, separation.worker.uid]
    pins = [] if settings.pooled else [pin.pipe()]
    try:
        flags = ["--config", str(settings.path), "--socket-fd", str(listening)]
        for fd in pins:
            flags += ["--pin-fd", str(fd)]
        flags += ["--ceremony"] if ceremony else []
        flags += [] if clock_base is None else ["--clock-base", str(clock_base)]
        for uid in uids:
            flags += ["--allow-uid", str(uid)]
        return spawn(
            [*command, *flags],
            fds=(listening, *pins),
            account=separation.signer,
            environment={} if settings.pooled else settings.token.environment,
        )
    finally:
        for fd in pins:
            os.close(fd)


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
    with contextlib.ExitStack() as stack:
        pins = stack.enter_context(all_pins(settings, pin))
        stack.enter_context(for_a_while(settings, pins, separation, patience))
        listening = SignerSocket(settings.signer_socket, None)
        stack.callback(listening.remove)
        process = start_signer(settings, pin, command, listening.fd, separation, ceremony=ceremony)
        stack.callback(_end, process)
        listening.close()  # the signer's copy is the only one: when it dies, clients notice
        _await_answer(process, probe, listening.path, patience)
        yield listening.path


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
