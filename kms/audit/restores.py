"""What the log says of backups: keys that open them, and restores of the service from one. Pure."""

import re
from collections.abc import Sequence

from kms import wire
from kms.audit.epochs import Epoch
from kms.audit.findings import Check, event
from kms.wire import EventType

_HASH = re.compile(r"[0-9a-f]{64}")
_MIN_QUORUM = 2


def check_restores(epochs: Sequence[Epoch]) -> Check:
    """Recovery keys need several people, and restored was this log and no other.

    Args:
        epochs: Oldest first.
    """
    check = Check("backups", "recovery keys need a quorum; restored was this log's own past")
    keys: set[str] = set()
    for at, epoch in enumerate(epochs):
        for index, leaf in epoch.events.items():
            if leaf.type is EventType.RECOVERY_KEY_REGISTERED:
                check.examined += 1
                _check_key(check, index, leaf, keys)
            elif leaf.type is EventType.SERVICE_RESTORED:
                check.examined += 1
                _check_restore(check, index, leaf, epochs[: at + 1])
    return check


def _check_key(check: Check, index: int, leaf: wire.Leaf, keys: set[str]) -> None:
    detail = leaf.detail or {}
    quorum, shares, digest = detail["quorum"], detail["shares"], detail["public_key_sha256"]
    check.expect(
        _MIN_QUORUM <= quorum <= shares,
        event(index),
        f"a recovery key that {quorum} of {shares} shares open needs no quorum",
    )
    check.expect(
        _HASH.fullmatch(digest) and digest.startswith(detail["recovery_key"]),
        event(index),
        "the recovery key's id is not that of its hash",
    )
    check.expect(digest not in keys, event(index), "registers a recovery key again")
    keys.add(digest)


def _check_restore(check: Check, index: int, leaf: wire.Leaf, epochs: Sequence[Epoch]) -> None:
    """The backup's head is one that the tree of its epoch had, before this event."""
    detail = leaf.detail or {}
    origin, size = detail["origin"], detail["size"]
    source = next((epoch for epoch in epochs if epoch.origin == origin), None)
    if source is None:
        check.notes.append(f"event {index} restores {origin}, of which no record was given")
        return
    own = source is epochs[-1]
    if size < 0 or (own and size > index - source.offset):
        check.fail(event(index), f"restores {size} events of {origin}, which came after it")
    elif size > source.tree.size:
        check.notes.append(f"event {index} restores {size} events of {origin}; fewer were given")
    else:
        same = wire.b64(source.tree.root_at(size)) == detail["root"]
        check.expect(same, event(index), f"restores another log than the {size} events of {origin}")
        check.notes.append(
            f"event {index}: restored from backup {detail['backup']} of {size} events of {origin}"
        )
