"""Signing the log's heads: exactly what is committed, one at a time, each a growth of the last.

A head covers every commit before it, so commits need not wait for each other's heads: while one is
being signed the next may be committed, and all that came meanwhile share the head after it. Sizes
between two signed heads stay unsigned for good; who was committed at one of them is answered, now
and ever again, with the smallest signed head that covers it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from hsm_drivers.errors import HsmError
from hsm_drivers.ports import Head, KeyLabel, Purpose, Statement, StatementSigner
from kms.domain.records import Checkpoint as CheckpointRecord
from kms.domain.records import LogId
from kms.services.batching import Batcher
from kms.services.cosigner import Cosigner
from kms.services.errors import LogUnavailableError, SignerUnavailableError
from kms.services.heads import epoch_number, first_signed_after, newest_epoch, newest_signed
from kms.services.observing import Observer
from kms.services.ports import Ledger, LedgerUnavailableError, Placed, TreeHead
from kms.tlog.checkpoint import Checkpoint
from kms.tlog.notes import NoteSignature, VerifierKey, format_note
from kms.tlog.tiles import NodeCache
from kms.tlog.tree import consistency_proof
from kms.tlog.tree import root as tree_root

T = TypeVar("T")

MAX_WAITING = 512
BACKLOG = 4096
_RECENT = 64
"""Signed heads that are remembered: far more than are signed while anyone waits for one."""


class LogRolledBackError(LogUnavailableError):
    """The signer remembers a larger or different head than the ledger holds."""

    problem = "log-rolled-back"


class HeadSigner:
    """Keeps ledger and signer together on how far the log has grown.

    Args:
        ledger: Holds the committed heads.
        signer: Signs them.
        key: Label of the log key.
        vkey: The log's verifier key; its name is the origin.
        executor: One thread, that of the commits.
        observer: Told of each head.
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
        self._signer = signer
        self._cosigner = cosigner
        self._key = key
        self._vkey = vkey
        self._executor = executor
        self._observer = observer
        self._lock = asyncio.Lock()
        self._remembered: Head | None = None
        self._known = False
        self._signed_size = 0
        self._begun = 0
        self._recent: deque[tuple[int, CheckpointRecord]] = deque(maxlen=_RECENT)
        self._nodes: dict[LogId, NodeCache] = {}
        self._batcher: Batcher[tuple[Placed, int], CheckpointRecord | Exception] = Batcher(
            self._cover_group, limit=MAX_WAITING, backlog=BACKLOG
        )

    @property
    def signed_size(self) -> int:
        """Size of the newest signed checkpoint: what may be shown to anyone."""
        return self._signed_size

    @property
    def begun(self) -> int:
        """How many heads were begun; one that covers a commit is begun after it."""
        return self._begun

    def nodes(self, log: LogId) -> NodeCache:
        """Hashes of complete subtrees of that epoch."""
        if log not in self._nodes:
            self._nodes[log] = NodeCache(
                lambda level, number: self._ledger.tile(log, level, number)
            )
        return self._nodes[log]

    def load(self) -> None:
        """Learn from the ledger how far the log is signed; called once, before anything else."""
        head = self._ledger.head()
        if head is None:
            return
        newest = newest_signed(self._ledger, head.log)
        self._signed_size = 0 if newest is None else newest.size

    async def away(self) -> Exception | None:
        """Why nothing can be released now, or None; asks the token only when in doubt."""
        if self._known:
            return None
        try:
            async with self._lock:
                if not self._known:
                    await self._learn()
        except (SignerUnavailableError, LogRolledBackError) as error:
            return error
        return None

    async def cover(self, placed: Placed, begun: int) -> CheckpointRecord:
        """The smallest signed head that covers a commit.

        Args:
            placed: What the commit came to.
            begun: `begun` before it. Heads up to that one do not count, whatever their size: a
                ledger that was exchanged for an older copy may be smaller than they are.

        Raises:
            SignerUnavailableError: The signer is away.
            LogUnavailableError: The head could not be stored, or the ledger lost events.
        """
        (found,) = await self._batcher.submit([(placed, begun)])
        if isinstance(found, Exception):
            raise found
        return found

    async def drain(self) -> None:
        """Wait until nobody waits for a head."""
        await self._batcher.drain()

    async def sign(self) -> None:
        """Sign exactly what is committed; store the bytes before anyone sees them.

        Raises:
            SignerUnavailableError: The signer is away.
            LogRolledBackError: The ledger lost events that the signer has signed.
            LedgerUnavailableError: The ledger could not be read or written.
        """
        async with self._lock:
            if not self._known:
                await self._learn()
            head = self._ledger.head()
            if head is None or not head.size or self._is_signed(head):
                return
            if self._remembered is not None and head.size < self._remembered.size:
                self._known = False
                self._check_rollback(self._remembered, head)
            self._begun += 1
            number, started = self._begun, time.perf_counter()
            checkpoint = Checkpoint(head.origin, head.size, head.root)
            lines = await self._sign(checkpoint, self._evidence(head))
            note = format_note(checkpoint.body(), lines)
            # The signer has it, whether it can be stored here or not: the next proof starts there.
            self._remembered = Head(head.origin, head.size, head.root)
            await self._in_thread(lambda: self._ledger.store_note(head.log, head.size, note))
            self._signed_size = max(self._signed_size, head.size)
            record = CheckpointRecord(head.log, head.size, head.root, note)
            self._recent.append((number, record))
            self._observer.signed_head(head.size, time.perf_counter() - started)

    async def note_for(self, log: LogId, size: int) -> bytes:
        """The exact checkpoint that covers a committed size; the newest is signed if need be.

        Raises:
            SignerUnavailableError: It is not signed and cannot be now.
        """
        found = self._stored(log, size)
        if found is None:
            await self.sign()
            found = self._stored(log, size)
        if found is None:
            raise SignerUnavailableError("the log's head is not signed yet; try again")
        return found.note

    def _stored(self, log: LogId, size: int) -> CheckpointRecord | None:
        record = self._ledger.get(CheckpointRecord, log, size)
        return record if record and record.note else first_signed_after(self._ledger, log, size)

    def _is_signed(self, head: TreeHead) -> bool:
        signed = Head(head.origin, head.size, head.root)
        return head.size == self._signed_size and self._remembered == signed

    async def _cover_group(
        self, group: list[tuple[Placed, int]]
    ) -> list[CheckpointRecord | Exception]:
        """Sign at most one head for all who wait; the one just signed may do for some."""
        failure: Exception | None = None
        if any(self._covering(*waiting) is None for waiting in group):
            failure = await self._try_sign()
        return [
            self._covering(*waiting)
            or failure
            or SignerUnavailableError("the log's head could not be signed")
            for waiting in group
        ]

    def _covering(self, placed: Placed, begun: int) -> CheckpointRecord | None:
        for number, head in self._recent:
            if number > begun and head.log == placed.log and head.size >= placed.size:
                return head
        return None

    async def _try_sign(self) -> Exception | None:
        try:
            await self.sign()
        except (SignerUnavailableError, LogUnavailableError) as error:
            return error
        except LedgerUnavailableError as error:
            return LogUnavailableError(f"the checkpoint could not be stored: {error}")
        return None

    async def _learn(self) -> None:
        """Read the signer's memory of its last head and hold the ledger against it."""
        try:
            health = await self._signer.health()
        except HsmError as error:
            raise SignerUnavailableError(f"the signer is away: {error}") from error
        if not health.ready:
            raise SignerUnavailableError(f"the token is away: {health.detail}")
        heads = {head.origin: head for head in health.heads}
        self._remembered = heads.get(self._vkey.name)
        self._check_epoch(newest_epoch(health.heads, self._vkey.name))
        self._check_rollback(self._remembered, self._ledger.head())
        self._known = True

    def _check_epoch(self, newest: Head | None) -> None:
        """A copy from before a new epoch began may hold all of the old one, and lacks the new."""
        if newest is not None and epoch_number(newest.origin) > epoch_number(self._vkey.name):
            raise LogRolledBackError(
                f"the signer signed {newest.size} events of {newest.origin}, the ledger is in"
                f" {self._vkey.name} still (an old copy restored?). Run `kms log new-epoch`."
            )

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

    def _evidence(self, head: TreeHead) -> bytes:
        old = self._remembered
        if old is None or old.size in (0, head.size):
            return b""
        return b"".join(consistency_proof(old.size, head.size, self.nodes(head.log)))

    async def _sign(self, checkpoint: Checkpoint, evidence: bytes) -> list[NoteSignature]:
        """The log's line, and behind it the cosigner's: both in one request, or neither."""
        body = checkpoint.body()
        statements = [Statement(self._key, Purpose.CHECKPOINT, body, evidence)]
        if self._cosigner is None:
            (signature,) = await self._ask(statements)
            return [self._line(signature)]
        moment = self._cosigner.time()
        statements.append(self._cosigner.statement(checkpoint, moment))
        signature, cosignature = await self._ask(statements)
        return [self._line(signature), self._cosigner.line(cosignature, moment)]

    def _line(self, signature: bytes) -> NoteSignature:
        return NoteSignature(self._vkey.name, self._vkey.key_id, signature)

    async def _ask(self, statements: list[Statement]) -> list[bytes]:
        """The signer's signatures; unless it answers with all, its memory is in doubt."""
        try:
            answers = await self._signer.sign(statements)
        except BaseException as error:
            self._known = False
            if isinstance(error, HsmError):
                raise SignerUnavailableError(f"the head could not be signed: {error}") from error
            raise
        for answer in answers:
            if isinstance(answer, HsmError):
                self._known = False
                raise SignerUnavailableError(f"the head was not signed: {answer}") from answer
        return [answer for answer in answers if isinstance(answer, bytes)]

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
