"""TOML tables read strictly: typed access, errors that name the place, no key left over."""

import re
import tomllib
from enum import StrEnum
from typing import Any, TypeVar

MAX_SOURCE = 64 * 1024
"""Largest profile file in bytes."""
MAX_NUMBER = 0xFFFF_FFFF
"""CK_ULONG has 32 bits at least."""
_MAX_TEXT = 2000

Member = TypeVar("Member", bound=StrEnum)


class ProfileError(ValueError):
    """A profile that cannot be used; the message says where and what is wrong."""


def document(source: bytes, where: str) -> dict[str, Any]:
    """What stands in a file.

    Raises:
        ProfileError: Too large, or not TOML.
    """
    if len(source) > MAX_SOURCE:
        raise ProfileError(f"{where} is larger than {MAX_SOURCE} bytes")
    try:
        return tomllib.loads(source.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ProfileError(f"{where} is not TOML: {error}") from error


class Table:
    """A TOML table being read: typed access, errors that name the place, no key left over."""

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, dict):
            raise ProfileError(f"{where} is not a table")
        self._values = values
        self._read: set[str] = set()
        self.where = where

    def _get(self, key: str, kind: type, default: object = None) -> Any:
        self._read.add(key)
        value = self._values.get(key, default)
        if value is None:
            raise ProfileError(f"{self.where}: {key} is missing")
        # A boolean is an int to Python, and no number to us.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ProfileError(f"{self.where}: {key} is not of kind {kind.__name__}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string that says something; the default where there is none."""
        text: str = self._get(key, str, default)
        if not text.strip() or len(text) > _MAX_TEXT:
            raise ProfileError(
                f"{self.where}: {key} is empty or longer than {_MAX_TEXT} characters"
            )
        return text

    def matching(self, key: str, pattern: re.Pattern[str]) -> str:
        """A string of that form."""
        text = self.text(key)
        if not pattern.fullmatch(text):
            raise ProfileError(f"{self.where}: {key} {text!r} is not {pattern.pattern}")
        return text

    def boolean(self, key: str) -> bool:
        """True or false."""
        value: bool = self._get(key, bool)
        return value

    def number(self, key: str) -> int:
        """A CK_ULONG that every platform has."""
        value: int = self._get(key, int)
        if not 0 <= value <= MAX_NUMBER:
            raise ProfileError(f"{self.where}: {key} is not from 0 to {MAX_NUMBER:#x}")
        return value

    def member(self, key: str, kind: type[Member], default: Member | None = None) -> Member:
        """One of an enumeration."""
        text = self._get(key, str, default)
        try:
            return kind(text)
        except ValueError:
            known = ", ".join(kind)
            raise ProfileError(f"{self.where}: {key} is {text!r}, none of {known}") from None

    def strings(self, key: str, pattern: re.Pattern[str]) -> tuple[str, ...]:
        """A list of strings of that form; none where the key is not there."""
        values: list[object] = self._get(key, list, [])
        for value in values:
            if not isinstance(value, str) or not pattern.fullmatch(value):
                raise ProfileError(f"{self.where}: {key} has {value!r}, not {pattern.pattern}")
        return tuple(str(value) for value in values)

    def tables(self, key: str) -> list["Table"]:
        """A list of tables; none where the key is not there."""
        values: list[object] = self._get(key, list, [])
        return [
            Table(value, f"{self.where}, {key} {at}") for at, value in enumerate(values, start=1)
        ]

    def named_tables(self, key: str, pattern: re.Pattern[str]) -> list[tuple[str, "Table"]]:
        """Tables by names of that form."""
        values: dict[str, object] = self._get(key, dict, {})
        for name in values:
            if not pattern.fullmatch(name):
                raise ProfileError(f"{self.where}: {key} has {name!r}, not {pattern.pattern}")
        return [
            (name, Table(value, f"{self.where}, {key} {name}")) for name, value in values.items()
        ]

    def table(self, key: str, *, optional: bool) -> "Table | None":
        """A table; None where it may be left out and is."""
        if optional and key not in self._values:
            return None
        return Table(self._get(key, dict), f"{self.where}, {key}")

    def nothing_else(self) -> None:
        """Refuse every key that was not read."""
        unknown = sorted(self._values.keys() - self._read)
        if unknown:
            raise ProfileError(f"{self.where}: unknown {', '.join(map(repr, unknown))}")
