"""The log's own ML-DSA-44 cosigner: since its birth every head carries its signature. Pure.

The log's Ed25519 signature will not outlast quantum computers; this one beside it is to. Its key is
told of by the event of its birth; an auditor who brings it along need not believe even that.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kms.audit.epochs import Epoch
from kms.audit.findings import Check, event
from kms.audit.layout import Record
from kms.audit.tree import CHECKPOINT
from kms.tlog.checkpoint import parse_checkpoint
from kms.tlog.errors import TlogError
from kms.tlog.notes import KeyType, VerifierKey, parse_note, verify_note
from kms.tlog.receipt import parse_receipt
from kms.wire import EventType

FILE = "log-cosigner.vkey"
PURPOSE = "cosignature"
"""What the birth of a cosigner's key says that it signs."""

_SPKI = bytes.fromhex("30820532300b060960864801650304031103820521") + b"\0"
"""What stands before the raw key in the SubjectPublicKeyInfo of an ML-DSA-44 key (RFC 9881)."""


def check_cosignatures(
    records: Sequence[Record], epochs: Sequence[Epoch], brought: str | None
) -> Check | None:
    """Every head of these records is cosigned, if it covers the birth of the cosigner's key.

    Args:
        records: Of all epochs, oldest first.
        epochs: The same, verified.
        brought: Verifier key of the cosigner, as the auditor or the record has it.

    Returns:
        None where there is no cosigner.
    """
    births = list(_births(epochs))
    if not births and brought is None:
        return None
    check = Check("cosignatures", "the cosigner signed every head since its key's birth")
    public = _public_key(check, births, brought)
    begun = _begun(check, births, epochs)
    for record, epoch in zip(records, epochs, strict=True):
        if public is None or epoch.key is None:
            continue
        key = VerifierKey(epoch.key.name, KeyType.ML_DSA_44_COSIGNATURE, public)
        for where, note in _notes(record, epoch):
            _check_note(check, where, note, key, begun - epoch.offset)
    return check


def _births(epochs: Sequence[Epoch]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for epoch in epochs:
        for index, leaf in sorted(epoch.events.items()):
            detail = leaf.detail or {}
            if leaf.type is EventType.KEY_GENERATED and PURPOSE in detail.get("purposes", ()):
                yield index, detail


def _public_key(
    check: Check, births: Sequence[tuple[int, Mapping[str, Any]]], brought: str | None
) -> bytes | None:
    """The raw key: the one that was brought, which must be the one that was born."""
    told = [_parse(check, event(index), str(detail.get("vkey"))) for index, detail in births]
    for (index, detail), public in zip(births, told, strict=True):
        if public is not None:
            born = hashlib.sha256(_SPKI + public).hexdigest() == detail.get("public_key_sha256")
            check.expect(born, event(index), "the key that was born is not the one in its vkey")
    check.expect(len(births) < 2, "log/", "more than one cosigner of the log was born")
    if brought is None:
        return told[0]
    public = _parse(check, FILE, brought)
    if births and public is not None:
        message = f"is not the cosigner of event {births[0][0]}"
        check.expect(public == told[0], FILE, message)
    return public


def _parse(check: Check, where: str, text: str) -> bytes | None:
    try:
        key = VerifierKey.parse(text)
    except TlogError as error:
        check.fail(where, str(error))
        return None
    good = key.type is KeyType.ML_DSA_44_COSIGNATURE
    check.expect(good, where, "is no key of an ML-DSA-44 cosigner")
    return key.public if good else None


def _begun(
    check: Check, births: Sequence[tuple[int, Mapping[str, Any]]], epochs: Sequence[Epoch]
) -> int:
    """Index of the birth; where its epoch is not at hand, one before all that are."""
    if births:
        return births[0][0]
    first = epochs[0].first
    if first is not None and first.type is EventType.LOG_OPENED:
        check.fail(FILE, "no event of the log tells of the birth of this cosigner")
    return epochs[0].offset - 1


def _notes(record: Record, epoch: Epoch) -> Iterator[tuple[str, bytes]]:
    """The head, and the heads in receipts of this epoch."""
    if record.checkpoint is not None:
        yield CHECKPOINT, record.checkpoint
    for path in sorted(record.receipts):
        try:
            note = parse_receipt(record.receipts[path]).checkpoint_note
        except TlogError:
            continue  # the check of receipts says so
        if note.partition(b"\n")[0] == (epoch.origin or "").encode():
            yield path, note


def _check_note(check: Check, where: str, note: bytes, key: VerifierKey, begun: int) -> None:
    """`begun` counts from the epoch's first event; a signature that is there must be right."""
    try:
        parsed = parse_note(note)
        size = parse_checkpoint(parsed.text).size
        present = any(
            (line.name, line.key_id) == (key.name, key.key_id) for line in parsed.signatures
        )
        if size <= begun and not present:
            return
        check.examined += 1
        verify_note(parsed, [key])
    except TlogError as error:
        check.fail(where, f"not cosigned: {error}")
