"""A signer that fails on command, before or after the work is done."""

from collections import deque
from collections.abc import Sequence
from enum import StrEnum

from hsm_drivers.errors import HsmError, TokenUnavailableError
from hsm_drivers.ports import (
    JournalEntry,
    KeyAttributes,
    KeyLabel,
    KeyRecord,
    KeySpec,
    Purpose,
    SignerHealth,
    Statement,
    StatementSigner,
)


class Fault(StrEnum):
    """NOT_DONE: nothing happened. DONE: signed and journalled, but the answer was lost."""

    NOT_DONE = "not-done"
    DONE = "done"


class FaultySigner:
    """Any `StatementSigner`; calls to sign for a purpose fail as told, and all while it is away."""

    def __init__(self, signer: StatementSigner) -> None:
        self._signer = signer
        self._faults: dict[Purpose, deque[Fault]] = {purpose: deque() for purpose in Purpose}
        self.away = False

    def fail_next(self, purpose: Purpose, *faults: Fault) -> None:
        self._faults[purpose].extend(faults)

    async def sign(self, statements: Sequence[Statement]) -> list[bytes | HsmError]:
        self._check()
        queue = self._faults[statements[0].purpose]
        if not queue:
            return await self._signer.sign(statements)
        if queue.popleft() is Fault.DONE:
            await self._signer.sign(statements)
        raise TokenUnavailableError("the connection to the signer broke")

    async def keys(self) -> list[KeyRecord]:
        self._check()
        return await self._signer.keys()

    async def attributes(self, label: KeyLabel) -> KeyAttributes:
        self._check()
        return await self._signer.attributes(label)

    async def journal(self, after: int, limit: int) -> list[JournalEntry]:
        self._check()
        return await self._signer.journal(after, limit)

    async def health(self) -> SignerHealth:
        self._check()
        return await self._signer.health()

    async def generate(self, spec: KeySpec) -> KeyRecord:
        self._check()
        return await self._signer.generate(spec)

    def _check(self) -> None:
        if self.away:
            raise TokenUnavailableError("the signer is away")
