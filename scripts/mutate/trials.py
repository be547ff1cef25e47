"""Tests against mutants, each in a fork: nothing is written, foreign code is imported once.

What the tests import of foreign packages is found out by a first run without a change, which must
pass. This process then imports it, so that a fork begins with all but the project's own modules;
these it imports itself, with the changed source in the place of the file's.
"""

import contextlib
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import CodeType, ModuleType
from typing import TextIO

ROOT = Path(__file__).resolve().parents[2]
OURS = ("hsm_drivers", "kms", "pki", "policies", "tests", "test_")
MEMORY = 4 << 30
"""Bytes that a mutant may take before it counts as killed."""
PATIENCE, GRACE = 3, 1
"""A mutant that takes so many times the processor's seconds of no mutant, and `GRACE` more, is
killed: a busy machine lets nothing look like a loop without end."""
STANDSTILL = 120
"""Seconds after which one is killed that takes no processor, either."""
EXAMPLES = 50
ARGUMENTS = [
    *("-x", "-q", "--no-header", "--tb=no", "-rN"),
    *("-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist"),
    *("-o", "timeout=0", "-W", "ignore::pytest.PytestAssertRewriteWarning"),
    *("-W", "ignore::pytest.PytestConfigWarning"),
]


def fix_examples() -> None:
    """Hypothesis tries the same, few examples every time."""
    from hypothesis import settings  # noqa: PLC0415 - imported as late as the tests

    settings.register_profile(
        "mutate", derandomize=True, database=None, deadline=None, max_examples=EXAMPLES
    )
    settings.load_profile("mutate")


class Outcome(StrEnum):
    """TIMEOUT is a way of being killed: a loop without end, or all memory taken."""

    KILLED = "killed"
    SURVIVED = "survived"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Bench:
    """What a mutant of one module is tried with.

    Attributes:
        module: Dotted name.
        path: Its file.
        tests: Arguments for pytest.
    """

    module: str
    path: Path
    tests: Sequence[str]

    def prepare(self) -> float:
        """Run the tests without a change and import what they needed; answers CPU seconds.

        Raises:
            RuntimeError: They fail.
        """
        read, write = os.pipe()
        child = self._fork(None, names=write)
        os.close(write)
        with open(read) as names:  # noqa: PTH123 - a descriptor
            needed = names.read().split()
        _, status, usage = os.wait4(child, 0)
        if status:
            raise RuntimeError(f"the tests of {self.module} fail without a mutant: {self.tests}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Hypothesis does not like to be imported so early
            for name in needed:
                with contextlib.suppress(Exception):  # some exist only inside of others
                    importlib.import_module(name)
        gc.freeze()
        return usage.ru_utime + usage.ru_stime

    def judge(self, source: str, seconds: float) -> Outcome:
        """Whether the tests, which take `seconds`, notice this source in the module's place."""
        return await_child(self._fork(source, seconds))

    def _fork(self, source: str | None, seconds: float = 0, names: int | None = None) -> int:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if source is not None:
                    bound(seconds)
                code = self._run(source)
                if names is not None:
                    with open(names, "w") as told:  # noqa: PTH123 - a descriptor
                        _tell_foreign(told)
            finally:
                os._exit(code)
        return child

    def _run(self, source: str | None) -> int:
        silence()
        if source is not None:
            sys.meta_path.insert(0, _Instead(self.module, self.path, source))
        import pytest  # noqa: PLC0415 - after the fork: importing it is part of a run

        return int(pytest.main([*ARGUMENTS, *self.tests]))


def await_child(child: int) -> Outcome:
    """What became of a fork."""
    until = time.monotonic() + STANDSTILL
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
            return Outcome.TIMEOUT
        if pid:
            return Outcome.KILLED if status else Outcome.SURVIVED
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return Outcome.TIMEOUT


def bound(seconds: float) -> None:
    """Let what this process does next take no more than what takes so many seconds may."""
    signal.setitimer(signal.ITIMER_PROF, PATIENCE * seconds + GRACE)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def silence() -> None:
    """Let this process print nothing."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)


def _tell_foreign(told: TextIO) -> None:
    for name in list(sys.modules):
        if not name.startswith((*OURS, "__", "conftest")):
            told.write(f"{name}\n")


class _Instead(importlib.abc.MetaPathFinder):
    """Finds one module, with another source."""

    def __init__(self, module: str, path: Path, source: str) -> None:
        self._module = module
        self._loader = _Changed(module, str(path))
        self._loader.changed = source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname != self._module:
            return None
        return importlib.util.spec_from_file_location(
            fullname, self._loader.path, loader=self._loader
        )


class _Changed(importlib.machinery.SourceFileLoader):
    changed: str

    def get_code(self, fullname: str) -> CodeType:
        del fullname
        return compile(self.changed, self.path, "exec", dont_inherit=True)
