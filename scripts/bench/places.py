"""Where a benchmark happens: tokens, homes, the service under load; all in a scratch directory."""

import base64
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kms.device import Expectations

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PROGRAM = Path(sys.executable).with_name("kms")
TENANT = "ministry"
"""Of the development client `messenger`."""
_START_SECONDS = 60.0
_STOP_SECONDS = 45.0
_LAST_LINES = 30
_LABEL = "kms-bench"
_TICK = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """The benchmark cannot be run; the message says why."""


@dataclass(frozen=True, slots=True)
class Site:
    """A home after its ceremony, with development clients.

    Attributes:
        home: Its directory.
        api: Loopback port of the API.
        public: Loopback port of CRLs, checkpoint and tiles.
        operator: Loopback port of health and metrics.
        expectations: What its devices believe.
        people: Certificate of the people CA, DER.
    """

    home: Path
    api: int
    public: int
    operator: int
    expectations: Expectations
    people: bytes

    @property
    def config(self) -> Path:
        """The settings file."""
        return self.home / "kms.toml"

    @property
    def trust(self) -> Path:
        """The root certificate."""
        return self.home / "trust.pem"

    @property
    def client(self) -> tuple[Path, Path]:
        """Certificate and key of the messaging server."""
        clients = self.home / "clients"
        return clients / "messenger.pem", clients / "messenger.key"

    @property
    def officer(self) -> tuple[Path, Path]:
        """Certificate and key of an officer."""
        clients = self.home / "clients"
        return clients / "alice.pem", clients / "alice.key"

    @property
    def log(self) -> Path:
        """Log lines of the service."""
        return self.home / "service.log"


def make_token(directory: Path, label: str) -> Path:
    """A fresh SoftHSM2 token; answers the directory with `softhsm2.conf` and `pin`."""
    script = Path(__file__).parents[2] / "softhsm" / "init-token.sh"
    _run([script, directory, label, MODULE])
    return directory


def softhsm(token: Path) -> dict[str, str]:
    """This process's environment, with the token's settings in it."""
    return os.environ | {"SOFTHSM2_CONF": str(token / "softhsm2.conf")}


def make_site(directory: Path) -> Site:
    """Token, home, ceremony, clients."""
    directory.mkdir()
    token, home = make_token(directory / "token", _LABEL), directory / "home"
    api, public, operator = free_ports(3)
    _kms(
        home,
        "init",
        "--name",
        "log.bench.example",
        "--public-url",
        f"http://127.0.0.1:{public}",
        "--token-label",
        _LABEL,
        "--pin-file",
        token / "pin",
        "--module",
        MODULE,
        "--softhsm-conf",
        token / "softhsm2.conf",
        "--api",
        f"127.0.0.1:{api}",
        "--public",
        f"127.0.0.1:{public}",
        "--operator",
        f"127.0.0.1:{operator}",
    )
    held = _kms(home, "authority", "ceremony", "--officer", "alice", "--officer", "bob", "--yes")
    _kms(home, "principal", "dev-clients")
    _lift_rates(home / "kms.toml")
    certificates = {name: item["certificate"] for name, item in held["certificates"].items()}
    expectations = Expectations.load(
        TENANT, _pem(certificates["root"]), _pem(certificates["people"]), held["vkey"]
    )
    return Site(home, api, public, operator, expectations, base64.b64decode(certificates["people"]))


def _lift_rates(config: Path) -> None:
    """What a key may sign in an hour is less than what a benchmark asks of it."""
    text, found = re.subn(
        r"(?m)^(# )?certificates_per_hour = .*$",
        "certificates_per_hour = 1_000_000_000",
        config.read_text(encoding="utf-8"),
    )
    if found != 1:
        raise BenchError(f"{config} has no signer.certificates_per_hour")
    config.write_text(text, encoding="utf-8")


def _kms(home: Path, *arguments: str | Path) -> dict[str, Any]:
    """A local command of the service; its JSON document."""
    done = _run([PROGRAM, *arguments, "--home", home, "--json"])
    document: dict[str, Any] = json.loads(done)
    return document


def _run(command: Sequence[str | Path]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"{Path(command[0]).name} {command[1]} failed: {done.stderr.strip()}")
    return done.stdout


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


def _pem(encoded: str) -> bytes:
    return ssl.DER_cert_to_PEM_cert(base64.b64decode(encoded)).encode("ascii")


@dataclass(frozen=True, slots=True)
class Running:
    """A service that runs: process ids, to see what it used; how long it took to be ready."""

    worker: int
    signer: int
    log: Path
    start_seconds: float

    def cpu(self) -> tuple[float, float]:
        """CPU seconds so far: of the worker with what it runs beside itself, and of the signer."""
        return _cpu(self.worker) + sum(map(_cpu, _children(self.worker))), _cpu(self.signer)

    def memory(self) -> int:
        """Bytes of the worker in memory (proc(5): VmRSS), what it shares with others included."""
        lines = Path(f"/proc/{self.worker}/status").read_text(encoding="ascii").splitlines()
        (line,) = (line for line in lines if line.startswith("VmRSS:"))
        return 1024 * int(line.split()[1])

    def stages(self) -> dict[str, Any]:
        """What a worker of `stages.py` has spent so far."""
        told = self._told()
        os.kill(self.worker, signal.SIGUSR1)
        deadline = time.monotonic() + _START_SECONDS
        while len(lines := self._told()) == len(told):
            if time.monotonic() > deadline:
                raise BenchError(f"the worker tells nothing of its stages; see {self.log}")
            time.sleep(0.02)
        answer: dict[str, Any] = json.loads(lines[-1])
        return answer

    def _told(self) -> list[str]:
        lines = self.log.read_text(encoding="utf-8").split("\n")[:-1]
        return [line for line in lines if line.startswith('{"stages"')]


def _cpu(pid: int) -> float:
    """User and system seconds of a process (proc(5): fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _children(pid: int) -> list[int]:
    """Processes that a process has started (proc(5): children)."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def running(site: Site, command: Sequence[str | Path]) -> Iterator[Running]:
    """The service while the context lasts; ended by its own process id."""
    log, began = site.log, time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--home", site.home],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        _await_ready(process, site)
        took = time.monotonic() - began
        worker, signer = (
            int((site.home / "run" / f"{name}.pid").read_text(encoding="ascii"))
            for name in ("worker", "signer")
        )
        yield Running(worker, signer, log, took)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def serve_command() -> list[str | Path]:
    """The service as everyone starts it."""
    return [PROGRAM, "serve"]


def _await_ready(process: subprocess.Popen[bytes], site: Site) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _ready(site.operator):
        if process.poll() is not None or time.monotonic() > deadline:
            told = site.log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise BenchError("\n".join(["the service did not start:", *told[-_LAST_LINES:]]))
        time.sleep(0.02)


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
