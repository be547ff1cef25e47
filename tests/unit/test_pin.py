"""The PIN: where it may come from, and that it stays hidden."""

import io
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from kms.config import parse
from kms.processes.pin import MAX_PIN, Pin, PinError, obtain_pin
from kms.settings import Settings

SECRET = "hunter2-☂"


def settings(**token: Any) -> Settings:
    values = {"name": "log.test", "public_url": "http://127.0.0.1:8080", "token": token}
    return parse(Path("/srv/kms/kms.toml"), values)


def piped(content: bytes) -> int:
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    return reader


def value(pin: Pin) -> bytes:
    with os.fdopen(pin.pipe(), "rb") as file:
        return file.read()


@pytest.fixture(autouse=True)
def _nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())


def private(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_the_descriptor_comes_before_the_file(tmp_path: Path, ending: bytes):
    file = private(tmp_path / "pin", b"other")
    fd = piped(SECRET.encode() + ending)
    assert value(obtain_pin(settings(pin_file=str(file)), pin_fd=fd)) == SECRET.encode()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    assert value(obtain_pin(settings(pin_file=str(file)))) == b"other"


def test_systemd_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    private(tmp_path / "kms-pin", b"1234", 0o440)
    assert value(obtain_pin(settings())) == b"1234"


def test_a_prompt_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(PinError, match="pin_file"):
        obtain_pin(settings(), prompt=lambda _: SECRET)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert value(obtain_pin(settings(), prompt=lambda _: SECRET)) == SECRET.encode()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int):
    file = private(tmp_path / "pin", SECRET.encode(), mode)
    with pytest.raises(PinError, match="chmod 0600"):
        obtain_pin(settings(pin_file=str(file)))


def test_an_absent_file_is_named(tmp_path: Path):
    with pytest.raises(PinError, match=str(tmp_path / "pin")):
        obtain_pin(settings(pin_file=str(tmp_path / "pin")))


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"a\nb", b"a\x00b", b"x" * (MAX_PIN + 1), b"x" * 5000, b"a\n\n"]
)
def test_what_is_no_pin_is_refused_and_not_repeated(content: bytes):
    with pytest.raises(PinError) as caught:
        obtain_pin(settings(), pin_fd=piped(content))
    assert "xxx" not in str(caught.value)


def test_the_longest_pin_passes():
    pin = b"x" * MAX_PIN
    assert value(obtain_pin(settings(), pin_fd=piped(pin + b"\r\n"))) == pin


def test_a_pin_shows_itself_to_nobody():
    buffer = bytearray(SECRET.encode())
    pin = Pin(buffer)
    assert SECRET not in f"{pin!r}{pin}"
    with pytest.raises(TypeError):
        pickle.dumps(pin)
    alias = memoryview(buffer)
    first = bytes(alias)
    alias.release()
    assert first == SECRET.encode()
    pin.clear()
    assert not buffer
    with pytest.raises(PinError, match="wiped"):
        pin.pipe()
