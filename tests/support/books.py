"""The books of a service checked against each other: log, state, certificates, journal."""

from hsm_drivers.ports import Purpose
from kms.domain.records import (
    Certificate,
    CertificateStatus,
    Checkpoint,
    Crl,
    Event,
    Idempotent,
)
from kms.tlog.checkpoint import parse_checkpoint
from kms.tlog.hashing import leaf_hash
from kms.tlog.notes import parse_note, verify_note
from tests.support.naive_log import tree_hash
from tests.support.services import World


def check_tree(made: World) -> None:
    """Entries, tree and checkpoints agree."""
    head = made.ledger.head()
    assert head is not None
    events = made.ledger.find(Event, log=head.log)
    assert [event.index for event in events] == list(range(head.size))
    leaves = [leaf_hash(event.leaf) for event in events]
    assert tree_hash(leaves) == head.root
    for record in made.ledger.find(Checkpoint, log=head.log):
        assert record.root == tree_hash(leaves[: record.size])
        if record.note:
            note = parse_note(record.note)
            verify_note(note, made.keys)
            assert parse_checkpoint(note.text).size == record.size


def check_certificates(made: World) -> None:
    """Every certificate has its event, and no serial stands twice."""
    certificates = made.ledger.find(Certificate)
    assert len({(c.authority, c.serial) for c in certificates}) == len(certificates)
    for certificate in certificates:
        (event,) = made.ledger.find(Event, tenant=certificate.tenant, event=certificate.event)
        if certificate.status is not CertificateStatus.ORPHANED:
            assert certificate.sha256.encode() in event.leaf


async def check_journal(made: World) -> None:
    """Everything signed is in the ledger: as it was meant, or as an orphan."""
    authorities = {a.record.key: a.record.name for a in made.services.core.authorities.all()}
    known = {c.tbs_sha256 for c in made.ledger.find(Certificate)}
    for entry in await made.signer.journal(0, 100_000):
        if entry.purpose is Purpose.CERTIFICATE:
            assert entry.digest.hex() in known, entry
        if entry.purpose is Purpose.CRL:
            crls = made.ledger.find(
                Crl, authority=authorities[entry.key], number=int(entry.reference)
            )
            assert crls[0].event is not None


def check_idempotency(made: World) -> None:
    """An answered call's events are where its record says."""
    for record in made.ledger.find(Idempotent):
        assert record.first_index + record.events <= record.size or not record.events


async def check_books(made: World) -> None:
    """All of the above."""
    check_tree(made)
    check_certificates(made)
    check_idempotency(made)
    await check_journal(made)
