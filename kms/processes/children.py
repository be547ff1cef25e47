"""Child processes of the supervisor: how they start, when they start again, how they end."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from time import monotonic

import structlog

from kms.config import child_environment
from kms.processes.accounts import Account, package_root

EXIT_PIN_REFUSED = 77
EXIT_MISCONFIGURED = 78
STOP_GRACE = 10.0
"""Seconds that a signer or token process gets to end what it has begun."""

_log = structlog.get_logger()


class ChildState(StrEnum):
    """Where a child stands; the two refusals are final until the service is started again."""

    STOPPED = "stopped"
    RUNNING = "running"
    RESTARTING = "restarting"
    PIN_REFUSED = "pin-refused"
    MISCONFIGURED = "misconfigured"


_FINAL = {
    EXIT_PIN_REFUSED: ChildState.PIN_REFUSED,
    EXIT_MISCONFIGURED: ChildState.MISCONFIGURED,
}


@dataclass(slots=True)
class Backoff:
    """Delays before restarts, in seconds: doubling, and small again after a healthy life."""

    first: float = 0.2
    most: float = 10.0
    healthy_after: float = 60.0
    _next: float = field(default=0.0, init=False)

    def delay(self, lived: float) -> float:
        """How long to wait after a life of `lived` seconds."""
        if lived >= self.healthy_after or self._next == 0.0:
            self._next = self.first
        now, self._next = self._next, min(self._next * 2, self.most)
        return now


def spawn(
    argv: Sequence[str],
    *,
    fds: Sequence[int],
    account: Account | None,
    environment: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    """Start a child that inherits nothing but standard error and the given descriptors.

    It is exec'd, in a session of its own (a terminal's Ctrl-C reaches the supervisor alone), can
    gain no privileges, and is killed when this process dies: a successor finds ports and token
    free. The module search path excludes the current directory.
    """
    return subprocess.Popen(
        [*_guard(), *argv],
        pass_fds=tuple(fds),
        env=child_environment({"PYTHONPATH": str(package_root()), **environment}),
        cwd="/",
        umask=0o077,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=account.groups if account else None,
    )


def _guard() -> list[str]:
    """What stands before a child's command.

    Who dies between its fork and the child's request to die with it is not noticed by the kernel
    any more: so the child looks once, after that request, whether its parent is still this one.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    same_parent = 'test "$PPID" = "$0" && exec "$@"'
    privileges = [setpriv, "--no-new-privs", "--pdeathsig", "KILL"]
    return [*privileges, "/bin/sh", "-c", same_parent, str(os.getpid())]


class Child:
    """One supervised process. Only the supervisor's main thread touches it."""

    def __init__(
        self,
        name: str,
        start: Callable[[], subprocess.Popen[bytes]],
        pid_file: Path,
        backoff: Backoff,
    ) -> None:
        self.name = name
        self.state = ChildState.STOPPED
        self.started_at = 0.0
        self.restarts = 0
        self._start = start
        self._pid_file = pid_file
        self._backoff = backoff
        self._process: subprocess.Popen[bytes] | None = None
        self._due = 0.0
        self._stop_by: float | None = None

    @property
    def alive(self) -> bool:
        """Whether a process was running at the last `watch`."""
        return self._process is not None

    def start(self) -> None:
        """Start a process now."""
        self.started_at = monotonic()
        try:
            self._process = self._start()
        except (OSError, subprocess.SubprocessError) as error:
            _log.error("child.start-failed", child=self.name, error_type=type(error).__name__)
            self._schedule(0.0)
            return
        self.state = ChildState.RUNNING
        with contextlib.suppress(OSError):  # a full disk must not end the service
            _write_pid(self._pid_file, self._process.pid)
        _log.info("child.started", child=self.name, pid=self._process.pid, restarts=self.restarts)

    def watch(self, *, restart: bool) -> None:
        """Notice an exit; start again when it is due, if `restart`."""
        if self._process is not None:
            code = self._process.poll()
            if code is not None:
                self._ended(code)
        elif restart and self.state is ChildState.RESTARTING and monotonic() >= self._due:
            self.restarts += 1
            self.start()

    def kill(self) -> None:
        """SIGKILL; the next `watch` notices."""
        if self._process is not None:
            self._process.kill()

    def stop(self, grace: float) -> bool:
        """Ask to end, insist after `grace` seconds; true once it has ended. Call repeatedly."""
        if self._process is None:
            self.state = _settled(self.state)
            return True
        if self._stop_by is None:
            self._stop_by = monotonic() + grace
            self._process.terminate()
        elif monotonic() > self._stop_by:
            _log.error("child.killed", child=self.name, reason="did not end in time", grace=grace)
            self._process.kill()
        return False

    def _ended(self, code: int) -> None:
        lived = monotonic() - self.started_at
        self._process = None
        self._pid_file.unlink(missing_ok=True)
        if self._stop_by is not None:
            self.state = ChildState.STOPPED
            _log.info("child.stopped", child=self.name, status=code)
        elif code in _FINAL:
            self.state = _FINAL[code]
            _log.error("child.gave-up", child=self.name, state=self.state, status=code)
        else:
            self._schedule(lived)
            wait = round(self._due - monotonic(), 1)
            _log.warning("child.exited", child=self.name, status=code, restart_in=wait)

    def _schedule(self, lived: float) -> None:
        self.state = ChildState.RESTARTING
        self._due = monotonic() + self._backoff.delay(lived)


def _settled(state: ChildState) -> ChildState:
    return state if state in _FINAL.values() else ChildState.STOPPED


def _write_pid(path: Path, pid: int) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(f"{pid}\n", encoding="ascii")
    temporary.replace(path)
