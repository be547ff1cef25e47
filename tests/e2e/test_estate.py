"""A service with two tokens: one goes away under load, comes back, and the log's key moves."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from kms.wire import EventType
from tests.support.books import books_of, sweep_later
from tests.support.calling import Client, enrol
from tests.support.running import (
    MESSENGER,
    Home,
    Service,
    alive,
    reachable_directory,
    running,
    wait_for,
)
from tests.support.second_token import NAME, OFFICERS, add_token, copy_both, kms, replicate

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("estate")]

SLOWEST = 20.0
"""Seconds, of an enrolment in two calls; the bench measures what a fail-over adds."""


def token_pid(home: Home, name: str) -> int:
    return int((home.path / "run" / "tokens" / f"{name}.pid").read_text())


def healthy(service: Service, token: str) -> bool:
    return service.metric("kms_token_healthy", token=token) == 1.0


def go_away(home: Home, directory: Path, process: str) -> Callable[[], None]:
    """The token's files go, and its process with what it had read of them; answers the way back."""
    gone = (directory / "tokens").rename(directory / "away")
    os.kill(token_pid(home, process), signal.SIGKILL)
    return lambda: (gone.rename(directory / "tokens"), None)[1]


class Load:
    """Enrolments without a pause, until it is told to stop; all of them must succeed."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._over = threading.Event()
        self.worst = 0.0
        self.done = 0
        self.errors: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with Client(self._home, MESSENGER) as client:
            while not self._over.is_set():
                device = self._home.device("ada", f"phone-{self.done}")
                began = time.monotonic()
                try:
                    enrol(client, device)
                except AssertionError as error:
                    self.errors.append(str(error))
                    return
                self.worst = max(self.worst, time.monotonic() - began)
                self.done += 1


def events(home: Home, kind: EventType) -> list[dict[str, object]]:
    listed = json.loads(kms(home, "log", "events", "--as", "alice", "--json"))
    return [item for item in listed["events"] if item["type"] == kind.value]


@pytest.fixture(scope="module")
def two_tokens(prepared: Home, folder: Path) -> Home:
    """A home with a second token that holds every key; tests copy it."""
    home = prepared.copy(folder / "two")
    add_token(home)
    replicate(home)
    return home


@pytest.fixture
def home(two_tokens: Home) -> Iterator[Home]:
    with reachable_directory() as root:
        yield copy_both(two_tokens, root / "own")


def test_a_key_s_load_moves_to_its_replica_and_back(home: Home, tmp_path: Path) -> None:
    kms(home, "log", "move", "--to", NAME, *OFFICERS)  # else the log would wait for the token
    with running(home) as service:
        wait_for(lambda: healthy(service, "main") and healthy(service, NAME))
        pids = [service.pid("signer"), token_pid(home, "main-1"), token_pid(home, f"{NAME}-1")]
        assert len(set(pids)) == 3
        for name, module in (("signer", False), ("tokens/main-1", True)):
            maps = Path(f"/proc/{service.pid(name)}/maps").read_text()
            assert ("libsofthsm2" in maps) is module, f"who loads the module: {name}"
        with Load(home) as load:
            wait_for(lambda: load.done > 5)
            come_back = go_away(home, home.token, "main-1")
            wait_for(lambda: not healthy(service, "main"))
            before = load.done
            wait_for(lambda: load.done > before + 5)
            page = json.loads(service.operator("/readyz")[1])
            (signer,) = [check for check in page["checks"] if check["name"] == "signer"]
            assert signer["ok"], "every key is still to be had"
            assert "token main (kms): " in signer["detail"]
            come_back()
            wait_for(lambda: healthy(service, "main"), 60)
        assert not load.errors
        assert load.worst < SLOWEST
        doctor = json.loads(kms(home, "doctor", "--json"))
        tokens = [item["detail"] for item in doctor["findings"] if item["check"] == "token"]
        assert [detail.split()[0] for detail in tokens] == ["main", NAME]
        assert len(events(home, EventType.KEY_REPLICATED)) == 4
        assert len(events(home, EventType.KEY_MOVED)) == 1
        assert len(events(home, EventType.TOKEN_HEALTH)) >= 2, "it went, and it came back"
        assert service.stop() == 0
    assert not any(alive(pid) for pid in pids)
    sweep_later(home)
    with books_of(home, tmp_path / "books") as books:
        books.check()
        books.check_head_is_signed()


def test_a_service_starts_though_a_token_is_away(home: Home) -> None:
    (home.root / NAME / "pin").write_text("wrong-pin")
    with running(home, ready=False) as service:
        wait_for(
            lambda: service.state().get("tokens", {}).get(NAME, {}).get("state") == "pin-refused"
        )
        service.wait_ready()
        assert service.state()["tokens"]["main"]["state"] == "running"
        _, page = service.operator("/readyz")
        assert "refused the PIN" in page
        assert NAME in page
        with Client(home, MESSENGER) as client:
            enrol(client, home.device("ada", "phone"))
        restarts = service.state()["tokens"][NAME]["restarts"]
        assert restarts == 0, "the PIN is tried once"
        pid = token_pid(home, "main-1")
        assert alive(pid)
        service.crash()
        wait_for(lambda: not alive(pid), 10, "a token process outlived its supervisor")
