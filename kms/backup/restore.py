"""From a backup and a quorum of shares to a home that a service can start in.

Everything is unpacked and looked at beside the new home, and put in place by renaming: the signer's
state, then a ledger that lies elsewhere, the home last. Where there is a `kms.toml`, all of it is
there; after a crash the same command removes what was left and ends what it began.

What the signer remembers of the log is never wound back. A signer's state that is on this machine
stays, if it goes on where the backup's ends; a checkpoint that somebody has seen is remembered.
"""

import contextlib
import os
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hsm_drivers.memory import SignedHead
from hsm_drivers.ports import Head, KeyLabel
from hsm_drivers.state import SignerState
from kms.backup import marker
from kms.backup.archive import unpack
from kms.backup.collect import LEDGER
from kms.backup.errors import DamagedBackupError, RestoreRefusedError
from kms.backup.examine import SIGNER, Finding, examine, loss, root_at
from kms.backup.files import begins_with, passing_directory, sha256_of, sync_directory
from kms.backup.format import Manifest
from kms.backup.shares import Share
from kms.backup.signer_copy import records_of
from kms.config import ConfigError, parse
from kms.domain.records import Epoch
from kms.services.heads import epoch_number
from kms.services.ports import Ledger
from kms.settings import CONFIG_NAME, Settings
from kms.storage.dialect import database_path
from kms.storage.sql import SqlLedger
from kms.tlog.checkpoint import Checkpoint, parse_checkpoint
from kms.tlog.errors import TlogError
from kms.tlog.notes import VerifierKey, parse_note, verify_note


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of how far the log had grown, besides the backup.

    Attributes:
        seen: Checkpoints that somebody has, by where each comes from.
        none_later: Whether people vouch that nobody has a later one than the backup's.
    """

    seen: Mapping[str, bytes]
    none_later: bool


@dataclass(frozen=True, slots=True)
class Restored:
    """A home that was put in place.

    Attributes:
        manifest: Of the backup.
        settings: Of the home.
        findings: What was looked at.
        kept_signer: Whether the signer's state of this machine was kept.
        loss: What was signed and is not there, a sentence; empty if nothing is known of a loss.
    """

    manifest: Manifest
    settings: Settings
    findings: tuple[Finding, ...]
    kept_signer: bool
    loss: str


def restore(
    backup: Path,
    home: Path,
    shares: Mapping[str, Share],
    evidence: Evidence,
    sha256: str | None = None,
) -> Restored:
    """Put a backup in place, in an empty home.

    Args:
        backup: The file.
        home: Where.
        shares: A quorum, by where each comes from.
        evidence: How far the log had grown.
        sha256: Digest of the file that is meant, hex; None takes the one that is there.

    Raises:
        BackupError: As its subclasses say; nothing was put in place.
        ConfigError: The backup's settings are not to be used here.
        HsmError: A signer's state is in use, or damaged.
        OSError: A file cannot be read or written.
    """
    home = home.absolute()
    _refuse_used(home)
    home.parent.mkdir(parents=True, exist_ok=True)
    with passing_directory(home.parent, f".{home.name}-restoring-") as directory:
        manifest = unpack(backup, shares, directory, sha256)
        findings = examine(directory, manifest)
        _refuse_damaged(backup, findings)
        settings = settings_of(directory, home)
        with _opened(directory / LEDGER) as ledger:
            heads = seen_heads(ledger, manifest, evidence.seen)
            kept = _keep_signer(directory, settings)
            if not kept and not heads and not evidence.none_later:
                raise RestoreRefusedError(_NO_EVIDENCE)
            known = _remember(settings.signer_state if kept else directory / SIGNER, heads)
            lost = loss(ledger, known, manifest.log.origin)
        _put_in_place(directory, settings, manifest, kept=kept)
    return Restored(manifest, settings, tuple(findings), kept, lost)


_NO_EVIDENCE = (
    "nothing on this machine remembers how far the log had grown. If it went on after the backup,"
    " going on from here would fork it. Give the newest checkpoint that anybody has (an auditor's"
    " export, a messaging server's receipt, the public listener's copy) with --seen-checkpoint, or"
    " say --no-later-checkpoint if the service was stopped before the backup and signed nothing"
    " since"
)


def settings_of(directory: Path, home: Path) -> Settings:
    """The unpacked settings, as they will be in that home.

    Raises:
        ConfigError: They are not to be used there.
    """
    path = directory / "home" / CONFIG_NAME
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the backup's {CONFIG_NAME} is not TOML: {error}") from None
    return parse(home / CONFIG_NAME, values)


def seen_heads(
    ledger: Ledger, manifest: Manifest, seen: Mapping[str, bytes]
) -> dict[str, SignedHead]:
    """The newest head of each epoch that checkpoints of others prove.

    Raises:
        RestoreRefusedError: One is no checkpoint of this log's key, or of another history.
    """
    found: dict[str, SignedHead] = {}
    key = KeyLabel(max(ledger.find(Epoch), key=lambda epoch: epoch.log).key)
    for where, note in seen.items():
        checkpoint = _verified(manifest, note, where)
        _refuse_other_history(ledger, checkpoint, where)
        known = found.get(checkpoint.origin)
        if known is None or known.size < checkpoint.size:
            found[checkpoint.origin] = SignedHead(
                checkpoint.origin, checkpoint.size, checkpoint.root, key
            )
    return dict(sorted(found.items(), key=lambda item: epoch_number(item[0])))


def _verified(manifest: Manifest, note: bytes, where: str) -> Checkpoint:
    """A checkpoint of an epoch of the log, signed by its key."""
    own = VerifierKey.parse(manifest.log.vkey)
    try:
        parsed = parse_note(note)
        checkpoint = parse_checkpoint(parsed.text)
        name, _, epoch = checkpoint.origin.rpartition("/")
        if name != own.name.rpartition("/")[0] or not (epoch.isascii() and epoch.isdecimal()):
            raise RestoreRefusedError(f"{where}: a checkpoint of {checkpoint.origin}, another log")
        verify_note(parsed, [VerifierKey(checkpoint.origin, own.type, own.public)])
    except TlogError as error:
        raise RestoreRefusedError(f"{where}: not a checkpoint of {own.name}: {error}") from None
    return checkpoint


def _refuse_other_history(ledger: Ledger, seen: Checkpoint, where: str) -> None:
    """An older checkpoint must be of the backup's own past; a newer one cannot be compared."""
    epochs = {epoch.origin: epoch.log for epoch in ledger.find(Epoch)}
    head = ledger.head()
    log = epochs.get(seen.origin)
    if log is None or head is None or (log == head.log and seen.size > head.size):
        return
    with contextlib.suppress(TlogError):
        if root_at(ledger, log, seen.size) == seen.root:
            return
    raise RestoreRefusedError(
        f"{where}: {seen.origin} had another root at {seen.size} events than the backup has: one of"
        " the two is forged. Keep both as evidence; a breach comes before an outage"
    )


def _refuse_used(home: Path) -> None:
    if home.is_symlink() or (home.exists() and (not home.is_dir() or any(home.iterdir()))):
        raise RestoreRefusedError(
            f"{home} is in use: a restore never writes over anything. Name a new directory, or move"
            " this one away"
        )


def _refuse_damaged(backup: Path, findings: Sequence[Finding]) -> None:
    faults = [f"{item.name}: {item.detail}" for item in findings if not item.ok]
    if faults:
        raise DamagedBackupError(f"{backup}: {'; '.join(faults)}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[SqlLedger]:
    ledger = SqlLedger(f"sqlite:///{path}")
    try:
        yield ledger
    finally:
        ledger.close()


def _keep_signer(directory: Path, settings: Settings) -> bool:
    """Whether a signer's state is here that goes on where the backup's ends.

    Raises:
        RestoreRefusedError: It is another service's, or older than the backup.
        HsmError: It is in use, or damaged.
    """
    state = settings.signer_state
    if not state.exists() or not any(state.iterdir()):
        return False
    with SignerState(directory / SIGNER) as backed, SignerState(state) as here:
        known = {record.key_id for record in records_of(here)}
        same = all(record.key_id in known for record in backed.records())
    if same and begins_with(state / "journal", directory / SIGNER / "journal"):
        return True
    raise RestoreRefusedError(
        f"{state} is the state of another signer, or older than the backup: move it away, and keep"
        " it. The backup has a copy of its own"
    )


def _remember(directory: Path, heads: Mapping[str, SignedHead]) -> tuple[Head, ...]:
    """Have the signer's memory know of heads beyond its own; answer all it knows."""
    with SignerState(directory) as state:
        known = {head.origin: head for head in state.heads()}
        newer = [
            head
            for origin, head in heads.items()
            if origin not in known or known[origin].size < head.size
        ]
        if newer:
            state.remember(newer)
        return state.heads()


def _put_in_place(directory: Path, settings: Settings, manifest: Manifest, *, kept: bool) -> None:
    """The signer's state first, the home last: without `kms.toml` nothing starts."""
    home = directory / "home"
    _open_up(home)
    data = home / settings.data_dir.relative_to(settings.home)
    data.mkdir(mode=0o700, exist_ok=True)
    _write(data / marker.NAME, marker.marker_of(manifest))
    ledger = database_path(settings.database_url)
    if ledger.is_relative_to(settings.home):
        target = home / ledger.relative_to(settings.home)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / LEDGER).rename(target)
    else:
        _place_ledger(directory / LEDGER, ledger)
    if not kept:
        (directory / SIGNER / "lock").unlink(missing_ok=True)
        _move(directory / SIGNER, settings.signer_state)
    os.sync()
    home.rename(settings.home)
    sync_directory(settings.home.parent)


def _place_ledger(source: Path, target: Path) -> None:
    """Into a directory outside the home; one that is the same may lie there already."""
    if target.exists():
        if sha256_of(target) != sha256_of(source):
            raise RestoreRefusedError(f"{target} is there already: move it away, and keep it")
        return
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _move(source, target)


def _move(source: Path, target: Path) -> None:
    """Rename, by way of a copy where that is another file system; the name comes last."""
    target.parent.mkdir(parents=True, exist_ok=True)
    near = target.with_name(f".{target.name}.restoring")
    _remove(near)
    shutil.move(source, near)
    near.rename(target)
    sync_directory(target.parent)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _open_up(home: Path) -> None:
    """As `kms init` leaves them: worker and signer read settings under their own users."""
    home.chmod(0o755)
    for path in home.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _write(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
