"""What token processes are started with: who they run as, where, and what they are told."""

import itertools
from pathlib import Path

import pytest

from kms.config import ConfigError, parse
from kms.processes import token_processes
from kms.processes.accounts import Account, Separation
from kms.processes.pin import Pin
from kms.processes.token_processes import TokenProcesses, command, private_directory
from kms.settings import Settings, Token

HOME = Path("/srv/kms")
SIGNER = Account("kms-signer", 991, 992, (992, 77))
INHERITED = {"socket": 3, "pin": 4, "gate": 5, "beat": 6}


def settings(home: Path = HOME, **token: object) -> Settings:
    values = {"name": "log.example", "public_url": "http://x.example", "token": token}
    return parse(home / "kms.toml", values)


def argv(token: Token, account: Account | None = None) -> list[str]:
    return command("main-1", token, account, INHERITED)


def test_a_process_is_told_its_token_and_nothing_secret():
    token = settings(label="b", serial="0815", profile="softhsm2", signers=3).token
    line = argv(token)
    told = dict(itertools.pairwise(line))
    assert told["--label"] == "b"
    assert told["--serial"] == "0815"
    assert told["--profile"] == "softhsm2"
    assert told["--processes"] == "3"
    assert [told[f"--{name}-fd"] for name in INHERITED] == ["3", "4", "5", "6"]
    assert "chroot" not in line[0]


def test_in_a_chroot_root_directory_and_user_change_before_anything_runs():
    token = settings(chroot="/var/sid", module="/usr/lib/p11.so").token
    line = argv(token, SIGNER)
    assert Path(line[0]).name == "chroot"
    assert line[1:5] == ["--userspec=991:992", "--groups=992,77", "/var/sid", "/usr/bin/python3"]
    assert "--allow-uid" in line
    assert "991" in line


def test_a_chroot_wants_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = settings(tmp_path, chroot="/var/sid")
    made.run_dir.mkdir()
    monkeypatch.setattr(token_processes.os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match=r"token main has a chroot.*as root"):
        TokenProcesses(made, {"": Pin(bytearray(b"1234"))}, Separation(reason="a test"))


def test_sockets_lie_where_nobody_else_comes(tmp_path: Path):
    directory = tmp_path / "tokens"
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    (directory / "main-1.sock").touch()
    private_directory(directory, None)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert list(directory.iterdir()) == []


def test_a_link_in_the_place_of_the_directory_is_refused(tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    (tmp_path / "tokens").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="remove it"):
        private_directory(tmp_path / "tokens", None)
    assert (elsewhere / "precious").exists()


def test_a_home_whose_signer_opens_the_token_has_no_processes(tmp_path: Path):
    tokens = TokenProcesses(settings(tmp_path), {}, Separation(reason="a test"))
    tokens.start()
    tokens.watch(restart=True)
    assert tokens.states() == {}
    assert tokens.settled()
    assert tokens.stop(1.0)
    tokens.close()
