"""The token's user PIN: where it comes from, and how it reaches a signer.

It is never taken from arguments or the environment, which other processes can read, never becomes
part of a message, and is wiped as far as Python allows (a prompt hands it over as text that only
the garbage collector can free).
"""

import contextlib
import getpass
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from kms.config import ConfigError, credential_pin_file
from kms.settings import Settings, Token

MAX_PIN = 255
"""Longest PIN, in bytes; far below what a pipe takes without a reader."""


class PinError(ConfigError):
    """No PIN was to be had, or it was refused; the message says what to do."""


class Pin:
    """A PIN in memory that can be wiped."""

    __slots__ = ("_value",)

    def __init__(self, value: bytearray) -> None:
        self._value = value

    def __repr__(self) -> str:
        """Masked."""
        return "Pin(****)"

    def __reduce__(self) -> str:
        """Refuse to be pickled."""
        raise TypeError("a PIN is not serialised")

    def pipe(self) -> int:
        """Read end of a new pipe that holds the PIN and nothing after it; the caller closes it."""
        if not self._value:
            raise PinError("the PIN has been wiped")
        reader, writer = os.pipe()
        try:
            os.write(writer, self._value)
        finally:
            os.close(writer)
        return reader

    def clear(self) -> None:
        """Overwrite and forget."""
        _wipe(self._value)
        self._value.clear()


def obtain_pin(
    settings: Settings,
    *,
    pin_fd: int | None = None,
    prompt: Callable[[str], str] = getpass.getpass,
    token: str = "",
) -> Pin:
    """The PIN from the descriptor, else pin_file, else systemd's credential, else a prompt.

    Args:
        settings: Names the file.
        pin_fd: Descriptor to read the PIN from until its end; closed afterwards.
        prompt: Asks a person, without echo.
        token: Which token's; the service's own by default.

    Raises:
        PinError: None of the four has a usable PIN.
    """
    return pin_of(settings.estate[token], token, pin_fd=pin_fd, prompt=prompt)


def pin_of(
    its: Token,
    token: str,
    *,
    pin_fd: int | None = None,
    prompt: Callable[[str], str] = getpass.getpass,
) -> Pin:
    """As `obtain_pin`, of a token that need not stand in any settings.

    Raises:
        PinError: None of the four has a usable PIN.
    """
    if pin_fd is not None:
        return _from_fd(pin_fd, f"file descriptor {pin_fd}")
    if its.pin_file is not None:
        return _from_private_file(its.pin_file)
    credential = credential_pin_file(token)
    if credential is not None:
        return _from_fd(_open(credential), str(credential))
    if not sys.stdin.isatty():
        table, name = (f"tokens.{token}", f"kms-pin-{token}") if token else ("token", "kms-pin")
        given = "" if token else "give --pin-fd, "
        raise PinError(
            f"no PIN: set {table}.pin_file, provide the credential {name}, {given}"
            "or start from a terminal"
        )
    text = prompt(f"User PIN of token {its.label}: ")
    return _checked(bytearray(text.encode()), "the prompt")


@contextlib.contextmanager
def all_pins(settings: Settings, own: Pin) -> Iterator[dict[str, Pin]]:
    """PINs of all tokens by name; those of further tokens are wiped in the end.

    Args:
        settings: Names the tokens.
        own: That of the service's own token; stays its giver's to wipe.

    Raises:
        PinError: One is not to be had.
    """
    pins = {"": own}
    try:
        for name in settings.tokens:
            pins[name] = obtain_pin(settings, token=name)
        yield pins
    finally:
        for name in settings.tokens:
            if name in pins:
                pins[name].clear()


def _from_private_file(path: Path) -> Pin:
    fd = _open(path)
    mode = os.fstat(fd).st_mode & 0o777
    if mode & 0o077:
        os.close(fd)
        raise PinError(f"{path}: others may read the PIN (mode {mode:04o}); chmod 0600 it")
    return _from_fd(fd, str(path))


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise PinError(f"{path}: the PIN file cannot be read: {error.strerror}") from error


def _from_fd(fd: int, source: str) -> Pin:
    buffer = bytearray(MAX_PIN + 3)
    view = memoryview(buffer)
    filled = 0
    try:
        with os.fdopen(fd, "rb", buffering=0) as file:
            while filled < len(buffer) and (count := file.readinto(view[filled:])):
                filled += count
    except OSError as error:
        raise PinError(f"{source}: the PIN cannot be read: {error.strerror}") from error
    finally:
        view.release()
    for ending in (b"\n", b"\r"):
        filled -= buffer[:filled].endswith(ending)
    value = buffer[:filled]
    _wipe(buffer)
    return _checked(value, source)


def _checked(value: bytearray, source: str) -> Pin:
    if not 0 < len(value) <= MAX_PIN or any(byte < 0x20 for byte in value):
        _wipe(value)
        raise PinError(
            f"{source}: a PIN has 1 to {MAX_PIN} bytes on a single line, and no control characters"
        )
    return Pin(value)


def _wipe(value: bytearray) -> None:
    value[:] = bytes(len(value))
