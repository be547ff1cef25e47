"""What a commit does to the log, worked out before anything is written. Pure; no I/O of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from kms.domain.records import Checkpoint, Epoch, Event, EventOpenings, LogId
from kms.services.ports import Change, Conflict, Insert, Placed, Replace, TreeHead, Unit
from kms.storage.mapping import Row, shape_of
from kms.tlog.append import append
from kms.tlog.hashing import EMPTY_ROOT, leaf_hash
from kms.tlog.tiles import TILE_BITS, TILE_WIDTH, TileReader

Tiles = Mapping[tuple[int, int], bytes]
ReadTile = Callable[[int, int, int], bytes | None]
"""(log, level, number) to a committed tile."""

_OF_THE_LOG = {kind.__name__ for kind in (Event, Epoch, Checkpoint)}


@dataclass(frozen=True, slots=True)
class Edge:
    """Where the log grows: its head, and the tiles of its right edge as far as they are known."""

    head: TreeHead
    tiles: Tiles


@dataclass(frozen=True, slots=True)
class Growth:
    """From one head to the next; `tiles` are those that changed, whole."""

    old: TreeHead
    new: TreeHead
    tiles: Tiles
    edge: Edge

    @property
    def grown(self) -> bool:
        """Whether the tree has new leaves."""
        return self.new.size > self.old.size

    def is_new(self, level: int, number: int) -> bool:
        """Whether the changed tile did not exist at the old head."""
        return number * TILE_WIDTH >= self.old.size >> (level * TILE_BITS)

    def checkpoint(self) -> Checkpoint:
        """The new head as a record, not signed yet."""
        return Checkpoint(self.new.log, self.new.size, self.new.root, b"")


def grow(edge: Edge, read_tile: ReadTile, leaves: Sequence[bytes]) -> Growth:
    """Put leaves behind the tree.

    Raises:
        TileError: A tile of the right edge is missing or too short: the store is damaged.
    """
    old = edge.head
    appended = append(_reader(edge, read_tile), old.size, [leaf_hash(leaf) for leaf in leaves])
    new = replace(old, size=appended.size, root=appended.root)
    known = {**edge.tiles, **appended.tiles}
    kept = {at: known[at] for at in _partial(new.size) if at in known}
    return Growth(old, new, appended.tiles, Edge(new, kept))


def is_sound(edge: Edge, read_tile: ReadTile) -> bool:
    """Whether the tiles of the right edge lead to the head's root.

    Raises:
        TileError: One of them is missing or too short.
    """
    return append(_reader(edge, read_tile), edge.head.size, []).root == edge.head.root


def empty_head(epoch: Epoch) -> TreeHead:
    """Head of an epoch that has no event yet."""
    return TreeHead(epoch.log, epoch.origin, 0, EMPTY_ROOT)


def _reader(edge: Edge, read_tile: ReadTile) -> TileReader:
    return lambda level, number: (
        edge.tiles.get((level, number)) or read_tile(edge.head.log, level, number)
    )


def _partial(size: int) -> list[tuple[int, int]]:
    """(level, number) of the tiles that the next leaves may fill further."""
    levels = range(-(-size.bit_length() // TILE_BITS))
    return [(level, (size >> (level * TILE_BITS)) // TILE_WIDTH) for level in levels]


def unit_changes(unit: Unit, head: TreeHead, index: int, size: int) -> list[Change]:
    """Everything a unit writes to tables, its first event getting `index`.

    The idempotency record comes first: a call that has been answered is told so, whatever else
    stands in the way.

    Raises:
        ValueError: A change to what only the log itself may write.
    """
    changes: list[Change] = []
    if unit.idempotent is not None:
        events = len(unit.events)
        changes.append(
            Insert(
                replace(unit.idempotent, log=head.log, first_index=index, events=events, size=size)
            )
        )
    check_reserved(unit.changes)
    changes += unit.changes
    for at, draft in enumerate(unit.events, index):
        event = Event(head.log, at, draft.tenant, draft.event, draft.type, draft.time, draft.leaf)
        changes.append(Insert(event))
        if draft.openings:
            documents = tuple([item.document() for item in draft.openings])
            changes.append(Insert(EventOpenings(draft.tenant, draft.event, documents)))
    return changes


def check_reserved(changes: Sequence[Change]) -> None:
    """Refuse changes to what only the log itself may write.

    Raises:
        ValueError: There is one.
    """
    names = {type(change.record).__name__ for change in changes} & _OF_THE_LOG
    if names:
        raise ValueError(f"{', '.join(sorted(names))}: written by the ledger alone")


def is_blocked(change: Insert | Replace, stored: Row | None) -> bool:
    """Whether what is stored under a change's primary key stands in its way."""
    if isinstance(change, Insert):
        return stored is not None
    if stored is None:
        return True
    expected = change.expected
    if expected is None:
        return False
    shape = shape_of(type(expected))
    return shape.change.row(expected) != shape.changing(stored)


def check_epoch(epoch: Epoch, stored: Epoch | None, head: TreeHead | None) -> None:
    """Whether an epoch may begin, or has begun with the same values.

    Raises:
        ValueError: The epoch is stored with other values, or a later one is.
    """
    if stored is None and head is not None and epoch.log < head.log:
        raise ValueError(f"epoch {epoch.log} cannot begin after epoch {head.log}")
    if stored not in (None, epoch):
        raise ValueError(f"epoch {epoch.log} has begun with other values: {stored}")


def open_head(head: TreeHead | None) -> TreeHead:
    """The head to append to.

    Raises:
        ValueError: No epoch has begun.
    """
    if head is None:
        raise ValueError("no epoch has begun: open a log before committing to it")
    return head


def committed_checkpoint(stored: Checkpoint | None, log: LogId, size: int) -> Checkpoint:
    """The checkpoint whose note is to be stored.

    Raises:
        ValueError: None was committed for that size.
    """
    if stored is None:
        raise ValueError(f"no checkpoint of size {size} was committed to log {log}")
    return stored


def first_indices(units: Sequence[Unit], size: int) -> list[int]:
    """Index of each unit's first event if all are placed behind `size` leaves."""
    return list(accumulate((len(unit.events) for unit in units), initial=size))[:-1]


def leaves_of(units: Sequence[Unit]) -> list[bytes]:
    """The units' leaves in order."""
    return [draft.leaf for unit in units for draft in unit.events]


def placed(head: TreeHead, indices: Sequence[int | Conflict]) -> list[Placed | Conflict]:
    """Outcomes of a commit that led to `head`: where each unit's events stand, or its conflict."""
    return [
        item if isinstance(item, Conflict) else Placed(head.log, item, head.size)
        for item in indices
    ]
