"""Settings: refused mistakes, safe defaults, one reader of the environment."""

import ast
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms.config import (
    ConfigError,
    child_environment,
    client_settings,
    credential_pin_file,
    load,
    locate,
    parse,
)
from kms.config_template import render, write_initial
from kms.settings import Address, Settings, parse_address

ROOT = Path(__file__).parents[2]
HOME = Path("/srv/kms")
MINIMAL = {"name": "log.kms.example", "public_url": "http://pki.example.org"}


def make(**values: Any) -> Settings:
    return parse(HOME / "kms.toml", {**MINIMAL, **values})


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("KMS_") or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)


def test_defaults_are_the_safe_ones():
    settings = make()
    assert [str(address) for address in dict(settings.listeners).values()] == [
        "127.0.0.1:8443",
        "127.0.0.1:8080",
        "127.0.0.1:9464",
    ]
    assert settings.signer_state == Path("/srv/kms-signer")
    assert settings.database_url == "sqlite:////srv/kms/data/ledger.db"
    assert settings.limits.max_body_bytes == 8 * 1024 * 1024
    assert settings.limits.idempotency_days >= 7
    assert settings.token.pin_file is None


def test_relative_paths_start_at_the_home():
    settings = make(token={"pin_file": "pin", "directory": "/x/token"}, policy="./own.toml")
    assert settings.token.pin_file == HOME / "pin"
    assert settings.token.directory == Path("/x/token")
    assert settings.policy_path == HOME / "own.toml"
    assert make().policy_path is None


@pytest.mark.parametrize(
    ("values", "key", "hint"),
    [
        ({"listner": {}}, "listner: unknown key", "listeners"),
        ({"limits": {"batch": 5}}, "limits.batch: unknown key", "batch_items"),
        ({"token": {"pin": "hunter2"}}, "token.pin", "pin_file"),
        ({"home": "/elsewhere"}, "home: unknown key", "place"),
        ({"path": "/elsewhere"}, "path: unknown key", "place"),
        ({"public_url": "ftp://x"}, "public_url", "http"),
        ({"public_url": "http://user:hunter2@x"}, "public_url", "plain"),
        ({"public_url": "http://x/?q"}, "public_url", "plain"),
        ({"name": "Not A Log"}, "name", "pattern"),
        ({"listeners": {"api": "localhost:8443"}}, "listeners.api", "127.0.0.1:8443"),
        ({"listeners": {"api": "::1:8443"}}, "listeners.api", "[::1]:8443"),
        ({"listeners": {"api": "127.0.0.1:0"}}, "listeners.api", "127.0.0.1:8443"),
        ({"listeners": {"api": 8443}}, "listeners.api", "127.0.0.1:8443"),
        ({"limits": {"batch_items": 1001}}, "limits.batch_items", "1000"),
        ({"limits": {"batch_items": "5"}}, "limits.batch_items", "integer"),
        ({"limits": {"batch_items": True}}, "limits.batch_items", "integer"),
        ({"limits": {"idempotency_days": 6}}, "limits.idempotency_days", "7"),
        ({"limits": {"crl_validity_seconds": 3600}}, "crl_interval_seconds", "less than"),
        ({"tls": {"renew_before_hours": 72}}, "renew_before_hours", "less than"),
        ({"tls": {"server_names": []}}, "tls.server_names", "at least 1"),
        ({"signer": {"state": "signer"}}, "signer.state", "outside the home"),
        ({"signer": {"state": "../kms/x/.."}}, "signer.state", "outside the home"),
        ({"database": {"url": "postgresql://kms:hunter2@db/kms"}}, "database.url", "pgpass"),
        ({"tokens": {"main": {}}}, "tokens.main", "[token]"),
        ({"tokens": {"Safe": {"label": "b"}}}, "tokens.Safe", "a-z"),
        ({"tokens": {"x" * 33: {"label": "b"}}}, "tokens.x", "32"),
        ({"tokens": {"safe": {"labl": "b"}}}, "tokens.safe.labl: unknown key", "label"),
        ({"tokens": {"safe": {"label": "b", "pin": "hunter2"}}}, "tokens.safe.pin", "pin_file"),
        ({"tokens": {"safe": {}}}, "tokens main and safe are the same", "serial"),
        ({"tokens": {"a": {"label": "b"}, "c": {"label": "b"}}}, "a and c are the same", "label"),
        (
            {
                "token": {"directory": "token"},
                "tokens": {"a": {"label": "b", "directory": "../kms/token"}},
            },
            "main and a",
            "its own",
        ),
        ({"token": {"signers": 65}}, "token.signers", "64"),
        ({"token": {"signers": 0}}, "token.signers", "1"),
        ({"token": {"call_seconds": 0}}, "token.call_seconds", "1"),
        ({"tokens": {f"t{n}": {"label": f"{n}"} for n in range(33)}}, "tokens", "32"),
    ],
)
def test_mistakes_are_named_with_a_remedy(values: dict[str, Any], key: str, hint: str):
    with pytest.raises(ConfigError) as caught:
        make(**values)
    message = str(caught.value)
    assert str(HOME / "kms.toml") in message
    assert key in message
    assert hint in message
    assert "hunter2" not in message, "values may be misplaced secrets"


def test_the_estate_has_the_own_token_first():
    settings = make(tokens={"safe": {"label": "b", "signers": 2, "chroot": "sid"}})
    assert list(settings.estate) == ["", "safe"]
    assert settings.estate["safe"].chroot == HOME / "sid"
    assert settings.token_sockets("safe") == [
        HOME / "run/tokens/safe-1.sock",
        HOME / "run/tokens/safe-2.sock",
    ]
    assert settings.token_sockets("") == [HOME / "run/tokens/main-1.sock"]


def test_one_token_and_one_process_are_no_pool():
    assert not make().pooled
    assert make(token={"signers": 2}).pooled
    assert make(token={"chroot": "/sid"}).pooled
    assert make(tokens={"safe": {"label": "b"}}).pooled


def test_every_fault_is_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        parse(HOME / "kms.toml", {"limits": {"a": 1, "b": 2}})
    assert len(str(caught.value).splitlines()) == 4


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        make().limits.batch_items = 5


@given(st.ip_addresses(), st.integers(1, 65535))
def test_addresses_survive_their_text_form(host: Any, port: int):
    address = Address(str(host), port)
    assert parse_address(str(address)) == address


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str):
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert parse_address(str(address)) == address


def test_the_initial_file_loads_as_the_same_settings(tmp_path: Path):
    home = tmp_path / "home"
    conf = tmp_path / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {home}/token\nlog.level = INFO\n")
    settings = write_initial(
        home,
        **MINIMAL,
        token_label='odd "label" \\ ☂',
        pin_file=home / "pin",
        softhsm_conf=conf,
        listeners={"api": "[::1]:18443"},
        server_names=["kms.example.org"],
    )
    assert load(home / "kms.toml") == settings
    assert settings.token.directory == home / "token"
    assert settings.token.environment == {"SOFTHSM2_CONF": str(conf)}
    assert settings.token.label == 'odd "label" \\ ☂'
    assert (home / "kms.toml").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in home.iterdir()] == ["kms.toml"]


def test_a_home_is_never_set_up_twice(tmp_path: Path):
    write_initial(tmp_path, **MINIMAL, token_label="kms")
    before = (tmp_path / "kms.toml").read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        write_initial(tmp_path, **MINIMAL, token_label="other")
    assert (tmp_path / "kms.toml").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_every_key_is_documented_and_its_shown_default_is_true():
    text = render(MINIMAL)
    uncommented = "\n".join(
        line[2:] if line.startswith("# ") and " = " in line and line.split()[2] == "=" else line
        for line in text.splitlines()
    )
    values = tomllib.loads(uncommented)
    assert parse(HOME / "kms.toml", values) == make()
    for table, fields in [("", Settings), *Settings.model_fields.items()]:
        model = fields if table == "" else fields.annotation
        for name, field in getattr(model, "model_fields", {}).items():
            if (table, name) not in {("", "home"), ("", "path")} and field.description:
                assert f"{name} =" in text
                assert len(field.description) > 15, f"{table}.{name} deserves a sentence"


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"a = ", "not TOML"), (b"\xff", "not TOML"), (b"#" * (1 << 20 | 1), "larger")],
)
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes, words: str):
    path = tmp_path / "kms.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        load(path)
    with pytest.raises(ConfigError, match="kms init"):
        load(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)


def test_where_the_configuration_is_found(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="--home"):
        locate()
    monkeypatch.setenv("KMS_HOME", "/a")
    assert locate() == Path("/a/kms.toml")
    monkeypatch.setenv("KMS_CONFIG", "/b/other.toml")
    assert locate() == Path("/b/other.toml")
    assert locate(home=Path("/c")) == Path("/c/kms.toml")
    assert locate(config=Path("/d.toml")) == Path("/d.toml")


def test_client_settings_argument_beats_environment_beats_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(ConfigError, match="--server"):
        client_settings()
    write_initial(tmp_path, **MINIMAL, token_label="kms", listeners={"api": "0.0.0.0:8443"})
    with pytest.raises(ConfigError, match="officer"):
        client_settings(tmp_path)
    for name in ("clients/officer.pem", "clients/officer.key", "trust.pem", "other.pem"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    from_home = client_settings(tmp_path)
    assert from_home.server == "https://127.0.0.1:8443"
    assert from_home.cert == tmp_path / "clients/officer.pem"
    monkeypatch.setenv("KMS_HOME", str(tmp_path))
    monkeypatch.setenv("KMS_SERVER", "https://env:1")
    monkeypatch.setenv("KMS_TRUST", str(tmp_path / "other.pem"))
    assert client_settings().server == "https://env:1"
    assert client_settings().trust == tmp_path / "other.pem"
    assert client_settings(server="https://arg:1").server == "https://arg:1"


def test_the_pin_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert credential_pin_file() is None
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert credential_pin_file() is None
    (tmp_path / "kms-pin").write_text("1234")
    assert credential_pin_file() == tmp_path / "kms-pin"
    assert credential_pin_file("safe") is None
    (tmp_path / "kms-pin-safe").write_text("5678\n")
    assert credential_pin_file("safe") == tmp_path / "kms-pin-safe"


def test_children_inherit_no_more_than_they_need(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("LANG", "C.UTF-8")
    environment = child_environment({"SOFTHSM2_CONF": "/c"})
    assert environment["SOFTHSM2_CONF"] == "/c"
    allowed = {"PATH", "LANG", "LC_ALL", "TZ", "MALLOC_ARENA_MAX", "SOFTHSM2_CONF"}
    assert set(environment) <= allowed


def test_only_the_configuration_reads_the_environment():
    readers = {
        str(path.relative_to(ROOT))
        for folder in ("kms", "pki", "hsm_drivers", "policies")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if (isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"})
        or (isinstance(node, ast.ImportFrom) and node.module == "pydantic_settings")
    }
    assert readers == {"kms/config.py"}
