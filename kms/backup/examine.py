"""Whether what was unpacked holds together: ledger, log, keys and the signer's memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hsm_drivers.errors import HsmError
from hsm_drivers.ports import Head, KeyLabel
from hsm_drivers.service.store import Destroyed
from hsm_drivers.state import SignerState
from kms.backup.collect import LEDGER
from kms.backup.format import KeyEntry, LogEntry, Manifest
from kms.backup.signer_copy import key_entry, records_of
from kms.domain.key_records import KeyVersion
from kms.domain.records import Epoch, LogId
from kms.services.heads import epoch_number, newest_epoch, newest_signed
from kms.services.ports import Ledger, LedgerUnavailableError
from kms.storage import integrity, migrate
from kms.storage.sql import SqlLedger
from kms.tlog.errors import TlogError
from kms.tlog.notes import VerifierKey, parse_note, verify_note
from kms.tlog.tiles import NodeCache
from kms.tlog.tree import root as tree_root

SIGNER = "signer"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: Short, stable for scripts.
        detail: What was found, or what is wrong.
    """

    name: str
    ok: bool
    detail: str

    def document(self) -> dict[str, object]:
        """JSON form."""
        return {"check": self.name, "ok": self.ok, "detail": self.detail}


def examine(directory: Path, manifest: Manifest) -> list[Finding]:
    """Look at everything; a later check is left out where an earlier one leaves it no ground."""
    url = f"sqlite:///{directory / LEDGER}"
    if not migrate.is_known(manifest.schema):
        return [_bad("schema", f"{manifest.schema!r} is a newer program's: use that to restore it")]
    try:
        problems = integrity.integrity(url)
        if problems:
            return [_bad("ledger", problem) for problem in problems]
        ledger = SqlLedger(url)
        try:
            return [
                Finding("ledger", True, "its pages are sound, its entries lead to its tree"),
                *_with_ledger(ledger, directory, manifest),
            ]
        finally:
            ledger.close()
    except LedgerUnavailableError as error:
        return [_bad("ledger", str(error))]


def _with_ledger(ledger: Ledger, directory: Path, manifest: Manifest) -> Iterator[Finding]:
    yield _log(ledger, manifest.log)
    try:
        with SignerState(directory / SIGNER) as state:
            yield _references(state, manifest)
            yield _keys(state, ledger)
    except HsmError as error:
        yield _bad("signer", str(error))


def _log(ledger: Ledger, log: LogEntry) -> Finding:
    """The manifest's head is the ledger's, and the log's key signed its checkpoint."""
    head = ledger.head()
    epoch = None if head is None else ledger.get(Epoch, head.log)
    signed = None if head is None else newest_signed(ledger, head.log)
    if head is None or epoch is None or signed is None:
        return _bad("log", "the ledger has no log")
    found = (head.origin, head.size, head.root, epoch.vkey, signed.note.decode())
    if found != (log.origin, log.size, log.root, log.vkey, log.checkpoint):
        return _bad("log", f"the ledger holds {head.size} events of {head.origin}, {log.size} told")
    try:
        verify_note(parse_note(signed.note), [VerifierKey.parse(epoch.vkey)])
    except TlogError as error:
        return _bad("log", f"its checkpoint is not the log's: {error}")
    return Finding("log", True, f"{head.size} events of {head.origin}, its checkpoint is signed")


def _references(state: SignerState, manifest: Manifest) -> Finding:
    """The signer's records are what the manifest says of them."""
    told: dict[str, KeyEntry] = {key.label: key for token in manifest.tokens for key in token.keys}
    held = {str(record.label): key_entry(record) for record in records_of(state)}
    wrong = sorted(
        label for label in told.keys() | held.keys() if told.get(label) != held.get(label)
    )
    if wrong:
        return _bad(
            "references", f"these keys are not as the manifest has them: {', '.join(wrong)}"
        )
    carried = sum(key.wrapped for key in told.values())
    return Finding("references", True, f"{len(held)} keys, {carried} of them wrapped in the backup")


def _keys(state: SignerState, ledger: Ledger) -> Finding:
    """Every key that the ledger counts on has a record under which the signer uses it."""
    held = {record.label: record for record in records_of(state)}
    living = [version for version in ledger.find(KeyVersion) if version.destroyed is None]
    wrong = []
    for version in living:
        label = KeyLabel(version.label)
        record = held.get(label)
        gone = isinstance(state.service.get(label), Destroyed)
        if not gone and (record is None or record.public_key != version.public_key):
            wrong.append(label)
    if wrong:
        return _bad("keys", f"the signer has no such records: {', '.join(sorted(wrong))}")
    return Finding("keys", True, f"{len(living)} versions of keys, all of them on record")


def loss(ledger: Ledger, heads: Sequence[Head], origin: str) -> str:
    """What was signed and the ledger lacks, as a sentence; empty where nothing is known of it.

    Args:
        ledger: Of a backup.
        heads: Last heads that anybody remembers.
        origin: The epoch that the ledger is in.
    """
    newest = newest_epoch(heads, origin)
    committed = ledger.head()
    if newest is None or committed is None:
        return ""
    if epoch_number(newest.origin) > epoch_number(origin):
        return f"{newest.size} events of {newest.origin} were signed; the backup is of {origin}"
    if newest.origin == origin and newest.size > committed.size:
        return (
            f"{newest.size} events of {origin} were signed, the backup has {committed.size}:"
            f" {newest.size - committed.size} are lost"
        )
    if newest.origin == origin and root_at(ledger, committed.log, newest.size) != newest.root:
        return f"the {newest.size} events of {origin} that were signed are others than the backup's"
    return ""


def root_at(ledger: Ledger, log: LogId, size: int) -> bytes:
    """Root that the ledger's log had at that size."""
    return tree_root(size, NodeCache(lambda level, number: ledger.tile(log, level, number)))


def _bad(name: str, detail: str) -> Finding:
    return Finding(name, ok=False, detail=detail)
