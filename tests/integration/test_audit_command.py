"""The command `kms-audit`: what it takes, what it prints, and its exit status."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kms.audit.main import main
from kms.wire import EventType
from tests.support.ministry import SYSTEM, Ministry, busy_ministry
from tests.support.naive_log import NaiveLog


@pytest.fixture(scope="module")
def ministry() -> Ministry:
    return busy_ministry()


@pytest.fixture(scope="module")
def record(ministry: Ministry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ministry.write(tmp_path_factory.mktemp("record"))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        status = main([str(item) for item in arguments])
    except SystemExit as stop:
        status = int(stop.code or 0)
    out = capsys.readouterr()
    return status, out.out, out.err


def test_a_good_record_reads_as_a_table(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "verify", record)
    assert status == 0
    assert err == ""
    lines = out.splitlines()
    verdicts = [line.split()[0] for line in lines[:-1]]
    assert verdicts == ["ok", "note:", *["ok"] * 15]
    assert lines[-1] == "verdict: every check holds for 25 events of log.interior.example/1"


def test_a_bad_record_names_the_first_failure_and_counts_all(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "record"
    shutil.copytree(record, folder)
    for index in range(25):
        (folder / f"events/{index}.json").write_bytes(b"{}")
    status, out, _ = run(capsys, "verify", folder)
    assert status == 1
    assert "        - and 5 more (--json has all)" in out
    last = out.splitlines()[-1]
    assert "; first: events/0.json: differs from the entry bundle" in last
    _, text, _ = run(capsys, "verify", folder, "--json")
    document = json.loads(text)
    assert not document["ok"]
    assert f"FAILED, {document['failures']} failures" in last
    assert document["failures"] == sum(len(item["failures"]) for item in document["checks"])


def test_the_record_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ministry = Ministry()
    ministry.ceremony()
    ministry.born("\x1b[2J\x1b[32mok", "Ed25519", b"x", attributes={})
    ministry.event(EventType.POLICY_ACTIVATED, SYSTEM, {}, detail={"name": "x", "hash": "\x1b[31m"})
    folder = ministry.write(tmp_path / "record")
    (folder / "receipts").mkdir()
    (folder / "receipts/\x1b[1m\n").write_bytes(b"")
    for command in ("verify", "report"):
        status, out, _ = run(capsys, command, folder)
        assert status == 1
        assert "\x1b" not in out
        assert "\\x1b[2J" in out


def test_report_tells_what_happened(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "report", record)
    assert status == 0
    assert "device.enrolled" in out
    status, out, _ = run(capsys, "report", record, "--json")
    report = json.loads(out)["report"]
    assert report["issued"]["device-kem"] == 4
    assert report["revoked"] == {"cessation-of-operation": 1, "key-compromise": 4}
    assert report["crls"] == {"infrastructure": 2, "people": 2, "root": 2}


def test_keys_and_roots_that_the_auditor_holds(
    record: Path, ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trusted, other = tmp_path / "vkey", tmp_path / "other"
    trusted.write_text(ministry.log.vkey)
    other.write_text(NaiveLog(ministry.log.origin, bytes(32)).vkey)
    good = ["--vkey", trusted, "--root", record / "ca/root.pem"]
    assert run(capsys, "verify", record, *good)[0] == 0
    status, out, _ = run(capsys, "verify", record, "--vkey", other)
    assert status == 1
    assert "no known key signed the note" in out
    status, out, _ = run(capsys, "verify", record, "--root", record / "ca/people.pem")
    assert status == 1
    assert "ca/root.pem: is not the root that you trust" in out


def test_policies_that_the_auditor_brings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ministry = Ministry()
    source = b"""
name = "strict"
version = 1
[[rule]]
id = "identity-elliptic"
use = "slot"
slot = "identity"
algorithms = ["Ed25519"]
protection = ["device"]
reason = "as an example"
"""
    ministry.policy = hashlib.sha256(source).hexdigest()
    ministry.ceremony()
    ministry.enrol("ada", "phone", {"identity": "Ed25519"})
    folder = ministry.write(tmp_path / "record")
    status, out, _ = run(capsys, "verify", folder)
    assert status == 0
    assert "is not at hand (--policy)" in out
    (tmp_path / "strict.toml").write_bytes(source)
    status, out, _ = run(capsys, "verify", folder, "--policy", tmp_path / "strict.toml")
    # The server's certificate was issued under a rule that this policy does not have.
    assert status == 1
    assert "messaging-server: rule 'infrastructure-elliptic' is not what" in out
    assert "identity" not in [
        line.split(":")[1].strip() for line in out.splitlines() if "rule" in line
    ]


@pytest.mark.parametrize("size", [1, 7, 16, 24, 25])
def test_an_older_checkpoint_is_extended(
    record: Path,
    ministry: Ministry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    size: int,
) -> None:
    older = tmp_path / "older"
    older.write_bytes(ministry.log.checkpoint(size))
    status, out, _ = run(capsys, "verify", record, "--from", older)
    assert status == 0
    assert "continuation" in out


def test_a_checkpoint_of_another_history_is_not(
    record: Path, ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fork = NaiveLog(ministry.log.origin)
    fork.key, fork.leaves = ministry.log.key, [b"other", *ministry.log.leaves[1:9]]
    longer = NaiveLog(ministry.log.origin)
    longer.key, longer.leaves = ministry.log.key, [*ministry.log.leaves, b"one more"]
    foreign = NaiveLog(ministry.log.origin, os.urandom(32))
    foreign.leaves = ministry.log.leaves[:9]
    for log, message in (
        (fork, "the tree of 25 leaves does not extend that of 9"),
        (longer, "a tree of 25 leaves cannot extend one of 26"),
        (foreign, "no known key signed the note"),
    ):
        (tmp_path / "older").write_bytes(log.checkpoint())
        status, out, _ = run(capsys, "verify", record, "--from", tmp_path / "older")
        assert status == 1
        assert message in out


def test_receipts_for_every_event(
    record: Path, ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(25):
        status, out, _ = run(capsys, "prove", record, index)
        assert status == 0
        assert out.encode() == ministry.log.receipt(index)
    _, text, _ = run(capsys, "prove", record, 3, "--json")
    assert json.loads(text) == {"index": 3, "receipt": ministry.log.receipt(3).decode()}
    assert run(capsys, "prove", record, 3, "--out", tmp_path / "proof") == (0, "", "")
    assert (tmp_path / "proof").read_bytes() == ministry.log.receipt(3)


def _damage(folder: Path, how: str) -> None:
    if how == "tile":
        shutil.rmtree(folder / "log/tile/0")
    elif how == "leaf":
        (folder / "events/3.json").write_bytes(b"{}")
    elif how == "leaves":
        shutil.rmtree(folder / "events")
        shutil.rmtree(folder / "log/tile/entries")
    else:
        (folder / how).unlink()


@pytest.mark.parametrize("how", ["tile", "leaf", "leaves", "log/checkpoint", "log.vkey"])
def test_no_receipt_without_what_it_needs(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    folder = tmp_path / "record"
    shutil.copytree(record, folder)
    _damage(folder, how)
    status, out, err = run(capsys, "prove", folder, 3)
    assert (status, out) == (1, "")
    assert err.startswith("kms-audit: ")


def test_no_receipt_beyond_the_head(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "prove", record, 25)
    assert status == 1
    assert "a tree of 25 leaves has no leaf 25" in err


def test_proving_from_entry_bundles_alone(
    record: Path, ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(record / "log", tmp_path / "log")
    shutil.copy(record / "log.vkey", tmp_path)
    assert run(capsys, "prove", tmp_path, 9)[1].encode() == ministry.log.receipt(9)


def test_a_log_of_many_tiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ministry = Ministry()
    ministry.ceremony()
    while len(ministry.log.leaves) < 600:
        ministry.register(f"tenant-{len(ministry.log.leaves)}")
    folder = ministry.write(tmp_path / "record")
    (tmp_path / "older").write_bytes(ministry.log.checkpoint(257))
    status, out, _ = run(capsys, "verify", folder, "--from", tmp_path / "older")
    assert status == 0, out
    for index in (0, 255, 256, 511, 512, 599):
        _, receipt, _ = run(capsys, "prove", folder, index)
        assert receipt.encode() == ministry.log.receipt(index)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "no-such-directory"], "is not a directory"),
        (["verify", ".", "--vkey", "no-such-file"], "cannot read no-such-file"),
        (["verify", ".", "--root", "pyproject.toml"], "is not one certificate in PEM"),
        (["verify", ".", "--policy", "pyproject.toml"], "the policy has unknown keys"),
        (["verify", ".", "--from", "no-such-file"], "cannot read no-such-file"),
        (["prove", ".", "-1"], "INDEX"),
        (["prove", ".", "\u0661"], "not an index"),
        (["prove", "."], "INDEX"),
        ([], "COMMAND"),
    ],
)
def test_usage_and_environment(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err


def test_files_that_cannot_be_read_are_the_environments_fault(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    normal = Path.open

    def refuse(path: Path, *rest: Any, **named: Any) -> Any:
        if path.name == "checkpoint":
            raise PermissionError(13, "Permission denied", str(path))
        return normal(path, *rest, **named)

    monkeypatch.setattr(Path, "open", refuse)
    status, _, err = run(capsys, "verify", record)
    assert status == 2
    assert "Permission denied" in err


def test_large_and_foreign_files_of_the_auditor(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content, message in ((b"x" * 70_000, "more than 65536 bytes"), (b"\xff", "not UTF-8")):
        (tmp_path / "vkey").write_bytes(content)
        status, _, err = run(capsys, "verify", record, "--vkey", tmp_path / "vkey")
        assert status == 2
        assert message in err


def test_an_empty_directory_fails_and_does_not_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, "verify", tmp_path)
    assert status == 1
    assert "log.vkey: missing" in out


def test_it_runs_as_a_program(record: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kms.audit.main", "verify", str(record)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "verdict: every check holds" in done.stdout


def test_the_auditor_needs_nothing_of_the_server() -> None:
    code = (
        "import sys, kms.audit.main; "
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('sqlalchemy', 'fastapi', 'pkcs11', 'hsm_drivers', 'pki', 'typer', 'pydantic')"
        " or m.startswith(('kms.services', 'kms.storage', 'kms.domain', 'kms.device'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
