"""Receipts against the log: each proves the event of its device, in this very tree. Pure."""

import re
from collections.abc import Mapping, Sequence

from kms import wire
from kms.audit.epochs import Epoch
from kms.audit.findings import Check
from kms.audit.names import Names
from kms.tlog.errors import TlogError
from kms.tlog.notes import VerifierKey
from kms.tlog.receipt import parse_receipt, verify_receipt

_RECEIPT = re.compile(r"receipts/([^/]+)/([^/]+)\.tlog-proof")
_DEVICE = re.compile(r"devices/([^/]+)/([^/]+)/[^/]+\.pem")
_ENROLLING = (wire.EventType.DEVICE_ENROLLED, wire.EventType.DEVICE_RENEWED)


def check_receipts(
    receipts: Mapping[str, bytes],
    certificates: Mapping[str, bytes],
    epochs: Sequence[Epoch],
    events: Mapping[int, wire.Leaf],
    names: Names,
) -> Check:
    """Every receipt verifies, and every device of the directory has one.

    Args:
        receipts: Path to receipt.
        certificates: Path to PEM; the devices among them need receipts.
        epochs: The log's epochs; a receipt is of the one whose name its checkpoint bears.
        events: Index to parsed leaf, over all epochs.
        names: What the openings tell.
    """
    check = Check("receipts", "every receipt proves its device's event in this log")
    for path in sorted(receipts):
        check.examined += 1
        epoch = _epoch_of(receipts[path], epochs)
        if epoch.key is None:
            check.fail(path, "cannot be verified without the log's key")
            continue
        index = _verify(check, path, receipts[path], epoch, epoch.key)
        if index is not None:
            _check_event(check, path, index, events, names)
    devices = {match.groups() for path in certificates if (match := _DEVICE.fullmatch(path))}
    for user, device in sorted(devices):
        path = f"receipts/{user}/{device}.tlog-proof"
        check.expect(path in receipts, path, "missing")
    return check


def _epoch_of(receipt: bytes, epochs: Sequence[Epoch]) -> Epoch:
    """The epoch that the receipt is about; the newest if it is about none."""
    origins = receipt.partition(b"\n\n")[2].split(b"\n")[:1]
    for epoch in epochs:
        if epoch.key is not None and origins == [epoch.key.name.encode()]:
            return epoch
    return epochs[-1]


def _verify(check: Check, path: str, receipt: bytes, epoch: Epoch, key: VerifierKey) -> int | None:
    """The event it proves; its own checkpoint must be a head of this tree."""
    try:
        index = parse_receipt(receipt).index
        if index >= len(epoch.leaves):
            check.fail(path, f"is for event {index}, which is not there")
            return None
        covered = verify_receipt(receipt, epoch.leaves[index], [key], key.name)
    except TlogError as error:
        check.fail(path, str(error))
        return None
    size = epoch.tree.size
    if covered.size > size:
        check.fail(path, f"its checkpoint covers {covered.size} leaves, the log has {size}")
    elif epoch.tree.root_at(covered.size) != covered.root:
        check.fail(path, "its checkpoint is of another history than this log")
    return epoch.offset + index


def _check_event(
    check: Check, path: str, index: int, events: Mapping[int, wire.Leaf], names: Names
) -> None:
    match = _RECEIPT.fullmatch(path)
    if match is None:
        check.fail(path, "not named receipts/<user>/<device>.tlog-proof")
        return
    leaf = events.get(index)
    if leaf is None or leaf.type not in _ENROLLING:
        check.fail(path, f"event {index} certifies no device")
        return
    for kind, value in zip(
        (wire.Committed.USER, wire.Committed.DEVICE), match.groups(), strict=True
    ):
        known = names.of(index, kind)
        if known is not None and known != value:
            check.fail(path, f"event {index} is about {kind} {known!r}")
