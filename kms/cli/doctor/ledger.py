"""The database, the log in it, and what it says of certificates and revocation lists."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta

from kms.cli.doctor.findings import Finding, Patient, failed, ok, warning
from kms.domain.records import (
    SYSTEM_TENANT,
    Authority,
    Certificate,
    CertificateStatus,
    Checkpoint,
    Crl,
    Epoch,
    Event,
    Standing,
)
from kms.services.ports import Ledger, LedgerUnavailableError, TreeHead
from kms.tlog.checkpoint import parse_checkpoint
from kms.tlog.errors import TlogError
from kms.tlog.notes import VerifierKey, parse_note, verify_note

CA_SOON = timedelta(days=90)
CLIENT_SOON = timedelta(days=30)
CRL_LEFT = 0.25
"""Fraction of a list's validity below which its successor is overdue."""
CEREMONY = "hold the ceremony: `kms authority ceremony --home DIR --officer NAME --officer NAME`"


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """What other checks want to know of the ledger."""

    newest_event: datetime | None = None
    head: TreeHead | None = None
    epoch: Epoch | None = None
    roots: Callable[[int], bytes | None] = lambda _size: None
    """Tree size to the root committed for it."""


def ledger(patient: Patient) -> tuple[list[Finding], LedgerFacts]:
    """Everything the database can be asked, without writing to it."""
    from kms.storage.sql import SqlLedger  # noqa: PLC0415 - remote commands need no database

    if not patient.own:
        remedy = "run as root or as the user of the service"
        return [warning("database", "it is hidden from this user", remedy)], LedgerFacts()
    url = patient.settings.database_url
    try:
        found = _database(url)
        with closing(SqlLedger(url)) as opened:
            head = opened.head()
            if head is None or head.size == 0:
                nothing = failed("log", "this home has no log yet", CEREMONY)
                return [*found, nothing], LedgerFacts()
            facts = _facts(opened, head)
            found += [_head(opened, head, patient), *authorities(opened, patient.now)]
            found += [*clients(opened, patient.now), *lists(opened, patient.now)]
    except (LedgerUnavailableError, ValueError) as error:
        return [
            failed(
                "database", str(error), "check path, owner and disk; restore it if it is damaged"
            )
        ], LedgerFacts()
    return found, facts


def _database(url: str) -> list[Finding]:
    from kms.storage.integrity import integrity  # noqa: PLC0415 - remote commands need no database
    from kms.storage.migrate import check  # noqa: PLC0415 - as above

    found = [
        failed(
            "database", f"schema: {item}", "run the service once: it brings the schema up to date"
        )
        for item in check(url)
    ]
    found += [
        failed("database", item, "stop the service; restore from a backup, or ask for help")
        for item in integrity(url)
    ]
    return found or [ok("database", "settings, pages, schema; entries, tiles and heads agree")]


def _facts(opened: Ledger, head: TreeHead) -> LedgerFacts:
    newest = opened.get(Event, head.log, head.size - 1)
    roots: dict[int, bytes] = {
        record.size: record.root for record in opened.find(Checkpoint, log=head.log)
    }
    return LedgerFacts(
        newest_event=None if newest is None else newest.time,
        head=head,
        epoch=opened.get(Epoch, head.log),
        roots=roots.get,
    )


def _head(opened: Ledger, head: TreeHead, patient: Patient) -> Finding:
    """The head is covered by a checkpoint that the log's key signed."""
    epoch, record = opened.get(Epoch, head.log), opened.get(Checkpoint, head.log, head.size)
    if record is None or epoch is None:
        return failed("log", f"no checkpoint is stored for {head.size} events", "run `kms serve`")
    if not record.note:
        remedy = "it is being signed" if patient.running else "start the service: it signs the head"
        return warning("log", f"the head of {head.size} events is committed, not signed", remedy)
    try:
        note = parse_note(record.note)
        verify_note(note, [VerifierKey.parse(epoch.vkey)])
        signed = parse_checkpoint(note.text)
    except TlogError as error:
        return failed("log", f"its checkpoint does not verify: {error}", "restore from a backup")
    if (signed.origin, signed.size, signed.root) != (head.origin, head.size, head.root):
        return failed("log", "the signed checkpoint is another than the head", "restore a backup")
    return ok("log", f"{head.origin}: {head.size} events under a signed checkpoint")


def authorities(opened: Ledger, now: datetime) -> Iterator[Finding]:
    """Certificates of the authorities."""
    from pki.chains import certificate_info  # noqa: PLC0415 - remote commands start faster

    for record in opened.find(Authority, tenant=SYSTEM_TENANT, standing=Standing.ACTIVE):
        end = certificate_info(record.certificate).not_after
        name = f"authority {record.name}"
        yield expiry("certificates", name, end, now, CA_SOON, "prepare its successor")


def clients(opened: Ledger, now: datetime) -> Iterator[Finding]:
    """The newest certificate of each principal; one that is replaced may expire."""
    newest: dict[tuple[str, str], datetime] = {}
    for record in opened.find(Certificate, status=CertificateStatus.GOOD, user=None):
        if record.principal is not None and record.principal != record.authority:
            owner = (record.tenant, record.principal)
            newest[owner] = max(newest.get(owner, record.not_after), record.not_after)
    soon = {owner: end for owner, end in newest.items() if end - now < CLIENT_SOON}
    for (tenant, name), end in sorted(soon.items()):
        if name != "tls-server" and not _is_authority(opened, name):
            who = f"principal {name} of {tenant}"
            remedy = f"issue a new one: kms cert issue {name} --tenant {tenant} --csr FILE"
            yield expiry("clients", who, end, now, CLIENT_SOON, remedy)
    if not soon:
        yield ok("clients", f"certificates of {len(newest)} principals last over a month")


def _is_authority(opened: Ledger, name: str) -> bool:
    return opened.count(Authority, tenant=SYSTEM_TENANT, name=name) > 0


def lists(opened: Ledger, now: datetime) -> Iterator[Finding]:
    """The newest revocation list of each authority."""
    publish = "start the service: it publishes lists by itself; then `kms authority publish-crl`"
    for authority in opened.find(Authority, tenant=SYSTEM_TENANT, standing=Standing.ACTIVE):
        records = opened.find(
            Crl, tenant=SYSTEM_TENANT, authority=authority.name, descending=True, limit=16
        )
        newest = next((record for record in records if record.der), None)
        if newest is None:
            yield failed("crls", f"{authority.name} has published no list", publish)
            continue
        said = f"{authority.name}'s list {newest.number} is valid until {newest.next_update:%F %R}Z"
        left = newest.next_update - now
        if left <= timedelta(0):
            yield failed("crls", f"{said}: it has ended", publish)
        elif left < (newest.next_update - newest.this_update) * CRL_LEFT:
            yield warning("crls", said, publish)
        else:
            yield ok("crls", said)


def expiry(
    check: str, name: str, end: datetime, now: datetime, soon: timedelta, remedy: str
) -> Finding:
    """What the end of a certificate's life means."""
    if end <= now:
        return failed(check, f"{name}: its certificate ended on {end:%Y-%m-%d}", remedy)
    if end - now < soon:
        return warning(check, f"{name}: its certificate ends on {end:%Y-%m-%d}", remedy)
    return ok(check, f"{name}: valid until {end:%Y-%m-%d}")
