"""What one request holds while it works, so that another cannot sign the same thing twice.

A claim lives in the sequencing worker's memory only. It saves signatures and orphans; safety does
not rest on it: the ledger's unique keys decide at commit.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from kms.services.errors import StillRunningError


class Claims:
    """A set of names, each held by at most one request."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    @contextmanager
    def hold(self, names: Iterable[str]) -> Iterator[None]:
        """Hold all names or none.

        Raises:
            StillRunningError: Another request holds one of them.
        """
        wanted = set(names)
        if wanted & self._held:
            raise StillRunningError("another request is working on the same enrolment or key")
        self._held |= wanted
        try:
            yield
        finally:
            self._held -= wanted
