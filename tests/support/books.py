"""The books of a service checked against each other: log, state, certificates, journal."""

import asyncio
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
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
    Event,
    Idempotent,
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
from tests.support.naive_log import tree_hash
from tests.support.running import Home
from tests.support.services import World

EVERYTHING = 1_000_000
ORPHANED = EventType.CERTIFICATE_ORPHANED
ISSUING = {
    EventType.CERTIFICATE_ISSUED,
    EventType.DEVICE_ENROLLED,
    EventType.DEVICE_RENEWED,
    EventType.AUTHORITY_CREATED,
    ORPHANED,
}
REVOKING = {EventType.CERTIFICATE_REVOKED, EventType.DEVICE_REVOKED, EventType.USER_REVOKED}


@dataclass(frozen=True, slots=True)
class Books:
    """What must agree; `journal` is the signer's, from its first entry on."""

    ledger: Ledger
    journal: Sequence[JournalEntry]
    keys: Sequence[VerifierKey]

    def check(self) -> None:
        """All of it."""
        self.check_tree()
        self.check_certificates()
        self.check_revocations()
        self.check_crls()
        self.check_idempotency()
        self.check_journal()

    def check_tree(self) -> None:
        """Entries, tree and checkpoints agree."""
        head = self.ledger.head()
        assert head is not None
        events = self.ledger.find(Event, log=head.log)
        assert [event.index for event in events] == list(range(head.size))
        leaves = [leaf_hash(event.leaf) for event in events]
        assert tree_hash(leaves) == head.root
        for record in self.ledger.find(Checkpoint, log=head.log):
            assert record.root == tree_hash(leaves[: record.size])
            if record.note:
                note = parse_note(record.note)
                verify_note(note, self.keys)
                assert parse_checkpoint(note.text).size == record.size

    def check_head_is_signed(self) -> None:
        """The newest checkpoint covers everything: what a service at rest has seen to."""
        head = self.ledger.head()
        assert head is not None
        newest = self.ledger.get(Checkpoint, head.log, head.size)
        assert newest is not None
        assert newest.note

    def check_certificates(self) -> None:
        """Certificates and events match both ways, and no serial stands twice."""
        certificates = self.ledger.find(Certificate)
        assert len({(c.authority, c.serial) for c in certificates}) == len(certificates)
        rows = {(c.event, c.authority, c.serial, c.sha256 or None) for c in certificates}
        assert rows == set(self._named(ISSUING))
        for certificate in certificates:
            orphaned = certificate.status is CertificateStatus.ORPHANED
            assert orphaned is not bool(certificate.der)
            if not orphaned:
                assert hashlib.sha256(certificate.der).hexdigest() == certificate.sha256

    def check_revocations(self) -> None:
        """What is revoked was revoked by an event that names it, and the other way round."""
        rows = {
            (c.revoked_by, c.authority, c.serial, c.sha256 or None)
            for c in self.ledger.find(Certificate)
            if c.status is not CertificateStatus.GOOD
        }
        assert rows == set(self._named({*REVOKING, ORPHANED}))

    def check_crls(self) -> None:
        """Every list has its event, and every event its list."""
        lists = [crl for crl in self.ledger.find(Crl) if crl.der]
        rows = {(c.authority, c.number, hashlib.sha256(c.der).hexdigest()) for c in lists}
        issued = [json.loads(e.leaf)["detail"] for e in self._events({EventType.CRL_ISSUED})]
        assert sorted(rows) == sorted((d["authority"], d["number"], d["sha256"]) for d in issued)

    def check_journal(self) -> None:
        """All that was signed is in the ledger, as meant or as an orphan, and nothing else is."""
        names = {a.key: a.name for a in self.ledger.find(Authority)}
        signed = [entry for entry in self.journal if entry.purpose is Purpose.CERTIFICATE]
        made = {(names[e.key], e.reference, e.digest.hex()) for e in signed}
        rows = {(c.authority, c.serial, c.tbs_sha256) for c in self.ledger.find(Certificate)}
        assert made == rows
        numbers = {
            (names[e.key], int(e.reference)) for e in self.journal if e.purpose is Purpose.CRL
        }
        logged = {(c.authority, c.number) for c in self.ledger.find(Crl) if c.event is not None}
        assert numbers == logged

    def check_idempotency(self) -> None:
        """An answered call's events are where its record says."""
        for record in self.ledger.find(Idempotent):
            assert record.first_index + record.events <= record.size or not record.events

    def _events(self, types: set[EventType]) -> list[Event]:
        return [event for event in self.ledger.find(Event) if event.type in types]

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
