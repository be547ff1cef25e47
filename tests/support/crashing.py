"""A service whose processes kill themselves (SIGKILL) at the step that a test names.

`python -m tests.support.crashing serve --home DIR` is `kms serve` with fail points in its children
and shorter back-off; the children are this module, too. `quick` instead of `serve` has the shorter
back-off alone. Steps are numbered by how often they are passed, since some are passed many times in
one batch:

    worker:order.<step>, worker:commit.<step>, worker:note.<step>   transactions of the ledger,
        with begin, write, before-commit and after-commit for <step>
    worker:<key>.ask, worker:<key>.told      before and after the signer signs with a key
    signer:<key>.journal, .journalled        before and after the journal is durable
    signer:<key>.sign, .signed               before and after the token signs
    signer:head.remember, .remembered        before and after the new head is durable
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from hsm_drivers import state as signer_state
from hsm_drivers.client import SignerClient
from hsm_drivers.errors import HsmError
from hsm_drivers.journal import Intent, Journal
from hsm_drivers.memory import SignedHead
from hsm_drivers.ports import KeyLabel, Statement
from hsm_drivers.state import SignerState
from kms import bootstrap
from kms.config import load
from kms.domain.records import LogId
from kms.logs import configure
from kms.processes.pin import obtain_pin
from kms.processes.supervisor import Commands, Timing, serve
from kms.services import upkeep
from kms.services.ports import Change, Conflict, Placed, Unit
from kms.storage.sql import SqlLedger

CHILD = (sys.executable, "-P", "-m", "tests.support.crashing")
COMMAND = (*CHILD, "serve")
QUICK_COMMAND = (*CHILD, "quick")
QUICK = Timing(tick=0.02, probe=0.2, backoff_first=0.05, backoff_most=0.2)
ORDER = "fail-point"


def arm(home: Path, point: str, passing: int = 1) -> None:
    """Let the process that runs now die when it passes the point for the n-th time."""
    new = home / f"{ORDER}.new"
    new.write_text(f"{point} {passing}")
    new.chmod(0o644)
    new.replace(home / ORDER)


class FailPoints:
    """Obeys the order in a home, if it was given after this process began."""

    def __init__(self, process: str, home: Path) -> None:
        self._process = process
        self._path = home / ORDER
        self._since = time.time_ns()
        self._given = 0
        self._passed = 0

    def __call__(self, point: str) -> None:
        """Die here, if so ordered."""
        try:
            given = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if given <= self._since:
            return
        if given != self._given:
            self._given, self._passed = given, 0
        wanted, passing = self._path.read_text().split()
        if wanted == f"{self._process}:{point}":
            self._passed += 1
            if self._passed == int(passing):
                os.kill(os.getpid(), signal.SIGKILL)


def fail_points_of_worker(here: FailPoints) -> None:
    class Ledger(SqlLedger):
        doing = threading.local()  # /readyz, a sweep and a commit may write at once

        def __init__(self, url: str) -> None:
            super().__init__(url, faults=lambda step: here(f"{self.doing.kind}.{step}"))

        def reserve(self, changes: Sequence[Change]) -> Conflict | None:
            self.doing.kind = "reserve"
            return super().reserve(changes)

        def commit(self, units: Sequence[Unit]) -> list[Placed | Conflict]:
            self.doing.kind = "commit" if any(unit.events for unit in units) else "order"
            return super().commit(units)

        def store_note(self, log: LogId, size: int, note: bytes) -> None:
            self.doing.kind = "note"
            super().store_note(log, size, note)

    class Client(SignerClient):
        async def sign(self, statements: Sequence[Statement]) -> list[bytes | HsmError]:
            keys = sorted({statement.key for statement in statements})
            for key in keys:
                here(f"{key}.ask")
            answers = await super().sign(statements)
            for key in keys:
                here(f"{key}.told")
            return answers

    upkeep.GRACE = timedelta()  # what was lost is found as soon as its time is over
    bootstrap.SqlLedger = Ledger  # type: ignore[misc]
    bootstrap.SignerClient = Client  # type: ignore[misc]


def fail_points_of_signer(here: FailPoints) -> None:
    from hsm_drivers.pkcs11 import driver  # noqa: PLC0415 - a worker loads no module

    class Driver(driver.Pkcs11Driver):
        def sign(self, label: KeyLabel, message: bytes) -> bytes:
            here(f"{label}.sign")
            signature = super().sign(label, message)
            here(f"{label}.signed")
            return signature

    class WatchedJournal(Journal):
        def append(self, intents: Sequence[Intent], time: int) -> None:
            here(f"{intents[0].key}.journal")
            super().append(intents, time)
            here(f"{intents[0].key}.journalled")

    class State(SignerState):
        def remember(self, heads: Iterable[SignedHead]) -> None:
            here("head.remember")
            super().remember(heads)
            here("head.remembered")

    driver.Pkcs11Driver = Driver  # type: ignore[misc]
    signer_state.Journal = WatchedJournal  # type: ignore[misc]
    signer_state.SignerState = State  # type: ignore[misc]


def supervise(home: Path, commands: Commands) -> int:
    settings = load(home / "kms.toml")
    configure("supervisor")
    pin = obtain_pin(settings)
    return serve(settings, pin, bootstrap.probe, commands=commands, timing=QUICK)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("process", choices=("serve", "quick", "worker", "signer"))
    parser.add_argument("--home", type=Path)
    parser.add_argument("--config", type=Path)
    options: Any = parser.parse_known_args()[0]
    if options.process == "quick":
        return supervise(options.home, Commands())
    if options.process == "serve":
        commands = Commands(signer=(*CHILD, "signer"), worker=(*CHILD, "worker"))
        return supervise(options.home, commands)
    here = FailPoints(options.process, options.config.parent)
    install = {"worker": fail_points_of_worker, "signer": fail_points_of_signer}
    install[options.process](here)
    return bootstrap.main()


if __name__ == "__main__":
    sys.exit(main())
