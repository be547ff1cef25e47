"""Tests against changed functions, each in a fork of a session in which all is collected already.

Most changes are inside a function, whose code can be exchanged where it stands: whoever imported
the function has the changed one. Only tests that call it are run, quick ones first; which these
are, a first run under a profiler tells.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest

from scripts.mutate.mutants import Mutant
from scripts.mutate.trials import ARGUMENTS, Outcome, await_child, bound

MAX_TESTS = 400
"""Of those that call a function, the quickest so many are tried."""


class InPlace:
    """A pytest plugin that judges mutants instead of running the session's tests.

    Args:
        module: Dotted name.
        path: Its file.
        mutants: Whose change is in a function.

    Attributes:
        outcomes: What became of each; None where it cannot be tried so.
    """

    def __init__(self, module: str, path: Path, mutants: Sequence[Mutant]) -> None:
        self.outcomes: list[Outcome | None] = []
        self._module = module
        self._path = str(path)
        self._mutants = mutants
        self._calls: dict[str, set[str]] = {}
        self._seconds: dict[str, float] = {}
        self._profiled: Path | None = None
        self._in_child = False

    def run(self, tests: Sequence[str], scratch: Path) -> list[Outcome | None]:
        """Judge all of them.

        Raises:
            RuntimeError: The tests fail without a change.
        """
        self._scratch = scratch
        pytest.main([*ARGUMENTS, f"--basetemp={scratch / 'tests'}", *tests], plugins=[self])
        if len(self.outcomes) != len(self._mutants):
            raise RuntimeError(f"the tests of {self._module} fail without a mutant: {tests}")
        return self.outcomes

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """In this process all forks are made; in a fork the loop goes on as ever."""
        gc.freeze()
        profile = self._scratch / "profile.json"
        child = os.fork()
        if child == 0:
            self._in_child, self._profiled = True, profile
            return None
        if await_child(child) is not Outcome.SURVIVED:
            return True
        found = json.loads(profile.read_text())
        calls, seconds = found["calls"], found["seconds"]
        items = {item.nodeid: item for item in session.items}
        for mutant in self._mutants:
            chosen = [name for name in calls.get(mutant.function, ()) if name in items]
            chosen = sorted(chosen, key=lambda name: seconds[name])[:MAX_TESTS]
            become = _exchange(self._module, mutant)
            if become is None or not chosen:
                self.outcomes.append(None if become is None else Outcome.SURVIVED)
                continue
            child = os.fork()
            if child == 0:
                self._in_child = True
                self._seconds = {name: seconds[name] for name in chosen}
                become()
                session.items[:] = [items[name] for name in chosen]
                return None
            self.outcomes.append(await_child(child))
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Under the profiler, set-up included; of a mutant, within its time."""
        if self._profiled is None:
            bound(self._seconds[item.nodeid])
            return (yield)
        begun = time.process_time()
        with self._profile(item.nodeid):
            result = yield
        self._seconds[item.nodeid] = time.process_time() - begun
        return result

    @contextmanager
    def _profile(self, name: str) -> Iterator[None]:
        def note(frame: FrameType, event: str, argument: Any) -> None:
            del argument
            if event == "call" and frame.f_code.co_filename == self._path:
                outermost = frame.f_code.co_qualname.split(".<locals>")[0]
                self._calls.setdefault(outermost, set()).add(name)

        sys.setprofile(note)
        try:
            yield
        finally:
            sys.setprofile(None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> None:
        """A mutant is killed by the first error; nobody wants to read of it."""
        if (
            self._in_child
            and call.excinfo
            and not call.excinfo.errisinstance(pytest.skip.Exception)
        ):
            os._exit(1)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """The profiled run tells what it saw; a fork ends here."""
        if self._profiled is not None:
            calls = {function: sorted(names) for function, names in self._calls.items()}
            document = {"calls": calls, "seconds": self._seconds}
            self._profiled.write_text(json.dumps(document))
        if self._in_child:
            os._exit(int(exitstatus))


def _exchange(module: str, mutant: Mutant) -> Callable[[], None] | None:
    """Makes the loaded function the mutant; None if its change is not in the function's code."""
    function = _function(sys.modules[module], mutant.function.split("."))
    if function is None:
        return None
    path = function.__code__.co_filename
    changed = _code(compile(mutant.source, path, "exec", dont_inherit=True), mutant.function)
    if (
        changed is None
        or changed.co_freevars != function.__code__.co_freevars
        or changed == function.__code__
    ):
        return None

    def become() -> None:
        function.__code__ = changed

    return become


def _function(holder: Any, names: Sequence[str]) -> FunctionType | None:
    found = holder
    for name in names:
        found = vars(found).get(name)
        if found is None:
            return None
    found = getattr(found, "fget", None) or getattr(found, "__func__", found)
    found = getattr(found, "__wrapped__", found)
    return found if isinstance(found, FunctionType) else None


def _code(within: CodeType, qualname: str) -> CodeType | None:
    for constant in within.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_qualname == qualname:
                return constant
            if qualname.startswith(f"{constant.co_qualname}."):
                return _code(constant, qualname)
    return None
