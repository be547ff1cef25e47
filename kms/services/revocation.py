"""Revoking a certificate, a device, a person: effective at commit, even while the token is away.

The one exception to "nothing without the log" fails safe (P3): the event is committed with the
revocation; only the signed checkpoint, and so the receipt, may come later (`pending`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kms.domain.authorisation import Caller
from kms.domain.records import (
    Certificate,
    CertificateStatus,
    Device,
    DeviceId,
    Reason,
    Serial,
    Standing,
    TenantId,
    User,
    UserId,
)
from kms.services.answers import Answer, AnswerSpec, receipt_slot, render
from kms.services.core import Core, covered
from kms.services.errors import NotFoundError, UnavailableError
from kms.services.idempotency import Call
from kms.services.ports import Change, Conflict, EventDraft, Replace, Unit
from kms.wire import Committed, EventType, LeafCertificate

ATTEMPTS = 5
PER_EVENT = 200
"""Certificates one event names: so many fit a leaf many times over."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be revoked: the certificates and the records whose standing changes."""

    kind: EventType
    tenant: TenantId
    certificates: list[Certificate]
    standing: list[User | Device]
    values: dict[Committed, str]


class Revocation:
    """Revokes; tells `revoked` afterwards, so that CRLs and caches follow."""

    def __init__(self, core: Core, revoked: Callable[[set[str]], None]) -> None:
        self._core = core
        self._revoked = revoked

    async def certificate(
        self, request: Call, tenant: TenantId | None, serial: Serial, reason: Reason
    ) -> Answer:
        """Revoke one certificate; `tenant` None looks in all (for who acts across tenants).

        Raises:
            NotFoundError: No such certificate in reach.
        """

        def target() -> Target:
            where: dict[str, Any] = {} if tenant is None else {"tenant": tenant}
            found = self._core.ledger.find(Certificate, serial=serial, limit=1, **where)
            if not found or found[0].status is CertificateStatus.ORPHANED:
                raise NotFoundError("there is no such certificate", field="serial")
            record = found[0]
            values = {
                Committed.USER: record.user or record.principal or "",
                Committed.DEVICE: record.device or "",
            }
            named = {field: value for field, value in values.items() if value}
            kind = EventType.CERTIFICATE_REVOKED
            return Target(kind, record.tenant, [record], [], named)

        return await self._revoke(request, target, reason, {"serial": serial})

    async def device(
        self, request: Call, tenant: TenantId, device: DeviceId, reason: Reason
    ) -> Answer:
        """Revoke a device and all its certificates; it cannot be enrolled again.

        Raises:
            NotFoundError: No such device.
        """

        def target() -> Target:
            record = self._core.ledger.get(Device, tenant, device)
            if record is None:
                raise NotFoundError("there is no such device", field="device")
            values = {Committed.USER: str(record.user), Committed.DEVICE: str(device)}
            found = self._good(tenant, device=device)
            return Target(EventType.DEVICE_REVOKED, tenant, found, [record], values)

        return await self._revoke(request, target, reason, {"device": device})

    async def user(self, request: Call, tenant: TenantId, user: UserId, reason: Reason) -> Answer:
        """Revoke a person: every device and certificate, at once; nothing can be enrolled again.

        Raises:
            NotFoundError: No such user.
        """

        def target() -> Target:
            record = self._core.ledger.get(User, tenant, user)
            if record is None:
                raise NotFoundError("there is no such user", field="user")
            devices = self._core.ledger.find(Device, tenant=tenant, user=user)
            found = self._good(tenant, user=user)
            values = {Committed.USER: str(user)}
            standing: list[User | Device] = [record, *devices]
            return Target(EventType.USER_REVOKED, tenant, found, standing, values)

        return await self._revoke(request, target, reason, {"user": user})

    def _good(self, tenant: TenantId, **owner: Any) -> list[Certificate]:
        return self._core.ledger.find(
            Certificate, tenant=tenant, status=CertificateStatus.GOOD, **owner
        )

    async def _revoke(
        self,
        request: Call,
        target: Callable[[], Target],
        reason: Reason,
        subject: dict[str, str],
    ) -> Answer:
        """Read, plan, commit; again if something was enrolled or revoked in between."""
        for _ in range(ATTEMPTS):
            found = target()
            good = [c for c in found.certificates if c.status is CertificateStatus.GOOD]
            events = self._events(request.caller, found, good, reason)
            spec = AnswerSpec.of(200, _document(subject, good, len(events), reason))
            unit = Unit(
                changes=tuple(self._changes(found, good, events, reason)),
                events=tuple(events),
                idempotent=request.record(self._core.clock, spec.encode()),
            )
            outcome = await self._core.sequencer.commit(unit, fail_safe=True)
            if not isinstance(outcome, Conflict):
                self._told(found, good)
                await self._revoke_rest(request.caller, target, reason)
                return render(spec, covered(self._core, outcome))
        raise UnavailableError("the same certificates keep changing; try again")

    async def _revoke_rest(
        self, caller: Caller, target: Callable[[], Target], reason: Reason
    ) -> None:
        """Revoke what was certified between plan and commit.

        The standing has ended, so nothing follows this. The answer does not name it, for its bytes
        are stored; the log does.
        """
        for _ in range(ATTEMPTS):
            found = target()
            good = [c for c in found.certificates if c.status is CertificateStatus.GOOD]
            standing = [item for item in found.standing if item.standing is Standing.ACTIVE]
            if not good and not standing:
                return
            found = replace(found, standing=standing)
            events = self._events(caller, found, good, reason)
            unit = Unit(tuple(self._changes(found, good, events, reason)), tuple(events))
            outcome = await self._core.sequencer.commit(unit, fail_safe=True)
            if not isinstance(outcome, Conflict):
                self._told(found, good)

    def _told(self, found: Target, good: Sequence[Certificate]) -> None:
        self._core.observer.revoked(found.kind.value.split(".")[0], len(good))
        self._revoked({item.authority for item in good})

    def _events(
        self, caller: Caller, found: Target, good: Sequence[Certificate], reason: Reason
    ) -> list[EventDraft]:
        chunks = [good[i : i + PER_EVENT] for i in range(0, len(good), PER_EVENT)] or [[]]
        return [
            self._core.events.draft(
                found.kind,
                self._core.clock.now(),
                found.tenant,
                {Committed.ACTOR: caller.name, **found.values},
                certificates=[
                    LeafCertificate(c.authority, c.serial, c.profile, c.slot, c.sha256)
                    for c in chunk
                ],
                detail={"reason": reason.value},
            )
            for chunk in chunks
        ]

    def _changes(
        self,
        found: Target,
        good: Sequence[Certificate],
        events: Sequence[EventDraft],
        reason: Reason,
    ) -> list[Change]:
        changes: list[Change] = [
            Replace(replace(record, standing=Standing.REVOKED), expected=record)
            for record in found.standing
        ]
        for position, record in enumerate(good):
            event = events[position // PER_EVENT]
            revoked = replace(
                record,
                status=CertificateStatus.REVOKED,
                revoked_by=event.event,
                revoked_at=event.time,
                reason=reason,
            )
            changes.append(Replace(revoked, expected=record))
        return changes


def _document(
    subject: dict[str, str], good: Sequence[Certificate], events: int, reason: Reason
) -> dict[str, Any]:
    return {
        **subject,
        "reason": reason.value,
        "revoked": [
            {"authority": c.authority, "serial": c.serial, "device": c.device, "slot": c.slot}
            for c in good
        ],
        "receipt": receipt_slot(0),
        "receipts": [receipt_slot(ordinal) for ordinal in range(events)],
    }
