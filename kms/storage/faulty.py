"""A ledger that fails on command, with the work not done or done: for tests of what comes after."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, TypeVar

from kms.domain.records import LogId, Record
from kms.services.ports import (
    Change,
    Conflict,
    Ledger,
    LedgerUnavailableError,
    Placed,
    TreeHead,
    Unit,
)

R = TypeVar("R", bound=Record)
T = TypeVar("T")


class Fault(StrEnum):
    """How a call fails.

    REFUSED: not done, and the caller is told so.
    LOST: not done, and the caller is told that it may be.
    DONE: done, and the caller is told that it may be.
    """

    REFUSED = "refused"
    LOST = "lost"
    DONE = "done"


class FaultyLedger:
    """Any `Ledger`, whose next calls fail as told; the others go through.

    Args:
        ledger: Does the work.

    Attributes:
        calls: How often each method was called.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.calls: Counter[str] = Counter()
        self._ledger = ledger
        self._faults: dict[str, deque[Fault | None]] = {}

    def fail_next(self, method: str, *faults: Fault, after: int = 0) -> None:
        """Let the next calls of a method fail, one per fault, after those already told of.

        Args:
            method: Of the ledger.
            *faults: How.
            after: So many calls go through before.

        Raises:
            ValueError: The ledger has no such method.
        """
        if method.startswith("_") or not callable(getattr(Ledger, method, None)):
            raise ValueError(f"a ledger has no method {method!r}")
        self._faults.setdefault(method, deque()).extend([None] * after + [*faults])

    def mend(self) -> int:
        """Forget the faults that did not come; answers how many."""
        left = sum(fault is not None for faults in self._faults.values() for fault in faults)
        self._faults.clear()
        return left

    def get(self, kind: type[R], *key: Any) -> R | None:
        """See `Ledger.get`."""
        return self._call("get", lambda: self._ledger.get(kind, *key))

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
        """See `Ledger.find`."""
        return self._call(
            "find",
            lambda: self._ledger.find(
                kind,
                order=order,
                descending=descending,
                limit=limit,
                after=after,
                before=before,
                **equals,
            ),
        )

    def count(self, kind: type[R], **equals: Any) -> int:
        """See `Ledger.count`."""
        return self._call("count", lambda: self._ledger.count(kind, **equals))

    def values(self, kind: type[R], names: tuple[str, ...], **equals: Any) -> list[tuple[Any, ...]]:
        """See `Ledger.values`."""
        return self._call("values", lambda: self._ledger.values(kind, names, **equals))

    def reserve(self, changes: Sequence[Change]) -> Conflict | None:
        """See `Ledger.reserve`."""
        return self._call("reserve", lambda: self._ledger.reserve(changes))

    def open_log(self, log: LogId, origin: str, key: str, vkey: str) -> None:
        """See `Ledger.open_log`."""
        self._call("open_log", lambda: self._ledger.open_log(log, origin, key, vkey))

    def commit(self, units: Sequence[Unit]) -> list[Placed | Conflict]:
        """See `Ledger.commit`."""
        return self._call("commit", lambda: self._ledger.commit(units))

    def head(self) -> TreeHead | None:
        """See `Ledger.head`."""
        return self._call("head", self._ledger.head)

    def tile(self, log: LogId, level: int, number: int) -> bytes | None:
        """See `Ledger.tile`."""
        return self._call("tile", lambda: self._ledger.tile(log, level, number))

    def store_note(self, log: LogId, size: int, note: bytes) -> None:
        """See `Ledger.store_note`."""
        self._call("store_note", lambda: self._ledger.store_note(log, size, note))

    def close(self) -> None:
        """See `Ledger.close`."""
        self._call("close", self._ledger.close)

    def _call(self, method: str, work: Callable[[], T]) -> T:
        self.calls[method] += 1
        faults = self._faults.get(method)
        fault = faults.popleft() if faults else None
        if fault is None:
            return work()
        if fault is Fault.DONE:
            work()
        raise LedgerUnavailableError(
            f"{method} failed on command ({fault})", maybe_done=fault is not Fault.REFUSED
        )
