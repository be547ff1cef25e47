"""A signer that fails on command, before or after the work is done."""

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol, TypeVar

from hsm_drivers.errors import HsmError, TokenUnavailableError
from hsm_drivers.operations import ServiceCall
from hsm_drivers.ports import (
    JournalEntry,
    KeyAttributes,
    KeyLabel,
    KeyRecord,
    KeySpec,
    Operation,
    Purpose,
    ServiceKeys,
    SignerHealth,
    Statement,
    StatementSigner,
    TokenStatus,
)

T = TypeVar("T")


class Signer(StatementSigner, ServiceKeys, Protocol):
    """The signer, whole."""


class Fault(StrEnum):
    """NOT_DONE: nothing happened. DONE: signed and journalled, but the answer was lost."""

    NOT_DONE = "not-done"
    DONE = "done"


class FaultySigner:
    """Any signer; its next calls fail as told, and all while it is away.

    Calls are named by their method; those to sign by their purpose.

    Attributes:
        away: Whether it cannot be reached at all.
        calls: How often each was called.
    """

    def __init__(self, signer: Signer) -> None:
        self.away = False
        self.calls: Counter[str] = Counter()
        self._signer = signer
        self._faults: dict[str, deque[Fault | None]] = {}

    def fail_next(self, call: str, *faults: Fault, after: int = 0) -> None:
        """Let the next such calls fail, one per fault, after `after` that go through."""
        assert call in set(Purpose) or callable(getattr(self, call))
        self._faults.setdefault(call, deque()).extend([None] * after + [*faults])

    def mend(self) -> int:
        """Forget the faults that did not come; answers how many."""
        left = sum(fault is not None for faults in self._faults.values() for fault in faults)
        self._faults.clear()
        return left

    async def sign(self, statements: Sequence[Statement]) -> list[bytes | HsmError]:
        purpose = statements[0].purpose
        return await self._call(purpose, lambda: self._signer.sign(statements))

    async def keys(self) -> list[KeyRecord]:
        return await self._call("keys", self._signer.keys)

    async def attributes(self, label: KeyLabel) -> KeyAttributes:
        return await self._call("attributes", lambda: self._signer.attributes(label))

    async def journal(self, after: int, limit: int) -> list[JournalEntry]:
        return await self._call("journal", lambda: self._signer.journal(after, limit))

    async def health(self) -> SignerHealth:
        return await self._call("health", self._signer.health)

    async def generate(self, spec: KeySpec) -> KeyRecord:
        return await self._call("generate", lambda: self._signer.generate(spec))

    async def use(self, calls: Sequence[ServiceCall]) -> list[tuple[bytes, ...] | HsmError]:
        return await self._call("use", lambda: self._signer.use(calls))

    async def tokens(self) -> list[TokenStatus]:
        return await self._call("tokens", self._signer.tokens)

    async def narrow(self, label: KeyLabel, operations: Sequence[Operation]) -> None:
        await self._call("narrow", lambda: self._signer.narrow(label, operations))

    async def schedule_destruction(self, label: KeyLabel, at: datetime) -> None:
        await self._call(
            "schedule_destruction", lambda: self._signer.schedule_destruction(label, at)
        )

    async def cancel_destruction(self, label: KeyLabel) -> None:
        await self._call("cancel_destruction", lambda: self._signer.cancel_destruction(label))

    async def destroy(self, label: KeyLabel) -> tuple[str, ...]:
        return await self._call("destroy", lambda: self._signer.destroy(label))

    async def _call(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        self.calls[name] += 1
        if self.away:
            raise TokenUnavailableError("the signer is away")
        faults = self._faults.get(name)
        fault = faults.popleft() if faults else None
        if fault is None:
            return await work()
        if fault is Fault.DONE:
            await work()
        raise TokenUnavailableError("the connection to the signer broke")
