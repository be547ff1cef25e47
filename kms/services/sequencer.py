"""The order of a commit (DESIGN section 3): state, events and tree first, then the signed head.

One sequencer per log. Units of concurrent callers share a commit, and no caller whose unit has
events is answered before a signed head covers them. The next commit does not wait for that head.

What a crash leaves behind: before the ledger's commit, nothing. After it, a committed head without
a note: the next start (or the next commit) signs the then committed head, and a retry of the call
finds its idempotency record.
"""

import asyncio
import time
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from hsm_drivers.ports import KeyLabel, StatementSigner
from kms.domain.records import LogId
from kms.services.batching import Batcher
from kms.services.cosigner import Cosigner
from kms.services.errors import LogUnavailableError, SignerUnavailableError
from kms.services.head_signer import HeadSigner
from kms.services.observing import Observer
from kms.services.ports import Conflict, Ledger, LedgerUnavailableError, Placed, Unit
from kms.tlog.notes import VerifierKey
from kms.tlog.tiles import NodeCache

MAX_UNITS = 512
BACKLOG = 4096
FAIL_SAFE_SECONDS = 2.0
"""How long a revocation that has taken effect waits for its receipt; then it is `pending`."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A committed unit and the signed head that covers it.

    Attributes:
        placed: `size` is that of the head.
        note: None for a unit without events, and where the signer was away and the call fails
            safe; `size` is then that of the commit.
    """

    placed: Placed
    note: bytes | None


class Sequencer:
    """Commits units in order and has the log's head signed behind them.

    Args:
        ledger: Where units go.
        signer: Signs the head.
        key: Label of the log key.
        vkey: The log's verifier key; its name is the origin.
        executor: One thread; all commits run in it, so the event loop never waits for a disk.
        observer: Told of each commit and head.
        cosigner: Cosigns every head, if there is one.
    """

    def __init__(
        self,
        ledger: Ledger,
        signer: StatementSigner,
        key: KeyLabel,
        vkey: VerifierKey,
        executor: Executor,
        observer: Observer,
        cosigner: Cosigner | None = None,
    ) -> None:
        self._ledger = ledger
        self._executor = executor
        self._observer = observer
        self.cosigner = cosigner
        self._heads = HeadSigner(ledger, signer, key, vkey, executor, observer, cosigner)
        # What may be committed only while the signer is there, and what does not depend on it.
        self._bound: Batcher[Unit, Placed | Conflict | Exception] = Batcher(
            self._commit_bound, limit=MAX_UNITS, backlog=BACKLOG
        )
        self._free: Batcher[Unit, Placed | Conflict | Exception] = Batcher(
            self._commit, limit=MAX_UNITS, backlog=BACKLOG
        )
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def cosigner_vkey(self) -> str | None:
        """Text of the cosigner's verifier key."""
        return None if self.cosigner is None else self.cosigner.vkey.text()

    @property
    def waiting(self) -> int:
        """Units not yet being committed."""
        return self._bound.waiting + self._free.waiting

    @property
    def signed_size(self) -> int:
        """Size of the newest signed checkpoint: what may be shown to anyone."""
        return self._heads.signed_size

    def nodes(self, log: LogId) -> NodeCache:
        """Hashes of complete subtrees of that epoch."""
        return self._heads.nodes(log)

    async def commit(
        self, unit: Unit, *, fail_safe: bool = False, urgent: bool = False
    ) -> Sealed | Conflict:
        """Commit one unit.

        Args:
            unit: What to commit.
            fail_safe: True for revocations, which take effect though the token is away. They are
                urgent, too.
            urgent: Before all that waits and is not.

        Raises:
            SignerUnavailableError: The head could not be signed. Without `fail_safe` nothing was
                committed if the signer was known to be away; else the unit stands and a retry with
                the same Idempotency-Key answers.
            LogUnavailableError: The ledger could not commit.
        """
        begun = self._heads.begun
        self._open += 1
        self._idle.clear()
        try:
            batcher = self._free if fail_safe or not unit.events else self._bound
            (outcome,) = await batcher.submit([unit], urgent=urgent or fail_safe)
            if isinstance(outcome, Exception):
                raise outcome
            if isinstance(outcome, Conflict):
                return outcome
            if not unit.events:
                return Sealed(outcome, None)
            return await self._seal(outcome, begun, fail_safe=fail_safe)
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    async def drain(self) -> None:
        """Wait until every accepted unit is answered."""
        await self._free.drain()
        await self._bound.drain()
        await self._idle.wait()
        await self._heads.drain()

    def load(self) -> None:
        """Learn from the ledger how far the log is signed; called once, before anything else."""
        self._heads.load()

    async def recover(self) -> None:
        """Sign and store a committed but unsigned head; called at start and after an outage.

        Raises:
            LogRolledBackError: The ledger lost events that the signer has signed.
            SignerUnavailableError: The signer is away.
        """
        await self._heads.sign()

    async def note_for(self, log: LogId, size: int) -> bytes:
        """The exact checkpoint of a committed size, signed now if it is the unsigned newest.

        Raises:
            SignerUnavailableError: It is not signed and cannot be now.
        """
        return await self._heads.note_for(log, size)

    async def _commit_bound(self, units: list[Unit]) -> list[Placed | Conflict | Exception]:
        away = await self._heads.away()
        return await self._commit(units) if away is None else [away] * len(units)

    async def _commit(self, units: list[Unit]) -> list[Placed | Conflict | Exception]:
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        try:
            outcomes = await loop.run_in_executor(self._executor, self._ledger.commit, units)
        except LedgerUnavailableError as error:
            raise LogUnavailableError(f"the ledger could not commit: {error}") from error
        events = sum(len(unit.events) for unit in units)
        self._observer.committed(len(units), events, time.perf_counter() - started)
        return [*outcomes]

    async def _seal(self, placed: Placed, begun: int, *, fail_safe: bool) -> Sealed:
        """Wait for the head; a revocation not for long, for it has taken effect already."""
        try:
            async with asyncio.timeout(FAIL_SAFE_SECONDS if fail_safe else None):
                head = await self._heads.cover(placed, begun)
        except (TimeoutError, SignerUnavailableError, LogUnavailableError):
            if fail_safe:
                return Sealed(placed, None)
            raise
        return Sealed(replace(placed, size=head.size), head.note)
