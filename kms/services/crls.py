"""CRLs: reserved, built, signed, logged, and only then published.

A number that was reserved but never committed stays unused; numbers only go up (RFC 5280 5.2.3).
What a crash leaves behind: an empty `Crl` record, and perhaps a signed list that nobody saw; the
sweep reports it as an orphan.
"""

import asyncio
import hashlib
from dataclasses import dataclass, replace

from hsm_drivers.errors import HsmError
from kms.domain.authorisation import Caller
from kms.domain.records import (
    SYSTEM_TENANT,
    Certificate,
    CertificateStatus,
    Crl,
    Reason,
    Role,
)
from kms.services.answers import Answer, AnswerSpec, render
from kms.services.core import ActiveAuthority, Core, sign_all
from kms.services.errors import SignerUnavailableError, UnavailableError
from kms.services.idempotency import Call
from kms.services.ports import Conflict, EventDraft, Insert, Replace, Unit
from kms.wire import Committed, EventType, timestamp
from pki.crl import RevokedEntry

SERVICE = Caller(SYSTEM_TENANT, "service", Role.OFFICER, ())
"""The actor of what the service does by itself."""
_PAGE = 64


@dataclass(frozen=True, slots=True)
class Published:
    """The newest list of an authority that may be shown."""

    number: int
    der: bytes
    entries: int
    record: Crl


class Crls:
    """Makes and publishes the lists of all authorities."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._published: dict[str, Published] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._stale: set[str] = set()

    def load(self) -> None:
        """Learn the newest published lists from the ledger, and which a crash left stale."""
        for authority in self._core.authorities.all():
            name = authority.record.name
            newest = self._newest(name)
            if newest is not None:
                self._remember(newest)
                if self._is_stale(newest):
                    self._stale.add(name)

    def _newest(self, name: str) -> Crl | None:
        """The newest list that was committed; numbers that came to nothing stand between them."""
        after: tuple[object, ...] | None = None
        while True:
            page = self._core.ledger.find(
                Crl,
                tenant=SYSTEM_TENANT,
                authority=name,
                shard=0,
                order=("number",),
                descending=True,
                after=after,
                limit=_PAGE,
            )
            for record in page:
                if record.der:
                    return record
            if len(page) < _PAGE:
                return None
            after = (page[-1].number,)

    def _is_stale(self, newest: Crl) -> bool:
        """Whether it may lack a revocation: a crash loses what was still to be listed.

        Records of revoked certificates stay for good, so as many entries as records are all.
        """
        status = (CertificateStatus.REVOKED, CertificateStatus.ORPHANED)
        revoked = self._core.ledger.count(Certificate, authority=newest.authority, status=status)
        return revoked != newest.entries

    def published(self, authority: str) -> Published | None:
        """The newest list that may be shown."""
        return self._published.get(authority)

    def due(self) -> list[str]:
        """Authorities whose list is missing, stale, older than the interval or from the future.

        The last is what a clock leaves that was ahead and has been set right.
        """
        now = self._core.clock.now()
        oldest = now - self._core.limits.crl_interval
        names = [authority.record.name for authority in self._core.authorities.all()]
        return [
            name
            for name in names
            if name in self._stale
            or (current := self._published.get(name)) is None
            or not oldest < current.record.this_update <= now
        ]

    def outdated(self, name: str) -> None:
        """Something was revoked that no list has yet; `due` names it until one is published."""
        self._stale.add(name)

    async def publish(
        self, name: str, actor: Caller = SERVICE, request: Call | None = None
    ) -> Published:
        """Make, log and publish a new list of one authority.

        Args:
            name: Authority.
            actor: Who ordered it.
            request: The call that did, if it is to be answered once.

        Raises:
            SignerUnavailableError: The signer is away; the old list stands.
        """
        async with self._locks.setdefault(name, asyncio.Lock()):
            authority = self._core.authorities[name]
            spent = await self._spent(authority)
            reserved = await asyncio.to_thread(self._reserve, authority, spent)
            entries = await asyncio.to_thread(self._entries, authority)
            prepared = await asyncio.to_thread(
                authority.crls.prepare,
                reserved.number,
                reserved.this_update,
                reserved.next_update,
                entries,
            )
            (signature,) = await sign_all(self._core.signer, [prepared.statement])
            der = prepared.complete(signature)
            return await self._commit(reserved, der, len(entries), actor, request)

    async def answer(self, request: Call, name: str) -> Answer:
        """Publish on an officer's order; sent again, the same list is answered again.

        Raises:
            SignerUnavailableError: As `publish` says.
        """
        published = await self.publish(name, request.caller, request)
        return render(_spec(published.record), None)

    async def _spent(self, authority: ActiveAuthority) -> int:
        """The last number that the signer signed: an older ledger may not know it.

        Asked before a number is reserved, so that an outage, which is tried again all the time,
        spends none.
        """
        try:
            health = await self._core.signer.health()
        except HsmError as error:
            raise SignerUnavailableError(f"the signer is away: {error}") from error
        if not health.ready:
            raise SignerUnavailableError(f"the token is away: {health.detail}")
        return dict(health.crl_numbers).get(authority.issuer.key, 0)

    def _reserve(self, authority: ActiveAuthority, spent: int) -> Crl:
        now = self._core.clock.now()
        name = authority.record.name
        last = self._core.ledger.find(
            Crl, tenant=SYSTEM_TENANT, authority=name, shard=0, descending=True, limit=1
        )
        record = Crl(
            tenant=SYSTEM_TENANT,
            authority=name,
            shard=0,
            number=max(spent, last[0].number if last else 0) + 1,
            generation=authority.record.generation,
            this_update=now,
            next_update=now + self._core.limits.crl_validity,
            entries=0,
            der=b"",
            event=None,
        )
        if self._core.ledger.reserve([Insert(record)]) is not None:
            raise UnavailableError(f"the CRL of {name} is being made already; try again")
        return record

    def _entries(self, authority: ActiveAuthority) -> list[RevokedEntry]:
        """Everything revoked, across tenants, until it stood on a list made after its expiry.

        RFC 5280 3.3: a revoked certificate leaves the list only then.
        """
        revoked = self._core.ledger.values(
            Certificate,
            ("serial", "revoked_at", "reason", "not_after"),
            authority=authority.record.name,
            status=(CertificateStatus.REVOKED, CertificateStatus.ORPHANED),
        )
        now = self._core.clock.now()
        last = self._published.get(authority.record.name)
        since = now if last is None else last.record.this_update
        return [
            RevokedEntry(int(serial, 16), revoked_at or now, (reason or Reason.UNSPECIFIED).value)
            for serial, revoked_at, reason, not_after in revoked
            if not_after >= since
        ]

    async def _commit(
        self, reserved: Crl, der: bytes, entries: int, actor: Caller, request: Call | None
    ) -> Published:
        event = self._event(reserved, der, entries, actor)
        record = replace(reserved, der=der, entries=entries, event=event.event)
        once = None if request is None else request.record(self._core.clock, _spec(record).encode())
        unit = Unit((Replace(record, expected=reserved),), (event,), once)
        outcome = await self._core.sequencer.commit(unit, urgent=True)
        if isinstance(outcome, Conflict):
            raise UnavailableError(f"the CRL of {reserved.authority} was made meanwhile")
        return self._remember(record)

    def _event(self, reserved: Crl, der: bytes, entries: int, actor: Caller) -> EventDraft:
        return self._core.events.draft(
            EventType.CRL_ISSUED,
            self._core.clock.now(),
            SYSTEM_TENANT,
            {Committed.ACTOR: actor.name},
            detail={
                "authority": reserved.authority,
                "number": reserved.number,
                "sha256": hashlib.sha256(der).hexdigest(),
                "entries": entries,
                "this_update": timestamp(reserved.this_update),
                "next_update": timestamp(reserved.next_update),
            },
        )

    def _remember(self, record: Crl) -> Published:
        published = Published(record.number, record.der, record.entries, record)
        self._published[record.authority] = published
        self._stale.discard(record.authority)
        self._core.observer.crl_published(
            record.authority, record.number, record.entries, record.this_update.timestamp()
        )
        return published


def _spec(record: Crl) -> AnswerSpec:
    """What an officer is answered: everything about the list but its bytes, which are public."""
    return AnswerSpec.of(
        201,
        {
            "authority": record.authority,
            "number": record.number,
            "this_update": timestamp(record.this_update),
            "next_update": timestamp(record.next_update),
            "entries": record.entries,
        },
    )
