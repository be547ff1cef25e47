"""What the service does by itself: recovery at start, orphans, expired reservations, CRLs due.

Orphans: the signer's journal knows every signature it released. A certificate or CRL in it that
the ledger does not hold, and that no live reservation can still complete, was signed and lost to a
crash. It becomes a logged event and, for certificates, a revocation.
"""

import asyncio
import hashlib
from dataclasses import replace
from datetime import datetime, timedelta

from hsm_drivers.errors import HsmError
from hsm_drivers.ports import JournalEntry, Purpose
from kms.domain.records import (
    SYSTEM_TENANT,
    Certificate,
    CertificateStatus,
    Crl,
    Enrolment,
    EnrolmentStatus,
    EventId,
    Idempotent,
    Reason,
    Record,
    Reservation,
    Serial,
    SignerMark,
)
from kms.services.core import ActiveAuthority, Core
from kms.services.crls import SERVICE, Crls
from kms.services.errors import KmsError, SignerUnavailableError
from kms.services.ports import Change, Conflict, Delete, EventDraft, Insert, Replace, Unit
from kms.wire import Committed, EventType, LeafCertificate
from pki.structure import split

JOURNAL_PAGE = 2_000
ORPHAN_VALIDITY = timedelta(days=3650)
"""How long an orphan stays on CRLs: its real notAfter is unknown, and below this."""
UNKNOWN_PROFILE = "unknown"
MAX_CRL = 1 << 26
"""Bytes of a CRL that is read again."""
GRACE = timedelta(minutes=5)
"""How long after its expiry a reservation is left to a request that may still be using it: far
longer than the signer's time limit and the drain of a stopping worker together."""
KEEP_FINISHED = timedelta(days=7)
DELETE_PAGE = 20
"""Records deleted at a time: the answer to a batch of a thousand devices has some 2.6 MB."""


class Upkeep:
    """Recovery and housekeeping; every method may be called again at any time."""

    def __init__(self, core: Core, crls: Crls) -> None:
        self._core = core
        self._crls = crls

    async def recover(self) -> None:
        """Bring log and signer together after a start or an outage.

        Raises:
            SignerUnavailableError: The signer is away.
            LogRolledBackError: The ledger lost events.
        """
        await self._core.sequencer.recover()

    async def publish_due(self) -> int:
        """Make the CRLs that are missing or ageing; answer how many."""
        due = self._crls.due()
        for name in due:
            await self._crls.publish(name)
        return len(due)

    def expire(self) -> int:
        """Delete enrolments, reservations and stored answers whose time is over; say how many.

        Stored answers are kept for `Limits.keep_answers`: they hold personal data. Runs beside
        the event loop, a page at a time.
        """
        now = self._core.clock.now()
        ended = now - KEEP_FINISHED
        return (
            self._delete(Enrolment, "expires", ended)
            + self._delete(Reservation, "expires", ended)
            + self._delete(Idempotent, "created", now - self._core.limits.keep_answers)
        )

    def _delete(self, kind: type[Record], field: str, before: datetime) -> int:
        deleted = 0
        while True:
            old = self._core.ledger.find(kind, order=(field,), before=(before,), limit=DELETE_PAGE)
            if old:
                self._core.ledger.reserve([Delete(record) for record in old])
            deleted += len(old)
            if len(old) < DELETE_PAGE:
                return deleted

    async def sweep(self, *, anew: bool = False) -> int:
        """Reconcile the signer's journal with the ledger; answer how many orphans were found.

        Args:
            anew: From the first entry on. The mark is the ledger's: an intruder may have moved it.

        Raises:
            SignerUnavailableError: The signer is away.
        """
        token, mark = await self._mark()
        if anew:
            mark = SignerMark(token, 0)
        found, page = 0, await self._page(mark)
        while page:
            orphans, done = await self._reconcile(page)
            found += orphans
            if done is not None:
                mark = await asyncio.to_thread(self._advance, SignerMark(token, done))
            if done != page[-1].counter:
                break  # a retry may still complete what comes next: look again later
            page = await self._page(mark)
        return found

    async def _page(self, mark: SignerMark) -> list[JournalEntry]:
        try:
            return await self._core.signer.journal(mark.counter, JOURNAL_PAGE)
        except HsmError as error:
            raise SignerUnavailableError(f"the signer is away: {error}") from error

    async def _reconcile(self, page: list[JournalEntry]) -> tuple[int, int | None]:
        """Orphans found, and the counter of the last entry that is settled; None for none.

        One list of each authority for all orphans of the page: they may be many.
        """
        live, orphans, done = self._live(), 0, None
        outdated: set[str] = set()
        for entry in page:
            if not self._committed(entry):
                if entry.reference in live or self._recent(entry):
                    break
                outdated |= await self._orphan(entry)
                orphans += 1
            done = entry.counter
        for name in sorted(outdated):
            await self._crls.publish(name)
        return orphans, done

    def _advance(self, mark: SignerMark) -> SignerMark:
        stored = self._core.ledger.get(SignerMark, mark.token)
        self._core.ledger.reserve([Insert(mark) if stored is None else Replace(mark)])
        return mark

    async def _mark(self) -> tuple[str, SignerMark]:
        try:
            health = await self._core.signer.health()
        except HsmError as error:
            raise SignerUnavailableError(f"the signer is away: {error}") from error
        mark = self._core.ledger.get(SignerMark, health.token)
        if mark is None or mark.counter > health.counter:
            # No mark yet, or an older copy of the journal was restored: compare all of it again.
            mark = SignerMark(health.token, 0)
        return health.token, mark

    def _live(self) -> set[str]:
        """Serials that a pending enrolment or a reservation may still use.

        `GRACE` covers requests that were accepted in time and are still on their way.
        """
        since = self._core.clock.now() - GRACE
        pending = self._core.ledger.find(
            Enrolment, status=EnrolmentStatus.PENDING, order=("expires",), after=(since,)
        )
        serials = {str(slot["serial"]) for enrolment in pending for slot in enrolment.slots}
        reservations = self._core.ledger.find(Reservation, order=("expires",), after=(since,))
        return serials | {item.serial for item in reservations}

    def _authority(self, entry: JournalEntry) -> ActiveAuthority | None:
        for authority in self._core.authorities.all():
            if authority.record.key == entry.key:
                return authority
        return None

    def _committed(self, entry: JournalEntry) -> bool:
        """Whether the ledger holds what was signed; checkpoints are held by the log itself."""
        authority = self._authority(entry)
        if entry.purpose is Purpose.CHECKPOINT or authority is None:
            return True
        name = authority.record.name
        if entry.purpose is Purpose.CRL:
            return self._committed_crl(name, entry)
        found = self._core.ledger.find(Certificate, authority=name, serial=entry.reference)
        return any(
            record.tbs_sha256 == entry.digest.hex() or record.status is CertificateStatus.ORPHANED
            for record in found
        )

    def _committed_crl(self, name: str, entry: JournalEntry) -> bool:
        """By number and content: after a loss a number may stand for another list."""
        record = self._core.ledger.get(Crl, SYSTEM_TENANT, name, 0, int(entry.reference))
        if record is None or record.event is None:
            return False
        if not record.der:
            return True  # logged as an orphan
        content = split(record.der, MAX_CRL).content
        return hashlib.sha256(content).digest() == entry.digest

    def _recent(self, entry: JournalEntry) -> bool:
        """A CRL that may be on its way to its commit right now."""
        authority = self._authority(entry)
        if entry.purpose is not Purpose.CRL or authority is None:
            return False
        number = int(entry.reference)
        record = self._core.ledger.get(Crl, SYSTEM_TENANT, authority.record.name, 0, number)
        fresh = self._core.clock.now() - self._core.limits.enrolment_ttl
        return record is not None and record.this_update > fresh

    async def _orphan(self, entry: JournalEntry) -> set[str]:
        """Log and revoke it; answers whose list is outdated by that."""
        authority = self._authority(entry)
        if authority is None:
            return set()
        if entry.purpose is Purpose.CRL:
            unit = self._orphan_crl(authority, entry)
        else:
            unit = self._orphan_certificate(authority, entry)
        outcome = await self._core.sequencer.commit(unit)
        if isinstance(outcome, Conflict):
            raise KmsError(f"orphan {entry.reference} could not be recorded: {outcome.record}")
        self._core.observer.orphans(1)
        if entry.purpose is Purpose.CRL:
            return set()
        self._crls.outdated(authority.record.name)
        return {authority.record.name}

    def _orphan_crl(self, authority: ActiveAuthority, entry: JournalEntry) -> Unit:
        event = self._core.events.draft(
            EventType.CRL_ORPHANED,
            self._core.clock.now(),
            SYSTEM_TENANT,
            {Committed.ACTOR: SERVICE.name},
            detail={
                "authority": authority.record.name,
                "number": int(entry.reference),
                "tbs_sha256": entry.digest.hex(),
            },
        )
        name = authority.record.name
        record = self._core.ledger.get(Crl, SYSTEM_TENANT, name, 0, int(entry.reference))
        changes: tuple[Change, ...] = ()
        if record is not None and not record.der:
            changes = (Replace(replace(record, event=event.event), expected=record),)
        return Unit(changes, (event,))

    def _orphan_certificate(self, authority: ActiveAuthority, entry: JournalEntry) -> Unit:
        now = self._core.clock.now()
        name = authority.record.name
        leaf = LeafCertificate(name, entry.reference, UNKNOWN_PROFILE, None, None)
        event = self._core.events.draft(
            EventType.CERTIFICATE_ORPHANED,
            now,
            SYSTEM_TENANT,
            {Committed.ACTOR: SERVICE.name},
            certificates=[leaf],
            detail={"tbs_sha256": entry.digest.hex()},
        )
        closing = self._closing(entry.reference)
        return Unit((*closing, Insert(_orphan_record(authority, entry, event))), (event,))

    def _closing(self, serial: str) -> list[Change]:
        """Ends the reservation of an orphan, so that no late commit can complete it."""
        changes: list[Change] = [
            Delete(item) for item in self._core.ledger.find(Reservation, serial=serial)
        ]
        changes += [
            Replace(replace(item, status=EnrolmentStatus.EXPIRED), expected=item)
            for item in self._core.ledger.find(Enrolment, status=EnrolmentStatus.PENDING)
            if any(slot["serial"] == serial for slot in item.slots)
        ]
        return changes


def _orphan_record(
    authority: ActiveAuthority, entry: JournalEntry, event: EventDraft
) -> Certificate:
    """A revoked place-holder: serial and issuer are known, the DER was never kept."""
    return Certificate(
        tenant=SYSTEM_TENANT,
        authority=authority.record.name,
        serial=Serial(entry.reference),
        generation=authority.record.generation,
        profile=UNKNOWN_PROFILE,
        profile_version=0,
        algorithm="",
        user=None,
        device=None,
        slot=None,
        principal=None,
        der=b"",
        sha256="",
        tbs_sha256=entry.digest.hex(),
        not_before=event.time,
        not_after=event.time + ORPHAN_VALIDITY,
        status=CertificateStatus.ORPHANED,
        event=event.event,
        revoked_by=EventId(event.event),
        revoked_at=event.time,
        reason=Reason.CESSATION_OF_OPERATION,
    )
