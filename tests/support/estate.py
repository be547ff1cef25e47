"""Tokens behind real processes, looked after as the supervisor does it, and a pool over them."""

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hsm_drivers.calls import SignCall, TokenCall
from hsm_drivers.errors import HsmError
from hsm_drivers.pool.tokens import PoolOfTokens
from hsm_drivers.ports import KeyLabel, KeyRecord
from hsm_drivers.tokens import Job, drained
from kms.config import parse
from kms.processes.accounts import Separation
from kms.processes.children import Backoff
from kms.processes.opening import pool_of
from kms.processes.pin import Pin
from kms.processes.token_processes import TokenProcesses
from kms.settings import Settings
from tests.support.faulty_token import FaultyModule
from tests.support.softhsm import SoftHsm, make_token

LOOK_S = 0.01
ROOT = Path(__file__).parents[2]


def clone(token: SoftHsm, directory: Path) -> SoftHsm:
    """The token with all its keys again, as a maker's own backup would make it."""
    shutil.copytree(token.directory, directory)
    conf = directory / "softhsm2.conf"
    conf.write_text(conf.read_text().replace(str(token.directory), str(directory)))
    return SoftHsm(token.module, token.label, token.pin, conf, directory)


def settings_of(
    home: Path,
    tokens: Mapping[str, SoftHsm],
    shim: FaultyModule | None = None,
    wedge_seconds: int = 10,
    **own: object,
) -> Settings:
    """Of a home with these tokens; the one called "" is the service's own."""

    def table(token: SoftHsm) -> dict[str, object]:
        failing = shim.environment if shim is not None and token.module == str(shim.path) else {}
        environment = {"SOFTHSM2_CONF": str(token.conf), **failing}
        return {"label": token.label, "module": token.module, "environment": environment, **own}

    tables = {name: table(token) for name, token in tokens.items()}
    given = {"token": tables.pop(""), "tokens": tables}
    return parse(
        home / "kms.toml",
        {
            "name": "log.example",
            "public_url": "http://x.example",
            "signer": {"wedge_seconds": wedge_seconds},
            **given,
        },
    )


@dataclass
class Estate:
    """Running processes; `records` is what the signer would know."""

    settings: Settings
    pins: dict[str, Pin]
    records: list[KeyRecord] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def pool(self) -> PoolOfTokens:
        return pool_of(self.settings, lambda: self.records)

    def keep(self, ready: threading.Event) -> None:
        """The supervisor's part, in a thread of its own."""
        keeper = TokenProcesses(
            self.settings,
            self.pins,
            Separation(reason="a test"),
            backoff=lambda: Backoff(0.02, 0.1, 0.5),
        )
        self.keeper = keeper
        try:
            keeper.start()
            ready.set()
            while not self._over.wait(LOOK_S):
                keeper.watch(restart=True)
        finally:
            ready.set()
            keeper.close()

    def pid(self, name: str) -> int | None:
        """Of a process, as its pid file has it."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int((self.settings.tokens_dir / f"{name}.pid").read_text())
        return None

    def end(self) -> None:
        self._over.set()


@contextlib.contextmanager
def running(
    home: Path,
    tokens: Mapping[str, SoftHsm],
    pins: Mapping[str, str] | None = None,
    **own: Any,
) -> Iterator[Estate]:
    """The tokens' processes, until the block ends."""
    settings = settings_of(home, tokens, **own)
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    said = pins or {}
    estate = Estate(
        settings,
        {
            name: Pin(bytearray(said.get(name, token.pin.reveal()).encode()))
            for name, token in tokens.items()
        },
    )
    ready = threading.Event()
    thread = threading.Thread(target=estate.keep, args=(ready,))
    thread.start()
    try:
        assert ready.wait(20)
        yield estate
    finally:
        estate.end()
        thread.join(20)


def call(pool: PoolOfTokens, jobs: Sequence[Job]) -> list[bytes | HsmError]:
    return drained(pool.perform(jobs))


def signing(label: str, *places: str, count: int = 1) -> list[Job]:
    """Messages to sign, each another one."""
    return [Job(places, SignCall(KeyLabel(label), b"message %d" % at)) for at in range(count)]


def eventually(pool: PoolOfTokens, reached: Callable[[], bool], seconds: float = 20.0) -> None:
    """Tend the pool until something is so."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it did not happen in time"
        pool.tend()
        pool.sleep(LOOK_S)


__all__ = ["Estate", "TokenCall", "call", "clone", "eventually", "make_token", "running", "signing"]
