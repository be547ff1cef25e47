"""A new epoch of the log, after the old one lost events (DESIGN section 3).

A log that lost events is never continued. The new epoch's first leaf names the last head that the
signer remembers of the old one, so that nobody can pretend the lost events were never there. What
was signed in them and is not in the ledger any more becomes orphans at the next sweep.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor

from hsm_drivers.ports import Head, StatementSigner
from kms.domain.records import SYSTEM_TENANT, Epoch, LogId
from kms.services.ceremony import log_vkey
from kms.services.core import Core
from kms.services.errors import SignerUnavailableError, StateError
from kms.services.ports import Ledger, TreeHead, Unit
from kms.services.sequencer import Sealed
from kms.tlog.tiles import NodeCache
from kms.tlog.tree import root
from kms.wire import Committed, EventType, b64


async def open_next_epoch(ledger: Ledger, signer: StatementSigner, executor: Executor) -> Epoch:
    """Begin the next epoch under the same log key.

    Raises:
        StateError: There is no log yet, or its ledger has lost nothing.
        SignerUnavailableError: The signer does not hold the log's key.
    """
    head = ledger.head()
    current = None if head is None else ledger.get(Epoch, head.log)
    if head is None or current is None:
        raise StateError("there is no log yet; hold the ceremony")
    _require_loss(await remembered_head(signer, current), head, ledger)
    records = {str(record.label): record for record in await signer.keys()}
    if current.key not in records:
        raise SignerUnavailableError(f"the signer does not hold the log key {current.key!r}")
    name = current.origin.rpartition("/")[0]
    log = LogId(current.log + 1)
    origin = f"{name}/{log}"
    epoch = Epoch(log, origin, current.key, log_vkey(origin, records[current.key]))
    await asyncio.get_running_loop().run_in_executor(
        executor, lambda: ledger.open_log(epoch.log, epoch.origin, epoch.key, epoch.vkey)
    )
    return epoch


async def remembered_head(signer: StatementSigner, epoch: Epoch) -> Head:
    """The last head of an epoch that the signer signed."""
    health = await signer.health()
    for head in health.heads:
        if head.origin == epoch.origin:
            return head
    raise StateError(f"the signer never signed a head of {epoch.origin}")


def _require_loss(signed: Head, committed: TreeHead, ledger: Ledger) -> None:
    """Epochs end for a reason: a ledger that holds what was signed goes on."""
    if committed.size < signed.size:
        return
    nodes = NodeCache(lambda level, number: ledger.tile(committed.log, level, number))
    if root(signed.size, nodes) == signed.root:
        raise StateError(
            f"the ledger holds all {signed.size} events that were signed; no new epoch is needed"
        )


async def continue_log(core: Core, previous: Head, officers: Sequence[str], reason: str) -> Sealed:
    """Log the first leaf of the new epoch.

    Args:
        core: Over the new epoch.
        previous: The last head signed in the old one.
        officers: Who is present; two at least.
        reason: Why, in a sentence without personal data.

    Raises:
        StateError: Fewer than two officers, or the epoch has begun already.
    """
    if len(set(officers)) < 2:
        raise StateError("a new epoch needs two different officers", field="officer")
    event = core.events.draft(
        EventType.LOG_CONTINUED,
        core.clock.now(),
        SYSTEM_TENANT,
        {Committed.ACTOR: " and ".join(officers)},
        detail={
            "previous": {
                "origin": previous.origin,
                "size": previous.size,
                "root": b64(previous.root),
            },
            "reason": reason,
        },
    )
    outcome = await core.sequencer.commit(Unit((), (event,)))
    if not isinstance(outcome, Sealed):
        raise StateError("the new epoch could not be begun")
    return outcome
