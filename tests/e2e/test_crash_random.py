"""kill -9 of worker and signer at random instants, under clients that never stop asking."""

import contextlib
import random
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kms.device import Device
from tests.support.acknowledged import Acknowledged
from tests.support.books import books_of, sweep_later
from tests.support.calling import LOST, Client
from tests.support.crashing import COMMAND
from tests.support.running import MESSENGER, OFFICER, Home, Service, running, wait_for

pytestmark = pytest.mark.timeout(900)

BATCH = 5


class Crowd:
    """Clients of all kinds, each in a thread of its own, until they are told to stop."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.acknowledged = Acknowledged()
        self.rounds = 0
        self._enrolled: list[str] = []
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        work = (self._enrol, self._enrol, self._enrol_many, self._revoke, self._abandon)
        self._threads = [threading.Thread(target=self._run, args=(item,)) for item in work]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let everyone finish what they are at; what they found wrong is raised here."""
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in self._threads)
        if self._errors:
            raise self._errors[0]

    def _run(self, work: Callable[[Client], None]) -> None:
        name = OFFICER if work == self._revoke else MESSENGER
        try:
            with Client(self.home, name) as client:
                while not self._stop.is_set():
                    work(client)
                    self.rounds += 1
        except BaseException as error:  # noqa: BLE001 - raised again by `stop`
            self._errors.append(error)

    def _device(self, **slots: str) -> Device:
        name = secrets.token_hex(6)
        return self.home.device(f"user-{name}", name, **slots)

    def _post(self, client: Client, path: str, body: object) -> dict[str, object]:
        document = self.acknowledged.post(client, path, body, secrets.token_hex(8))
        assert isinstance(document, dict)
        return document

    def _enrol(self, client: Client) -> None:
        device = self._device(identity="Ed25519", kem="MLKEM768-X25519")
        begun = self._post(client, "/v1/enrolments", device.request("device"))
        path = f"/v1/enrolments/{begun['enrolment']}/proofs"
        device.accept(self._post(client, path, device.prove(begun)))
        self._enrolled.append(device.device)

    def _enrol_many(self, client: Client) -> None:
        devices = [self._device(identity="ECDSA-P256") for _ in range(BATCH)]
        items = [device.request("device-identity") for device in devices]
        answer = self.acknowledged.post(
            client, "/v1/enrolments:batch", {"items": items}, secrets.token_hex(8)
        )
        begun = [item["body"] for item in answer["results"]]
        proofs = [
            {"enrolment": item["enrolment"], **device.prove(item)}
            for device, item in zip(devices, begun, strict=True)
        ]
        answer = self.acknowledged.post(
            client, "/v1/enrolments:batch-proofs", {"items": proofs}, secrets.token_hex(8)
        )
        for device, item in zip(devices, answer["results"], strict=True):
            device.accept(item["body"])

    def _revoke(self, client: Client) -> None:
        """Revoke someone, and have a list made that says so."""
        if self._enrolled:
            path = f"/v1/devices/{self._enrolled.pop()}/revoke"
            self._post(client, path, {"tenant": "ministry", "reason": "superseded"})
        published = client.until_answered("/v1/authorities/people/crl", {})
        assert published.status == 201
        self._stop.wait(0.3)

    def _abandon(self, client: Client) -> None:
        """A client that never asks again: what was signed for it may be an orphan."""
        device = self._device(identity="Ed25519")
        with contextlib.suppress(*LOST, KeyError):
            begun = client.post("/v1/enrolments", device.request("device-identity")).document
            path = f"/v1/enrolments/{begun['enrolment']}/proofs"
            client.post(path, device.prove(begun))
        self._stop.wait(0.02)


def kill_at_random(service: Service, choice: random.Random, kills: int) -> dict[str, int]:
    """Kill one of the two, again and again, each time at some instant of a busy service."""
    killed = {"worker": 0, "signer": 0}
    while sum(killed.values()) < kills:
        service.wait_ready()
        time.sleep(choice.uniform(0.05, 0.4))
        name = choice.choice(sorted(killed))
        pid = service.kill(name)
        killed[name] += bool(pid)
        wait_for(lambda old=pid, at=name: service.pid(at) not in (0, old), 30, name)
    return killed


@pytest.mark.parametrize(
    ("seed", "kills"),
    [
        pytest.param(1, 6, id="few"),
        *(pytest.param(seed, 60, id=f"soak-{seed}", marks=pytest.mark.slow) for seed in (2, 3, 4)),
    ],
)
def test_killed_at_random(new_home: Callable[..., Home], tmp_path: Path, seed: int, kills: int):
    home = new_home()
    with running(home, COMMAND) as service:
        crowd = Crowd(home)
        crowd.start()
        try:
            killed = kill_at_random(service, random.Random(seed), kills)  # noqa: S311 - no secret
        finally:
            crowd.stop()
        assert sum(killed.values()) == kills
        assert crowd.rounds > kills, "the service was busy"
        service.wait_ready()
        with Client(home, MESSENGER) as client, Client(home, OFFICER) as officer:
            ours = [c for c in crowd.acknowledged.calls if not c.path.endswith("/revoke")]
            Acknowledged(ours).replay(client)
            others = [c for c in crowd.acknowledged.calls if c.path.endswith("/revoke")]
            Acknowledged(others).replay(officer)
        assert service.stop() == 0
    sweep_later(home)
    with books_of(home, tmp_path / "books") as books:
        books.check()
        books.check_head_is_signed()
        crowd.acknowledged.check(books, (home.root / "log.vkey").read_text())
