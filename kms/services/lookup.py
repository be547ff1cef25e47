"""Reading: certificates, devices, events. Nothing is shown that no signed checkpoint covers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kms.domain.records import (
    Certificate,
    CertificateStatus,
    Device,
    DeviceId,
    Epoch,
    Event,
    EventId,
    EventOpenings,
    LogId,
    Serial,
    TenantId,
    User,
    UserId,
)
from kms.services.answers import receipt_document
from kms.services.core import Core
from kms.services.errors import NotFoundError
from kms.services.heads import newest_signed
from kms.tlog.tiles import TILE_WIDTH, encode_entries

PAGE = 100
"""Most records in one answer."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a listing: what may be shown of it, and where the next part begins.

    `after` is None at the end. It is the place of the last record read, shown or not, so that one
    that may not be shown does not end the listing early.
    """

    items: list[T]
    after: Any = None


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """An event as an entitled reader sees it."""

    event: Event
    openings: tuple[Mapping[str, Any], ...]


class Lookup:
    """Answers questions; `tenant` None means all tenants, for readers who reach them."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def certificate(self, tenant: TenantId | None, serial: Serial) -> Certificate:
        """A released certificate by serial.

        Raises:
            NotFoundError: None in reach, or not covered by a signed checkpoint yet.
        """
        where: dict[str, Any] = {} if tenant is None else {"tenant": tenant}
        for record in self._core.ledger.find(Certificate, serial=serial, limit=8, **where):
            if record.der and self._released(record.tenant, record.event):
                return record
        raise NotFoundError("there is no such certificate", field="serial")

    def certificates(
        self,
        tenant: TenantId | None,
        *,
        user: UserId | None = None,
        device: DeviceId | None = None,
        principal: str | None = None,
        status: CertificateStatus | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> Page[Certificate]:
        """Released certificates by owner, by serial upwards from `after`."""
        wanted: dict[str, Any] = {
            "tenant": tenant,
            "user": user,
            "device": device,
            "principal": principal,
            "status": status,
        }
        records = self._core.ledger.find(
            Certificate,
            order=("serial",),
            after=None if after is None else (after,),
            limit=min(limit, PAGE),
            **{name: value for name, value in wanted.items() if value is not None},
        )
        shown = [r for r in records if r.der and self._released(r.tenant, r.event)]
        return Page(shown, records[-1].serial if len(records) == min(limit, PAGE) else None)

    def devices(
        self, tenant: TenantId, user: UserId, *, after: str | None = None, limit: int = PAGE
    ) -> Page[Device]:
        """A user's devices, by device id.

        Raises:
            NotFoundError: No such user in reach.
        """
        if self._core.ledger.get(User, tenant, user) is None:
            raise NotFoundError("there is no such user", field="user")
        records = self._core.ledger.find(
            Device,
            tenant=tenant,
            user=user,
            order=("device",),
            after=None if after is None else (after,),
            limit=min(limit, PAGE),
        )
        shown = [record for record in records if self._released(tenant, record.event)]
        return Page(shown, records[-1].device if len(records) == min(limit, PAGE) else None)

    def device(self, tenant: TenantId, device: DeviceId) -> Device:
        """One device.

        Raises:
            NotFoundError: No such device in reach.
        """
        record = self._core.ledger.get(Device, tenant, device)
        if record is None or not self._released(tenant, record.event):
            raise NotFoundError("there is no such device", field="device")
        return record

    def events(
        self,
        tenant: TenantId | None,
        *,
        after: int = -1,
        limit: int = PAGE,
        openings: bool = False,
    ) -> Page[SeenEvent]:
        """Events of the current epoch above an index; `openings` adds those that still exist."""
        head = self._core.ledger.head()
        if head is None:
            return Page([])
        where: dict[str, Any] = {} if tenant is None else {"tenant": tenant}
        records = self._core.ledger.find(
            Event, log=head.log, after=(head.log, after), limit=min(limit, PAGE), **where
        )
        shown = [
            self._seen(r, openings) for r in records if r.index < self._core.sequencer.signed_size
        ]
        more = len(records) == min(limit, PAGE) and len(shown) == len(records)
        return Page(shown, records[-1].index if more else None)

    def event(self, tenant: TenantId | None, index: int, *, openings: bool = False) -> SeenEvent:
        """One event by index; `openings` adds those that still exist.

        Raises:
            NotFoundError: No such event in reach.
        """
        head = self._core.ledger.head()
        record = None if head is None else self._core.ledger.get(Event, head.log, index)
        if record is None or index >= self._core.sequencer.signed_size:
            raise NotFoundError("there is no such event", field="index")
        if tenant is not None and record.tenant != tenant:
            raise NotFoundError("there is no such event", field="index")
        return self._seen(record, openings)

    async def receipt(self, tenant: TenantId | None, index: int) -> dict[str, object]:
        """A receipt of an event against the newest signed checkpoint."""
        log = self.event(tenant, index).event.log
        size = self._core.sequencer.signed_size
        note = await self._core.sequencer.note_for(log, size)
        return receipt_document(log, index, size, note, self._core.sequencer.nodes(log))

    def checkpoint(self, log: LogId | None = None) -> bytes:
        """The newest signed checkpoint of an epoch, exact bytes; None: the current one.

        Raises:
            NotFoundError: None is signed yet.
        """
        log = self._log(log)
        newest = newest_signed(self._core.ledger, log)
        if newest is None:
            raise NotFoundError("no checkpoint is signed yet")
        return newest.note

    def tile(self, log: LogId | None, level: int, number: int, width: int) -> bytes:
        """A hash tile of exactly `width` hashes, as far as the signed log goes.

        Raises:
            NotFoundError: The signed log does not reach so far.
        """
        log, signed = self._signed(log)
        complete = signed >> (8 * level)
        data = self._core.ledger.tile(log, level, number)
        if data is None or number * 256 + width > complete or len(data) < width * 32:
            raise NotFoundError("there is no such tile")
        return data[: width * 32]

    def bundle(self, log: LogId | None, number: int, width: int) -> bytes:
        """An entry bundle of exactly `width` leaves.

        Raises:
            NotFoundError: The signed log does not reach so far.
        """
        log, signed = self._signed(log)
        first = number * TILE_WIDTH
        if first + width > signed:
            raise NotFoundError("there is no such entry bundle")
        events = self._core.ledger.find(Event, log=log, after=(log, first - 1), limit=width)
        return encode_entries([event.leaf for event in events])

    def epoch(self, log: LogId | None) -> Epoch:
        """The epoch's record: origin and verifier key.

        Raises:
            NotFoundError: No such epoch.
        """
        record = self._core.ledger.get(Epoch, self._log(log))
        if record is None:
            raise NotFoundError("there is no such log")
        return record

    def _log(self, log: LogId | None) -> LogId:
        head = self._core.ledger.head()
        if log is None:
            if head is None:
                raise NotFoundError("the log has not been opened")
            return head.log
        return log

    def _signed(self, log: LogId | None) -> tuple[LogId, int]:
        """An epoch and how far it is signed; None: the current one.

        Raises:
            NotFoundError: There is no epoch.
        """
        head = self._core.ledger.head()
        if head is not None and log in {None, head.log}:
            return head.log, self._core.sequencer.signed_size
        if log is None:
            raise NotFoundError("the log has not been opened")
        newest = newest_signed(self._core.ledger, log)
        return log, 0 if newest is None else newest.size

    def _released(self, tenant: TenantId, event: EventId) -> bool:
        """Whether a signed checkpoint of any epoch covers the event."""
        for record in self._core.ledger.find(Event, tenant=tenant, event=event, limit=1):
            return record.index < self._signed(record.log)[1]
        return False

    def _seen(self, event: Event, wanted: bool) -> SeenEvent:  # noqa: FBT001 - private
        if not wanted:
            return SeenEvent(event, ())
        stored = self._core.ledger.get(EventOpenings, event.tenant, event.event)
        return SeenEvent(event, () if stored is None else stored.openings)
