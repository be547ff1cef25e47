"""Reading many records in one question: a batch asks once for what each of its items needs."""

from collections.abc import Iterable
from typing import Any, TypeVar

from kms.domain.records import Record, TenantId
from kms.services.ports import Ledger

R = TypeVar("R", bound=Record)

CHUNK = 500
"""Values in one question; below every database's limit of parameters."""


class Reads:
    """The ledger as one request sees it: what was preloaded is remembered, absence included.

    Stale by design: what matters is held against the ledger again at commit.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: dict[tuple[type[Record], tuple[Any, ...]], Record | None] = {}

    def preload(self, kind: type[R], tenant: TenantId, values: Iterable[str]) -> None:
        """Fetch records of one tenant by the second, last part of their key."""
        wanted = sorted({value for value in values if (kind, (tenant, value)) not in self._known})
        field = kind.KEY[1]
        for start in range(0, len(wanted), CHUNK):
            chunk = wanted[start : start + CHUNK]
            self._known.update({(kind, (tenant, value)): None for value in chunk})
            where: dict[str, Any] = {field: tuple(chunk)}
            for record in self._ledger.find(kind, tenant=tenant, **where):
                self._known[kind, (tenant, getattr(record, field))] = record

    def get(self, kind: type[R], *key: Any) -> R | None:
        """As `Ledger.get`, from memory where possible."""
        place = (kind, key)
        if place not in self._known:
            self._known[place] = self._ledger.get(kind, *key)
        found = self._known[place]
        assert found is None or isinstance(found, kind)  # noqa: S101 - for the type checker
        return found
