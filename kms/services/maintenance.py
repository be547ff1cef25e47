"""The loops of a running service: recovery, CRLs, orphans, expiry. None of them ends by failing."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog

from kms.services.errors import KmsError
from kms.services.facade import Services
from kms.services.ports import LedgerUnavailableError
from kms.services.token_watch import TokenWatch

FINISH_SECONDS = 3.0
"""How long a round may take to its end once all are to stop: less than the supervisor allows."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds between rounds.

    Attributes:
        recover: Looking for a committed head that is not signed.
        gather: How long revocations are gathered into one CRL.
    """

    recover: float = 1.0
    gather: float = 0.5
    due: float = 15.0
    sweep: float = 20.0
    expire: float = 600.0
    keys: float = 60.0
    tokens: float = 2.0


class Maintenance:
    """Keeps one service in order until it is cancelled."""

    def __init__(self, services: Services, intervals: Intervals | None = None) -> None:
        self._services = services
        self._intervals = intervals or Intervals()
        self._tokens = TokenWatch(services.core)
        self._rounds: set[asyncio.Task[bool]] = set()

    async def run(self) -> None:
        """Run every loop; ends only when cancelled, and finishes the rounds it is in.

        A CRL that was signed and not committed would be an orphan after the next start.
        """
        intervals = self._intervals
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._every(intervals.recover, "recover", self._recover))
                group.create_task(self._every(intervals.due, "crls-due", self._due))
                group.create_task(self._every(intervals.sweep, "sweep", self._sweep))
                group.create_task(self._every(intervals.expire, "expire", self._expire))
                group.create_task(self._every(intervals.due, "keys-due", self._keys_due))
                group.create_task(self._every(intervals.keys, "keys", self._reconcile_keys))
                group.create_task(self._every(intervals.tokens, "tokens", self._tokens.look))
                group.create_task(self._publish_wanted())
        finally:
            await self._finish()

    async def _finish(self) -> None:
        if self._rounds:
            _, late = await asyncio.wait(self._rounds, timeout=FINISH_SECONDS)
            for task in late:
                task.cancel()

    async def _every(
        self, seconds: float, name: str, work: Callable[[], Awaitable[object]]
    ) -> None:
        while True:
            await self._guarded(name, work)
            await asyncio.sleep(seconds)

    async def _guarded(self, name: str, work: Callable[[], Awaitable[object]]) -> bool:
        """One round, which ends though the loop is cancelled."""
        task = asyncio.create_task(self._round(name, work))
        self._rounds.add(task)
        task.add_done_callback(self._rounds.discard)
        return await asyncio.shield(task)

    async def _round(self, name: str, work: Callable[[], Awaitable[object]]) -> bool:
        """What fails is said and tried again in the next."""
        try:
            await work()
        except (KmsError, LedgerUnavailableError) as error:
            _log.warning("maintenance.failed", round=name, error_type=type(error).__name__)
            return False
        except Exception as error:  # noqa: BLE001 - a bug here must not stop the other loops
            _log.error("maintenance.broken", round=name, exc_info=error)
            return False
        return True

    async def _recover(self) -> None:
        head = self._services.core.ledger.head()
        if head is not None and self._services.core.sequencer.signed_size < head.size:
            await self._services.upkeep.recover()

    async def _due(self) -> None:
        await self._services.upkeep.publish_due()

    async def _sweep(self) -> None:
        await self._services.upkeep.sweep()

    async def _expire(self) -> None:
        await asyncio.to_thread(self._services.upkeep.expire)

    async def _keys_due(self) -> None:
        await self._services.keys.upkeep.carry_out_due()

    async def _reconcile_keys(self) -> None:
        await self._services.keys.upkeep.reconcile()

    async def _publish_wanted(self) -> None:
        """After revocations: one list for all that came within `gather` seconds."""
        queue = self._services.crls_wanted
        while True:
            names = {await queue.get()}
            await asyncio.sleep(self._intervals.gather)
            while not queue.empty():
                names.add(queue.get_nowait())
            for name in sorted(names):
                published = await self._guarded("crl", partial(self._publish, name))
                if not published:
                    queue.put_nowait(name)

    async def _publish(self, name: str) -> None:
        await self._services.crls.publish(name)
