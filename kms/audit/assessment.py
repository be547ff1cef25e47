"""Putting all questions to a record, in the order in which the answers build on each other. Pure.

A check that lacks what an earlier one could not establish fails or says so; none passes silently.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kms import wire
from kms.audit import (
    certificates,
    decisions,
    journal,
    lists,
    receipts,
    replay,
    signatures,
    summary,
    tree,
)
from kms.audit.certificates import Inventory
from kms.audit.cosignatures import check_cosignatures
from kms.audit.epochs import Epoch, check_beginnings, in_order, surviving
from kms.audit.findings import Check
from kms.audit.history import History
from kms.audit.layout import Record
from kms.audit.names import Names
from kms.audit.restores import check_restores
from policies.policy import Policy


@dataclass(frozen=True, slots=True)
class Given:
    """What the auditor brings along.

    Attributes:
        root: DER of the root certificate that is trusted; None takes the log's word for it.
        earlier: Records of earlier epochs, oldest first.
        older: Name and content of an older checkpoint that the log must extend.
        older_seal: Name and content of an older seal whose journal this one must extend.
        policies: Policies by hash, to decide again what the log says was decided.
        cosigner: Verifier key of the log's cosigner; None takes the record's.
    """

    root: bytes | None = None
    earlier: tuple[Record, ...] = ()
    older: tuple[str, bytes] | None = None
    older_seal: tuple[str, bytes] | None = None
    policies: Mapping[str, Policy] = field(default_factory=dict)
    cosigner: str | None = None


@dataclass(frozen=True, slots=True)
class Assessment:
    """All checks, and what the log says for a report.

    Attributes:
        checks: In the order made.
        origin: Name of the log, if its head verifies.
        size: Leaves that the head covers.
        events: Index to leaf, those that are well formed.
        history: The replayed log.
    """

    checks: tuple[Check, ...]
    origin: str | None
    size: int | None
    events: Mapping[int, wire.Leaf]
    history: History

    @property
    def ok(self) -> bool:
        """Whether nothing failed anywhere."""
        return all(check.ok for check in self.checks)

    @property
    def failures(self) -> int:
        """How many failures there are in all."""
        return sum(len(check.failures) for check in self.checks)


def assess(record: Record, given: Given) -> Assessment:
    """Verify a record.

    Args:
        record: The directory's bytes.
        given: What the auditor brings along.
    """
    epochs = in_order(given.earlier, record)
    current = epochs[-1]
    kept, lost = surviving(epochs)
    events = kept | lost
    known = Names({index: item for epoch in epochs for index, item in epoch.names.values.items()})
    history_check, history = replay.replay(kept, known, lost)
    summary_check, claims = summary.read_summary(record.summary)
    match_check, inventory = certificates.match(
        record.certificates, history, known, complete=summary.complete(claims)
    )
    size = current.head.size if current.head else None
    summary.check_summary(summary_check, claims, size, history, inventory, known)
    signed = _check_journal(record, given, epochs, history, inventory)
    checks = [
        _check_files(record),
        *(check for epoch in epochs for check in epoch.checks),
        check_beginnings(epochs),
        check_restores(epochs),
        history_check,
        receipts.check_receipts(record.receipts, record.certificates, epochs, events, known),
        match_check,
        certificates.check_chains(inventory, history, known, given.root),
        lists.check_lists(record.crls, history, inventory),
        decisions.check_decisions(kept, history, inventory, given.policies),
        *signed,
        summary_check,
    ]
    records = (*given.earlier, record)
    cosigned = check_cosignatures(records, epochs, given.cosigner or record.cosigner)
    if cosigned is not None:
        checks.append(cosigned)
    if given.older is not None:
        name, note = given.older
        checks.append(tree.check_extends(note, name, current.key, current.head, current.tree))
    origin = current.head.origin if current.head else None
    return Assessment(tuple(checks), origin, size, events, history)


def _check_journal(
    record: Record, given: Given, epochs: list[Epoch], history: History, inventory: Inventory
) -> list[Check]:
    """The signer's journal, where the record has a copy."""
    keys = [epoch.key for epoch in epochs if epoch.key is not None]
    checks = []
    if record.journal is not None or record.seal is not None:
        sound, found = journal.read_journal(record.journal or b"", record.seal, keys)
        match = signatures.check_signatures(found, epochs, history, inventory, record.crls)
        checks += [sound, match]
    if given.older_seal is not None:
        name, note = given.older_seal
        checks.append(journal.check_extends(record.journal or b"", name, note, keys))
    return checks


def _check_files(record: Record) -> Check:
    """Nothing in the directory was left unread."""
    check = Check("files", "every file of the record could be read")
    check.examined = len(record.events) + len(record.tiles) + len(record.certificates)
    check.examined += len(record.crls) + len(record.receipts)
    for path in sorted(record.oddities):
        check.fail(path, record.oddities[path])
    if record.journal is None:
        check.notes.append(
            "there is no journal of the signer: what was signed and kept out of the log is not"
            " looked for"
        )
    return check
