"""Local commands over a real token and a real database: from nothing to first principals."""

import json
import os
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from kms.cli.errors import ExitCode
from kms.config import load
from kms.processes.home import home_lock
from kms.storage.sql import SqlLedger
from tests.support.cli import Cli
from tests.support.softhsm import make_token

OFFICERS = ("--officer", "carol", "--officer", "dan")


class Home:
    """A home with its token; its commands run in this process, its signers do not."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "home"
        self.token = make_token(directory / "token", "test")
        self.pin = self.token.directory / "pin"

    def init(self, cli: Cli, *more: str) -> Any:
        given = {
            "--name": "log.test.example",
            "--public-url": "http://127.0.0.1:18081",
            "--token-label": "test",
            "--pin-file": str(self.pin),
            "--softhsm-conf": str(self.token.conf),
            "--module": self.token.module,
        }
        options = [part for pair in given.items() for part in pair]
        return cli.run("init", "--home", str(self.path), *options, *more)

    def command(self, cli: Cli, *words: str) -> Any:
        return cli.run(*words, "--home", str(self.path))


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, lambda: tuple(capsys.readouterr()))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose ceremony has been held; tests leave it as they find it."""
    made = Home(tmp_path_factory.mktemp("founded"))
    silent = Cli(made.directory, lambda: ("", ""))
    assert made.init(silent).status == ExitCode.DONE
    done = made.command(silent, "authority", "ceremony", *OFFICERS, "--yes")
    assert done.status == ExitCode.DONE
    return made


def test_a_home_is_made_once(home: Home, cli: Cli) -> None:
    done = home.init(cli, "--json")
    assert done.status == ExitCode.DONE
    assert done.json["home"] == str(home.path)
    settings = load(home.path / "kms.toml")
    database = settings.data_dir / "ledger.db"
    assert database.stat().st_mode & 0o777 == 0o600
    assert settings.data_dir.stat().st_mode & 0o777 == 0o700
    before = settings.path.read_bytes()
    again = home.init(cli)
    assert again.status == ExitCode.USAGE
    assert "exists already" in again.err
    assert settings.path.read_bytes() == before


def test_no_command_but_init_makes_a_database(home: Home, cli: Cli) -> None:
    home.init(cli)
    database = load(home.path / "kms.toml").data_dir / "ledger.db"
    database.unlink()
    ceremony = home.command(cli, "authority", "ceremony", *OFFICERS, "--yes")
    assert ceremony.status == ExitCode.USAGE
    assert f"there is no ledger at {database}: restore it" in ceremony.err
    assert not database.exists()
    home.init(cli)
    assert not database.exists()


def test_root_works_in_no_directory_behind_a_link(
    home: Home, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.init(cli)
    data, elsewhere = home.path / "data", home.directory / "elsewhere"
    data.rename(elsewhere)
    data.symlink_to(elsewhere)
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    monkeypatch.setattr("os.geteuid", lambda: 0)
    done = home.command(cli, "authority", "ceremony", *OFFICERS, "--yes")
    assert done.status == ExitCode.USAGE
    assert "put one there, not a link" in done.err
    (home.path / "kms.toml").unlink()
    assert home.init(cli).status == ExitCode.USAGE
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before


def test_a_ceremony_makes_everything_on_the_token(home: Home, cli: Cli) -> None:
    home.init(cli)
    done = home.command(cli, "authority", "ceremony", *OFFICERS, "--yes", "--json")
    assert done.status == ExitCode.DONE, done.err
    report = done.json
    assert report["officers"] == ["carol", "dan"]
    assert [key["label"] for key in report["keys"]] == [
        *("log-1", "root-1", "people-1", "infrastructure-1")
    ]
    for key in report["keys"]:
        held = key["attributes"]
        assert held["local"]
        assert held["never_extractable"]
        assert not held["extractable"]
    assert report["checkpoint"].startswith(f"{report['origin']}\n")
    trust = x509.load_pem_x509_certificate((home.path / "trust.pem").read_bytes())
    assert trust.fingerprint(hashes.SHA256()).hex() == report["certificates"]["root"]["sha256"]


def test_a_ceremony_wants_officers_who_agree(
    home: Home, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.init(cli)
    for officers in (["--officer", "carol"], ["--officer", "carol"] * 2):
        done = home.command(cli, "authority", "ceremony", *officers, "--yes")
        assert done.status == ExitCode.USAGE
    typed = iter(["carol", "mallory"])
    monkeypatch.setattr("typer.prompt", lambda *_, **__: next(typed))
    done = home.command(cli, "authority", "ceremony", *OFFICERS)
    assert done.status == ExitCode.FAILED
    assert "that is not dan" in done.err
    assert "ECDSA-P384" in done.err  # the plan was shown
    settings = load(home.path / "kms.toml")
    assert not settings.trust_path.exists()


def test_a_plan_that_asks_too_much_is_refused(home: Home, cli: Cli, tmp_path: Path) -> None:
    home.init(cli)
    plan = tmp_path / "plan.toml"
    plan.write_text("[root]\nyears = 200\n")
    done = home.command(cli, "authority", "ceremony", *OFFICERS, "--yes", "--plan", str(plan))
    assert done.status == ExitCode.USAGE
    assert "root.years" in done.err


def test_a_ceremony_is_held_once(founded: Home, cli: Cli) -> None:
    done = founded.command(cli, "authority", "ceremony", *OFFICERS, "--yes")
    assert done.status == ExitCode.USAGE
    assert "has had its ceremony" in done.err


def test_a_wrong_pin_is_tried_once_and_told(home: Home, cli: Cli) -> None:
    home.init(cli)
    home.pin.write_text("wrong-pin")
    done = home.command(cli, "authority", "ceremony", *OFFICERS, "--yes")
    assert done.status == ExitCode.USAGE
    assert "refused the PIN" in done.err
    assert "wrong-pin" not in done.out + done.err


def test_a_pin_comes_by_descriptor(founded: Home, cli: Cli, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, founded.pin.read_bytes())
    os.close(writer)
    done = founded.command(cli, "doctor", "--pin-fd", str(reader))
    assert "logged in" in done.out


def test_development_clients_are_made_once(founded: Home, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "clients"
    done = founded.command(cli, "principal", "dev-clients", "--out", str(out), "--json")
    assert done.status == ExitCode.DONE, done.err
    assert done.json["made"] == ["alice", "bob", "audrey", "messenger"]
    people = {path.name: path.stat().st_mode & 0o777 for path in out.iterdir()}
    assert people["alice.key"] == 0o600
    certificate = x509.load_pem_x509_certificates((out / "messenger.pem").read_bytes())[0]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris[0].startswith("https://id.ministry.example/")
    again = founded.command(cli, "principal", "dev-clients", "--out", str(out), "--json")
    assert again.json["made"] == []


def test_a_first_officer_is_certified_from_a_csr(founded: Home, cli: Cli, tmp_path: Path) -> None:
    key, csr, out = ec.generate_private_key(ec.SECP256R1()), tmp_path / "csr", tmp_path / "erin.pem"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whoever")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    csr.write_bytes(request.public_bytes(Encoding.PEM))
    words = ["principal", "bootstrap-officer", "erin", "--csr", str(csr), "--out", str(out)]
    done = founded.command(cli, *words, "--json")
    assert done.status == ExitCode.DONE, done.err
    leaf, issuer = x509.load_pem_x509_certificates(out.read_bytes())
    leaf.verify_directly_issued_by(issuer)
    assert "erin" in leaf.subject.rfc4514_string()
    out.unlink()
    again = founded.command(cli, *words, "--json")
    assert again.status == ExitCode.FAILED
    assert again.json["error"]["type"].endswith("key-reused")


def test_one_at_a_time_works_in_a_home(founded: Home, cli: Cli) -> None:
    with home_lock(load(founded.path / "kms.toml")):
        done = founded.command(cli, "principal", "dev-clients", "--out", "/nowhere")
    assert done.status == ExitCode.USAGE
    assert "in use by process" in done.err


def _findings(done: Any) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for item in done.json["findings"]:
        found.setdefault(item["check"], set()).add(item["severity"])
    return found


def test_the_doctor_finds_a_sound_home_sound(founded: Home, cli: Cli) -> None:
    done = founded.command(cli, "doctor", "--json")
    assert done.status == ExitCode.DONE, done.json
    found = _findings(done)
    wrong = {name: kinds for name, kinds in found.items() if kinds - {"ok"}}
    assert set(wrong) <= {"weak-keys", "processes", "disk"}
    assert {"clock", "database", "log", "certificates", "crls", "token", "keys"} <= set(found)
    assert {"mechanisms", "signer-memory", "files", "policy", "clients"} <= set(found)


def test_the_doctor_finds_a_refused_pin(founded: Home, cli: Cli) -> None:
    right = founded.pin.read_bytes()
    try:
        founded.pin.write_bytes(b"wrong-pin")
        done = founded.command(cli, "doctor", "--json")
    finally:
        founded.pin.write_bytes(right)
    assert done.status == ExitCode.FAILED
    assert _findings(done)["token"] == {"failed"}
    assert "wrong-pin" not in done.out + done.err


def test_the_doctor_finds_a_token_that_is_gone(founded: Home, cli: Cli) -> None:
    tokens = founded.token.directory / "tokens"
    hidden = tokens.rename(founded.token.directory / "elsewhere")
    try:
        tokens.mkdir(mode=0o700)
        done = founded.command(cli, "doctor", "--json")
    finally:
        for path in tokens.iterdir():
            path.unlink()
        tokens.rmdir()
        hidden.rename(tokens)
    assert done.status == ExitCode.FAILED
    assert _findings(done)["token"] == {"failed"}


def test_the_doctor_finds_a_changed_entry(founded: Home, cli: Cli) -> None:
    path = founded.path / "data" / "ledger.db"
    leaf = _replace_leaf(path, 3, b"{}")
    try:
        done = founded.command(cli, "doctor", "--json")
    finally:
        _replace_leaf(path, 3, leaf)
    assert done.status == ExitCode.FAILED
    said = [item["detail"] for item in done.json["findings"] if item["check"] == "database"]
    assert any("entry 3" in sentence for sentence in said)


def test_the_doctor_finds_a_rolled_back_signer(founded: Home, cli: Cli) -> None:
    heads = load(founded.path / "kms.toml").signer_state / "heads.json"
    before = heads.read_bytes()
    document = json.loads(before)
    document["heads"][0]["size"] += 1
    try:
        heads.write_text(json.dumps(document))
        done = founded.command(cli, "doctor", "--json")
    finally:
        heads.write_bytes(before)
    assert _findings(done)["signer-memory"] == {"failed"}


def _replace_leaf(path: Path, index: int, leaf: bytes) -> bytes:
    with sqlite3.connect(path) as connection:
        (table,) = [
            name
            for (name,) in connection.execute("select name from sqlite_master where type='table'")
            if name in {"event", "events"}
        ]
        where = f' from {table} where "index" = ?'
        ((before,),) = connection.execute(f"select leaf{where}", (index,)).fetchall()
        connection.execute(f'update {table} set leaf = ? where "index" = ?', (leaf, index))  # noqa: S608 - as above
    connection.close()
    found: bytes = before
    return found


def test_a_second_epoch_needs_a_loss(founded: Home, cli: Cli) -> None:
    done = founded.command(
        cli, "log", "new-epoch", *OFFICERS, "--reason", "for no reason", "--yes", "--json"
    )
    assert done.status == ExitCode.FAILED
    ledger = SqlLedger(load(founded.path / "kms.toml").database_url)
    head = ledger.head()
    ledger.close()
    assert head is not None
    assert head.log == 1


def test_no_command_leaves_a_signer_behind(founded: Home) -> None:
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert str(founded.path) not in listed.stdout
