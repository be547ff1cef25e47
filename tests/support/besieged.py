"""One attack on a running service, with honest clients beside it, and what it cost."""

import asyncio
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.attacks import ATTACKS
from tests.support.honest import Clients, Tally
from tests.support.running import STRANGER, Service

QUIET = "nobody attacks"
_ROOT = Path(__file__).parents[2]
_MEASURED_AFTER = 0.3
"""Share of the time that an attack has to itself before honest clients are measured beside it."""


@dataclass(frozen=True, slots=True)
class Siege:
    """What came of it.

    Attributes:
        attack: Its name.
        attackers: How many at a time.
        rounds: How often they began what they do.
        honest: By kind of client.
        before: The worker's resident memory before, in MB.
        peak: Its highest meanwhile, in MB.
    """

    attack: str
    attackers: int
    rounds: int
    honest: dict[str, Tally]
    before: float
    peak: float

    @property
    def lost(self) -> int:
        """Honest requests that were not answered as they should be."""
        return sum(tally.lost for tally in self.honest.values())


def besiege(service: Service, attack: str, seconds: float) -> Siege:
    """Attack for so long; QUIET is no attack."""
    worker = service.pid("worker")
    _forget_peak(worker)
    before = memory(worker, "VmRSS")
    lead = 0.0 if attack == QUIET else seconds * _MEASURED_AFTER
    attacker = None if attack == QUIET else _attacker(service, attack, seconds + lead)
    try:
        time.sleep(lead)
        clients = Clients(service.home, f"u{time.monotonic_ns()}")
        honest = asyncio.run(clients.run(seconds))
    finally:
        rounds = 0 if attacker is None else int(attacker.communicate()[0] or -1)
    assert service.pid("worker") == worker, f"the worker ended:\n{service.tail()}"
    attackers = 0 if attacker is None else ATTACKS[attack][1]
    return Siege(attack, attackers, rounds, honest, before, memory(worker, "VmHWM"))


def memory(pid: int, what: str) -> float:
    """A line of `/proc/<pid>/status` (proc(5)), in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(what)


def _forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _attacker(service: Service, attack: str, seconds: float) -> "subprocess.Popen[str]":
    home = service.home
    ports = [str(home.port(name)) for name in ("api", "public")]
    command = [sys.executable, "-m", "tests.support.attacks", attack, "--seconds", str(seconds)]
    command += ["--ports", *ports, "--trust", str(home.trust)]
    command += ["--client", *map(str, home.client(STRANGER))]
    return subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
