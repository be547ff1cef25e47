"""A running service in bad surroundings: answers stay honest, nothing is lost, it mends itself."""

import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from kms.services.system import CLOCK_TOLERANCE
from tests.support import shifting
from tests.support.books import books_of, sweep_later
from tests.support.calling import Client, enrol
from tests.support.faulty_token import DEVICE_ERROR, GENERAL_ERROR, stand_before
from tests.support.outages import (
    begin,
    check_retryable,
    checks,
    no_descriptors_left,
    no_room_left,
)
from tests.support.running import MESSENGER, Home, Service, alive, running, wait_for

pytestmark = pytest.mark.timeout(300)

MakeHome = Callable[..., Home]
YEAR = 365 * 86_400
LEAST_WEDGE = 2
"""Seconds, the least that can be configured."""


def check_books(home: Home, folder: Path) -> None:
    """After a stop: log, state, certificates and the signer's journal agree."""
    sweep_later(home)
    with books_of(home, folder / "books") as books:
        books.check()
        books.check_head_is_signed()


def check_pids(service: Service, pids: dict[str, int]) -> None:
    assert {name: service.pid(name) for name in pids} == pids, "nothing had to be started again"


def pids_of(service: Service) -> dict[str, int]:
    return {name: service.pid(name) for name in ("worker", "signer")}


@pytest.fixture(scope="module")
def service(prepared: Home, folder: Path) -> Iterator[Service]:
    """One service goes through several kinds of trouble; afterwards its books are checked."""
    home = prepared.copy(folder / "own")
    with running(home) as made:
        yield made
        assert made.stop() == 0
    check_books(home, folder)


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.home, MESSENGER) as made:
        yield made


def test_a_library_that_lies_breaks_and_hangs(new_home: MakeHome, tmp_path: Path):
    home = new_home(wedge_seconds=LEAST_WEDGE)
    module = stand_before(home)
    with running(home) as service, Client(home, MESSENGER) as client:
        pids = pids_of(service)
        for order in (
            "C_Sign corrupt 1",
            f"C_Sign fail {GENERAL_ERROR:x}",
            f"* fail {DEVICE_ERROR:x}",
        ):
            path, proofs = begin(home, client)
            with module.failing(order):
                refused = client.post(path, proofs, "k" + path)
                check_retryable(refused)
                assert refused.problem == "signer-unavailable", order
                assert client.get("/v1/log").status == 200
            answer = client.until_answered(path, proofs, "k" + path)
            assert answer.status == 201, order
            check_pids(service, {"worker": pids["worker"]})
        assert "wrong signature" in home.log.read_text()
        path, proofs = begin(home, client)
        module.order("C_Sign hang")
        signer = service.pid("signer")
        check_retryable(client.post(path, proofs, "hung"))
        wait_for(lambda: not alive(signer), LEAST_WEDGE + 15, "it is killed")
        module.well()
        assert client.until_answered(path, proofs, "hung").status == 201
        assert service.pid("worker") == pids["worker"]
        service.wait_ready()
        assert service.stop() == 0
    check_books(home, tmp_path)


def test_a_disk_that_is_full_for_one_process(service: Service, client: Client):
    """Supervisor, signer, worker in turn can write nothing, their log lines included."""
    pids = pids_of(service)
    for pid in (service.supervisor, pids["signer"], pids["worker"]):
        certified = enrol(client, service.home.device("ada", f"phone-{pid}"))
        revocation = f"/v1/devices/phone-{pid}/revoke"
        path, proofs = begin(service.home, client)
        with no_room_left(pid):
            for _ in range(2):
                check_retryable(client.post(path, proofs, path))
            check_retryable(client.post(revocation, {}, revocation))
            serial = certified["certificates"][0]["serial"]
            assert client.get(f"/v1/certificates/{serial}").status == 200
            assert service.operator("/healthz")[0] == 200
        assert client.until_answered(path, proofs, path).status == 201
        assert client.until_answered(revocation, {}, revocation).status == 200
        service.wait_ready()
    check_pids(service, pids)


@contextmanager
def locked(home: Home) -> Iterator[None]:
    """Another process holds the database's write lock while the context lasts."""
    path = home.settings.data_dir / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield
        holder.execute("ROLLBACK")


def test_a_ledger_that_another_process_has_locked(service: Service, client: Client):
    pids = pids_of(service)
    path, proofs = begin(service.home, client)
    with locked(service.home):
        refused = client.post(path, proofs, path)
        check_retryable(refused)
        assert refused.problem == "log-unavailable"
        assert client.get("/v1/log").status == 200, "reading goes on"
        assert service.public("/log/checkpoint")[0] == 200
    assert client.until_answered(path, proofs, path).status == 201
    check_pids(service, pids)
    service.wait_ready()


def processor_seconds(pid: int) -> float:
    """Time that a process has used so far (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_worker_without_descriptors(service: Service, client: Client):
    """Who is connected is answered, others wait, nobody spins, and it passes."""
    pids = pids_of(service)
    path, proofs = begin(service.home, client)
    with no_descriptors_left(pids["worker"]), ExitStack() as waiting:
        for _ in range(20):
            stranger = socket.create_connection(("127.0.0.1", service.home.port("api")))
            waiting.enter_context(stranger)
        before, since = processor_seconds(pids["worker"]), time.monotonic()
        check_retryable(client.post(path, proofs, path))
        time.sleep(1.0)
        share = (processor_seconds(pids["worker"]) - before) / (time.monotonic() - since)
        assert share < 0.7, "it spins"
    assert client.until_answered(path, proofs, path).status == 201
    with Client(service.home, MESSENGER) as another:
        assert another.get("/v1/log").status == 200
    check_pids(service, pids)
    service.wait_ready()


def test_a_clock_that_is_set_a_year_ahead_and_a_year_back(new_home: MakeHome, tmp_path: Path):
    home = new_home()
    began = time.time()
    with running(home, shifting.COMMAND) as service, Client(home, MESSENGER) as client:
        for seconds in (-YEAR, YEAR):
            shifting.set_clock(home.path, seconds)
            wait_for(lambda: not checks(service)["clock"]["ok"], why="it is told")
            enrol(client, home.device("ada", f"phone-{seconds}"))
        killed = pids_of(service)
        for name, pid in killed.items():
            service.kill(name)
            wait_for(lambda: service.pid(name) not in (0, pid))  # noqa: B023 - waited for at once
        wait_for(lambda: service.state()["worker"]["ready"])
        enrol(client, home.device("ada", "tablet"), again=True)
        assert not checks(service)["clock"]["ok"], "one that is started again knows, too"
        shifting.set_clock(home.path, 0)
        service.wait_ready()
        assert service.stop() == 0
    check_books(home, tmp_path)
    times = event_times(home)
    assert times == sorted(times)
    assert times[-1] <= time.time() + CLOCK_TOLERANCE
    assert times[-1] >= began


def event_times(home: Home) -> list[float]:
    path = home.settings.data_dir / "ledger.db"
    with closing(sqlite3.connect(path)) as ledger:
        rows = ledger.execute('SELECT leaf FROM events ORDER BY log, "index"').fetchall()
    return [
        time.mktime(time.strptime(json.loads(leaf)["time"], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
        for (leaf,) in rows
    ]
