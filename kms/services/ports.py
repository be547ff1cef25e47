"""Ports of the use cases. Every port has an in-memory twin and one contract suite (tests/contract).

The ledger is one port: state, entries, tree and idempotency change in one commit or not at all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from kms.domain.records import EventId, Idempotent, LogId, Record, TenantId
from kms.wire import Opening

R = TypeVar("R", bound=Record)


class Clock(Protocol):
    """Wall-clock time."""

    def now(self) -> datetime:
        """Aware UTC time, whole seconds."""
        ...


class Ids(Protocol):
    """Fresh ids, and randomness for nonces, openings and secrets."""

    def identifier(self) -> bytes:
        """16 bytes: the time in milliseconds (48 bits, big-endian), then 80 random bits.

        For events, enrolments and serials (CA/B Baseline Requirements 7.1: at least 64 random
        bits). What is made together sorts together, so that a database with millions of rows
        adds the next ones at the ends of its indices and not all over them.
        """
        ...

    def random(self, size: int) -> bytes:
        """Random bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Insert:
    """Add a record; a conflict if its key or a unique key is taken."""

    record: Record


@dataclass(frozen=True, slots=True)
class Replace:
    """Put `record` where its key stands; a conflict unless the stored one equals `expected`.

    With `expected` None any stored record is replaced, and its absence is a conflict.
    """

    record: Record
    expected: Record | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a record; absent is fine."""

    record: Record


Change = Insert | Replace | Delete


@dataclass(frozen=True, slots=True)
class EventDraft:
    """An event on its way into the log; its index is given at commit."""

    event: EventId
    tenant: TenantId
    type: str
    time: datetime
    leaf: bytes
    openings: tuple[Opening, ...] = ()


@dataclass(frozen=True, slots=True)
class Unit:
    """What is committed together or not at all.

    Attributes:
        changes: In order.
        events: Get consecutive indices.
        idempotent: Its `log`, `first_index`, `events` and `size` are filled in at commit.
    """

    changes: tuple[Change, ...]
    events: tuple[EventDraft, ...] = ()
    idempotent: Idempotent | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a committed unit's events stand; `size` is the tree size after the whole commit."""

    log: LogId
    first_index: int
    size: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """Why a unit was not committed: the record type and key that stood in the way."""

    record: str
    key: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class TreeHead:
    """Head of the committed tree."""

    log: LogId
    origin: str
    size: int
    root: bytes


class LedgerUnavailableError(Exception):
    """The store refused or lost the operation (disk full, locked, gone); retry later.

    Nothing of the call was done, unless `maybe_done`: then only reading tells.
    """

    def __init__(self, message: str, *, maybe_done: bool = False) -> None:
        super().__init__(message)
        self.maybe_done = maybe_done


class Ledger(Protocol):
    """State, log and idempotency in one store.

    Safe for one committing thread and any number of reading threads at once. Reads see the last
    commit. Every method raises `LedgerUnavailableError` when the store fails.
    """

    def get(self, kind: type[R], *key: Any) -> R | None:
        """The record of that primary key, in the order of `KEY`."""
        ...

    def find(
        self,
        kind: type[R],
        *,
        order: tuple[str, ...] = (),
        descending: bool = False,
        limit: int | None = None,
        after: tuple[Any, ...] | None = None,
        before: tuple[Any, ...] | None = None,
        **equals: Any,
    ) -> list[R]:
        """Records whose fields equal the given values (None included; a tuple means any of them).

        Args:
            kind: Record type.
            order: Fields to sort by; primary key when empty.
            descending: Sort downwards.
            limit: At most so many.
            after: Only those that come strictly after these values of `order` in sort order.
            before: Only those that come strictly before these values of `order` in sort order.
            **equals: Field to value.
        """
        ...

    def count(self, kind: type[R], **equals: Any) -> int:
        """How many `find` would give."""
        ...

    def values(self, kind: type[R], names: tuple[str, ...], **equals: Any) -> list[tuple[Any, ...]]:
        """These fields of what `find` would give, in no order: for lists too long for records."""
        ...

    def reserve(self, changes: Sequence[Change]) -> Conflict | None:
        """Commit changes that need no event (reservations); all or none."""
        ...

    def open_log(self, log: LogId, origin: str, key: str, vkey: str) -> None:
        """Begin an epoch; later commits append to it. Idempotent for the same values."""
        ...

    def commit(self, units: Sequence[Unit]) -> list[Placed | Conflict]:
        """Commit units in one durable transaction, in order.

        A unit in conflict leaves nothing behind and does not disturb the others. When at least one
        event was placed, a `Checkpoint` record with an empty note is stored for the new size.
        """
        ...

    def head(self) -> TreeHead | None:
        """Head of the committed tree of the current epoch; None before the first epoch."""
        ...

    def tile(self, log: LogId, level: int, number: int) -> bytes | None:
        """Hashes of a tile, full or as far as it goes (C2SP tlog-tiles); None if absent."""
        ...

    def store_note(self, log: LogId, size: int, note: bytes) -> None:
        """Store the exact signed checkpoint for a committed size, durably; first one wins."""
        ...

    def close(self) -> None:
        """Let the store go."""
        ...


NodeReader = Callable[[int, int], bytes]
"""(level, index) to the hash of that complete subtree of 2**level leaves."""
