"""One token for a local command: a process of its own for it, as in service, and no home needed.

The command itself loads no module (P6): it asks a survey, which nobody logs in for, and a token
process, which gets the PIN through a pipe and is ended with the command.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Self

from hsm_drivers.hardening import close_to_inspection, forbid_core_dumps
from hsm_drivers.pool.link import Link
from hsm_drivers.pool.tokens import Place, PoolOfTokens
from hsm_drivers.ports import Driver
from hsm_drivers.surveys import MAX_SURVEY, Survey, SurveyError, decode
from kms.config import ConfigError, child_environment
from kms.processes.accounts import Separation, package_root
from kms.processes.children import STOP_GRACE, Backoff, ChildState
from kms.processes.pin import Pin, PinError
from kms.processes.token_processes import TokenProcess, interpreter
from kms.settings import Token

START_S = 60.0
"""How long loading a module and logging in may take."""
SURVEY_S = 60.0
_LOOK_S = 0.02


class TokenAccessError(ConfigError):
    """The token cannot be used from here; the message says why, and what to do."""


def surveyed(token: Token, separation: Separation) -> Survey:
    """What the token's module says of itself and its tokens, without a login.

    Args:
        token: Names module, environment and chroot; its label is not looked at.
        separation: Who the module runs as.

    Raises:
        TokenAccessError: The module does not answer, or ended its process.
    """
    argv = [*interpreter(token, separation.signer, "hsm_drivers.pkcs11.survey"), str(token.module)]
    account = None if token.chroot else separation.signer
    try:
        done = subprocess.run(
            argv,
            env=child_environment({"PYTHONPATH": str(package_root()), **token.environment}),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SURVEY_S,
            check=False,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=account.groups if account else None,
        )
        return decode(_answer(done, token.module))
    except subprocess.TimeoutExpired:
        raise TokenAccessError(
            f"the PKCS#11 module {token.module} gave no answer in {SURVEY_S:.0f} s"
        ) from None
    except (OSError, SurveyError) as error:
        raise TokenAccessError(f"the PKCS#11 module {token.module}: {error}") from error


def _answer(done: subprocess.CompletedProcess[bytes], module: Path) -> bytes:
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise TokenAccessError(f"the PKCS#11 module {module} ended its process ({name})")
    if done.returncode:
        said = done.stderr[-MAX_SURVEY:].decode("utf-8", "replace").strip()
        raise TokenAccessError(said.splitlines()[-1] if said else f"{module}: no answer")
    return done.stdout


def holder(token: Token) -> int | None:
    """A process that has the token's module loaded with the same configuration, if one is seen.

    Root sees all processes, others their own. A home's lock says it better, where there is a home.
    """
    wanted = {f"{name}={value}".encode() for name, value in token.environment.items()}
    root = token.chroot or Path("/")
    module = str((root / token.module.relative_to("/")).resolve()).encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            loaded = module in (process / "maps").read_bytes()
            if loaded and wanted <= set((process / "environ").read_bytes().split(b"\0")):
                return int(process.name)
        except OSError:  # ended meanwhile, or another user's
            continue
    return None


class TokenAccess:
    """Makes token processes of one token, for as long as the `with` lasts.

    Attributes:
        token: What it serves.
        separation: Who its processes run as.
    """

    def __init__(self, token: Token, pin: Pin, separation: Separation) -> None:
        """Nothing is started yet."""
        self.token = token
        self._pin = pin
        self.separation = separation
        self._keepers: list[_Keeper] = []
        self._stack = contextlib.ExitStack()
        self._directory = Path()
        self._gate = -1
        self._count = 0

    def __enter__(self) -> Self:
        """Make a private directory for sockets."""
        forbid_core_dumps()
        close_to_inspection()
        made = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="kms-hsm-"))
        self._directory = Path(made)
        self._gate = os.memfd_create("token-gate")
        self._stack.callback(os.close, self._gate)
        return self

    def __exit__(self, *_: object) -> None:
        """End what was started."""
        self._stack.close()

    @property
    def crashes(self) -> int:
        """How often a process ended by itself after it had logged in."""
        return sum(keeper.restarts for keeper in self._keepers)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Driver]:
        """A further process that has logged in; should it die, it is started again.

        Raises:
            PinError: The token refused the PIN.
            TokenAccessError: The process ended, or gave no answer in time; it said why.
        """
        self._count += 1
        path = self._directory / f"token-{self._count}.sock"
        process = TokenProcess(
            path.stem, self.token, self._pin, self._gate, path, self.separation, Backoff()
        )
        keeper = _Keeper(process)
        self._keepers.append(keeper)
        keeper.start()
        try:
            keeper.await_login()
            link = Link("", path, self.token.call_seconds)
            pool = PoolOfTokens([Place("", self.token.label, (link,))], lambda _: {})
            with contextlib.closing(pool):
                _await_answer(pool)
                yield pool.driver("")
        finally:
            keeper.end()


def _await_answer(pool: PoolOfTokens) -> None:
    """A machine may be slow, and no call waits long for a token that never answered."""
    deadline = monotonic() + START_S
    while not pool.well(""):
        if monotonic() > deadline:
            raise TokenAccessError(f"the token gave no answer in {START_S:.0f} s")
        pool.tend()
        pool.sleep(_LOOK_S)


class _Keeper(threading.Thread):
    """Owns a token process: starts it, starts it again after a crash, ends it."""

    def __init__(self, process: TokenProcess) -> None:
        super().__init__(name="keeper", daemon=True)
        self._process = process
        self._ended = threading.Event()
        self._settled = threading.Event()
        self._state = ChildState.STOPPED

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return self._process.child.restarts

    def run(self) -> None:
        """Until it is told to end."""
        self._process.child.start()
        while not self._ended.wait(_LOOK_S):
            self._process.watch(
                restart=self._settled.is_set(), start_seconds=START_S, wedge_seconds=START_S
            )
            self._state = self._process.child.state
            if self._process.ready or not self._process.child.alive:
                self._settled.set()
        while not self._process.child.stop(STOP_GRACE):
            self._process.child.watch(restart=False)
            sleep(_LOOK_S)
        self._process.close()

    def await_login(self) -> None:
        """Return once the process has logged in.

        Raises:
            PinError: The token refused the PIN.
            TokenAccessError: The process ended, or it takes too long.
        """
        if not self._settled.wait(START_S):
            raise TokenAccessError(f"the token gave no answer in {START_S:.0f} s")
        if self._state is ChildState.PIN_REFUSED:
            raise PinError("the token refused the PIN; after a few wrong ones it locks itself")
        if self._state is not ChildState.RUNNING:
            raise TokenAccessError("the token's process ended; its message stands above")

    def end(self) -> None:
        """End the process; returns once it has."""
        self._ended.set()
        self.join()
