"""A database that is damaged, then restored from an older copy: from the loss to a new epoch."""

import json
import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.support.calling import Client, enrol
from tests.support.outages import begin, checks
from tests.support.running import AUDITOR, KMS, MESSENGER, Home, Service, running, wait_for

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

MakeHome = Callable[..., Home]
AUDIT = str(Path(KMS).with_name("kms-audit"))
BEGIN = ("log", "new-epoch", "--officer", "alice", "--officer", "bob", "--yes")
REASON = ("--reason", "an old copy of the database was restored")


def kms(home: Home, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as an operator does, at the home's console."""
    environment = {**os.environ, "KMS_HOME": str(home.path)}
    return subprocess.run(
        [KMS, *words], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def export(home: Home, folder: Path) -> Path:
    """An auditor's record of the log as it is now."""
    for words in (("log", "export"), ("authority", "export")):
        done = kms(home, *words, str(folder), "--as", AUDITOR)
        assert done.returncode == 0, done.stderr
    return folder


def audit(home: Home, record: Path, *more: object) -> str:
    command = [AUDIT, "verify", record, *more, "--root", home.trust]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def database(home: Home) -> Path:
    return home.settings.data_dir / "ledger.db"


def back_up(home: Home, target: Path) -> None:
    """As the guide says: through SQLite's own copy, while the service runs."""
    with closing(sqlite3.connect(database(home))) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)


def damage(home: Home) -> None:
    """Overwrite the page that the table of certificates begins with."""
    with closing(sqlite3.connect(database(home))) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ((size,),) = connection.execute("PRAGMA page_size")
        wanted = "SELECT rootpage FROM sqlite_master WHERE name = 'certificates'"
        ((page,),) = connection.execute(wanted)
    with database(home).open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)


def restore(home: Home, backup: Path) -> None:
    for suffix in ("-wal", "-shm"):
        database(home).with_name(f"ledger.db{suffix}").unlink(missing_ok=True)
    database(home).write_bytes(backup.read_bytes())


def check_damage_is_told(home: Home) -> None:
    found = kms(home, "doctor")
    assert found.returncode == 1
    assert "it is damaged: stop, and restore it from a backup" in found.stdout
    with running(home, ready=False) as service, Client(home, MESSENGER) as client:
        wait_for(lambda: service.state().get("worker", {}).get("ready"))
        answer = client.get("/v1/devices/phone-1")
        assert (answer.status, answer.problem) == (503, "log-unavailable")
        assert "it is damaged" in wait_for(lambda: checks(service))["ledger"]["detail"]


def check_loss_is_told(home: Home) -> None:
    """Nothing is committed over a loss; what can be read is read; nothing was yet decided."""
    with running(home, ready=False) as service, Client(home, MESSENGER) as client:
        wait_for(lambda: service.state().get("worker", {}).get("ready"))
        before = client.get("/v1/log").document["size"]
        path, proofs = begin(home, client)
        refused = client.post(path, proofs, "k")
        assert (refused.status, refused.problem, refused.retry) == (503, "log-rolled-back", "same")
        assert client.get("/v1/devices/phone-1").status == 200
        assert client.get("/v1/devices/phone-2").status == 404, "that was lost"
        assert client.get("/v1/log").document["size"] == before
    found = kms(home, "doctor")
    assert found.returncode == 1
    assert "kms log new-epoch" in found.stdout


def listed(service: Service) -> set[int]:
    crl = x509.load_der_x509_crl(service.public("/pki/people.crl")[1])
    return {item.serial_number for item in crl}


def certify(home: Home, client: Client, name: str) -> dict[str, Any]:
    return enrol(client, home.device("ada", name))


def test_from_a_damaged_page_to_a_new_epoch(new_home: MakeHome, tmp_path: Path):
    home, backup = new_home(), tmp_path / "backup.db"
    with running(home) as service, Client(home, MESSENGER) as client:
        assert kms(home, *BEGIN, *REASON).returncode == 2, "a service is at work"
        certify(home, client, "phone-1")
        back_up(home, backup)
        lost = int(certify(home, client, "phone-2")["certificates"][0]["serial"], 16)
        old = export(home, tmp_path / "epoch-1")
        assert service.stop() == 0
    assert "no new epoch is needed" in kms(home, *BEGIN, *REASON).stderr

    damage(home)
    check_damage_is_told(home)
    restore(home, backup)
    check_loss_is_told(home)

    begun = kms(home, *BEGIN, *REASON, "--json")
    assert begun.returncode == 0, begun.stderr
    assert "events are lost" in begun.stderr
    told = json.loads(begun.stdout)
    assert told["origin"] == "log.test.example/2"
    (home.root / "log.vkey").write_text(told["vkey"])

    with running(home) as service, Client(home, MESSENGER) as client:
        wait_for(lambda: lost in listed(service), 60, "what was signed in the lost events is found")
        certify(home, client, "phone-2")
        certify(home, client, "phone-3")
        assert client.post("/v1/devices/phone-1/revoke", {}).status == 200
        service.wait_ready()
        new = export(home, tmp_path / "epoch-2")
        assert service.stop() == 0
    assert "every check holds" in audit(home, old)
    verdict = audit(home, new, "--earlier", old)
    assert "every check holds" in verdict
    assert "log.test.example/2" in verdict
