"""Destroying keys: scheduled, with a delay in which anyone entitled can cancel; then verified.

The signer enforces its own delay, whatever this process is made to believe. It is asked first: a
schedule that only the signer knows destroys nothing, for nobody here ever asks it to.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from hsm_drivers.errors import (
    DestructionBegunError,
    HsmError,
    KeyNotFoundError,
    StatementRefusedError,
)
from hsm_drivers.ports import KeyLabel
from kms.domain.key_book import KeyBook
from kms.domain.key_records import Key, KeyReplica, KeyVersion
from kms.domain.records import Reason, TenantId
from kms.services.answers import Answer
from kms.services.core import Core
from kms.services.errors import (
    ConfirmationError,
    InputError,
    KeyStateError,
    LegalHoldError,
    StateError,
    UnavailableError,
)
from kms.services.idempotency import Call
from kms.services.keys.commits import KeyCommits, changes_of, moment
from kms.services.keys.documents import key_document
from kms.services.keys.making import unavailable
from kms.services.keys.reach import KeyReach, version_of
from kms.services.ports import Change, EventDraft, Replace
from kms.services.slots.certificates import revocations
from kms.wire import EventType
from policies.key_life import TRANSITIONS, KeyState, Step

_LONGEST = timedelta(days=3650)
_PATIENCE = timedelta(hours=1)
"""How long after its time the signer may call a destruction not due: clocks differ by less."""

BEGUN = (KeyNotFoundError, DestructionBegunError)
"""What the signer says of a key whose destruction it does not take back."""


def begun(version: KeyVersion, error: HsmError) -> KeyStateError:
    """Nobody keeps what the signer has begun to destroy."""
    return KeyStateError(
        f"the destruction of version {version.version} has begun, for good: {error}",
        field="version",
    )


class KeyDestruction:
    """Schedules, cancels and carries out."""

    def __init__(self, core: Core, reach: KeyReach) -> None:
        self._core = core
        self._reach = reach
        self._commits = KeyCommits(core)

    async def schedule(
        self,
        request: Call,
        tenant: TenantId,
        name: str,
        version: int | None,
        confirm: str,
        at: datetime | None,
    ) -> Answer:
        """Have a version destroyed, or all that may be, once the delay is over.

        Args:
            request: Whose call.
            tenant: Of the key.
            name: Of the key.
            version: None for all that are not active any more.
            confirm: The key's name again.
            at: When; None for as soon as the delay allows.

        Raises:
            ConfirmationError: The confirmation does not name the key.
            LegalHoldError: A legal hold blocks it.
            KeyStateError: It is active, destroyed, or scheduled already.
            InputError: Sooner than the delay allows.
        """
        book = self._reach.managed(request.caller, tenant, name)
        if confirm != name:
            raise ConfirmationError("repeat the name of the key in confirm", field="confirm")
        if book.key.hold:
            raise LegalHoldError("a legal hold blocks the destruction of this key")
        numbers = _destroyable(book, version)
        due = self._due(at)
        after, events = self._scheduled(request.caller.name, book, numbers, due)
        await self._tell(book, numbers, due)
        document = key_document(after)
        return await self._commits.answer(request, changes_of(book, after), events, document)

    async def cancel(
        self, request: Call, tenant: TenantId, name: str, version: int | None
    ) -> Answer:
        """Keep what is scheduled for destruction.

        Raises:
            KeyStateError: Nothing is, or it has begun.
        """
        book = self._reach.managed(request.caller, tenant, name)
        waiting = [
            item
            for item in book.versions
            if item.destroys is not None and not item.state.gone and version in {None, item.version}
        ]
        if not waiting:
            raise KeyStateError("no destruction of it is scheduled", field="version")
        after, events = book, list[EventDraft]()
        for item in waiting:
            try:
                await self._core.keys.cancel_destruction(KeyLabel(item.label))
            except BEGUN as error:
                raise begun(item, error) from error
            except HsmError as error:
                raise unavailable(error) from error
            after = after.schedule(item.version, None)
            detail = {"version": item.version}
            kind = EventType.KEY_DESTRUCTION_CANCELLED
            events.append(self._commits.draft(kind, request.caller.name, book.key, detail))
        document = key_document(after)
        return await self._commits.answer(request, changes_of(book, after), events, document)

    async def schedule_due(self, book: KeyBook, number: int, actor: str) -> None:
        """Schedule what its retention has ended for.

        Raises:
            KmsError: Not now; upkeep tries again.
        """
        due = self._due(None)
        after, events = self._scheduled(actor, book, [number], due)
        await self._tell(book, [number], due)
        await self._commits.log(changes_of(book, after), events)

    async def carry_out(self, book: KeyBook, number: int, actor: str) -> None:
        """Destroy a version that is due, on every token that holds it, and log it.

        Raises:
            IllegalStepError: Its state does not allow it; the signer was not asked.
            KmsError: Not now; upkeep tries again. Whatever was destroyed stays so.
        """
        item = book.versions[number - 1]
        book.take(number, Step.DESTROY, self._core.clock.now())
        try:
            tokens = await self._destroyed(item)
        except StatementRefusedError as error:
            # A cancellation that was not committed, or an older copy of the signer's state: it
            # knows of no schedule, and the delay begins again, on the record.
            if item.destroys is not None and item.destroys + _PATIENCE < self._core.clock.now():
                await self.schedule_due(book, number, actor)
            raise UnavailableError(f"the signer does not destroy it yet: {error}") from error
        try:
            await self._commit_destroyed(book, number, actor, tokens)
        except StateError:
            # Changed while the signer was at it, perhaps held. The key is gone all the same, and
            # the log must say so.
            found = self._core.ledger.get(Key, book.key.tenant, book.key.key)
            again = self._reach.book(found or book.key)
            await self._commit_destroyed(again, number, actor, tokens)

    async def _commit_destroyed(
        self, book: KeyBook, number: int, actor: str, tokens: Sequence[str]
    ) -> None:
        item = book.versions[number - 1]
        after, happened = book.take(number, Step.DESTROY, self._core.clock.now())
        places = self._core.ledger.find(
            KeyReplica, tenant=book.key.tenant, key=book.key.key, version=number
        )
        missing = {place.token for place in places} - set(tokens)
        if missing:
            raise UnavailableError(
                f"the signer does not say that it destroyed the key on {', '.join(sorted(missing))}"
            )
        names = [token or "main" for token in tokens]
        events = self._commits.steps(actor, book.key, happened, tokens=names)
        ended, told = revocations(self._core, actor, [item], Reason.CESSATION_OF_OPERATION)
        gone: list[Change] = [
            Replace(replace(place, destroyed=events[0].time), expected=place) for place in places
        ]
        await self._commits.log([*changes_of(book, after), *gone, *ended], [*events, *told])

    def _scheduled(
        self, actor: str, book: KeyBook, numbers: Sequence[int], due: datetime
    ) -> tuple[KeyBook, list[EventDraft]]:
        """The book with these versions' destruction due, and the events that say so.

        Drafted at the moment that `due` was counted from: auditors count the delay again.
        """
        after, events = book, list[EventDraft]()
        for number in numbers:
            after = after.schedule(number, due)
            detail: dict[str, Any] = {
                "version": number,
                "at": moment(due),
                "delay_seconds": int(self._core.limits.destruction.total_seconds()),
            }
            kind = EventType.KEY_DESTRUCTION_SCHEDULED
            events.append(self._commits.draft(kind, actor, book.key, detail))
        return after, events

    def _due(self, at: datetime | None) -> datetime:
        now = self._core.clock.now()
        earliest = now + self._core.limits.destruction
        if at is None:
            return earliest
        if not earliest <= at <= now + _LONGEST:
            raise InputError(
                f"between {moment(earliest)} and ten years from now: the time to cancel is the"
                " operator's setting (signer.destruction_days)",
                field="at",
            )
        return at

    async def _tell(self, book: KeyBook, numbers: Sequence[int], due: datetime) -> None:
        for number in numbers:
            label = KeyLabel(book.versions[number - 1].label)
            try:
                await self._core.keys.schedule_destruction(label, due)
            except StatementRefusedError as error:
                raise KeyStateError(str(error)) from error
            except HsmError as error:
                raise unavailable(error) from error

    async def _destroyed(self, item: KeyVersion) -> tuple[str, ...]:
        """The tokens that it was destroyed on."""
        try:
            return await self._core.keys.destroy(KeyLabel(item.label))
        except StatementRefusedError:
            raise
        except HsmError as error:
            raise unavailable(error) from error


def _destroyable(book: KeyBook, version: int | None) -> list[int]:
    """What may be scheduled: whatever a step leads from to destruction, and is not scheduled yet.

    Raises:
        KeyVersionUnknownError: There is no such version.
        KeyStateError: It may not be, or none may.
    """
    if version is not None:
        item = version_of(book, version)
        if (item.state, Step.DESTROY) not in TRANSITIONS:
            raise KeyStateError(_why_not(item.state), field="version")
        if item.destroys is not None:
            raise KeyStateError("its destruction is scheduled already", field="version")
        return [item.version]
    alive = [item for item in book.versions if not item.state.gone]
    blocking = [item for item in alive if (item.state, Step.DESTROY) not in TRANSITIONS]
    if blocking:
        raise KeyStateError(f"version {blocking[-1].version}: {_why_not(blocking[-1].state)}")
    found = [item.version for item in alive if item.destroys is None]
    if not found:
        raise KeyStateError("its destruction is scheduled already, or done")
    return found


def _why_not(state: KeyState) -> str:
    if state.gone:
        return "it is destroyed already"
    return f"it is {state}: deactivate it first, so that nobody protects with it any more"
