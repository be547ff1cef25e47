"""What one request holds while it works, so that another cannot sign the same thing twice.

A claim lives in the sequencing worker's memory only. It saves signatures and orphans; safety does
not rest on it: the ledger's unique keys decide at commit.
"""

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from kms.services.errors import StillRunningError


class Claims:
    """A set of names, each held by at most one request."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    def hold(self, names: Iterable[str] = ()) -> "Held":
        """Hold all names or none, until the context that this begins has ended.

        Raises:
            StillRunningError: Another request holds one of them.
        """
        held = Held(self._held)
        held.add(names)
        return held


class Held:
    """The names that one request holds; a context manager."""

    def __init__(self, everyone: set[str]) -> None:
        self._everyone = everyone
        self._own: set[str] = set()

    def add(self, names: Iterable[str]) -> None:
        """Hold these names too, all or none.

        Raises:
            StillRunningError: One of them is held, be it by this request itself.
        """
        wanted = set(names)
        if not wanted.isdisjoint(self._everyone):
            raise StillRunningError("another request is working on the same enrolment or key")
        self._everyone |= wanted
        self._own |= wanted

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._everyone -= self._own
