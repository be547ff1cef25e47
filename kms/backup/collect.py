"""What a backup holds, gathered while the service runs, into a directory of its own.

Order makes the parts fit. The ledger comes first, as it is at one commit; then what the signer
keeps, its journal first, its last heads last. So the copy of the signer's memory is never behind
the ledger's: where the service went on between the two, the restored service knows that events were
signed that it does not hold, and does not pretend otherwise.

Not gathered, whatever the settings name: PINs, TLS keys, clients' keys, the tokens themselves.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from hsm_drivers.ports import KeyRecord
from kms.backup.errors import BackupError, RecoveryKeyError
from kms.backup.files import passing_directory, sha256_of
from kms.backup.format import FileEntry, LogEntry, Manifest, TokenEntry
from kms.backup.recovery import RecoveryKey
from kms.backup.signer_copy import key_entry, records
from kms.domain.records import Epoch, Event
from kms.processes.accounts import refuse_foreign
from kms.services.heads import newest_signed
from kms.services.ports import Ledger
from kms.settings import CONFIG_NAME, Settings
from kms.storage import migrate, snapshot
from kms.storage.dialect import database_path
from kms.storage.sql import SqlLedger
from kms.wire import EventType, timestamp
from policies.decisions import Protection

LEDGER = "ledger"
SCRATCH = ".backup-"
"""What the names of unfinished gatherings begin with; the next backup removes what a crash left."""
_SKIPPED = frozenset({"lock"})
_LAST = "heads.json"
_FIRST = "journal"
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Gathered:
    """A directory with what goes into a backup, and what the backup says of it.

    Attributes:
        directory: The files, below it, by their names in the manifest.
        manifest: Names them all.
    """

    directory: Path
    manifest: Manifest

    def content(self) -> Iterator[bytes]:
        """All files one after the other, in the manifest's order."""
        for entry in self.manifest.files:
            with (self.directory / entry.name).open("rb") as file:
                yield from _pieces(file)


@contextlib.contextmanager
def gathered(settings: Settings, keys: Sequence[RecoveryKey], now: datetime) -> Iterator[Gathered]:
    """Gather everything for as long as the block lasts.

    Args:
        settings: Of the home.
        keys: Recovery keys that the backup is for; each must be one that the log knows.
        now: Time of the backup.

    Raises:
        ConfigError: As root: the ledger lies where others could have put it.
        BackupError: Another backup is being made, there is no log, or a key is unknown to it.
        LedgerUnavailableError: The ledger cannot be read, or the disk is full.
        HsmError: The signer's state is damaged.
        OSError: A file cannot be read, or the disk is full.
    """
    with _alone(settings), passing_directory(settings.home, SCRATCH) as directory:
        refuse_foreign(database_path(settings.database_url).parent, settings)
        snapshot.copy(settings.database_url, directory / LEDGER)
        made = timestamp(now)
        copy_signer(settings.signer_state, directory / "signer")
        absent = _copy_home(settings, directory / "home")
        yield Gathered(directory, _manifest(settings, directory, keys, made, absent))


@contextlib.contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """One backup at a time; the lock ends with the process."""
    settings.run_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    path = settings.run_dir / "backup.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BackupError(f"another backup of {settings.home} is being made; wait for it") from None
    finally:
        os.close(fd)


def copy_signer(source: Path, target: Path) -> None:
    """Copy what the signer keeps; every file of it is replaced whole or only grows.

    Links are not followed: a signer that was taken over could have put one there for root to read.
    """
    target.mkdir(mode=0o700, parents=True)
    for folder, names, files, folder_fd in os.fwalk(source, follow_symlinks=False):
        below = target / Path(folder).relative_to(source)
        for name in names:
            (below / name).mkdir(mode=0o700)
        for name in sorted(files, key=_turn):
            if name not in _SKIPPED and not name.endswith(".new"):
                _copy_file(name, folder_fd, below / name)


def _turn(name: str) -> tuple[int, str]:
    return (0 if name == _FIRST else 2 if name == _LAST else 1, name)


def _copy_file(name: str, folder_fd: int, target: Path) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=folder_fd)
    except FileNotFoundError:
        return  # replaced or dropped since it was listed; a key that never was
    with os.fdopen(fd, "rb") as source:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            with _new_file(target) as copy:
                shutil.copyfileobj(source, copy, _PIECE)


def _copy_home(settings: Settings, target: Path) -> list[str]:
    """Copy the settings and what they name below the home; answer what is left out."""
    absent = []
    for path in _home_files(settings):
        if not path.is_relative_to(settings.home):
            absent.append(f"{path}: it lies outside the home; put it back by hand")
        elif path.is_file():
            copy = target / path.relative_to(settings.home)
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with path.open("rb") as source, _new_file(copy) as file:
                shutil.copyfileobj(source, file, _PIECE)
    return absent


def _home_files(settings: Settings) -> Iterator[Path]:
    yield settings.home / CONFIG_NAME
    yield settings.trust_path
    yield from sorted(recovery_dir(settings).glob("*.json"))
    if settings.policy_path is not None:
        yield Path(os.path.normpath(settings.policy_path))
    for token in settings.estate.values():
        if token.profile is not None and "/" in token.profile:
            yield Path(os.path.normpath(settings.home / token.profile))


def recovery_dir(settings: Settings) -> Path:
    """Public halves of the recovery keys: as little the worker's to change as the settings."""
    return settings.home / "recovery"


def _new_file(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _manifest(
    settings: Settings,
    directory: Path,
    keys: Sequence[RecoveryKey],
    made: str,
    absent: Sequence[str],
) -> Manifest:
    url = f"sqlite:///{directory / LEDGER}"
    ledger = SqlLedger(url)
    try:
        _refuse_unregistered(ledger, keys)
        log = _log(ledger)
    finally:
        ledger.close()
    tokens = _tokens(settings, records(directory / "signer"))
    return Manifest(
        id=secrets.token_hex(16),
        made=made,
        name=settings.name,
        schema=migrate.current(url) or "",
        log=log,
        tokens=tokens,
        files=tuple(_entries(directory)),
        absent=(*_absent(settings, tokens), *absent),
    )


def _refuse_unregistered(ledger: Ledger, keys: Sequence[RecoveryKey]) -> None:
    """Who can write a file into the home must not thereby read backups."""
    found = ledger.find(Event, type=EventType.RECOVERY_KEY_REGISTERED.value)
    known = b"".join(event.leaf for event in found)
    for key in keys:
        if f'"public_key_sha256":"{key.sha256}"'.encode() not in known:
            raise RecoveryKeyError(
                f"the log has not registered recovery key {key.id}: nobody knows whose it is;"
                " make keys with `kms backup new-recovery-key`"
            )


def _log(ledger: Ledger) -> LogEntry:
    head = ledger.head()
    epoch = None if head is None else ledger.get(Epoch, head.log)
    signed = None if head is None else newest_signed(ledger, head.log)
    if head is None or epoch is None or signed is None:
        raise BackupError("this home has no log yet: hold the ceremony, there is nothing to lose")
    note = signed.note.decode()
    return LogEntry(head.origin, head.size, head.root, epoch.vkey, note)


def _tokens(settings: Settings, known: Sequence[KeyRecord]) -> tuple[TokenEntry, ...]:
    names = dict.fromkeys([*settings.estate, *(record.home for record in known)])
    return tuple(
        TokenEntry(
            name=name,
            label=settings.estate[name].label if name in settings.estate else "",
            keys=tuple(key_entry(record) for record in known if record.home == name),
            wrapping=_wrapping(record for record in known if record.home == name),
            replicas=tuple(str(item.label) for item in known if name in item.places[1:]),
        )
        for name in names
    )


def _wrapping(known: Iterator[KeyRecord]) -> tuple[str, ...]:
    parts = [component for record in known for component in record.components]
    labels = {str(part.label) for part in parts if part.protection is Protection.WRAPPED}
    return tuple(sorted(labels))


def _absent(settings: Settings, tokens: Sequence[TokenEntry]) -> Iterator[str]:
    """What only others can bring back, a sentence each."""
    for token in tokens:
        held = [key.label for key in token.keys if not key.wrapped]
        if held or token.wrapping or token.replicas:
            name = token.name or "main"
            yield (
                f"token {name} ({token.label}): its keys are in the maker's own backup alone:"
                f" {', '.join([*held, *token.wrapping, *token.replicas])}"
            )
    yield "PINs of the tokens"
    yield "TLS keys of the service (made anew) and of its clients (theirs)"
    if settings.weak_keys.blocklist is not None:
        yield f"lists of compromised keys: {settings.weak_keys.blocklist}"


def _entries(directory: Path) -> Iterator[FileEntry]:
    """The ledger first, then all others by name; locks of the copies are none of them."""
    found = sorted(path for path in directory.rglob("*") if path.is_file())
    found.sort(key=lambda path: path.name != LEDGER)
    for path in found:
        if path.name not in _SKIPPED:
            name = path.relative_to(directory).as_posix()
            yield FileEntry(name, path.stat().st_size, sha256_of(path))


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece
