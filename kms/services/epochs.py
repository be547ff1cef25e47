"""A new epoch of the log, after the old one lost events (DESIGN section 3).

A log that lost events is never continued. The new epoch's first leaf names the last head that the
signer remembers of the old one, so that nobody can pretend the lost events were never there. What
was signed in them and is not in the ledger any more becomes orphans at the next sweep.

A crash in between leaves an epoch without its first event, or that event without a signed head. No
service runs on either; `find_loss` recognises them, and the same steps end what was begun.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from hsm_drivers.ports import Head, StatementSigner
from kms.domain.records import SYSTEM_TENANT, Checkpoint, Epoch, LogId
from kms.services.ceremony import log_vkey
from kms.services.core import Core
from kms.services.errors import SignerUnavailableError, StateError
from kms.services.heads import epoch_number, newest_epoch
from kms.services.ports import Conflict, Ledger, TreeHead, Unit
from kms.tlog.hashing import EMPTY_ROOT
from kms.tlog.tiles import NodeCache
from kms.tlog.tree import root
from kms.wire import Committed, EventType, b64


@dataclass(frozen=True, slots=True)
class Loss:
    """What the signer signed and the ledger does not hold.

    Attributes:
        signed: The last head signed, of the newest epoch that was.
        kept: The head that the ledger holds: of that epoch, or of one before it.
        next: The epoch to begin.
        begun: Whether the ledger is in that epoch already: its beginning was interrupted.
    """

    signed: Head
    kept: Head
    next: LogId
    begun: bool

    @property
    def sentence(self) -> str:
        """For people."""
        name = self.signed.origin.rpartition("/")[0]
        if self.begun:
            return f"the beginning of {name}/{self.next} was interrupted; it is ended now"
        kept = self.kept.size if self.kept.origin == self.signed.origin else 0
        lost = self.signed.size - kept
        what = f"{lost} events are lost" if lost > 0 else "they are not those that were signed"
        return (
            f"the signer signed {self.signed.size} events of {self.signed.origin},"
            f" the ledger holds {kept}: {what}"
        )


async def find_loss(ledger: Ledger, signer: StatementSigner) -> Loss:
    """What was lost, by the signer's memory.

    Raises:
        StateError: There is no log yet, or its ledger has lost nothing.
        HsmError: The signer is away.
    """
    head = ledger.head()
    current = None if head is None else ledger.get(Epoch, head.log)
    if head is None or current is None:
        raise StateError("there is no log yet; hold the ceremony")
    signed = newest_epoch((await signer.health()).heads, current.origin)
    if signed is None:
        raise StateError(f"the signer never signed a head of {current.origin}")
    last = LogId(epoch_number(signed.origin))
    if last == current.log:
        _require_loss(signed, head, ledger)
    begun = last < current.log
    following = current.log if begun else LogId(last + 1)
    return Loss(signed, _kept(ledger, following), following, begun)


def _kept(ledger: Ledger, following: LogId) -> Head:
    """The head committed last, before the epoch that is to follow."""
    epoch = max((e for e in ledger.find(Epoch) if e.log < following), key=lambda e: e.log)
    newest = ledger.find(Checkpoint, log=epoch.log, order=("size",), descending=True, limit=1)
    if not newest:
        return Head(epoch.origin, 0, EMPTY_ROOT)
    return Head(epoch.origin, newest[0].size, newest[0].root)


async def open_next_epoch(
    ledger: Ledger, signer: StatementSigner, executor: Executor, loss: Loss
) -> Epoch:
    """Let the ledger be in the next epoch, under the same log key; once more is fine.

    Raises:
        SignerUnavailableError: The signer does not hold the log's key.
    """
    head = ledger.head()
    current = None if head is None else ledger.get(Epoch, head.log)
    records = {str(record.label): record for record in await signer.keys()}
    if current is None or current.key not in records:
        raise SignerUnavailableError("the signer does not hold the key of the log")
    origin = f"{loss.signed.origin.rpartition('/')[0]}/{loss.next}"
    epoch = Epoch(loss.next, origin, current.key, log_vkey(origin, records[current.key]))
    await asyncio.get_running_loop().run_in_executor(
        executor, lambda: ledger.open_log(epoch.log, epoch.origin, epoch.key, epoch.vkey)
    )
    return epoch


def _require_loss(signed: Head, committed: TreeHead, ledger: Ledger) -> None:
    """Epochs end for a reason: a ledger that holds what was signed goes on."""
    if committed.size < signed.size:
        return
    nodes = NodeCache(lambda level, number: ledger.tile(committed.log, level, number))
    if root(signed.size, nodes) == signed.root:
        raise StateError(
            f"the ledger holds all {signed.size} events that were signed; no new epoch is needed"
        )


async def continue_log(core: Core, loss: Loss, officers: Sequence[str], reason: str) -> bytes:
    """Log the first leaf of the new epoch, unless a first attempt did; answer its checkpoint.

    Args:
        core: Over the new epoch.
        loss: Names the last head signed in the old one, and the head that is left of it.
        officers: Who is present; two at least.
        reason: Why, in a sentence without personal data.

    Raises:
        StateError: Fewer than two officers.
        SignerUnavailableError: The head could not be signed; call again to end what was begun.
    """
    if len(set(officers)) < 2:
        raise StateError("a new epoch needs two different officers", field="officer")
    head = core.ledger.head()
    if head is None or not head.size:
        await _log_continuation(core, loss, officers, reason)
        head = core.ledger.head()
    if head is None:
        raise StateError("the new epoch could not be begun")
    return await core.sequencer.note_for(head.log, head.size)


async def _log_continuation(core: Core, loss: Loss, officers: Sequence[str], reason: str) -> None:
    event = core.events.draft(
        EventType.LOG_CONTINUED,
        core.clock.now(),
        SYSTEM_TENANT,
        {Committed.ACTOR: " and ".join(officers)},
        detail={
            "previous": _document(loss.signed),
            "kept": _document(loss.kept),
            "reason": reason,
        },
    )
    if isinstance(await core.sequencer.commit(Unit((), (event,))), Conflict):
        raise StateError("the new epoch could not be begun")


def _document(head: Head) -> dict[str, object]:
    return {"origin": head.origin, "size": head.size, "root": b64(head.root)}
