"""The checker of books itself: whatever is changed in them by hand is noticed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from hsm_drivers.ports import JournalEntry, Purpose
from kms.domain.records import (
    Certificate,
    CertificateStatus,
    Checkpoint,
    Crl,
    DeviceId,
    Event,
    Reason,
    Record,
    Serial,
)
from kms.services.ports import Change, Delete, Insert, Ledger, Replace
from tests.support.books import EVERYTHING, Books
from tests.support.flow import IDENTITY, enrol, new_device
from tests.support.services import TENANT, world

pytestmark = pytest.mark.anyio

R = TypeVar("R", bound=Record)
Journal = Sequence[JournalEntry]
Change_ = Callable[[Ledger], Change]


def one(ledger: Ledger, kind: type[R], **equals: object) -> R:
    return ledger.find(kind, **equals)[0]


def good(ledger: Ledger) -> Certificate:
    return one(ledger, Certificate, tenant=TENANT, status=CertificateStatus.GOOD)


def revoked(ledger: Ledger) -> Certificate:
    return one(ledger, Certificate, tenant=TENANT, status=CertificateStatus.REVOKED)


CHANGES: dict[str, Change_] = {
    "a certificate is gone": lambda at: Delete(good(at)),
    "a certificate twice": lambda at: Insert(replace(good(at), serial=Serial("0bad"))),
    "other bytes": lambda at: Replace(replace(good(at), der=b"other")),
    "signed as another": lambda at: Replace(replace(good(at), tbs_sha256="00" * 32)),
    "revoked by nothing": lambda at: Replace(replace(good(at), status=CertificateStatus.REVOKED)),
    "good again": lambda at: Replace(replace(revoked(at), status=CertificateStatus.GOOD)),
    "a leaf is another": lambda at: Replace(replace(one(at, Event), leaf=b"{}")),
    "an event is gone": lambda at: Delete(at.find(Event)[-1]),
    "an old root is another": lambda at: Replace(replace(one(at, Checkpoint), root=bytes(32))),
    "a list is gone": lambda at: Delete(at.find(Crl)[-1]),
    "a list is another": lambda at: Replace(replace(one(at, Crl, authority="people"), der=b"x")),
}


def another(entry: JournalEntry) -> JournalEntry:
    return replace(entry, digest=bytes(32))


def certificates(journal: Journal) -> Journal:
    return [entry for entry in journal if entry.purpose is Purpose.CERTIFICATE]


JOURNALS: dict[str, Callable[[Journal], Journal]] = {
    "signed, and nowhere": lambda all_: [
        *all_,
        replace(certificates(all_)[0], counter=len(all_) + 1, reference="0bad"),
    ],
    "a serial signed twice": lambda all_: [
        *all_,
        replace(another(certificates(all_)[0]), counter=len(all_) + 1),
    ],
    "never signed": lambda all_: [
        replace(item, purpose=Purpose.CHECKPOINT) if item is certificates(all_)[-1] else item
        for item in all_
    ],
    "a gap": lambda all_: all_[1:],
}


async def books(
    folder: Path, change: Change_ | None, altered: Callable[[Journal], Journal]
) -> Books:
    """Of a service that enrolled two devices and revoked one, after the change."""
    async with world(folder) as made:
        for name in ("phone", "tablet"):
            await enrol(made, new_device(made, "ada", name, IDENTITY))
        request = made.call("revoke", "phone")
        reason = Reason.SUPERSEDED
        await made.services.revocation.device(request, TENANT, DeviceId("phone"), reason)
        await made.services.crls.publish("people")
        if change is not None:
            assert made.ledger.reserve([change(made.ledger)]) is None
        journal = altered(await made.signer.journal(0, EVERYTHING))
        return Books(made.ledger, journal, made.keys)


def check_both(found: Books) -> None:
    """Neither at rest nor after a crash."""
    for check in (found.check, found.check_after_crash):
        with pytest.raises(AssertionError):
            check()


async def test_books_that_were_left_alone(tmp_path: Path):
    found = await books(tmp_path, None, lambda journal: journal)
    found.check()
    found.check_after_crash()
    found.check_head_is_signed()
    found.check_seen({2: found.roots[2]})
    with pytest.raises(AssertionError):
        found.check_seen({2: found.roots[3]})


@pytest.mark.parametrize("change", CHANGES)
async def test_a_changed_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str):
    monkeypatch.setattr("kms.storage.memory.check_reserved", lambda _: None)  # the log's own rows
    check_both(await books(tmp_path, CHANGES[change], lambda journal: journal))


@pytest.mark.parametrize("change", JOURNALS)
async def test_a_changed_journal(tmp_path: Path, change: str):
    check_both(await books(tmp_path, None, JOURNALS[change]))
