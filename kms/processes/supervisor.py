"""`kms serve`: keeps one signer and one worker running and hands the signer its PIN.

The supervisor parses nothing foreign: it reads settings, the PIN, and the word `ready`. It binds
the signer's socket itself and passes it on, so requests queue while a signer restarts:

    crash, wedge   signer or worker is started again, after a delay that doubles
    exit 77        the token refused the PIN; never tried again by itself, for tokens lock
    exit 78        wrong configuration; a signer stays down, without a worker the service ends
    SIGTERM        the worker answers what it accepted, then the signer ends

Where the settings name several tokens, or several processes of one, the signer holds no PIN: each
token process gets its own, and is looked after as the signer is. A token that is away, or has
refused its PIN, keeps neither signer nor worker from running.

`<home>/run/state.json` tells `kms doctor` and `/readyz` how things stand.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic, sleep

import structlog

from hsm_drivers.hardening import harden
from kms.processes.accounts import Separation, separate
from kms.processes.children import STOP_GRACE, Backoff, Child, ChildState, spawn
from kms.processes.home import HomeBusyError, home_lock
from kms.processes.pin import Pin, all_pins
from kms.processes.signer_process import (
    BOOTSTRAP,
    SIGNER_COMMAND,
    Probe,
    Pulse,
    SignerStartError,
    start_signer,
    temporary_signer,
)
from kms.processes.sockets import SignerSocket
from kms.processes.token_processes import TokenProcesses
from kms.services.system import clock_base
from kms.settings import Settings

__all__ = [
    "Commands",
    "HomeBusyError",
    "Probe",
    "SignerStartError",
    "Supervisor",
    "Timing",
    "home_lock",
    "serve",
    "temporary_signer",
]

EXIT_OK = 0
EXIT_ENVIRONMENT = 2
WORKER_COMMAND = (*BOOTSTRAP, "worker")

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Commands:
    """What is run, before the flags that the supervisor adds."""

    signer: Sequence[str] = SIGNER_COMMAND
    worker: Sequence[str] = WORKER_COMMAND


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. Drain and wedge times are settings.

    Attributes:
        tick: How often children are looked at.
        probe: Distance between probes of the signer.
        signer_start: How long a new signer may take to its first answer (a slow HSM's login).
        worker_margin: What a worker gets beyond its own drain time before it is killed.
    """

    tick: float = 0.1
    probe: float = 1.0
    signer_start: float = 60.0
    worker_margin: float = 5.0
    backoff_first: float = 0.2
    backoff_most: float = 10.0
    healthy_after: float = 60.0

    def backoff(self) -> Backoff:
        """A fresh back-off."""
        return Backoff(self.backoff_first, self.backoff_most, self.healthy_after)


class _Ready:
    """The pipe on which a worker says that it accepts requests."""

    def __init__(self) -> None:
        self.said = False
        self._fd: int | None = None

    def renew(self) -> int:
        """New pipe for a new worker; answers the write end."""
        self.close()
        self.said = False
        self._fd, writer = os.pipe()
        os.set_blocking(self._fd, False)
        return writer

    def look(self) -> bool:
        """True once, when the worker has said `ready`."""
        if self._fd is None:
            return False
        with contextlib.suppress(BlockingIOError):
            self.said = os.read(self._fd, 64) == b"ready\n"
            self.close()
            return self.said
        return False

    def close(self) -> None:
        """Forget the pipe."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Supervisor:
    """One service: a signer and a worker, until a signal."""

    def __init__(
        self,
        settings: Settings,
        pin: Pin,
        probe: Probe,
        *,
        commands: Commands | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._settings = settings
        self._pin = pin
        self._commands = commands or Commands()
        self._timing = timing or Timing()
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._separation = Separation(reason="not decided")
        self._ready = _Ready()
        self._pulse = Pulse(probe, settings.signer_socket, self._timing.probe)
        self._told = ""
        # Children that are started again go on with the time that the service began with.
        self._clock_base = clock_base()
        self._last_step = 0.0
        run = settings.run_dir
        self._state_path = run / "state.json"
        self._signer = Child("signer", self._run_signer, run / "signer.pid", self._timing.backoff())
        self._worker = Child("worker", self._run_worker, run / "worker.pid", self._timing.backoff())

    def request_stop(self) -> None:
        """End in order; safe in signal handlers and other threads."""
        self._stopping.set()
        self._wake.set()

    def run(self) -> int:
        """Serve until a stop is requested; answers the exit status.

        Raises:
            HomeBusyError: The home is in use.
            ConfigError: The configured users or the socket are not to be had.
        """
        pid_file = self._settings.run_dir / "supervisor.pid"
        with home_lock(self._settings):
            # A killed supervisor's last word must not pass for this one's.
            self._state_path.unlink(missing_ok=True)
            self._separation = separate(self._settings, self._commands.worker[0])
            with contextlib.ExitStack() as stack:
                stack.callback(self._pin.clear)
                pins = stack.enter_context(all_pins(self._settings, self._pin))
                stack.callback(pid_file.unlink, missing_ok=True)
                pid_file.write_text(f"{os.getpid()}\n", encoding="ascii")
                self._socket = SignerSocket(self._settings.signer_socket, self._separation.worker)
                stack.callback(self._socket.remove)
                self._tokens = TokenProcesses(
                    self._settings,
                    pins,
                    self._separation,
                    backoff=self._timing.backoff,
                    start_seconds=self._timing.signer_start,
                )
                stack.callback(self._tokens.close)
                stack.callback(self._end_at_once)
                self._tell_separation()
                return self._supervise()

    def _supervise(self) -> int:
        self._tokens.start()
        self._signer.start()
        self._worker.start()
        self._pulse.start()
        while not self._step():
            self._wake.wait(self._timing.tick)
            self._wake.clear()
        _log.info("service.stopped")
        misconfigured = self._worker.state is ChildState.MISCONFIGURED
        return EXIT_ENVIRONMENT if misconfigured else EXIT_OK

    def _step(self) -> bool:
        """Look after the children once; true when the service has ended."""
        stopping = self._stopping.is_set()
        # A draining worker needs its signer and tokens: they are restarted until it is gone.
        self._tokens.watch(restart=not stopping or self._worker.alive)
        self._signer.watch(restart=not stopping or self._worker.alive)
        self._worker.watch(restart=not stopping)
        self._check_pulse()
        if self._signer.state in {ChildState.PIN_REFUSED, ChildState.MISCONFIGURED}:
            self._socket.remove()
        if self._ready.look():
            _log.info("worker.ready", public_url=self._settings.public_url)
        if self._worker.state is ChildState.MISCONFIGURED:
            self._stopping.set()
        drain = self._settings.limits.drain_seconds + self._timing.worker_margin
        ended = (
            stopping
            and self._worker.stop(drain)
            and self._signer.stop(STOP_GRACE)
            and self._tokens.stop(STOP_GRACE)
        )
        self._tell_state()
        return ended

    def _check_pulse(self) -> None:
        """Kill a signer that has given no sign of life for too long."""
        now, running = monotonic(), self._signer.alive
        slept = now - self._last_step > max(1.0, 10 * self._timing.tick)
        self._last_step = now
        (self._pulse.wanted.set if running else self._pulse.wanted.clear)()
        if slept:  # this process was stopped itself, so the silence says nothing of the signer
            self._pulse.last_answer = max(self._pulse.last_answer, now - self._timing.probe)
        answered = self._pulse.last_answer > self._signer.started_at
        limit = self._settings.signer.wedge_seconds if answered else self._timing.signer_start
        silence = now - max(self._pulse.last_answer, self._signer.started_at)
        if running and silence > limit:
            _log.error("signer.wedged", silent_seconds=round(silence, 1))
            self._signer.kill()

    def _run_signer(self) -> subprocess.Popen[bytes]:
        return start_signer(
            self._settings,
            self._pin,
            self._commands.signer,
            self._socket.fd,
            self._separation,
            clock_base=self._clock_base,
        )

    def _run_worker(self) -> subprocess.Popen[bytes]:
        writer = self._ready.renew()
        try:
            flags = ["--config", str(self._settings.path), "--ready-fd", str(writer)]
            flags += ["--clock-base", str(self._clock_base)]
            flags += ["--own-user"] if self._separation.separated else []
            return spawn(
                [*self._commands.worker, *flags],
                fds=(writer,),
                account=self._separation.worker,
                environment={},
            )
        finally:
            os.close(writer)

    def _tell_separation(self) -> None:
        if self._separation.separated:
            _log.info("service.separated")
        else:
            _log.warning("service.not-separated", reason=self._separation.reason)

    def _tell_state(self) -> None:
        """Write `run/state.json` when something has changed."""
        text = json.dumps(
            {
                "signer": {"state": self._signer.state, "restarts": self._signer.restarts},
                "worker": {
                    "state": self._worker.state,
                    "restarts": self._worker.restarts,
                    "ready": self._ready.said and self._worker.alive,
                },
                "tokens": self._tokens.states(),
                "separated": self._separation.separated,
                "not_separated_because": self._separation.reason,
            }
        )
        if text != self._told:
            new = self._state_path.with_suffix(".new")
            with contextlib.suppress(OSError):  # a full disk: said at the next step, or later
                new.write_text(text + "\n", encoding="utf-8")
                new.chmod(0o644)  # the worker reads it, for /readyz
                new.replace(self._state_path)
                self._told = text

    def _end_at_once(self) -> None:
        """After an error in here: leave no child behind."""
        for child in (self._worker, self._signer):
            child.kill()
            while child.alive:
                child.watch(restart=False)
                sleep(0.01)


def serve(
    settings: Settings,
    pin: Pin,
    probe: Probe,
    *,
    commands: Commands | None = None,
    timing: Timing | None = None,
) -> int:
    """Run the service until SIGTERM or SIGINT, in order; answers the exit status.

    Raises:
        ConfigError: As `Supervisor.run` says.
    """
    harden()
    supervisor = Supervisor(settings, pin, probe, commands=commands, timing=timing)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.request_stop())
    return supervisor.run()
