"""Token processes: how they start, how they show that they live, how they start again.

Each gets as inherited descriptors a socket of its own in `run/tokens`, the PIN in a pipe, a pipe
for its sign of life, and the file in memory by which the processes of one token agree that a
refused PIN is not tried again (`hsm_drivers.login`).
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import structlog

from kms.config import ConfigError
from kms.processes.accounts import Account, Separation
from kms.processes.children import STOP_GRACE, Backoff, Child, ChildState, spawn
from kms.processes.pin import Pin, PinError
from kms.processes.sockets import SignerSocket
from kms.settings import Settings, Token, shown

MODULE = "hsm_drivers.token_process"
_CHROOT_PYTHON = Path("/usr/bin/python3")
_LOOK_S = 0.05

_log = structlog.get_logger()


class TokenProcess:
    """One process of one token."""

    def __init__(
        self,
        name: str,
        token: Token,
        pin: Pin,
        gate: int,
        path: Path,
        separation: Separation,
        backoff: Backoff,
    ) -> None:
        """Bind the socket; the process itself starts with `child.start`.

        Args:
            name: Of the process, as its socket's.
            token: What it serves.
            pin: Of the token.
            gate: Descriptor of the file that the token's processes share.
            path: Of the socket.
            separation: Who it runs as, and who may connect.
            backoff: Delays between its lives.
        """
        self.name = name
        self.socket = SignerSocket(path, separation.signer, shared=False)
        self.child = Child(f"token {name}", self._run, path.with_suffix(".pid"), backoff)
        self._token = token
        self._pin = pin
        self._gate = gate
        self._separation = separation
        self._beats: int | None = None
        self._last_beat: float | None = None

    @property
    def ready(self) -> bool:
        """Whether it lives and has logged in."""
        return self.child.alive and self._last_beat is not None

    def watch(self, *, restart: bool, start_seconds: float, wedge_seconds: float) -> None:
        """Notice an exit or a silence that lasts too long; start again when due, if `restart`."""
        self._listen()
        self.child.watch(restart=restart)
        if self.child.state in {ChildState.PIN_REFUSED, ChildState.MISCONFIGURED}:
            self.socket.remove()
        beaten = self._last_beat is not None
        silence = monotonic() - (self._last_beat or self.child.started_at)
        if self.child.alive and silence > (wedge_seconds if beaten else start_seconds):
            _log.error("token.wedged", child=self.name, silent_seconds=round(silence, 1))
            self.child.kill()

    def close(self) -> None:
        """Take socket and pipe away; the process has ended."""
        self.socket.remove()
        self._renew_beats(None)

    def _listen(self) -> None:
        if self._beats is not None:
            with contextlib.suppress(BlockingIOError):
                if os.read(self._beats, 4096):
                    self._last_beat = monotonic()

    def _renew_beats(self, reader: int | None) -> None:
        if self._beats is not None:
            os.close(self._beats)
        self._beats, self._last_beat = reader, None

    def _run(self) -> subprocess.Popen[bytes]:
        reader, beats = os.pipe()
        os.set_blocking(reader, False)
        self._renew_beats(reader)
        pin = self._pin.pipe()
        account = self._separation.signer
        inherited = {"socket": self.socket.fd, "pin": pin, "gate": self._gate, "beat": beats}
        try:
            return spawn(
                command(self.name, self._token, account, inherited),
                fds=tuple(inherited.values()),
                account=None
                if self._token.chroot
                else account,  # after chroot(2), which wants root
                environment=self._token.environment,
            )
        finally:
            os.close(pin)
            os.close(beats)


def command(
    name: str, token: Token, account: Account | None, inherited: Mapping[str, int]
) -> list[str]:
    """What is run: in its chroot, if the token has one, and as the signer's user."""
    argv = [*interpreter(token, account, MODULE), "--name", f"token {name}"]
    argv += ["--module", str(token.module), "--label", token.label]
    argv += [] if token.serial is None else ["--serial", token.serial]
    argv += [] if token.profile is None else ["--profile", token.profile]
    argv += ["--processes", str(token.signers)]
    for what, descriptor in inherited.items():
        argv += [f"--{what}-fd", str(descriptor)]
    for uid in sorted({os.geteuid(), *([account.uid] if account else [])}):
        argv += ["--allow-uid", str(uid)]
    return [*argv, "--parent", str(os.getpid())]


def interpreter(token: Token, account: Account | None, module: str) -> list[str]:
    """What runs a module of ours where the token's library is at home: in its chroot, if any."""
    inside = token.chroot is not None
    python = token.python or (_CHROOT_PYTHON if inside else Path(sys.executable))
    argv = [str(python), "-P", "-m", module]
    return [*_into(token.chroot, account), *argv] if token.chroot is not None else argv


def _into(root: Path, account: Account | None) -> list[str]:
    """chroot(8), which changes root directory and user in this order."""
    argv = [shutil.which("chroot") or "/usr/sbin/chroot"]
    if account is not None:
        groups = ",".join(map(str, account.groups))
        argv += [f"--userspec={account.uid}:{account.gid}", f"--groups={groups}"]
    return [*argv, str(root)]


class TokenProcesses:
    """Those of all tokens. One thread uses it, the one that made it."""

    def __init__(
        self,
        settings: Settings,
        pins: Mapping[str, Pin],
        separation: Separation,
        *,
        backoff: Callable[[], Backoff] = Backoff,
        start_seconds: float = 60.0,
    ) -> None:
        """Make the sockets; a home whose signer opens the only token itself has none.

        Raises:
            ConfigError: A socket cannot be made, or a chroot is wanted and this is not root.
        """
        self._start_seconds = start_seconds
        self._wedge_seconds = float(settings.signer.wedge_seconds)
        self._gates: list[int] = []
        self._of: dict[str, list[TokenProcess]] = {}
        if not settings.pooled:
            return
        private_directory(settings.tokens_dir, separation.signer)
        for name, token in settings.estate.items():
            _refuse_without_root(name, token)
            gate = os.memfd_create(f"token-{shown(name)}")
            self._gates.append(gate)
            self._of[name] = [
                TokenProcess(path.stem, token, pins[name], gate, path, separation, backoff())
                for path in settings.token_sockets(name)
            ]

    def start(self) -> None:
        """Start all of them."""
        for process in self._all:
            process.child.start()

    def watch(self, *, restart: bool) -> None:
        """Look after all of them once."""
        for process in self._all:
            process.watch(
                restart=restart,
                start_seconds=self._start_seconds,
                wedge_seconds=self._wedge_seconds,
            )

    def stop(self, grace: float) -> bool:
        """Ask all to end, insist after `grace` seconds; true once all have. Call repeatedly."""
        ended = [process.child.stop(grace) for process in self._all]
        return all(ended)

    def close(self) -> None:
        """Leave nothing behind: no process, no socket, no descriptor."""
        for process in self._all:
            process.child.kill()
            while process.child.alive:
                process.child.watch(restart=False)
                sleep(0.01)
            process.close()
        for gate in self._gates:
            os.close(gate)
        self._gates, self._of = [], {}

    def refused(self) -> list[str]:
        """Names of the tokens that refused their PIN, as people say them."""
        return [
            shown(name)
            for name, processes in self._of.items()
            if any(process.child.state is ChildState.PIN_REFUSED for process in processes)
        ]

    def settled(self) -> bool:
        """Whether every process has logged in, or ended at least once."""
        return all(
            process.ready or process.child.state is not ChildState.RUNNING for process in self._all
        )

    def states(self) -> dict[str, Any]:
        """For `run/state.json`: by the tokens' names as people say them."""
        return {
            shown(name): {
                "state": _worst([process.child.state for process in processes]),
                "running": sum(process.ready for process in processes),
                "processes": len(processes),
                "restarts": sum(process.child.restarts for process in processes),
            }
            for name, processes in self._of.items()
        }

    @property
    def _all(self) -> list[TokenProcess]:
        return [process for processes in self._of.values() for process in processes]


def _worst(states: Sequence[ChildState]) -> ChildState:
    order = (ChildState.PIN_REFUSED, ChildState.MISCONFIGURED, ChildState.RESTARTING)
    return next((state for state in order if state in states), states[0])


def _refuse_without_root(name: str, token: Token) -> None:
    if token.chroot is not None and os.geteuid() != 0:
        raise ConfigError(
            f"token {shown(name)} has a chroot, {token.chroot}: start the service as root"
        )


def private_directory(directory: Path, owner: Account | None) -> None:
    """A directory of this process's user or the owner's, 0700, without what an earlier run left.

    Raises:
        ConfigError: It cannot be made, or something else is there.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(fd, 0o700)
            if owner is not None:
                os.fchown(fd, owner.uid, owner.gid)
            for entry in os.listdir(fd):  # noqa: PTH208 - by descriptor: nobody swaps it
                os.unlink(entry, dir_fd=fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise ConfigError(f"{directory} cannot be made: {error.strerror}; remove it") from error


@contextlib.contextmanager
def for_a_while(
    settings: Settings, pins: Mapping[str, Pin], separation: Separation, patience: float
) -> Iterator[None]:
    """The token processes of a local command, each started once.

    Raises:
        PinError: A token refused its PIN.
        ConfigError: As `TokenProcesses`.
    """
    tokens = TokenProcesses(settings, pins, separation, start_seconds=patience)
    try:
        tokens.start()
        deadline = monotonic() + patience
        while not tokens.settled() and monotonic() < deadline:
            sleep(_LOOK_S)
            tokens.watch(restart=False)
        refused = tokens.refused()
        if refused:
            raise PinError(
                f"token {', '.join(refused)} refused the PIN; after a few wrong ones it locks"
                " itself"
            )
        yield
        until = monotonic() + STOP_GRACE
        while not tokens.stop(STOP_GRACE) and monotonic() < until:
            sleep(_LOOK_S)
            tokens.watch(restart=False)
    finally:
        tokens.close()
