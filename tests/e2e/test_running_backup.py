"""A backup taken of a busy service; the machine is lost; what comes back says what is missing."""

import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.calling import Client, enrol
from tests.support.running import KMS, MESSENGER, Home, running, wait_for

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

MakeHome = Callable[..., Home]
OFFICERS = ("--officer", "alice", "--officer", "bob")


def kms(home: Home, *words: object, status: int = 0) -> Any:
    """Run a command as an operator does, at the home's console; answers its JSON document."""
    environment = {**os.environ, "KMS_HOME": str(home.path)}
    command = [KMS, *map(str, words), "--json"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


class Traffic:
    """Devices enrol, one after the other, until the block ends."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._stop = threading.Event()
        self.enrolled = 0
        self._thread = threading.Thread(target=self._enrol)

    def _enrol(self) -> None:
        with Client(self._home, MESSENGER) as client:
            while not self._stop.is_set():
                enrol(client, self._home.device(f"user-{self.enrolled}", f"d-{self.enrolled}"))
                self.enrolled += 1

    def __enter__(self) -> Self:
        self._thread.start()
        wait_for(lambda: self.enrolled, 60)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def lose(home: Home) -> Path:
    """The machine with home and signer's state is gone; token, clients and trust are elsewhere."""
    lost = home.root / "lost"
    lost.mkdir()
    for directory in (home.path, home.signer_state):
        directory.rename(lost / directory.name)
    return lost / home.path.name


def test_from_a_backup_under_traffic_to_a_new_epoch(new_home: MakeHome, tmp_path: Path) -> None:
    home = new_home()
    safe = tmp_path / "safe"
    key = ("--shares", 3, "--quorum", 2, "--out", safe)
    made = kms(home, "backup", "new-recovery-key", *key, *OFFICERS)
    backup = tmp_path / "backup"
    shares = [part for path in made["shares"][1:] for part in ("--share", path)]
    with running(home) as service:
        with Traffic(home) as traffic:
            before = traffic.enrolled
            told = kms(home, "backup", "create", "--out", backup)
            wait_for(lambda: traffic.enrolled > before + 1, 60)
            drill = kms(home, "restore", "--drill", backup, *shares)
        seen = tmp_path / "seen"
        seen.write_bytes(service.public("/log/checkpoint")[1])
    details = {check["check"]: check["detail"] for check in drill["checks"]}
    assert drill["ok"]
    assert "the home's log grew from the backup's, by" in details["compare"]

    old = lose(home)
    given = ("--sha256", told["sha256"], "--home", home.path, *shares)
    assert "--seen-checkpoint" in kms(home, "restore", backup, *given, status=2)["error"]["detail"]
    done = kms(home, "restore", backup, *given, "--seen-checkpoint", seen)
    assert " are lost" in done["events_lost"]
    assert any("kms log new-epoch" in step for step in done["to_do"])
    (old / "clients").rename(home.path / "clients")
    assert loss_is_told(home)
    reason = ("--reason", "the machine was lost")
    kms(home, "log", "new-epoch", *OFFICERS, *reason, "--yes")
    with running(home):
        events = kms(home, "log", "events", "--as", "audrey")["events"]
        kinds = [event["type"] for event in events]
        assert kinds[:2] == ["log.continued", "service.restored"]
        with Client(home, MESSENGER) as client:
            enrol(client, renamed(home).device("after", "all"))


def loss_is_told(home: Home) -> bool:
    """The doctor holds the signer's memory against the ledger."""
    found = kms(home, "doctor", status=1)["findings"]
    return ("signer-memory", "failed") in {(item["check"], item["severity"]) for item in found}


def renamed(home: Home) -> Home:
    """Devices were given the new epoch's verifier key."""
    vkey = kms(home, "log", "show")["vkey"]
    (home.root / "log.vkey").write_text(vkey)
    return home
