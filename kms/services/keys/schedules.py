"""Destructions that the signer has on its list and the ledger has not: they are taken off it.

Whoever speaks for this service for a moment could schedule every key, and come back for another
when the delay is over. Nothing else would ever ask for these destructions, so they are undone.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

import structlog

from hsm_drivers.errors import DestructionBegunError, KeyNotFoundError, StatementRefusedError
from hsm_drivers.ports import KeyLabel, KeyRecord
from kms.domain.key_records import KeyReservation, KeyVersion
from kms.services.core import Core
from kms.wire import timestamp

_PAGE = 500
_ANY_TIME = datetime.min.replace(tzinfo=UTC)
_log = structlog.get_logger()


class StraySchedules:
    """Finds them and undoes them.

    The signer is told of a destruction before it is committed, so one look proves nothing: only
    what two looks in a row show is undone.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._seen: frozenset[tuple[str, str]] = frozenset()

    async def undo(self, held: Mapping[str, KeyRecord]) -> int:
        """Give the signer the ledger's moment, or none; answers for how many keys.

        Raises:
            HsmError: The signer is away.
        """
        strays = self._strays({label: item.destroys for label, item in held.items()})
        found = frozenset((label, held[label].destroys) for label in strays)
        again, self._seen = sorted(found & self._seen), found
        for label, at in again:
            _log.error("key.stray-destruction", label=label, at=at)
            self._core.observer.refused("stray-destruction")
            await self._mend(KeyLabel(label), strays[label])
        return len(again)

    def _strays(self, told: Mapping[str, str]) -> dict[str, datetime | None]:
        """Labels that the signer would destroy sooner than the ledger says, and when it says so."""
        labels = [label for label, at in told.items() if at]
        strays: dict[str, datetime | None] = {}
        for start in range(0, len(labels), _PAGE):
            page = tuple(labels[start : start + _PAGE])
            due = self._due(page)
            for label in page:
                at = due.get(label)
                if at is None or told[label] < timestamp(at):
                    strays[label] = at
        return strays

    def _due(self, labels: tuple[str, ...]) -> dict[str, datetime | None]:
        """When the ledger has them destroyed; what was reserved and never committed at any time."""
        reserved = self._core.ledger.find(KeyReservation, label=labels)
        born = self._core.ledger.find(KeyVersion, label=labels)
        due: dict[str, datetime | None] = {item.label: _ANY_TIME for item in reserved}
        return due | {item.label: item.destroys for item in born}

    async def _mend(self, label: KeyLabel, at: datetime | None) -> None:
        if at is not None:
            with suppress(StatementRefusedError):  # less than the delay is left: it begins anew
                await self._core.keys.schedule_destruction(label, at)
                return
        with suppress(KeyNotFoundError, DestructionBegunError):
            await self._core.keys.cancel_destruction(label)
