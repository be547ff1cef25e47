"""Running services: one prepared home for all, a copy of it for each module; one demonstration."""

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.running import KMS, Home, Service, prepare, reachable_directory, running

MakeHome = Callable[..., Home]


def _once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """A directory that is built once a run, even where several processes run the tests."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    made, done = base / name, base / f"{name}.done"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            made.mkdir()
            build(made)
            done.touch()
    return made


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with its ceremony held and its clients made; nobody runs it, tests copy it."""
    return Home(_once(tmp_path_factory, "prepared", prepare))


@pytest.fixture(scope="session")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `kms demo --dir` left; tests only read it. Beside it the home of the service it ran."""

    def demonstrate(folder: Path) -> None:
        command = [KMS, "demo", "--dir", str(folder / "record")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / "output").write_text(done.stdout)

    return _once(tmp_path_factory, "demonstration", demonstrate) / "record"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """The module's own directory, which the service's users can pass through."""
    with reachable_directory() as made:
        yield made


@pytest.fixture(scope="module")
def service(prepared: Home, folder: Path) -> Iterator[Service]:
    """The module's own running service."""
    with running(prepared.copy(folder / "module")) as made:
        yield made


@pytest.fixture
def new_home(prepared: Home) -> Iterator[MakeHome]:
    """Makes homes of a test's own, with numbers of `kms.toml` set."""
    with ExitStack() as stack:

        def make(**values: int) -> Home:
            root = stack.enter_context(reachable_directory()) / "own"
            home = prepared.copy(root)
            home.configure(**values)
            return home

        yield make
