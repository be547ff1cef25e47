"""Concurrent requests share the signer's batches, and so its journal's disk writes."""

import time
from collections import Counter
from collections.abc import Sequence

from hsm_drivers.errors import HsmError
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
