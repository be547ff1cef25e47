"""Telling the signer what a key's state has taken from it, so that no one else can use it for that.

The ledger decides on every use; this is the second lock, of which only the signer has the key.
"""

from collections.abc import Iterable

import structlog

from hsm_drivers.errors import HsmError
from hsm_drivers.ports import KeyLabel
from kms.domain.key_book import Happened, KeyBook
from kms.domain.key_records import KeyVersion
from kms.services.core import Core
from kms.services.keys.reach import offered
from policies.key_life import Operation, Step, remaining

_log = structlog.get_logger()


class Narrowing:
    """Narrows the signer's keys."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def tell(self, book: KeyBook, version: KeyVersion) -> None:
        """Leave to the signer's key what its state leaves to it.

        Raises:
            HsmError: The signer is away.
        """
        left = remaining(signer_operations(book), version.state)
        await self._core.keys.narrow(KeyLabel(version.label), left)

    async def tell_of(self, book: KeyBook, happened: Iterable[Happened]) -> None:
        """Tell of steps just committed; what a signer that is away misses, upkeep tells it."""
        for item in happened:
            if item.step not in {Step.DEACTIVATE, Step.COMPROMISE} or item.version.state.gone:
                continue
            try:
                await self.tell(book, item.version)
            except HsmError as error:
                _log.warning("key.signer-not-told", label=item.version.label, detail=str(error))


def signer_operations(book: KeyBook) -> tuple[Operation, ...]:
    """What the signer's keys do: all that takes a token."""
    return tuple(item for item in offered(book.key.purpose) if item is not Operation.VERIFY)
