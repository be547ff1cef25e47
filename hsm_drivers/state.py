"""What the signer keeps besides the token: key records, what it signed last, the journal.

A directory of its own (0700, files 0600), outside the database home and its backups: a database
rolled back to yesterday is noticed because this memory is not.

    lock         held (flock) by the one process that owns token and directory
    keys.json    key records, written once each by a ceremony
    heads.json   last head signed, per log origin in the order of their beginnings
    crls.json    last CRL signed, per key
    journal      see `hsm_drivers.journal`
    keys/        see `hsm_drivers.service.store`

The JSON files are replaced whole: a new file is written, synced and renamed over the old one, and
the directory synced, so that a crash leaves the old or the new, never a part. `crls.json` is read
out of the journal where it is missing: directories from before it have none.
"""

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, Self, TypeVar

import msgspec

from hsm_drivers import durable
from hsm_drivers.errors import KeyNotFoundError, TokenFailureError, TokenUnavailableError
from hsm_drivers.journal import MAX_BATCH, Journal
from hsm_drivers.memory import Draft, SignedCrl, SignedHead, crl_number
from hsm_drivers.ports import Head, JournalEntry, KeyLabel, KeyRecord, Purpose
from hsm_drivers.service.store import ServiceStore

_log = logging.getLogger(__name__)


class _Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    keys: tuple[KeyRecord, ...]


class _Heads(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    heads: tuple[SignedHead, ...]


class _Crls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    crls: tuple[SignedCrl, ...]


_T = TypeVar("_T", _Keys, _Heads, _Crls)


class SignerState:
    """The open directory, owned from construction until `close` or the end of the process.

    Attributes:
        journal: Open for as long as the directory is owned.
        service: Records of service keys.
    """

    def __init__(self, directory: Path) -> None:
        """Create or open, lock, read and repair.

        Raises:
            TokenUnavailableError: Another process owns the directory.
            TokenFailureError: It is open to other users, or damaged.
        """
        self._directory = directory
        durable.private_directory(directory)
        self._lock = _own(directory / "lock")
        try:
            self.journal = Journal(directory / "journal")
            self._keys = {
                record.label: record for record in self._read("keys.json", _Keys, _Keys(1, ())).keys
            }
            self._heads = {
                head.origin: head for head in self._read("heads.json", _Heads, _Heads(1, ())).heads
            }
            self._crls = {crl.key: crl for crl in self._read_crls()}
            self.service = ServiceStore(directory / "keys")
        except BaseException:
            os.close(self._lock)
            raise
        if self.journal.torn:
            _log.warning("%s", self.notice)

    @property
    def notice(self) -> str:
        """What opening had to repair, as a sentence; empty for nothing."""
        if not self.journal.torn:
            return ""
        return (
            f"the last {self.journal.torn} bytes of the journal were an unfinished batch,"
            " never released, and were cut off"
        )

    def record(self, label: KeyLabel) -> KeyRecord:
        """The record of a key.

        Raises:
            KeyNotFoundError: No ceremony made such a key.
        """
        try:
            return self._keys[label]
        except KeyError:
            raise KeyNotFoundError(f"the signer has no record of a key called {label!r}") from None

    def has(self, label: KeyLabel) -> bool:
        """Whether there is a record."""
        return label in self._keys

    def records(self) -> list[KeyRecord]:
        """All records, oldest first."""
        return list(self._keys.values())

    def add(self, record: KeyRecord) -> None:
        """Keep a new record for good, durably.

        Raises:
            TokenUnavailableError: The disk refused.
        """
        keys = {**self._keys, record.label: record}
        self._write("keys.json", _Keys(1, tuple(keys.values())))
        self._keys = keys

    def head(self, origin: str) -> Head | None:
        """The last head signed for an origin."""
        signed = self._heads.get(origin)
        return None if signed is None else signed.head

    def heads(self) -> tuple[Head, ...]:
        """The last head of every origin."""
        return tuple(signed.head for signed in self._heads.values())

    def crl_numbers(self) -> tuple[tuple[str, int], ...]:
        """Label and last CRL number of each key that signed one."""
        return tuple((crl.key, crl.number) for crl in self._crls.values())

    def draft(self) -> Draft:
        """What is remembered, for a batch to be judged after."""
        return Draft(self._heads, self._crls)

    def remember(self, heads: Iterable[SignedHead]) -> None:
        """Put these heads in place of their origins' last ones, durably.

        Raises:
            TokenUnavailableError: The disk refused; the old ones stand.
        """
        merged = self._heads | {head.origin: head for head in heads}
        self._write("heads.json", _Heads(1, tuple(merged.values())))
        self._heads = merged

    def remember_crls(self, crls: Iterable[SignedCrl]) -> None:
        """Put these lists in place of their keys' last ones, durably.

        Raises:
            TokenUnavailableError: The disk refused; the old ones stand.
        """
        merged = self._crls | {crl.key: crl for crl in crls}
        self._write("crls.json", _Crls(1, tuple(merged.values())))
        self._crls = merged

    def close(self) -> None:
        """Give up ownership."""
        self.journal.close()
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_crls(self) -> tuple[SignedCrl, ...]:
        if not (self._directory / "crls.json").exists():
            self._write("crls.json", _Crls(1, tuple(self._journalled_crls())))
        return self._read("crls.json", _Crls, _Crls(1, ())).crls

    def _journalled_crls(self) -> Iterable[SignedCrl]:
        """The list with the highest number of each key: numbers went up by custom only."""
        last: dict[KeyLabel, SignedCrl] = {}
        for entry in self._entries():
            number = crl_number(entry.reference) if entry.purpose is Purpose.CRL else None
            if number is not None and (entry.key not in last or number >= last[entry.key].number):
                last[entry.key] = SignedCrl(entry.key, number, entry.digest)
        return last.values()

    def _entries(self) -> Iterator[JournalEntry]:
        for after in range(0, self.journal.counter, MAX_BATCH):
            yield from self.journal.entries(after, MAX_BATCH)

    def _read(self, name: str, kind: type[_T], empty: _T) -> _T:
        """A file's content; both files are made with the directory, so a lost one is noticed."""
        path = self._directory / name
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except FileNotFoundError:
            if self.journal.counter:
                raise TokenFailureError(
                    f"{path} is missing though the journal has {self.journal.counter} entries;"
                    " restore it from a copy of this directory"
                ) from None
            self._write(name, empty)
            return empty
        except (OSError, msgspec.DecodeError) as error:
            raise TokenFailureError(
                f"{path} cannot be read ({error}); restore it from a copy of this directory"
            ) from error

    def _write(self, name: str, content: _Keys | _Heads | _Crls) -> None:
        path = self._directory / name
        try:
            durable.replace(path, msgspec.json.encode(content))
        except OSError as error:
            raise TokenUnavailableError(
                f"{path} cannot be written ({error.strerror}); nothing is signed until it can"
            ) from error


def _own(path: Path) -> int:
    """Lock the file for as long as the descriptor lives."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise TokenFailureError(f"cannot open {path}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise TokenUnavailableError(
            f"another signer owns {path.parent}; a token has one owner, stop that one first"
        ) from None
    return fd
