"""The books of a service checked against each other: log, state, certificates, journal."""

import asyncio
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from hsm_drivers.journal import Journal
from hsm_drivers.ports import JournalEntry, Purpose
from kms.bootstrap import local_services
from kms.domain.records import (
    Authority,
    Certificate,
    CertificateStatus,
    Checkpoint,
    Crl,
    Enrolment,
    EnrolmentStatus,
    Event,
    EventId,
    Idempotent,
    Reservation,
)
from kms.processes.pin import obtain_pin
from kms.services.facade import compose
from kms.services.ports import Ledger
from kms.services.system import SystemClock
from kms.storage.sql import SqlLedger
from kms.tlog.checkpoint import parse_checkpoint
from kms.tlog.hashing import leaf_hash
from kms.tlog.notes import VerifierKey, parse_note, verify_note
from kms.wire import EventType
from tests.support.ledgers import copy_database
from tests.support.naive_log import GrowingTree
from tests.support.running import Home
from tests.support.services import World

EVERYTHING = 1_000_000
ORPHANED = EventType.CERTIFICATE_ORPHANED
ISSUING = {
    EventType.KEY_GENERATED,
    EventType.CERTIFICATE_ISSUED,
    EventType.DEVICE_ENROLLED,
    EventType.DEVICE_RENEWED,
    EventType.AUTHORITY_CREATED,
    ORPHANED,
}
REVOKING = {EventType.CERTIFICATE_REVOKED, EventType.DEVICE_REVOKED, EventType.USER_REVOKED}


@dataclass(frozen=True)
class Books:
    """What must agree; `journal` is the signer's, from its first entry on."""

    ledger: Ledger
    journal: Sequence[JournalEntry]
    keys: Sequence[VerifierKey]

    def check(self) -> None:
        """All of it, where nothing is under way any more."""
        self._check()
        assert self._signed() == self._certified(), "signed and in the ledger are the same"
        assert self._signed_lists() == self._logged_lists()

    def check_after_crash(self) -> None:
        """All of it, where calls were cut off: what was signed may still come into the ledger.

        It may be completed by a retry, under its reservation, or become an orphan when that is over
        (docs/adr/0004). Nothing is in the ledger that was not signed.
        """
        self._check()
        open_serials = self._reserved()
        assert self._certified() <= self._signed()
        assert {serial for _, serial, _ in self._signed() - self._certified()} <= open_serials
        assert self._logged_lists() <= self._signed_lists()
        reserved = {(c.authority, c.number) for c in self.ledger.find(Crl) if c.event is None}
        assert self._signed_lists() - self._logged_lists() <= reserved

    def check_head_is_signed(self) -> None:
        """The newest checkpoint covers everything: what a service at rest has seen to."""
        head = self.ledger.head()
        assert head is not None
        newest = self.ledger.get(Checkpoint, head.log, head.size)
        assert newest is not None
        assert newest.note

    def check_seen(self, roots: Mapping[int, bytes]) -> None:
        """What readers were shown, by size, is this very log."""
        assert roots == {size: self.roots[size] for size in roots}

    @property
    def orphans(self) -> int:
        """What was signed, lost and found: certificates and lists."""
        return len(self._events({ORPHANED, EventType.CRL_ORPHANED}))

    @cached_property
    def events(self) -> Sequence[Event]:
        """Of the current epoch, by index."""
        head = self.ledger.head()
        assert head is not None
        return self.ledger.find(Event, log=head.log)

    @cached_property
    def certificates(self) -> Mapping[EventId, Sequence[Certificate]]:
        """By the event that logged them."""
        found: dict[EventId, list[Certificate]] = {}
        for certificate in self.ledger.find(Certificate):
            found.setdefault(certificate.event, []).append(certificate)
        return found

    @cached_property
    def serials(self) -> Mapping[tuple[str, str], Certificate]:
        """By authority and serial."""
        return {(item.authority, str(item.serial)): item for item in self._all()}

    @cached_property
    def roots(self) -> Sequence[bytes]:
        """The tree's root at every size, from 0 on."""
        tree = GrowingTree()
        roots = [tree.root()]
        for event in self.events:
            tree.append(leaf_hash(event.leaf))
            roots.append(tree.root())
        return roots

    def _check(self) -> None:
        self._check_tree()
        self._check_certificates()
        self._check_revocations()
        self._check_crls()
        self._check_idempotency()
        self._check_journal()

    def _check_tree(self) -> None:
        """Entries, tree and checkpoints agree."""
        head = self.ledger.head()
        assert head is not None
        assert [event.index for event in self.events] == list(range(head.size))
        assert len({event.event for event in self.events}) == head.size
        assert self.roots[head.size] == head.root
        records = self.ledger.find(Checkpoint, log=head.log)
        assert not records or records[-1].size == head.size
        for record in records:
            assert record.root == self.roots[record.size]
            if record.note:
                note = parse_note(record.note)
                verify_note(note, self.keys)
                signed = parse_checkpoint(note.text)
                assert (signed.size, signed.root) == (record.size, record.root)

    def _check_certificates(self) -> None:
        """Certificates and events match both ways, and no serial stands twice."""
        certificates = self._all()
        assert len(self.serials) == len(certificates)
        rows = [(c.event, c.authority, c.serial, c.sha256 or None) for c in certificates]
        assert sorted(rows, key=repr) == sorted(self._named(ISSUING), key=repr)
        for certificate in certificates:
            orphaned = certificate.status is CertificateStatus.ORPHANED
            assert orphaned is not bool(certificate.der)
            if not orphaned:
                assert hashlib.sha256(certificate.der).hexdigest() == certificate.sha256

    def _check_revocations(self) -> None:
        """What is revoked was revoked by an event that names it, and the other way round."""
        rows = [
            (c.revoked_by, c.authority, c.serial, c.sha256 or None)
            for c in self._all()
            if c.status is not CertificateStatus.GOOD
        ]
        assert sorted(rows, key=repr) == sorted(self._named({*REVOKING, ORPHANED}), key=repr)

    def _check_crls(self) -> None:
        """Every list has its event, and every event its list."""
        lists = [crl for crl in self.ledger.find(Crl) if crl.der]
        rows = [(c.authority, c.number, hashlib.sha256(c.der).hexdigest()) for c in lists]
        issued = [json.loads(e.leaf)["detail"] for e in self._events({EventType.CRL_ISSUED})]
        assert sorted(rows) == sorted((d["authority"], d["number"], d["sha256"]) for d in issued)

    def _check_journal(self) -> None:
        """It has no gaps, and no serial or number was ever signed for two different contents."""
        assert [entry.counter for entry in self.journal] == list(range(1, len(self.journal) + 1))
        for purpose in (Purpose.CERTIFICATE, Purpose.CRL):
            made = {(e.key, e.reference, e.digest) for e in self.journal if e.purpose is purpose}
            assert len({(key, reference) for key, reference, _ in made}) == len(made)

    def _check_idempotency(self) -> None:
        """An answered call's events are where its record says."""
        size = len(self.events)
        for record in self.ledger.find(Idempotent):
            assert record.first_index + record.events <= record.size <= size or not record.events

    def _signed(self) -> set[tuple[str, str, str]]:
        """Authority, serial and digest of every certificate in the journal."""
        names = {a.key: a.name for a in self.ledger.find(Authority)}
        entries = [entry for entry in self.journal if entry.purpose is Purpose.CERTIFICATE]
        return {(names[e.key], e.reference, e.digest.hex()) for e in entries}

    def _certified(self) -> set[tuple[str, str, str]]:
        """The same of those in the ledger, orphans included."""
        return {(c.authority, c.serial, c.tbs_sha256) for c in self._all()}

    def _signed_lists(self) -> set[tuple[str, int]]:
        names = {a.key: a.name for a in self.ledger.find(Authority)}
        entries = [entry for entry in self.journal if entry.purpose is Purpose.CRL]
        return {(names[e.key], int(e.reference)) for e in entries}

    def _logged_lists(self) -> set[tuple[str, int]]:
        return {(c.authority, c.number) for c in self.ledger.find(Crl) if c.event is not None}

    def _reserved(self) -> set[str]:
        """Serials that a retry may still use, or the sweep will find when it cannot any more."""
        pending = self.ledger.find(Enrolment, status=EnrolmentStatus.PENDING)
        serials = {str(slot["serial"]) for enrolment in pending for slot in enrolment.slots}
        return serials | {str(item.serial) for item in self.ledger.find(Reservation)}

    def _all(self) -> list[Certificate]:
        return [item for found in self.certificates.values() for item in found]

    def _events(self, types: set[EventType]) -> list[Event]:
        return [event for event in self.events if event.type in types]

    def _named(self, types: set[EventType]) -> Iterator[tuple[Any, ...]]:
        """Event, authority, serial and digest of what the leaves of such events name."""
        for event in self._events(types):
            for item in json.loads(event.leaf)["certificates"]:
                yield event.event, item["authority"], item["serial"], item["sha256"]


async def check_books(made: World) -> None:
    """The books of a service in memory."""
    journal = await made.signer.journal(0, EVERYTHING)
    Books(made.ledger, journal, made.keys).check()


class _Later:
    """A clock that is ahead: no client can complete anything any more."""

    def now(self) -> datetime:
        return SystemClock().now() + timedelta(minutes=16)


def sweep_later(home: Home) -> int:
    """Let a stopped home look for orphans as if it were later; answers how many it found."""

    async def sweep() -> int:
        async with local_services(home.settings, obtain_pin(home.settings)) as services:
            later = compose(replace(services.core, clock=_Later()))
            later.crls.load()
            return await later.upkeep.sweep()

    return asyncio.run(sweep())


@contextmanager
def books_of(home: Home, folder: Path) -> Iterator[Books]:
    """The books of a home, from copies of its files: nothing of the home itself is touched."""
    folder.mkdir()
    ledger = SqlLedger(copy_database(home.settings.database_url, folder))
    path = shutil.copyfile(home.signer_state / "journal", folder / "journal")
    journal = Journal(path)
    try:
        keys = [VerifierKey.parse((home.root / "log.vkey").read_text())]
        yield Books(ledger, journal.entries(0, EVERYTHING), keys)
    finally:
        journal.close()
        ledger.close()
