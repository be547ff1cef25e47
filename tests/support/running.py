"""A whole service as real processes: supervisor, signer, worker, SoftHSM2, SQLite, TLS.

`prepare` makes a home as the command line does: token, settings, ceremony, development clients.
`Home.copy` makes another of it in a moment. `Service` runs one and leaves no process behind.
"""

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from kms.bootstrap import hold_ceremony, make_ledger
from kms.cli.local_principals import DEVELOPMENT, Wanted, _make_clients, with_services
from kms.config import load
from kms.config_template import write_initial
from kms.device import Device, Expectations
from kms.domain.records import Role, TenantId
from kms.processes.pin import obtain_pin
from kms.services.ceremony_plan import load_plan
from kms.settings import Settings
from tests.support.softhsm import make_token

TENANT, OTHER_TENANT = "ministry", "treasury"
OFFICER, AUDITOR, MESSENGER = "alice", "audrey", "messenger"
COLLEAGUE, STRANGER, CLERK = "messenger-2", "stranger", "clerk"
BUNDLES = ("device", "device-identity")
CLIENTS = (
    *DEVELOPMENT,
    Wanted(COLLEAGUE, Role.MESSAGING_SERVER, TenantId(TENANT), bundles=BUNDLES),
    Wanted(
        STRANGER,
        Role.MESSAGING_SERVER,
        TenantId(OTHER_TENANT),
        "id.treasury.example",
        BUNDLES,
    ),
    Wanted(CLERK, Role.OFFICER, TenantId(TENANT)),
)
"""The development clients; a colleague of their messaging server, another tenant's, and an officer
of a ministry, who is none of the authority's."""

LISTENERS = ("api", "public", "operator")
KMS = str(Path(sys.executable).with_name("kms"))
SERVE = (KMS, "serve")
START_SECONDS = 60.0


def wait_for(what: Callable[[], Any], seconds: float = 30.0, why: str = "") -> Any:
    """Wait until something is truthy, and answer it."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"it did not happen in {seconds:.0f} s: {why}"
        time.sleep(0.02)
    return found


@contextmanager
def reachable_directory() -> Iterator[Path]:
    """A fresh directory that other users may pass through, as pytest's own are not."""
    folder = Path(mkdtemp(prefix="kms-test-")).resolve()
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


@dataclass(frozen=True, slots=True)
class Home:
    """A home, its signer's state, its token and what clients were given, below one directory."""

    root: Path

    @property
    def path(self) -> Path:
        return self.root / "kms"

    @property
    def token(self) -> Path:
        return self.root / "token"

    @property
    def signer_state(self) -> Path:
        return self.root / "kms-signer"

    @property
    def log(self) -> Path:
        """Where a service's standard error goes."""
        return self.root / "service.log"

    @property
    def settings(self) -> Settings:
        return load(self.path / "kms.toml")

    @property
    def trust(self) -> Path:
        return self.path / "trust.pem"

    def client(self, name: str) -> tuple[Path, Path]:
        """Certificate and key of a client."""
        return self.path / "clients" / f"{name}.pem", self.path / "clients" / f"{name}.key"

    def port(self, listener: str) -> int:
        return int(getattr(self.settings.listeners, listener).port)

    def expectations(self, tenant: str = TENANT) -> Expectations:
        """What a device was given out of band."""
        people = (self.root / "people.pem").read_bytes()
        vkey = (self.root / "log.vkey").read_text()
        return Expectations.load(tenant, self.trust.read_bytes(), people, vkey)

    def device(self, user: str, name: str, **slots: str) -> Device:
        """A new device; with an ECDSA identity unless told otherwise."""
        return Device(user, name, slots or {"identity": "ECDSA-P256"}, self.expectations())

    def configure(self, **values: int) -> None:
        """Set numbers in `kms.toml`; their names are unique across its tables."""
        path = self.path / "kms.toml"
        text = path.read_text()
        for name, value in values.items():
            text, found = re.subn(rf"(?m)^(# )?{name} = .*$", f"{name} = {value}", text)
            assert found == 1, name
        path.write_text(text)

    def copy(self, root: Path) -> "Home":
        """Another home like this one, with a token, ports and memory of its own."""
        shutil.copytree(self.root, root, ignore=shutil.ignore_patterns("*.sock", "*.pid"))
        root.chmod(0o711)
        made = Home(root)
        made.replace({self.root: root})
        return made

    def replace(self, places: dict[Path, Path]) -> None:
        """Name other places in the configuration, and ports that are free."""
        for path in (self.path / "kms.toml", self.token / "softhsm2.conf"):
            text = path.read_text()
            for old, new in places.items():
                text = text.replace(str(old), str(new))
            path.write_text(text)
        self._move_listeners()

    def _move_listeners(self) -> None:
        path = self.path / "kms.toml"
        text = path.read_text()
        for name, port in zip(LISTENERS, free_ports(3), strict=True):
            text = re.sub(rf'(?m)^{name} = ".*"$', f'{name} = "127.0.0.1:{port}"', text)
        path.write_text(text)


def prepare(root: Path) -> Home:
    """Make a home from nothing: what `kms init`, `authority ceremony`, `dev-clients` do."""
    home = Home(root)
    make_token(home.token, "kms")
    settings = write_initial(
        home.path,
        name="log.test.example",
        public_url="http://pki.test.example",
        token_label="kms",
        pin_file=home.token / "pin",
        softhsm_conf=home.token / "softhsm2.conf",
        listeners=dict.fromkeys(LISTENERS, "127.0.0.1:1"),
    )
    make_ledger(settings)
    pin = obtain_pin(settings)
    plan = load_plan(None, settings.name, None)
    report = hold_ceremony(settings, pin, plan, ["alice", "bob"], lambda _: None)
    home.trust.write_text(ssl.DER_cert_to_PEM_cert(report.certificates["root"]))
    (root / "people.pem").write_text(ssl.DER_cert_to_PEM_cert(report.certificates["people"]))
    (root / "log.vkey").write_text(report.vkey)
    clients = _make_clients(settings.clients_dir, list(CLIENTS))
    asyncio.run(with_services(settings, None, clients))
    home._move_listeners()
    return home


class Service:
    """A running service; its processes end with `stop`, whatever happened.

    Args:
        home: Where it lives.
        command: How it is started; `--home DIR` is added.
    """

    def __init__(self, home: Home, command: Sequence[str] = SERVE) -> None:
        self.home = home
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, ready: bool = True) -> None:
        """Start it; wait until it is ready, if `ready`."""
        with self.home.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "--home", str(self.home.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
            )
        if ready:
            self.wait_ready()

    def stop(self) -> int:
        """End it in order; answers the status. Nothing of it is left."""
        assert self._process is not None
        children = [pid for name in ("worker", "signer") if (pid := self.pid(name))]
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(45)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the service did not end:\n{self.tail()}") from None
        finally:
            self._process = None
            wait_for(lambda: not any(alive(pid) for pid in children), 10, "children outlived it")
        return status

    def close(self) -> None:
        """As `stop`, if it still runs."""
        if self._process is not None:
            self.stop()

    @property
    def supervisor(self) -> int:
        assert self._process is not None
        return self._process.pid

    def wait_ended(self, seconds: float = 30.0) -> int:
        """Wait for an end of its own; answers the status."""
        assert self._process is not None
        status = self._process.wait(seconds)
        self._process = None
        return status

    def pid(self, name: str) -> int:
        """Process id of `worker` or `signer`; 0 while there is none."""
        try:
            return int((self.home.path / "run" / f"{name}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to a child of this service; answers whom it hit, 0 for nobody."""
        pid = self.pid(name)
        if pid and _parent(pid) == self.supervisor:
            os.kill(pid, number)
            return pid
        return 0

    def crash(self) -> int:
        """Kill the supervisor, whose children die with it; answers its process id."""
        assert self._process is not None
        children = [pid for name in ("worker", "signer") if (pid := self.pid(name))]
        supervisor = self.supervisor
        self._process.kill()
        self._process.wait()
        self._process = None
        wait_for(lambda: not any(alive(pid) for pid in children), 10, "children outlived it")
        return supervisor

    def restart(self, name: str) -> None:
        """Kill a child and wait until the service is ready with another one."""
        killed = self.kill(name)
        assert killed, f"no {name} to kill"
        wait_for(lambda: self.pid(name) not in (0, killed), 30, f"no new {name}")
        self.wait_ready()

    def state(self) -> dict[str, Any]:
        """`run/state.json`, empty before it is written."""
        try:
            document = json.loads((self.home.path / "run" / "state.json").read_text())
        except FileNotFoundError:
            return {}
        assert isinstance(document, dict)
        return document

    def ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the service ended:\n{self.tail()}"
        try:
            listening = self.state().get("worker", {}).get("ready") is True
            return listening and self.operator("/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        try:
            wait_for(self.ready, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None

    def operator(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the operator's listener."""
        return self._plain("operator", path)

    def public(self, path: str) -> tuple[int, bytes]:
        """Status and body of a page of the public listener."""
        status, text = self._plain("public", path)
        return status, text.encode("latin-1")

    def metric(self, name: str, **labels: str) -> float:
        """Value of a metric, 0 where there is no such series."""
        wanted = {f'{label}="{value}"' for label, value in labels.items()}
        for line in self.operator("/metrics")[1].splitlines():
            match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if match and match[1] == name and wanted <= set((match[2] or "").split(",")):
                return float(match[3])
        return 0.0

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.home.log.read_text(errors="replace").splitlines()[-lines:])

    def _plain(self, listener: str, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.home.port(listener), timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode("latin-1")
        finally:
            connection.close()


@contextmanager
def running(home: Home, command: Sequence[str] = SERVE, *, ready: bool = True) -> Iterator[Service]:
    """A service while the context lasts."""
    service = Service(home, command)
    try:
        service.start(ready=ready)
        yield service
    finally:
        service.close()


@contextmanager
def running_elsewhere(home: Path, root: Path) -> Iterator[Service]:
    """A service on a copy of a home that something else than `prepare` made, token included."""
    token = load(home / "kms.toml").token
    assert token.directory is not None
    assert token.pin_file is not None
    made = Home(root)
    for old, new in ((home, made.path), (token.directory.parent, made.token)):
        shutil.copytree(old, new)
    conf = Path(token.environment["SOFTHSM2_CONF"])
    beside = {conf: made.token / "softhsm2.conf", token.pin_file: made.token / "pin"}
    for old, new in beside.items():
        shutil.copy2(old, new)
    shutil.copytree(home.with_name(f"{home.name}-signer"), made.signer_state)
    root.chmod(0o711)
    made.replace({**beside, token.directory.parent: made.token})
    with running(made) as service:
        yield service


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    return bool(pid) and _stat(pid)[0] not in ("", "Z", "X")


def _parent(pid: int) -> int:
    return int(_stat(pid)[1] or 0)


def _stat(pid: int) -> list[str]:
    """State, parent, … of a process (proc(5)); its name may hold spaces."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["", ""]
