"""Proving a backup: restored into a scratch directory, audited, compared with the running home.

Nothing of it stays. The times are what a restore takes up to its start (need N22).
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TypeVar

from kms.audit.assessment import Given, assess
from kms.backup.archive import unpack
from kms.backup.audit_record import audit_records
from kms.backup.collect import LEDGER
from kms.backup.examine import SIGNER, Finding, examine, root_at
from kms.backup.files import begins_with, passing_directory
from kms.backup.format import LogEntry, Manifest
from kms.backup.shares import Share
from kms.domain.records import Authority, Epoch, PolicyVersion
from kms.services.core import ROOT
from kms.services.heads import newest_signed
from kms.services.ports import Ledger, LedgerUnavailableError, TreeHead
from kms.settings import Settings
from kms.storage.dialect import database_path
from kms.storage.sql import SqlLedger
from kms.tlog.errors import TlogError
from kms.tlog.proofs import verify_consistency
from kms.tlog.tiles import NodeCache
from kms.tlog.tree import consistency_proof
from policies.policy import Policy, PolicyError, load, shipped

_SHOWN = 3
"""Failures of one check of the audit that a finding repeats."""
T = TypeVar("T")


@dataclass(slots=True)
class Drill:
    """How a drill went.

    Attributes:
        manifest: Of the backup.
        findings: Everything that was looked at.
        seconds: How long each step took.
    """

    manifest: Manifest
    findings: list[Finding] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.ok for finding in self.findings)


def drill(
    backup: Path,
    shares: Mapping[str, Share],
    running: Settings | None,
    scratch: Path | None,
    sha256: str | None = None,
) -> Drill:
    """Restore a backup for as long as it takes to prove it.

    Args:
        backup: The file.
        shares: A quorum, by where each comes from.
        running: Home to compare with; it may be at work. None where there is none.
        scratch: Where the scratch directory is made; the system's place by default. It holds the
            ledger decrypted, 0700.
        sha256: Digest of the file that is meant, hex; None takes the one that is there.

    Raises:
        BackupError: The backup does not open, or is damaged.
        OSError: A file cannot be read or written.
    """
    seconds: dict[str, float] = {}
    with passing_directory(scratch or Path(tempfile.gettempdir()), "kms-drill-") as directory:
        manifest = _timed(seconds, "decrypt", lambda: unpack(backup, shares, directory, sha256))
        done = Drill(manifest, seconds=seconds)
        done.findings += _timed(seconds, "examine", lambda: examine(directory, manifest))
        if done.ok:
            with _opened(directory / LEDGER) as ledger:
                done.findings += _timed(seconds, "audit", lambda: [_audit(ledger)])
            compared = _timed(seconds, "compare", lambda: _compare(directory, manifest, running))
            done.findings += compared
    seconds["total"] = round(sum(seconds.values()), 3)
    return done


def _timed(seconds: dict[str, float], step: str, work: Callable[[], T]) -> T:
    started = monotonic()
    try:
        return work()
    finally:
        seconds[step] = round(monotonic() - started, 3)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[SqlLedger]:
    ledger = SqlLedger(f"sqlite:///{path}")
    try:
        yield ledger
    finally:
        ledger.close()


def _audit(ledger: Ledger) -> Finding:
    """What `kms-audit` says of the record that an auditor would be given."""
    *earlier, current = audit_records(ledger)
    authority = ledger.find(Authority, name=ROOT, limit=1)
    policies = {policy.hash: policy for policy in (shipped(), *_policies(ledger))}
    root = authority[0].certificate if authority else None
    result = assess(current, Given(root=root, earlier=tuple(earlier), policies=policies))
    if result.ok:
        return Finding("audit", True, f"{len(result.checks)} checks of {result.size} events hold")
    failed = [str(failure) for check in result.checks for failure in check.failures]
    more = f"; and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
    return Finding("audit", False, "; ".join(failed[:_SHOWN]) + more)


def _policies(ledger: Ledger) -> Iterator[Policy]:
    for item in ledger.find(PolicyVersion):
        with contextlib.suppress(PolicyError):
            yield load(item.source)


def _compare(directory: Path, manifest: Manifest, running: Settings | None) -> list[Finding]:
    """Hold the backup against the home that it was made of, as that is now."""
    if running is None:
        return [Finding("compare", True, "no home was named; the log's head was not compared")]
    try:
        with _opened(database_path(running.database_url)) as ledger:
            found = _compare_logs(ledger, manifest.log)
    except LedgerUnavailableError as error:
        found = Finding("compare", False, str(error))
    return [found, _compare_journals(directory / SIGNER, running.signer_state)]


def _compare_logs(ledger: Ledger, log: LogEntry) -> Finding:
    """The backup's head is the home's, or one that it proves to have grown from."""
    epoch = next((item for item in ledger.find(Epoch) if item.origin == log.origin), None)
    signed = None if epoch is None else newest_signed(ledger, epoch.log)
    if epoch is None or signed is None:
        return Finding("compare", False, f"the home knows no log {log.origin}")
    if signed.size < log.size:
        # The backup may end behind its own last signed head; so may the home.
        return _compare_behind(ledger, log, signed.size)
    nodes = NodeCache(lambda level, number: ledger.tile(epoch.log, level, number))
    try:
        proof = consistency_proof(log.size, signed.size, nodes)
        verify_consistency(log.size, signed.size, proof, log.root, signed.root)
    except TlogError as error:
        return Finding("compare", False, f"the home's log did not grow from the backup's: {error}")
    if signed.size == log.size:
        return Finding("compare", True, f"the home has the same head, {log.size} events")
    more = signed.size - log.size
    return Finding("compare", True, f"the home's log grew from the backup's, by {more} events")


def _compare_behind(ledger: Ledger, log: LogEntry, signed: int) -> Finding:
    head: TreeHead | None = ledger.head()
    if head is not None and head.origin == log.origin and head.size >= log.size:
        if root_at(ledger, head.log, log.size) == log.root:
            return Finding("compare", True, f"the home holds the backup's {log.size} events")
        return Finding("compare", False, "the home's log did not grow from the backup's")
    return Finding(
        "compare",
        False,
        f"the home signed {signed} events of {log.origin}, the backup has {log.size}: the home"
        " lost events",
    )


def _compare_journals(backed: Path, running: Path) -> Finding:
    """The home's signer goes on where the backup's ends."""
    if begins_with(running / "journal", backed / "journal"):
        return Finding("journal", True, "the signer's journal begins with the backup's")
    return Finding("journal", False, "the signer's journal does not begin with the backup's")
