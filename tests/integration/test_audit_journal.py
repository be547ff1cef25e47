"""The signer's journal against the log: what was signed in secret is found, by serial and time."""

import base64
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from kms import wire
from kms.wire import Committed, EventType
from tests.support.auditing import verify
from tests.support.journals import SIZE, SignerJournal
from tests.support.ministry import SYSTEM, Ministry, busy_ministry
from tests.support.naive_log import NaiveLog


@pytest.fixture(scope="module")
def ministry() -> Ministry:
    return busy_ministry()


@pytest.fixture(scope="module")
def written(ministry: Ministry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ministry.write(tmp_path_factory.mktemp("journal") / "record")


@pytest.fixture
def record(written: Path, tmp_path: Path) -> Path:
    """A record of its own for each test, without a journal yet."""
    return shutil.copytree(written, tmp_path / "record", copy_function=os.link)


@pytest.fixture
def journal(ministry: Ministry) -> SignerJournal:
    return SignerJournal.of(ministry)


Misdeed = Callable[[SignerJournal, Ministry], object]


def test_an_honest_journal_holds(
    record: Path, journal: SignerJournal, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found, document = verify(journal.write(record), capsys=capsys)
    assert (status, found) == (0, [])
    checks = {check["check"]: check for check in document["checks"]}
    entries = len(journal.signed)
    assert checks["journal"]["examined"] == checks["signatures"]["examined"] == entries > 20
    (note,) = checks["signatures"]["notes"]
    lost = [item for item in journal.signed if len(item.message) == 8]
    (orphan,) = [item for item in lost if item.purpose == "certificate"]
    assert note == f"signed, lost in a crash and logged as orphans: {orphan.reference}"
    assert not checks["files"]["notes"]


def test_without_a_journal_the_auditor_is_told(
    record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, document = verify(record, capsys=capsys)
    assert status == 0
    (note,) = document["checks"][0]["notes"]
    assert "kept out of the log is not looked for" in note


SERIAL = "2a" * 16


def secret_certificate(journal: SignerJournal, _: Ministry) -> None:
    journal.add("people-1", "certificate", b"tbs", SERIAL)


def secret_list(journal: SignerJournal, _: Ministry) -> None:
    journal.add("people-1", "crl", b"tbs", "77")


def second_certificate(journal: SignerJournal, ministry: Ministry) -> None:
    """Another content under a serial that was logged."""
    serial = ministry.devices["ada-phone"][1][0].serial
    journal.add("people-1", "certificate", b"another", serial)


def other_certificate(journal: SignerJournal, ministry: Ministry) -> None:
    serial = ministry.devices["ada-phone"][1][0].serial
    journal.drop(serial)
    journal.add("people-1", "certificate", b"another", serial)


def second_list(journal: SignerJournal, _: Ministry) -> None:
    journal.add("people-1", "crl", b"another", "2")


def other_list(journal: SignerJournal, _: Ministry) -> None:
    (at,) = (n for n, i in enumerate(journal.signed, 1) if (i.key, i.reference) == ("root-1", "2"))
    journal.rewrite(at, message=b"another")


def other_history(journal: SignerJournal, _: Ministry) -> None:
    other = NaiveLog(journal.log.origin)
    other.leaves = [*journal.log.leaves[:9], b"{}"]
    journal.head(10, other)


def larger_head(journal: SignerJournal, _: Ministry) -> None:
    other = NaiveLog(journal.log.origin)
    other.leaves = [*journal.log.leaves, b"{}"]
    journal.head(len(other.leaves), other)


def foreign_key(journal: SignerJournal, _: Ministry) -> None:
    journal.add("spare", "certificate", b"tbs", SERIAL)


def unknown_kind(journal: SignerJournal, _: Ministry) -> None:
    journal.add("people-1", "password", b"tbs", SERIAL)


def numberless_list(journal: SignerJournal, _: Ministry) -> None:
    journal.add("people-1", "crl", b"tbs", SERIAL[:-1] + "x")


def sizeless_head(journal: SignerJournal, _: Ministry) -> None:
    journal.add("log", "checkpoint", b"tbs", "-1")


def cosigned(log: NaiveLog, size: int, time: int) -> bytes:
    """What the log's own cosigner signs, by C2SP tlog-cosignature."""
    root = base64.b64decode(log.checkpoint(size).split(b"\n")[2])
    name = bytes([len(log.origin)]) + log.origin.encode()
    numbers = (0).to_bytes(8, "big") + size.to_bytes(8, "big")
    return b"subtree/v1\n\0" + name + time.to_bytes(8, "big") + name + numbers + root


def cosigned_history(journal: SignerJournal, _: Ministry) -> None:
    other = NaiveLog(journal.log.origin)
    other.leaves = [*journal.log.leaves[:9], b"{}"]
    journal.add("log-cosigner-1", "cosignature", cosigned(other, 10, 7), "10@7")


def cosigned_otherwise(journal: SignerJournal, _: Ministry) -> None:
    message = cosigned(journal.log, 10, 7)
    journal.add("log-cosigner-1", "cosignature", message, "10@8")


def sizeless_cosignature(journal: SignerJournal, _: Ministry) -> None:
    journal.add("log-cosigner-1", "cosignature", b"tbs", "ten")


@pytest.mark.parametrize(
    ("misdeed", "message"),
    [
        (cosigned_history, "a cosignature of 10@7 leaves, signed by log-cosigner-1 at"),
        (cosigned_history, "somebody was shown another history"),
        (cosigned_otherwise, "a cosignature of 10@8 leaves"),
        (sizeless_cosignature, "is not of this log"),
        (secret_certificate, f"certificate {SERIAL}, signed by people-1 at 2026-03-01T"),
        (secret_certificate, "is in no event"),
        (secret_list, "CRL 77 of 'people', signed by people-1 at 2026-03-01T"),
        (second_certificate, "is the second of its serial"),
        (other_certificate, "is not the one of event"),
        (second_list, "is the second of its number"),
        (other_list, "is not the one in ca/root.crl"),
        (other_history, "a head of 10 leaves, signed by log at"),
        (other_history, "somebody was shown another history"),
        (larger_head, "a head of 26 leaves"),
        (larger_head, "covers more than the 25 leaves of this record"),
        (foreign_key, "is by a key of no authority in this record"),
        (unknown_kind, "'password' is no kind of statement"),
        (numberless_list, "has no number"),
        (sizeless_head, "is not of this log"),
    ],
)
def test_what_was_signed_in_secret_is_found(
    record: Path,
    journal: SignerJournal,
    ministry: Ministry,
    misdeed: Misdeed,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    misdeed(journal, ministry)
    status, found, _ = verify(journal.write(record), capsys=capsys)
    assert status == 1
    (only,) = found
    assert only.startswith("signatures: journal entry ")
    assert message in only


def test_cosignatures_of_this_logs_heads_are_in_order(
    record: Path, journal: SignerJournal, capsys: pytest.CaptureFixture[str]
) -> None:
    for size, time in ((1, 0), (10, 7), (25, 1_800_000_000)):
        message = cosigned(journal.log, size, time)
        journal.add("log-cosigner-1", "cosignature", message, f"{size}@{time}")
    status, found, _ = verify(journal.write(record), capsys=capsys)
    assert (status, found) == (0, [])


@pytest.mark.parametrize("what", ["certificate", "list"])
def test_what_was_logged_and_never_signed_is_found(
    record: Path,
    journal: SignerJournal,
    ministry: Ministry,
    what: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    serial = ministry.devices["ada-phone"][1][0].serial
    journal.signed = [
        item
        for item in journal.signed
        if item.reference != serial and (what == "certificate" or item.purpose != "crl")
    ]
    journal.now += timedelta(hours=1)
    status, found, _ = verify(journal.write(record), capsys=capsys)
    assert status == 1
    lists = 6 if what == "list" else 0
    assert len(found) == 1 + lists
    assert all("is not in the journal" in item for item in found)
    assert sum(serial in item for item in found) == 1


def test_events_after_the_seal_are_none_of_its_business(
    record: Path, journal: SignerJournal, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.signed = [item for item in journal.signed if item.purpose == "checkpoint"]
    journal.now -= timedelta(days=1)
    status, found, _ = verify(journal.write(record), capsys=capsys)
    assert (status, found) == (0, [])


def test_an_orphan_of_other_content_is_no_orphan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log names the content that was lost; under its serial something else was signed."""
    ministry = busy_ministry()
    detail = {"tbs_sha256": "00" * 32}
    orphan = wire.LeafCertificate("people", SERIAL, "unknown", None, None)
    index = ministry.event(
        EventType.CERTIFICATE_ORPHANED,
        SYSTEM,
        {Committed.USER: "service"},
        certificates=[orphan],
        detail=detail,
    )
    ministry.revoked.setdefault("people", []).append(
        (SERIAL, ministry.now, "cessation-of-operation")
    )
    ministry.publish_all()
    journal = SignerJournal.of(ministry)
    record = journal.write(ministry.write(tmp_path / "record"))
    status, found, _ = verify(record, capsys=capsys)
    assert status == 1
    (only,) = found
    assert f"is not the orphan of {index}" in only


def test_a_lost_list_that_was_logged_is_an_orphan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ministry = busy_ministry()
    detail = {"authority": "people", "number": 3}
    ministry.event(EventType.CRL_ORPHANED, SYSTEM, {}, detail=detail)
    journal = SignerJournal.of(ministry)
    status, found, document = verify(
        journal.write(ministry.write(tmp_path / "record")), capsys=capsys
    )
    assert (status, found) == (0, [])
    notes = [note for check in document["checks"] for note in check["notes"]]
    assert any("CRL 3 of 'people'" in note for note in notes)


def damage(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-SIZE], "entries, its seal is for"),
        (lambda data: data + data[-SIZE:], "entries, its seal is for"),
        (lambda data: data[:-1], "entries, its seal is for"),
        (lambda data: data[:-1], "ends within an entry: 191 bytes"),
        (lambda _: b"", "has 0 entries, its seal is for"),
        (damage(SIZE + 30), "is not what its seal is for"),
        (damage(SIZE + 30), "journal entry 2: is damaged"),
        (lambda data: data[SIZE:] + data[:SIZE], "is not what its seal is for"),
        (lambda data: data[SIZE:] + data[:SIZE], "journal entry 1: is damaged"),
    ],
)
def test_a_copy_that_was_changed_is_found(
    record: Path,
    journal: SignerJournal,
    change: Callable[[bytes], bytes],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = journal.data()
    journal.write(record, change(data), journal.seal(data))
    status, found, _ = verify(record, capsys=capsys)
    assert status == 1
    assert any(item.startswith("journal: ") and message in item for item in found)


def test_a_consistent_lie_has_another_seal(
    record: Path, journal: SignerJournal, capsys: pytest.CaptureFixture[str]
) -> None:
    """Entries with good checksums, numbered anew: only the seal tells."""
    seal = journal.seal()
    journal.drop(journal.signed[3].reference)
    journal.head(3)
    assert len(journal.data()) == SIZE * (len(journal.signed))
    status, found, _ = verify(journal.write(record, seal=seal), capsys=capsys)
    assert status == 1
    assert any(item.startswith("journal: signer/journal: ") for item in found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda note: note.replace(b"entries ", b"entries 0"), "does not fit the note"),
        (lambda _: b"", "no signatures"),
        (lambda note: note.rpartition(b"\n\n")[0] + b"\n\n", "no signatures"),
    ],
)
def test_a_seal_that_is_not_the_logs(
    record: Path,
    journal: SignerJournal,
    change: Callable[[bytes], bytes],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    journal.write(record, seal=change(journal.seal()))
    status, found, _ = verify(record, capsys=capsys)
    assert status == 1
    (only,) = found
    assert only.startswith("journal: signer/seal: ")
    assert message in only


def test_a_seal_of_a_stranger_or_of_something_else(
    record: Path, journal: SignerJournal, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = SignerJournal(NaiveLog(journal.log.origin, bytes(32)), journal.now, journal.signed)
    journal.write(record, seal=stranger.seal())
    status, found, _ = verify(record, capsys=capsys)
    assert (status, found) == (1, ["journal: signer/seal: no known key signed the note"])
    journal.write(record, seal=journal.log.checkpoint())
    status, found, _ = verify(record, capsys=capsys)
    assert (status, found) == (1, ["journal: signer/seal: not the seal of a journal"])
    (record / "signer/seal").unlink()
    status, found, _ = verify(record, capsys=capsys)
    assert status == 1
    assert "entries may have been left out" in found[0]
    journal.write(record)
    (record / "signer/journal").unlink()
    status, found, _ = verify(record, capsys=capsys)
    assert status == 1
    assert any("has 0 entries, its seal is for" in item for item in found)


def test_an_older_seal_must_be_of_the_same_journal(
    record: Path, journal: SignerJournal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(journal.seal(journal.data()[: 5 * SIZE]))
    journal.write(record)
    status, found, document = verify(record, "--seal", kept, capsys=capsys)
    assert (status, found) == (0, [])
    assert "journal-continues" in [check["check"] for check in document["checks"]]
    journal.signed[2], journal.signed[3] = journal.signed[3], journal.signed[2]
    status, found, _ = verify(journal.write(record), "--seal", kept, capsys=capsys)
    assert status == 1
    assert found == [
        f"journal-continues: {kept}: its 5 entries are not the first of this journal any more"
    ]
    journal.signed = journal.signed[:4]
    _, found, _ = verify(journal.write(record), "--seal", kept, capsys=capsys)
    assert any(item.startswith("journal-continues: ") for item in found)


def test_certificates_that_are_not_at_hand_are_compared_by_serial(
    record: Path, journal: SignerJournal, capsys: pytest.CaptureFixture[str]
) -> None:
    (record / "summary.json").unlink()
    shutil.rmtree(record / "devices")
    shutil.rmtree(record / "receipts")
    status, found, document = verify(journal.write(record), capsys=capsys)
    assert (status, found) == (0, [])
    notes = [note for check in document["checks"] for note in check["notes"]]
    assert any(note.startswith("9 certificates were compared by serial alone") for note in notes)


def test_heads_of_lost_events_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Signed in the epoch before, over events that nobody has: the next epoch names their head."""
    ministry = busy_ministry()
    old, size = ministry.log, len(ministry.log.leaves)
    earlier = ministry.write(tmp_path / "earlier")
    journal = SignerJournal.of(ministry)
    lost = NaiveLog(old.origin)
    lost.leaves = [*old.leaves, b"{}", b"{}"]
    journal.head(size + 2, lost)
    ministry.log = NaiveLog("log.interior.example/2", old.key.private_bytes_raw())
    ministry.openings = {}
    previous = {"origin": old.origin, "size": size + 2, "root": wire.b64(bytes(32))}
    ministry.event(EventType.LOG_CONTINUED, SYSTEM, {}, detail={"previous": previous})
    for name in list(ministry.files):
        if name.startswith(("receipts/", "events/")):
            del ministry.files[name]
    journal.log, journal.now = ministry.log, ministry.now
    journal.head(1)
    record = journal.write(ministry.write(tmp_path / "record"))
    _, found, document = verify(record, "--earlier", earlier, capsys=capsys)
    assert not [item for item in found if item.startswith(("journal", "signatures"))]
    notes = [note for check in document["checks"] for note in check["notes"]]
    assert "1 heads cover events that an epoch lost" in notes
    journal.head(size + 3, lost)
    _, found, _ = verify(journal.write(record), "--earlier", earlier, capsys=capsys)
    assert any("a head of 28 leaves" in item for item in found)


def test_entries_from_before_times_were_kept(
    record: Path, journal: SignerJournal, ministry: Ministry, capsys: pytest.CaptureFixture[str]
) -> None:
    secret_certificate(journal, ministry)
    epoch = journal.now - timedelta(seconds=journal.now.timestamp())
    journal.rewrite(len(journal.signed), time=epoch)
    _, found, _ = verify(journal.write(record), capsys=capsys)
    assert "signed by people-1 at an unknown time" in found[0]
