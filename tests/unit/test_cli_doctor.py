"""Every finding of `kms doctor`, provoked."""

import dataclasses
import os
import shutil
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hsm_drivers.errors import HsmError, KeyNotFoundError
from hsm_drivers.ports import (
    Head,
    KeyAttributes,
    KeyLabel,
    KeyRate,
    KeyRecord,
    Purpose,
    SignerHealth,
)
from kms.cli.doctor import files, machine, processes, token
from kms.cli.doctor.examination import policy, server_certificate
from kms.cli.doctor.findings import Finding, Patient, Severity, failed, ok, warning, worst
from kms.cli.doctor.ledger import LedgerFacts, authorities, clients, expiry, ledger, lists
from kms.config import parse
from kms.domain.records import SYSTEM_TENANT, Crl
from kms.processes.accounts import DEFAULT_SIGNER
from kms.services.ports import Replace, TreeHead
from kms.settings import Settings
from policies.decisions import Protection
from tests.support.authority import Authority
from tests.support.services import World, world

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HELD = KeyAttributes(
    local=True,
    sensitive=True,
    always_sensitive=True,
    extractable=False,
    never_extractable=True,
    private=True,
    on_token=True,
    sign=True,
)


def _settings(home: Path, **values: Any) -> Settings:
    home.mkdir(exist_ok=True, mode=0o755)
    given = {"name": "log.example", "public_url": "http://pki.example", **values}
    return parse(home / "kms.toml", given)


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    return Patient(_settings(tmp_path / "home", policy="sovereign-2026"), NOW, running=False)


def _severities(findings: list[Finding] | Iterator[Finding]) -> set[str]:
    return {item.severity.value for item in findings}


def test_the_worst_finding_is_the_verdict() -> None:
    bad, odd, good = failed("x", "a", "b"), warning("x", "a", "b"), ok("x", "a")
    assert worst([]) is Severity.OK
    assert worst([good, odd]) is Severity.WARNING
    assert worst([odd, bad, good]) is Severity.FAILED


# Clock, disk, listeners, lists of weak keys, policy


def test_a_clock_that_stands_in_the_past(patient: Patient) -> None:
    early = dataclasses.replace(patient, now=datetime(1970, 1, 1, tzinfo=UTC))
    assert machine.clock(early, None).severity is Severity.FAILED


def test_a_clock_behind_the_log(patient: Patient) -> None:
    assert machine.clock(patient, NOW + timedelta(seconds=2)).severity is Severity.OK
    found = machine.clock(patient, NOW + timedelta(minutes=1))
    assert found.severity is Severity.FAILED
    assert "12:01:00Z" in found.detail


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.parametrize(
    ("free", "severity"), [(1 << 20, "failed"), (1 << 29, "warning"), (1 << 40, "ok")]
)
def test_a_disk_that_fills(
    patient: Patient, monkeypatch: pytest.MonkeyPatch, free: int, severity: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(1 << 41, 0, free))
    assert _severities(machine.disk(patient)) == {severity}


def test_metrics_open_to_the_world(tmp_path: Path, patient: Patient) -> None:
    assert _severities(machine.listeners(patient)) == {"ok"}
    wide = _settings(tmp_path / "wide", listeners={"operator": "0.0.0.0:9464"})
    found = machine.listeners(Patient(wide, NOW, running=False))
    assert _severities(found) == {"warning"}


def test_lists_of_compromised_keys(tmp_path: Path, patient: Patient) -> None:
    assert machine.weak_keys(patient).severity is Severity.WARNING
    named = _settings(tmp_path / "named", weak_keys={"blocklist": str(tmp_path / "absent")})
    found = machine.weak_keys(Patient(named, NOW, running=False))
    assert found.severity is Severity.FAILED


def test_a_policy_that_cannot_be_read(tmp_path: Path, patient: Patient) -> None:
    assert policy(patient).severity is Severity.OK
    lost = _settings(tmp_path / "lost", policy="./no.toml")
    assert policy(Patient(lost, NOW, running=False)).severity is Severity.FAILED


# Files


@pytest.fixture
def sound(tmp_path: Path) -> Patient:
    """A home whose files are as they should be."""
    home = tmp_path / "home"
    pin = tmp_path / "pin"
    settings = _settings(home, token={"pin_file": str(pin), "directory": str(tmp_path / "tokens")})
    places = {
        settings.path: 0o644,
        settings.trust_path: 0o644,
        pin: 0o600,
        settings.data_dir / "ledger.db": 0o600,
        settings.tls_dir / "server.key": 0o600,
        settings.tls_dir / "server.pem": 0o644,
        settings.clients_dir / "alice.key": 0o600,
        settings.clients_dir / "alice.pem": 0o644,
        settings.signer_state / "journal": 0o600,
        tmp_path / "tokens" / "object": 0o600,
    }
    for path, mode in places.items():
        path.parent.mkdir(exist_ok=True, mode=0o755)
        path.touch()
        path.chmod(mode)
    for directory in (settings.data_dir, settings.tls_dir, settings.signer_state):
        directory.chmod(0o700)
    (tmp_path / "tokens").chmod(0o700)
    return Patient(settings, NOW, running=False)


def test_files_in_order(sound: Patient) -> None:
    assert _severities(files.files(sound)) == {"ok"}


@pytest.mark.parametrize(
    ("place", "mode", "word"),
    [
        ("pin", 0o640, "read"),
        ("tokens", 0o755, "read"),
        ("home/kms.toml", 0o666, "write"),
        ("home/trust.pem", 0o664, "write"),
        ("home/data", 0o755, "read"),
        ("home/data/ledger.db", 0o644, "read"),
        ("home/tls/server.key", 0o604, "read"),
        ("home/tls/server.pem", 0o646, "write"),
        ("home/clients/alice.key", 0o644, "read"),
        ("home-signer", 0o711, "write"),
        ("home-signer/journal", 0o660, "read"),
    ],
)
def test_rights_that_others_must_not_have(
    sound: Patient, tmp_path: Path, place: str, mode: int, word: str
) -> None:
    path = tmp_path / place
    path.chmod(mode)
    (found,) = files.files(sound)
    assert found.severity is Severity.FAILED
    assert str(path) in found.detail
    if mode & 0o044:
        assert f"may {word}" in found.detail
    os.system(found.remedy)  # noqa: S605 - the remedy is a command, and it must work
    assert _severities(files.files(sound)) == {"ok"}


# The ledger


@pytest.fixture
async def founded(tmp_path: Path) -> Any:
    async with world(tmp_path) as made:
        yield made


pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_authorities_that_end(founded: World) -> None:
    now = founded.clock.now()
    assert _severities(authorities(founded.ledger, now)) == {"ok"}
    later = now + timedelta(days=3650 - 60)
    assert _severities(authorities(founded.ledger, later)) == {"ok", "warning"}
    end = now + timedelta(days=7400)
    assert _severities(authorities(founded.ledger, end)) == {"failed"}


async def test_lists_that_end(founded: World) -> None:
    now = founded.clock.now()
    assert _severities(lists(founded.ledger, now)) == {"ok"}
    validity = founded.services.core.limits.crl_validity
    assert _severities(lists(founded.ledger, now + validity * 0.9)) == {"warning"}
    assert _severities(lists(founded.ledger, now + validity)) == {"failed"}


async def test_an_authority_without_a_list(founded: World) -> None:
    for record in founded.ledger.find(Crl, tenant=SYSTEM_TENANT, authority="people"):
        founded.ledger.reserve([Replace(dataclasses.replace(record, der=b""))])
    found = [item for item in lists(founded.ledger, founded.clock.now()) if "people" in item.detail]
    assert _severities(found) == {"failed"}


async def test_principals_whose_certificates_end(founded: World) -> None:
    now = founded.clock.now()
    assert [item.severity for item in clients(founded.ledger, now)] == [Severity.OK]


def test_what_ends_is_told_in_time() -> None:
    month = timedelta(days=30)
    for left, severity in ((60, "ok"), (10, "warning"), (0, "failed"), (-1, "failed")):
        found = expiry("x", "it", NOW + timedelta(days=left), NOW, month, "renew it")
        assert found.severity == severity


def test_a_home_without_database(patient: Patient) -> None:
    found, facts = ledger(patient)
    assert _severities(found) == {"failed"}
    assert facts.head is None


def test_a_home_of_someone_else(patient: Patient, tmp_path: Path) -> None:
    module = tmp_path / "module.so"
    module.touch()
    settings = _settings(tmp_path / "theirs", token={"module": str(module)})
    stranger = Patient(settings, NOW, running=False, own=False)
    found, facts = ledger(stranger)
    assert _severities([*found, *token.token(stranger, facts, None)]) == {"warning"}


# The token


def _record(label: str = "root-1", **parts: Any) -> KeyRecord:
    values = {
        "label": KeyLabel(label),
        "key_id": "00",
        "algorithm": "ECDSA-P384",
        "purposes": (Purpose.CERTIFICATE,),
        "constraints": {},
        "protection": Protection.TOKEN,
        "public_key": b"",
        "attributes": HELD,
        "token": "kms",
        "created": "2026-01-01T00:00:00Z",
    }
    return KeyRecord(**{**values, **parts})


def _answers(now: KeyAttributes | HsmError, record: KeyRecord) -> token.Answers:
    return token.Answers(SignerHealth("kms", True, "", 0), (record,), {record.label: now})


@pytest.mark.parametrize(
    "now",
    [
        KeyNotFoundError("no such key"),
        dataclasses.replace(HELD, extractable=True),
        dataclasses.replace(HELD, local=False),
        dataclasses.replace(HELD, always_sensitive=False),
        dataclasses.replace(HELD, sign=False),
    ],
    ids=str,
)
def test_a_key_that_is_not_as_it_was_born(now: KeyAttributes | HsmError) -> None:
    assert _severities(token.keys(_answers(now, _record()))) == {"failed"}


def test_a_key_that_is_as_it_was_born() -> None:
    assert _severities(token.keys(_answers(HELD, _record()))) == {"ok"}


def test_a_module_that_is_not_there(tmp_path: Path) -> None:
    settings = _settings(tmp_path / "home", token={"module": "/nowhere/module.so"})
    (found,) = token.token(Patient(settings, NOW, running=False), LedgerFacts(), None)
    assert found.severity is Severity.FAILED
    assert "/nowhere/module.so" in found.detail


def test_a_running_signer_that_does_not_answer_this_user(tmp_path: Path) -> None:
    module = tmp_path / "module.so"
    module.touch()
    settings = _settings(tmp_path / "home", token={"module": str(module)})
    (found,) = token.token(Patient(settings, NOW, running=True), LedgerFacts(), None)
    assert found.severity is Severity.WARNING


def test_a_signer_that_remembers_something_else() -> None:
    head = TreeHead(1, "log/1", 10, b"r" * 32)  # type: ignore[arg-type]  # any number will do
    roots = {9: b"n" * 32, 10: b"r" * 32}
    facts = LedgerFacts(head=head, roots=roots.get)

    def memory(*heads: Head) -> Severity:
        return token.memory(heads, facts).severity

    assert memory(Head("log/1", 10, b"r" * 32)) is Severity.OK
    assert memory(Head("log/1", 9, b"n" * 32)) is Severity.OK
    assert memory(Head("log/1", 11, b"s" * 32)) is Severity.FAILED
    assert memory(Head("log/1", 9, b"x" * 32)) is Severity.FAILED
    assert memory(Head("log/2", 9, b"n" * 32)) is Severity.FAILED
    assert memory() is Severity.FAILED
    assert token.memory((), LedgerFacts()).severity is Severity.WARNING


def test_mechanisms_that_the_token_lacks() -> None:
    health = SignerHealth("kms", ready=True, detail="", counter=0)
    assert token.mechanisms(health).severity is Severity.OK
    found = token.mechanisms(dataclasses.replace(health, lacking=("Ed25519 needs EDDSA",)))
    assert found.severity is Severity.FAILED
    assert "Ed25519 needs EDDSA" in found.detail


def test_keys_that_sign_too_much() -> None:
    def severities(*rates: KeyRate) -> set[str]:
        health = SignerHealth("kms", ready=True, detail="", counter=0, rates=rates)
        return _severities(token.rates(health))

    people = KeyLabel("people-1")
    calm = KeyRate(people, Purpose.CERTIFICATE, 1000, 100, 0)
    assert severities() == severities(calm) == {"ok"}
    low = dataclasses.replace(calm, left=99)
    assert severities(calm, low) == {"warning"}
    assert severities(calm, dataclasses.replace(low, left=900, refused=1)) == {"failed"}


# Processes

RUNNING = {"state": "running", "restarts": 0}


def test_children_that_are_not_well() -> None:
    good = {"signer": RUNNING, "worker": RUNNING}
    assert _severities(processes.children(good)) == {"ok"}
    weak = {**good, "worker": {"state": "running", "restarts": 3}}
    assert _severities(processes.children(weak)) == {"warning"}
    dead = {**good, "signer": {"state": "pin-refused", "restarts": 0}}
    assert _severities(processes.children(dead)) == {"failed"}
    assert _severities(processes.children({})) == {"failed"}


def test_a_worker_that_has_loaded_a_module(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    module = Path("/opt/hsm/libvendor.so")
    maps.write_text("7f0 r-xp 0 08:01 1 /usr/lib/libc.so.6\n")
    assert processes.mapped(maps, module).severity is Severity.OK
    for line in (str(module), "/usr/lib/softhsm/libsofthsm2.so", "/site/pkcs11/_pkcs11.so"):
        maps.write_text(f"7f0 r-xp 0 08:01 1 /usr/lib/libc.so.6\n7f1 r-xp 0 08:01 2 {line}\n")
        found = processes.mapped(maps, module)
        assert found.severity is Severity.FAILED
        assert line in found.detail
    assert processes.mapped(tmp_path / "absent", module).severity is Severity.WARNING


def test_processes_of_one_user(tmp_path: Path) -> None:
    worker, signer = tmp_path / "1", tmp_path / "2"
    for process in (worker, signer):
        process.mkdir()
        (process / "status").write_text("Name:\tpython\nUid:\t7\t7\t7\t7\n")
    found = processes.separated(worker, signer, {"not_separated_because": "not root"})
    assert found.severity is Severity.WARNING
    assert "not root" in found.detail
    assert processes.separated(worker, tmp_path / "3", {}).severity is Severity.WARNING
    (signer / "status").write_text("Uid:\t8\t8\t8\t8\n")
    assert processes.separated(worker, signer, {}).severity is Severity.OK


def test_users_that_are_missing(tmp_path: Path) -> None:
    settings = _settings(tmp_path / "home", users={"worker": "no-such-user", "signer": "root"})
    (found,) = processes.users(settings, root=True)
    assert found.severity is Severity.WARNING
    assert "no-such-user" in found.detail
    assert DEFAULT_SIGNER not in found.detail
    assert processes.users(settings, root=False) == []


def test_a_home_in_use_without_processes(patient: Patient) -> None:
    busy = dataclasses.replace(patient, running=True)
    assert _severities(processes.processes(busy)) == {"warning"}


# The API's certificate


def test_the_servers_certificate(patient: Patient) -> None:
    assert server_certificate(patient).severity is Severity.OK  # none yet
    path = patient.settings.tls_dir / "server.pem"
    path.parent.mkdir()
    path.write_text("nonsense")
    assert server_certificate(patient).severity is Severity.FAILED
    running = dataclasses.replace(patient, running=True)
    authority = Authority.create("Root", None, 1, datetime(2000, 1, 1, tzinfo=UTC))
    pem = ssl.DER_cert_to_PEM_cert(authority.certificate)
    path.write_text(pem)
    assert server_certificate(running).severity is Severity.FAILED
    assert server_certificate(patient).severity is Severity.OK  # renewed at the next start
