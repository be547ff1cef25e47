"""Building events: a leaf without personal data, and the openings of its commitments."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from kms.domain.records import EventId, TenantId
from kms.services.ports import EventDraft, Ids
from kms.wire import OPENING_SIZE, Committed, EventType, Leaf, LeafCertificate, Opening


class EventFactory:
    """Drafts events of one log.

    Args:
        origin: The log's origin.
        ids: Source of event ids and openings.
        latest: Time of the newest event in the ledger: events never claim to be older, though the
            clock be set back.
    """

    def __init__(self, origin: str, ids: Ids, latest: datetime | None = None) -> None:
        self._origin = origin
        self._ids = ids
        self._latest = latest

    @property
    def origin(self) -> str:
        """The log's origin."""
        return self._origin

    def draft(
        self,
        kind: EventType,
        time: datetime,
        tenant: TenantId,
        values: Mapping[Committed, str],
        *,
        certificates: Sequence[LeafCertificate] = (),
        policy: Mapping[str, Any] | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> EventDraft:
        """Draft one event.

        Args:
            kind: Event type.
            time: When it happened.
            tenant: Whose event it is; committed to, like every entry of `values`.
            values: Actor, user, device: whoever is concerned.
            certificates: What was certified or revoked.
            policy: The decision's policy hash and rules.
            detail: What the type adds; never personal data.
        """
        time = self._latest = time if self._latest is None else max(time, self._latest)
        event = EventId(self._ids.identifier().hex())
        wanted = {Committed.TENANT: str(tenant), **values}
        openings = tuple(
            Opening(field, tenant, value, self._ids.random(OPENING_SIZE))
            for field, value in wanted.items()
        )
        leaf = Leaf(
            event=event,
            type=kind,
            time=time,
            origin=self._origin,
            commitments={item.field: item.commitment() for item in openings},
            certificates=tuple(certificates),
            policy=policy,
            detail=detail,
        )
        return EventDraft(event, tenant, kind.value, time, leaf.encode(), openings)
