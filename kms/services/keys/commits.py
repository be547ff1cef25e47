"""What changes a key's life, as one commit: records, events, and the answer that proves them."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from kms.domain.key_book import Happened, KeyBook
from kms.domain.key_records import Key
from kms.domain.records import Idempotent
from kms.services.answers import Answer, AnswerSpec, receipt_slot, render
from kms.services.core import Core, covered
from kms.services.errors import StateError
from kms.services.idempotency import Call
from kms.services.ports import Change, Conflict, EventDraft, Insert, Replace, Unit
from kms.wire import Committed, EventType, LeafCertificate, timestamp
from policies.key_life import Step

_EVENTS: Mapping[Step, EventType] = {
    Step.ACTIVATE: EventType.KEY_ACTIVATED,
    Step.SUSPEND: EventType.KEY_SUSPENDED,
    Step.RESUME: EventType.KEY_RESUMED,
    Step.DEACTIVATE: EventType.KEY_DEACTIVATED,
    Step.COMPROMISE: EventType.KEY_COMPROMISED,
    Step.DESTROY: EventType.KEY_DESTROYED,
}


class KeyCommits:
    """Drafts events of keys and commits them with what they tell of."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def draft(
        self,
        kind: EventType,
        actor: str,
        key: Key,
        detail: Mapping[str, Any],
        *,
        user: str | None = None,
        policy: Mapping[str, Any] | None = None,
        time: datetime | None = None,
        certificates: Sequence[LeafCertificate] = (),
    ) -> EventDraft:
        """An event of a key: its id in the open, its name as a commitment."""
        values = {Committed.ACTOR: actor, Committed.KEY: key.key}
        if user is not None:
            values[Committed.USER] = user
        return self._core.events.draft(
            kind,
            time or self._core.clock.now(),
            key.tenant,
            values,
            certificates=certificates,
            policy=policy,
            detail={"key": key.key_id, **detail},
        )

    def steps(
        self, actor: str, key: Key, happened: Iterable[Happened], **detail: Any
    ) -> list[EventDraft]:
        """The events of steps that versions took."""
        return [
            self.draft(
                _EVENTS[item.step],
                actor,
                key,
                {"version": item.version.version, **_step_detail(item), **detail},
            )
            for item in happened
        ]

    async def answer(
        self,
        request: Call,
        changes: Sequence[Change],
        events: Sequence[EventDraft],
        document: Mapping[str, Any],
        *,
        status: int = 200,
        fail_safe: bool = False,
    ) -> Answer:
        """Commit and answer with a receipt of each event.

        Args:
            request: Whose call it is.
            changes: Of records.
            events: At least one.
            document: The answer without its receipts.
            status: HTTP status.
            fail_safe: For what ends trust: it takes effect though the token is away.

        Raises:
            StateError: The key was changed meanwhile.
            UnavailableError: Signer or ledger are away.
        """
        receipts = [receipt_slot(at) for at in range(len(events))]
        spec = AnswerSpec.of(status, {**document, "receipts": receipts})
        stored = request.record(self._core.clock, spec.encode())
        unit = Unit(tuple(changes), tuple(events), stored)
        return render(spec, covered(self._core, await self._commit(unit, fail_safe=fail_safe)))

    async def log(self, changes: Sequence[Change], events: Sequence[EventDraft]) -> None:
        """Commit what nobody asked for: upkeep's.

        Raises:
            StateError: The key was changed meanwhile.
        """
        await self._commit(Unit(tuple(changes), tuple(events)), fail_safe=False)

    async def _commit(self, unit: Unit, *, fail_safe: bool) -> Any:
        outcome = await self._core.sequencer.commit(unit, fail_safe=fail_safe)
        if isinstance(outcome, Conflict):
            if outcome.record == Idempotent.__name__:
                raise StateError("the same request was answered a moment ago; send it again")
            raise StateError("that name is taken, or the key was changed meanwhile")
        return outcome


def changes_of(before: KeyBook, after: KeyBook) -> list[Change]:
    """What leads from one book to the other; a conflict if anything changed meanwhile."""
    changes: list[Change] = [Replace(after.key, expected=before.key)]
    for item in after.versions:
        old = before.version(item.version)
        if old is None:
            changes.append(Insert(item))
        elif old != item:
            changes.append(Replace(item, expected=old))
    return changes


def _step_detail(item: Happened) -> dict[str, Any]:
    version = item.version
    if item.step is Step.ACTIVATE:
        return {
            "originator_end": moment(version.originator_end),
            "recipient_end": moment(version.recipient_end),
        }
    if item.step is Step.COMPROMISE:
        return {
            "since": moment(version.compromised),
            "recover_until": moment(version.recover_until),
        }
    return {}


def moment(time: datetime | None) -> str | None:
    """A time as documents carry it."""
    return None if time is None else timestamp(time)
