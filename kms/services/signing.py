"""Concurrent requests share the signer's batches, and so its journal's disk writes."""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from hsm_drivers.errors import HsmError
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
from kms.services.batching import Batcher
from kms.services.observing import Observer

MAX_STATEMENTS = 1_000
"""In one request to the signer: larger ones are no faster, and what is urgent waits for them."""
BACKLOG = 20_000


class SharedSigner:
    """A `StatementSigner` that gathers what waits while a batch is away."""

    def __init__(self, signer: StatementSigner, observer: Observer) -> None:
        self._signer = signer
        self._observer = observer
        self._batcher: Batcher[Statement, bytes | HsmError] = Batcher(
            self._sign, limit=MAX_STATEMENTS, backlog=BACKLOG
        )

    @property
    def waiting(self) -> int:
        """Statements not yet sent."""
        return self._batcher.waiting

    async def sign(self, statements: Sequence[Statement]) -> list[bytes | HsmError]:
        """As `StatementSigner.sign`; heads and CRLs, for which everyone waits, go first."""
        urgent = all(item.purpose is not Purpose.CERTIFICATE for item in statements)
        return await self._batcher.submit(list(statements), urgent=urgent)

    async def keys(self) -> list[KeyRecord]:
        """As `StatementSigner.keys`."""
        return await self._signer.keys()

    async def attributes(self, label: KeyLabel) -> KeyAttributes:
        """As `StatementSigner.attributes`."""
        return await self._signer.attributes(label)

    async def journal(self, after: int, limit: int) -> list[JournalEntry]:
        """As `StatementSigner.journal`."""
        return await self._signer.journal(after, limit)

    async def health(self) -> SignerHealth:
        """As `StatementSigner.health`; the metrics show what it last told."""
        try:
            health = await self._signer.health()
        except HsmError:
            self._observer.signer_asked(None)
            raise
        self._observer.signer_asked(health)
        return health

    async def generate(self, spec: KeySpec) -> KeyRecord:
        """As `StatementSigner.generate`."""
        return await self._signer.generate(spec)

    async def _sign(self, batch: list[Statement]) -> list[bytes | HsmError]:
        started = time.perf_counter()
        try:
            answers = await self._signer.sign(batch)
        except HsmError as error:
            self._observer.signed(len(batch), time.perf_counter() - started, error.code)
            raise
        seconds = time.perf_counter() - started
        outcomes = Counter(item.code if isinstance(item, HsmError) else "ok" for item in answers)
        for outcome, statements in outcomes.items():
            self._observer.signed(statements, seconds, outcome)
        return answers


class SharedKeys:
    """A `ServiceKeys` whose uses by concurrent requests share a trip to the signer."""

    def __init__(self, keys: ServiceKeys) -> None:
        self._keys = keys
        self._batcher: Batcher[ServiceCall, tuple[bytes, ...] | HsmError] = Batcher(
            keys.use, limit=MAX_STATEMENTS, backlog=BACKLOG
        )

    async def use(self, calls: Sequence[ServiceCall]) -> list[tuple[bytes, ...] | HsmError]:
        """As `ServiceKeys.use`."""
        return await self._batcher.submit(list(calls))

    async def generate(self, spec: KeySpec) -> KeyRecord:
        """As `ServiceKeys.generate`."""
        return await self._keys.generate(spec)

    async def keys(self) -> list[KeyRecord]:
        """As `ServiceKeys.keys`."""
        return await self._keys.keys()

    async def tokens(self) -> list[TokenStatus]:
        """As `ServiceKeys.tokens`."""
        return await self._keys.tokens()

    async def narrow(self, label: KeyLabel, operations: Sequence[Operation]) -> None:
        """As `ServiceKeys.narrow`."""
        await self._keys.narrow(label, operations)

    async def schedule_destruction(self, label: KeyLabel, at: datetime) -> None:
        """As `ServiceKeys.schedule_destruction`."""
        await self._keys.schedule_destruction(label, at)

    async def cancel_destruction(self, label: KeyLabel) -> None:
        """As `ServiceKeys.cancel_destruction`."""
        await self._keys.cancel_destruction(label)

    async def destroy(self, label: KeyLabel) -> tuple[str, ...]:
        """As `ServiceKeys.destroy`."""
        return await self._keys.destroy(label)
