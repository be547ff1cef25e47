"""The epochs of a log: each verified by itself, and each continuing the one before. Pure.

Events of the epoch under audit count from 0, as in the log; those of earlier epochs count back from
-1, so that one order runs through all of them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kms import wire
from kms.audit import replay, tree
from kms.audit.findings import Check, event
from kms.audit.layout import Record
from kms.audit.names import Names, check_openings
from kms.tlog.checkpoint import Checkpoint
from kms.tlog.notes import VerifierKey
from kms.wire import EventType

_ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")
"""What stands before the raw key in the SubjectPublicKeyInfo of an Ed25519 key (RFC 8410)."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One log, as far as it could be read.

    Attributes:
        checks: What was found about it.
        vkey: Text of its verifier key.
        key: That key, if it parses.
        head: Its head, if it verifies.
        leaves: Its leaves in order.
        tree: The tree over them.
        events: Index to leaf, those that are well formed.
        names: Whom the events are about.
        offset: Index of its first event in the order of all epochs: 0, or below.
    """

    checks: tuple[Check, ...]
    vkey: str | None
    key: VerifierKey | None
    head: Checkpoint | None
    leaves: list[bytes]
    tree: tree.Tree
    events: Mapping[int, wire.Leaf]
    names: Names
    offset: int = 0

    @property
    def origin(self) -> str | None:
        """What its key calls it."""
        return None if self.key is None else self.key.name

    @property
    def first(self) -> wire.Leaf | None:
        """Its first event."""
        return self.events.get(self.offset)

    def shifted(self, offset: int) -> "Epoch":
        """The same with its first event at `offset`."""
        return replace(
            self,
            offset=offset,
            events={index + offset: leaf for index, leaf in self.events.items()},
            names=Names({index + offset: item for index, item in self.names.values.items()}),
        )


def read_epoch(record: Record) -> Epoch:
    """Verify the log of a record: key, head, leaves, tree, events, openings."""
    key_check, key = tree.read_key(record.vkey)
    head_check, head = tree.read_head(record.checkpoint, key)
    leaves_check, leaves = tree.gather_leaves(record.events, record.tiles, head)
    own = tree.Tree.of(leaves)
    tree_check = tree.check_tree(own, head, record.tiles)
    events_check, events = replay.check_events(leaves, head.origin if head else None)
    names_check, names = check_openings(record.openings, events)
    checks = (key_check, head_check, leaves_check, tree_check, events_check, names_check)
    return Epoch(checks, record.vkey, key, head, leaves, own, events, names)


def in_order(earlier: Sequence[Record], current: Record) -> list[Epoch]:
    """All epochs, oldest first, in one order of events; the last is the one under audit."""
    epochs = [read_epoch(current)]
    for record in reversed(earlier):
        epoch = read_epoch(record)
        for check in epoch.checks:
            check.name = f"{check.name} of {epoch.key.name if epoch.key else 'an earlier epoch'}"
        epochs.insert(0, epoch.shifted(epochs[0].offset - len(epoch.leaves)))
    return epochs


def check_beginnings(epochs: Sequence[Epoch]) -> Check:
    """The first epoch begins with the birth of its key, every other names the head before it."""
    check = Check("beginnings", "the log begins with the birth of its key")
    for before, epoch in zip([None, *epochs], epochs, strict=False):
        check.examined += 1
        where = event(epoch.offset)
        if before is None:
            _check_birth(check, where, epoch)
        else:
            _check_continuation(check, where, before, epoch)
    _check_kept(check, epochs)
    starts = {epoch.offset for epoch in epochs}
    for epoch in epochs:
        for index, leaf in epoch.events.items():
            opens = leaf.type in (EventType.LOG_OPENED, EventType.LOG_CONTINUED)
            once = not opens or index in starts
            check.expect(once, event(index), "a log is opened once, by its first event")
    return check


def _check_birth(check: Check, where: str, epoch: Epoch) -> None:
    first = epoch.first
    if first is not None and first.type is EventType.LOG_CONTINUED:
        check.fail(where, "continues an earlier epoch; give its record with --earlier")
    elif first is None or first.type is not EventType.LOG_OPENED:
        check.fail(where, "the log does not begin with the birth of its key")
    elif _detail(first)["vkey"] != epoch.vkey:
        check.fail(where, "the log was opened under another key than log.vkey")
    elif epoch.key is not None:
        born = _detail(first).get("public_key_sha256")
        same = born in (None, hashlib.sha256(_ED25519_SPKI + epoch.key.public).hexdigest())
        check.expect(same, where, "the key that was born is not the one in log.vkey")


def _check_continuation(check: Check, where: str, before: Epoch, epoch: Epoch) -> None:
    first = epoch.first
    if first is None or first.type is not EventType.LOG_CONTINUED:
        check.fail(where, "does not continue the earlier epoch that was given")
        return
    if before.head is None or before.key is None or epoch.key is None:
        check.fail(where, "the earlier epoch does not verify; nothing to continue")
        return
    if before.key.public != epoch.key.public:
        check.fail(where, "goes on under another key than the earlier epoch")
    named = _detail(first)["previous"]
    size, origin = named.get("size"), named.get("origin")
    if type(size) is not int or origin != before.head.origin:
        check.fail(where, f"continues {origin!r}, not {before.head.origin!r}")
    elif size < before.head.size:
        check.fail(where, f"names a head of {size} leaves; the earlier record has more")
    elif size > before.head.size:
        lost = size - before.head.size
        check.notes.append(f"{lost} events of {origin} were lost, or are not in the record given")
    elif named.get("root") != wire.b64(before.head.root):
        check.fail(where, f"names another root for the {size} leaves of {origin!r}")


def _check_kept(check: Check, epochs: Sequence[Epoch]) -> None:
    """What an epoch says that was left of an earlier one is the beginning of the record of that."""
    for at, epoch in enumerate(epochs):
        kept = _kept(epoch)
        if kept is None:
            continue
        origin, size = kept
        earlier = next((item for item in epochs[:at] if item.origin == origin), None)
        where = event(epoch.offset)
        if earlier is None:
            check.fail(where, f"keeps events of {origin!r}, of which no record was given")
        elif size <= earlier.tree.size:
            same = wire.b64(earlier.tree.root_at(size)) == _kept_detail(epoch).get("root")
            check.expect(same, where, f"keeps other {size} events of {origin!r} than were given")


def surviving(epochs: Sequence[Epoch]) -> tuple[dict[int, wire.Leaf], dict[int, wire.Leaf]]:
    """Events that the log goes on from, and those that an epoch lost, by index.

    An epoch goes on from what was kept of an earlier one, and so from what that went on from: of a
    copy from before a loss, what was lost then is there again.
    """
    bases: dict[str | None, dict[int, wire.Leaf]] = {}
    base: dict[int, wire.Leaf] = {}
    everything: dict[int, wire.Leaf] = {}
    for at, epoch in enumerate(epochs):
        kept = _kept(epoch)
        earlier = {item.origin: item for item in epochs[:at]}
        if kept is not None and kept[0] in earlier:
            source = earlier[kept[0]]
            end = source.offset + kept[1]
            own = {index: leaf for index, leaf in source.events.items() if index < end}
            base = bases[source.origin] | own
        bases[epoch.origin] = base
        base = base | dict(epoch.events)
        everything |= epoch.events
    return base, {index: leaf for index, leaf in everything.items() if index not in base}


def _kept(epoch: Epoch) -> tuple[str, int] | None:
    """Origin and size of what the epoch goes on from; None where all before it was kept."""
    detail = _kept_detail(epoch)
    origin, size = detail.get("origin"), detail.get("size")
    if not isinstance(origin, str) or type(size) is not int or size < 0:
        return None
    return origin, size


def _kept_detail(epoch: Epoch) -> Mapping[str, Any]:
    first = epoch.first
    if first is None or first.type is not EventType.LOG_CONTINUED:
        return {}
    kept = _detail(first).get("kept")
    return kept if isinstance(kept, dict) else {}


def _detail(leaf: wire.Leaf) -> Mapping[str, Any]:
    return leaf.detail or {}
