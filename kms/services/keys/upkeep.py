"""What keys need by themselves: what is due is done, what the signer lost track of is mended.

Every task may be done again at any time: it begins with what the ledger says now, and its commit
conflicts with whatever was done meanwhile.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import structlog

from hsm_drivers.errors import HsmError, KeyNotFoundError, StatementRefusedError
from hsm_drivers.ports import KeyLabel, KeyRecord
from kms.domain.key_book import Due, KeyBook, Task
from kms.domain.key_records import Key, KeyReservation, KeyVersion
from kms.domain.records import TenantId
from kms.services.core import Core
from kms.services.crls import SERVICE
from kms.services.errors import KmsError, StateError
from kms.services.keys.commits import KeyCommits, changes_of
from kms.services.keys.destruction import KeyDestruction
from kms.services.keys.making import LABEL_PREFIX, ORPHAN, sha256_of, unavailable
from kms.services.keys.narrowing import Narrowing, signer_operations
from kms.services.keys.orders import KeyOrders
from kms.services.keys.reach import KeyReach
from kms.services.keys.schedules import StraySchedules
from kms.services.ports import Delete, EventDraft, LedgerUnavailableError, Replace, Unit
from kms.wire import Committed, EventType
from policies.key_life import Step, remaining

PAGE = 100
_SECOND = timedelta(seconds=1)
_DUE_ORDER = ("due", "tenant", "key")

_log = structlog.get_logger()


class KeyUpkeep:
    """Housekeeping of keys."""

    def __init__(
        self,
        core: Core,
        reach: KeyReach,
        orders: KeyOrders,
        destruction: KeyDestruction,
    ) -> None:
        self._core = core
        self._reach = reach
        self._orders = orders
        self._destruction = destruction
        self._commits = KeyCommits(core)
        self._narrowing = Narrowing(core)
        self._strays = StraySchedules(core)

    async def carry_out_due(self) -> int:
        """Activate, deactivate, rotate and destroy what is due; answer how many tasks were done.

        Raises:
            KmsError: The first task that failed; the others were tried all the same.
            LedgerUnavailableError: The ledger cannot be read.
        """
        done, failure = 0, None
        for key in self._due_keys():
            try:
                done += await self._carry_out(key)
            except Exception as error:  # noqa: BLE001 - one key never keeps the others waiting
                _log.warning("key.task-failed", key_id=key.key_id, detail=str(error))
                self._core.observer.refused("key-task-failed")
                failure = failure or error
        if isinstance(failure, KmsError | LedgerUnavailableError):
            raise failure
        if failure is not None:
            raise StateError(f"a key cannot take the step that is due: {failure}") from failure
        return done

    def _due_keys(self) -> Iterator[Key]:
        """Keys with something to do, the longest due first, each of them once."""
        before = (self._core.clock.now() + _SECOND, "", "")
        after: tuple[Any, ...] | None = None
        while True:
            found = self._core.ledger.find(
                Key, order=_DUE_ORDER, before=before, after=after, limit=PAGE
            )
            yield from found
            if len(found) < PAGE:
                return
            after = (found[-1].due, found[-1].tenant, found[-1].key)

    async def reconcile(self) -> int:
        """Hold the signer's keys against the ledger; answer how many had to be seen to.

        A key that does more than its state leaves to it is narrowed; a destruction that the ledger
        knows nothing of is cancelled; a key that was made and whose commit was lost is scheduled
        for destruction once nobody can come back for it, and destroyed in the end. A key of which
        the ledger knows nothing at all is left alone: it may be that the ledger is an older copy.

        Raises:
            SignerUnavailableError: The signer is away.
        """
        try:
            held = {
                str(item.label): item
                for item in await self._core.keys.keys()
                if item.label.startswith(LABEL_PREFIX)
            }
            seen_to = await self._narrow(held) + await self._strays.undo(held)
            return seen_to + await self._clear(held)
        except HsmError as error:
            raise unavailable(error) from error

    async def _carry_out(self, key: Key) -> int:
        """All that is due of one key, each task from a fresh look at the ledger."""
        done = 0
        while True:
            current = self._core.ledger.get(Key, key.tenant, key.key)
            book = self._reach.book(current or key)
            due = book.due(self._core.clock.now())
            if not due:
                return done
            await self._do(book, due[0])
            done += 1

    async def _do(self, book: KeyBook, due: Due) -> None:
        match due.task:
            case Task.ACTIVATE | Task.DEACTIVATE:
                await self._step(book, due)
            case Task.ROTATE:
                await self._orders.rotate_due(book, SERVICE.name)
            case Task.SCHEDULE:
                await self._destruction.schedule_due(book, due.version, SERVICE.name)
            case Task.DESTROY:
                await self._destruction.carry_out(book, due.version, SERVICE.name)

    async def _step(self, book: KeyBook, due: Due) -> None:
        now = self._core.clock.now()
        if due.task is Task.ACTIVATE:
            after, happened = book.activate(due.version, now)
        else:
            after, happened = book.take(due.version, Step.DEACTIVATE, now)
        events = self._commits.steps(SERVICE.name, book.key, happened)
        await self._commits.log(changes_of(book, after), events)
        await self._narrowing.tell_of(after, happened)

    async def _narrow(self, held: Mapping[str, KeyRecord]) -> int:
        """What a signer that was away was not told."""
        told = 0
        for label, record in held.items():
            book = self._book_of(label)
            version = None if book is None else _version_of(book, label)
            if book is None or version is None or version.state.gone:
                continue
            left = set(remaining(signer_operations(book), version.state))
            if set(record.operations) - left:
                await self._narrowing.tell(book, version)
                told += 1
        return told

    async def _clear(self, held: Mapping[str, KeyRecord]) -> int:
        """Reservations whose time is over: their keys, if there are any, are destroyed."""
        now, seen = self._core.clock.now(), 0
        found = self._core.ledger.find(
            KeyReservation, order=("expires",), before=(now + _SECOND,), limit=PAGE
        )
        for item in found:
            record, book = held.get(item.label), self._book_of(item.label)
            born = book is not None and _version_of(book, item.label) is not None
            if item.work.startswith(ORPHAN) and not born:
                await self._destroy_orphan(item, record)
                seen += 1
            elif record is None or born:
                self._core.ledger.reserve([Delete(item)])
            else:
                await self._begin_orphan(item, record)
                seen += 1
        return seen

    async def _begin_orphan(self, item: KeyReservation, record: KeyRecord) -> None:
        """Log it and have it destroyed after the usual delay."""
        due = self._core.clock.now() + self._core.limits.destruction
        await self._core.keys.schedule_destruction(KeyLabel(item.label), due)
        event = self._orphaned(item, record)
        marked = replace(item, work=ORPHAN + item.label, expires=due + _SECOND)
        unit = Unit((Replace(marked, expected=item),), (event,))
        await self._core.sequencer.commit(unit)
        self._core.observer.orphans(1)

    async def _destroy_orphan(self, item: KeyReservation, record: KeyRecord | None) -> None:
        """Destroy it, and log on which tokens; after a crash in between the signer tells again."""
        label = KeyLabel(item.label)
        try:
            tokens = await self._core.keys.destroy(label)
        except KeyNotFoundError:
            self._core.ledger.reserve([Delete(item)])
            return
        except StatementRefusedError:
            later = self._core.clock.now() + self._core.limits.destruction
            await self._core.keys.schedule_destruction(label, later)
            return
        names = [token or "main" for token in tokens]
        event = self._orphaned(item, record, destroyed_on=names)
        await self._core.sequencer.commit(Unit((Delete(item),), (event,)))

    def _orphaned(
        self, item: KeyReservation, record: KeyRecord | None, **more: list[str]
    ) -> EventDraft:
        public_key = b"" if record is None else record.public_key
        return self._core.events.draft(
            EventType.KEY_ORPHANED,
            self._core.clock.now(),
            TenantId(item.tenant),
            {Committed.ACTOR: SERVICE.name, Committed.KEY: item.key},
            detail={"label": item.label, "public_key_sha256": sha256_of(public_key), **more},
        )

    def _book_of(self, label: str) -> KeyBook | None:
        """The key that a label names, if the ledger has it."""
        key_id = label.removeprefix(LABEL_PREFIX).rpartition("-")[0]
        found = self._core.ledger.find(Key, key_id=key_id, limit=1)
        return self._reach.book(found[0]) if found else None


def _version_of(book: KeyBook, label: str) -> KeyVersion | None:
    return next((item for item in book.versions if item.label == label), None)
