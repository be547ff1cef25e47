"""The order of a commit (DESIGN section 3): state, events and tree first, then the signed head.

One sequencer per log. Units of concurrent callers share a commit; each commit with events is
covered by one signed checkpoint before any of its callers is answered. Units without events have
commits of their own, which go on while a head is being signed.

What a crash leaves behind: before the ledger's commit, nothing. After it, a committed head without
a note: the next start (or the next commit) signs the then committed head, and a retry of the call
finds its idempotency record.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from hsm_drivers.errors import HsmError
from hsm_drivers.ports import Head, KeyLabel, Purpose, Statement, StatementSigner
from kms.domain.records import Checkpoint as CheckpointRecord
from kms.domain.records import LogId
from kms.services.batching import Batcher
from kms.services.errors import LogUnavailableError, SignerUnavailableError
from kms.services.heads import first_signed_after, newest_signed
from kms.services.observing import Observer
from kms.services.ports import Conflict, Ledger, LedgerUnavailableError, Placed, TreeHead, Unit
from kms.tlog.checkpoint import Checkpoint
from kms.tlog.notes import NoteSignature, VerifierKey, format_note
from kms.tlog.tiles import NodeCache
from kms.tlog.tree import consistency_proof
from kms.tlog.tree import root as tree_root

T = TypeVar("T")

MAX_UNITS = 512
BACKLOG = 4096
FAIL_SAFE_SECONDS = 2.0
"""How long a revocation that has taken effect waits for its receipt; then it is `pending`."""


class LogRolledBackError(LogUnavailableError):
    """The signer remembers a larger or different head than the ledger holds."""

    problem = "log-rolled-back"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A committed unit; `note` is None only where the signer was away and the call fails safe."""

    placed: Placed
    note: bytes | None


class Sequencer:
    """Commits units in order and has the log's head signed after each commit.

    Args:
        ledger: Where units go.
        signer: Signs the head.
        key: Label of the log key.
        vkey: The log's verifier key; its name is the origin.
        executor: One thread; all commits run in it, so the event loop never waits for a disk.
        observer: Told of each commit and head.
    """

    def __init__(
        self,
        ledger: Ledger,
        signer: StatementSigner,
        key: KeyLabel,
        vkey: VerifierKey,
        executor: Executor,
        observer: Observer,
    ) -> None:
        self._ledger = ledger
        self._signer = signer
        self._key = key
        self._vkey = vkey
        self._executor = executor
        self._observer = observer
        self._batcher: Batcher[tuple[Unit, bool], Sealed | Conflict | Exception] = Batcher(
            self._commit_group, limit=MAX_UNITS, backlog=BACKLOG
        )
        self._eventless: Batcher[Unit, Sealed | Conflict] = Batcher(
            self._commit_eventless, limit=MAX_UNITS, backlog=BACKLOG
        )
        self._head_lock = asyncio.Lock()
        self._remembered: Head | None = None
        self._known = False
        self._signed_size = 0
        self._nodes: dict[LogId, NodeCache] = {}

    @property
    def waiting(self) -> int:
        """Units not yet being committed."""
        return self._batcher.waiting + self._eventless.waiting

    @property
    def signed_size(self) -> int:
        """Size of the newest signed checkpoint: what may be shown to anyone."""
        return self._signed_size

    def nodes(self, log: LogId) -> NodeCache:
        """Hashes of complete subtrees of that epoch."""
        if log not in self._nodes:
            self._nodes[log] = NodeCache(
                lambda level, number: self._ledger.tile(log, level, number)
            )
        return self._nodes[log]

    async def commit(self, unit: Unit, *, fail_safe: bool = False) -> Sealed | Conflict:
        """Commit one unit.

        Args:
            unit: What to commit.
            fail_safe: True for revocations, which take effect though the token is away.

        Raises:
            SignerUnavailableError: The head could not be signed. Without `fail_safe` nothing was
                committed if the signer was known to be away; else the unit stands and a retry with
                the same Idempotency-Key answers.
            LogUnavailableError: The ledger could not commit.
        """
        if not unit.events:
            (done,) = await self._eventless.submit([unit])
            return done
        (result,) = await self._batcher.submit([(unit, fail_safe)])
        if isinstance(result, Exception):
            raise result
        return result

    async def drain(self) -> None:
        """Wait until every accepted unit is answered."""
        await self._eventless.drain()
        await self._batcher.drain()

    def load(self) -> None:
        """Learn from the ledger how far the log is signed; called once, before anything else."""
        head = self._ledger.head()
        if head is None:
            return
        newest = newest_signed(self._ledger, head.log)
        self._signed_size = 0 if newest is None else newest.size

    async def recover(self) -> None:
        """Sign and store a committed but unsigned head; called at start and after an outage.

        Raises:
            LogRolledBackError: The ledger lost events that the signer has signed.
            SignerUnavailableError: The signer is away.
        """
        await self._sign_committed()

    async def note_for(self, log: LogId, size: int) -> bytes:
        """The exact checkpoint of a committed size, signed now if it is the unsigned newest.

        Raises:
            SignerUnavailableError: It is not signed and cannot be now.
        """
        record = self._ledger.get(CheckpointRecord, log, size)
        if record is not None and record.note:
            return record.note
        await self.recover()
        record = self._ledger.get(CheckpointRecord, log, size)
        if record is not None and record.note:
            return record.note
        # A crash can leave a size unsigned that later commits have passed: take the next one.
        record = first_signed_after(self._ledger, log, size)
        if record is None:
            raise SignerUnavailableError("the log's head is not signed yet; try again")
        return record.note

    async def _commit_eventless(self, group: list[Unit]) -> list[Sealed | Conflict]:
        """Commit what no head covers, while the head of other units is being signed."""
        outcomes = await self._commit(group)
        return [item if isinstance(item, Conflict) else Sealed(item, None) for item in outcomes]

    async def _commit_group(
        self, group: list[tuple[Unit, bool]]
    ) -> list[Sealed | Conflict | Exception]:
        """Commit what may be committed, sign the head, answer each.

        What takes effect without the signer does not wait for it either.
        """
        must_sign = not all(fail_safe for _, fail_safe in group)
        away = await self._signer_away() if must_sign else None
        allowed = [fail_safe or away is None for _, fail_safe in group]
        units = [unit for (unit, _), ok in zip(group, allowed, strict=True) if ok]
        placed = iter(await self._commit(units))
        outcomes = [next(placed) if ok else away for ok in allowed]
        needs_head = any(isinstance(outcome, Placed) for outcome in outcomes)
        note: bytes | None = None
        failure = away
        if needs_head and away is None:
            note, failure = await self._try_sign(None if must_sign else FAIL_SAFE_SECONDS)
        return [
            self._answer(fail_safe, outcome, note, failure)
            for (_, fail_safe), outcome in zip(group, outcomes, strict=True)
        ]

    def _answer(
        self,
        fail_safe: bool,  # noqa: FBT001 - private, always the group's own flag
        outcome: Placed | Conflict | Exception | None,
        note: bytes | None,
        failure: Exception | None,
    ) -> Sealed | Conflict | Exception:
        if outcome is None or isinstance(outcome, Exception):
            return outcome or SignerUnavailableError("the signer is away")
        if isinstance(outcome, Conflict):
            return outcome
        if note is None and not fail_safe:
            return failure or SignerUnavailableError("the log's head could not be signed")
        return Sealed(outcome, note)

    async def _commit(self, units: list[Unit]) -> Sequence[Placed | Conflict]:
        if not units:
            return []
        started = time.perf_counter()
        try:
            outcomes = await self._in_thread(lambda: self._ledger.commit(units))
        except LedgerUnavailableError as error:
            raise LogUnavailableError(f"the ledger could not commit: {error}") from error
        events = sum(len(unit.events) for unit in units)
        self._observer.committed(len(units), events, time.perf_counter() - started)
        return outcomes

    async def _signer_away(self) -> Exception | None:
        """Why nothing can be released now, or None; asks the token only when in doubt."""
        if self._known:
            return None
        try:
            await self._learn_head()
        except (SignerUnavailableError, LogRolledBackError) as error:
            return error
        return None

    async def _learn_head(self) -> None:
        """Read the signer's memory of its last head and hold the ledger against it."""
        try:
            health = await self._signer.health()
        except HsmError as error:
            raise SignerUnavailableError(f"the signer is away: {error}") from error
        if not health.ready:
            raise SignerUnavailableError(f"the token is away: {health.detail}")
        heads = {head.origin: head for head in health.heads}
        self._remembered = heads.get(self._vkey.name)
        committed = self._ledger.head()
        self._check_rollback(self._remembered, committed)
        self._known = True

    def _check_rollback(self, remembered: Head | None, committed: TreeHead | None) -> None:
        if remembered is None or remembered.size == 0:
            return
        if committed is None or committed.size < remembered.size:
            size = 0 if committed is None else committed.size
            raise LogRolledBackError(
                f"the signer signed a head of size {remembered.size}, the ledger holds {size}: "
                "it lost events (an old copy restored?). Run `kms log new-epoch`."
            )
        if tree_root(remembered.size, self.nodes(committed.log)) != remembered.root:
            raise LogRolledBackError(
                f"the ledger's root at size {remembered.size} is not the one that was signed. "
                "Run `kms log new-epoch`."
            )

    async def _try_sign(self, patience: float | None) -> tuple[bytes | None, Exception | None]:
        """The signed head, or why there is none within so many seconds (None: as long as it takes).

        Given up, it is signed by the next commit or by `recover`, as after a crash.
        """
        try:
            async with asyncio.timeout(patience):
                return await self._sign_committed(), None
        except TimeoutError:
            return None, SignerUnavailableError("the signer does not answer")
        except (SignerUnavailableError, LogUnavailableError) as error:
            return None, error
        except LedgerUnavailableError as error:
            return None, LogUnavailableError(f"the checkpoint could not be stored: {error}")

    async def _sign_committed(self) -> bytes | None:
        """Sign exactly what is committed; store the bytes before anyone sees them."""
        async with self._head_lock:
            head = self._ledger.head()
            if head is None or not head.size:
                return None
            if not self._known:
                await self._learn_head()
            started = time.perf_counter()
            body = Checkpoint(head.origin, head.size, head.root).body()
            statement = Statement(self._key, Purpose.CHECKPOINT, body, self._evidence(head))
            signature = await self._sign(statement)
            line = NoteSignature(self._vkey.name, self._vkey.key_id, signature)
            note = format_note(body, [line])
            await self._in_thread(lambda: self._ledger.store_note(head.log, head.size, note))
            self._remembered = Head(head.origin, head.size, head.root)
            self._signed_size = max(self._signed_size, head.size)
            self._observer.signed_head(head.size, time.perf_counter() - started)
            return note

    def _evidence(self, head: TreeHead) -> bytes:
        old = self._remembered
        if old is None or old.size in (0, head.size):
            return b""
        return b"".join(consistency_proof(old.size, head.size, self.nodes(head.log)))

    async def _sign(self, statement: Statement) -> bytes:
        self._known = False  # until the signer's answer is in, its memory is in doubt
        try:
            (answer,) = await self._signer.sign([statement])
        except HsmError as error:
            raise SignerUnavailableError(f"the head could not be signed: {error}") from error
        if isinstance(answer, HsmError):
            raise SignerUnavailableError(f"the head was not signed: {answer}") from answer
        self._known = True
        return answer

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
