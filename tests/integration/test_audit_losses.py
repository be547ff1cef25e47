"""`kms-audit` where a ledger lost events that the auditor has a record of."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from kms import wire
from kms.audit.epochs import Epoch, surviving
from kms.audit.names import Names
from kms.audit.tree import Tree
from kms.tlog.notes import VerifierKey, vkey
from kms.wire import EventType
from tests.support.auditing import verify
from tests.support.ministry import SYSTEM, busy_ministry
from tests.support.naive_log import NaiveLog, leaf_hash, tree_hash


class Losing:
    """A ministry whose ledger lost its last events: a device enrolled, and another one revoked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ministry = ministry = busy_ministry()
        self.kept = len(ministry.log.leaves)
        revoked = {name: list(entries) for name, entries in ministry.revoked.items()}
        ministry.enrol("bob", "bob-watch", {"identity": "ECDSA-P256"})
        self.serial = ministry.devices["bob-watch"][1][0].serial
        ministry.revoke(EventType.DEVICE_REVOKED, ["bob-phone"])
        self.earlier = ministry.write(folder / "earlier")
        ministry.revoked = revoked
        for name in [name for name in ministry.files if "bob-watch" in name]:
            del ministry.files[name]

    def head(self, size: int) -> dict[str, Any]:
        log = self.ministry.log
        root = tree_hash([leaf_hash(leaf) for leaf in log.leaves[:size]])
        return {"origin": log.origin, "size": size, "root": wire.b64(root)}

    def go_on(self, **kept: Any) -> None:
        """The next epoch begins."""
        ministry = self.ministry
        detail = {
            "previous": self.head(len(ministry.log.leaves)),
            "kept": self.head(self.kept) | kept,
        }
        ministry.log = NaiveLog("log.interior.example/2", ministry.log.key.private_bytes_raw())
        ministry.openings = {}
        ministry.files = {
            name: data for name, data in ministry.files.items() if not name.startswith("events/")
        }
        ministry.event(EventType.LOG_CONTINUED, SYSTEM, {}, detail=detail)

    def find_orphan(self) -> None:
        self.ministry.orphan("people", int(self.serial, 16))

    def revoke_again(self) -> None:
        self.ministry.revoke(EventType.DEVICE_REVOKED, ["bob-phone"])

    def verify(self, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], list[str]]:
        """Failures and notes."""
        self.ministry.publish_all()
        record = self.ministry.write(self.folder / "record")
        (record / "summary.json").unlink()
        _, found, document = verify(record, "--earlier", self.earlier, capsys=capsys)
        return found, [note for check in document["checks"] for note in check["notes"]]


@pytest.fixture
def losing(tmp_path: Path) -> Losing:
    return Losing(tmp_path)


def test_lost_events_are_not_gone_on_from(
    losing: Losing, capsys: pytest.CaptureFixture[str]
) -> None:
    """The device may be enrolled anew, under new keys; CRLs go on with higher numbers."""
    losing.go_on()
    losing.find_orphan()
    losing.revoke_again()
    losing.ministry.enrol("bob", "bob-watch", {"identity": "ECDSA-P256"})
    found, notes = losing.verify(capsys)
    assert found == []
    assert "2 events of the record were lost by a later epoch" in notes


@pytest.mark.parametrize(
    ("mend", "message"),
    [
        (Losing.revoke_again, "was given out by this event, which was lost, and is not revoked"),
        (Losing.find_orphan, "was revoked by this event, which was lost, and is not revoked"),
    ],
    ids=["issued", "revoked"],
)
def test_what_lost_events_did_is_made_good(
    losing: Losing,
    capsys: pytest.CaptureFixture[str],
    mend: Callable[[Losing], None],
    message: str,
) -> None:
    losing.go_on()
    mend(losing)
    found, _ = losing.verify(capsys)
    (failure,) = found
    assert failure.startswith("history: event -")
    assert failure.endswith(message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"root": wire.b64(bytes(32))}, "keeps other 25 events of 'log.interior.example/1' than"),
        ({"origin": "log.elsewhere/1"}, "keeps events of 'log.elsewhere/1', of which no record"),
    ],
)
def test_what_was_kept_is_the_beginning_of_what_was_there(
    losing: Losing, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    losing.go_on(**change)
    losing.find_orphan()
    losing.revoke_again()
    found, _ = losing.verify(capsys)
    assert any(item.startswith(f"beginnings: event 0: {message}") for item in found), found


def epoch(number: int, offset: int, size: int, kept: tuple[int, int] | None = None) -> Epoch:
    """An epoch of `size` events; the first says how much of which epoch was kept."""
    origin = f"log.interior.example/{number}"
    detail = kept and {"kept": {"origin": f"log.interior.example/{kept[0]}", "size": kept[1]}}
    kind = EventType.LOG_CONTINUED if kept else EventType.LOG_OPENED
    now = datetime(2026, 11, 22, tzinfo=UTC)
    leaf = wire.Leaf(
        event="0" * 32, type=kind, time=now, origin=origin, commitments={}, detail=detail
    )
    public = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    return Epoch(
        checks=(),
        vkey=None,
        key=VerifierKey.parse(vkey(origin, public)),
        head=None,
        leaves=[],
        tree=Tree.of([]),
        events=dict.fromkeys(range(offset, offset + size), leaf),
        names=Names({}),
        offset=offset,
    )


def test_a_copy_from_before_a_loss_has_again_what_was_lost() -> None:
    first, second = epoch(1, -8, 5), epoch(2, -3, 3, (1, 2))
    kept, lost = surviving([first, second])
    assert (sorted(kept), sorted(lost)) == ([-8, -7, -3, -2, -1], [-6, -5, -4])
    for_second, for_first = epoch(3, 0, 2, (2, 1)), epoch(3, 0, 2, (1, 4))
    assert sorted(surviving([first, second, for_second])[0]) == [-8, -7, -3, 0, 1]
    kept, lost = surviving([first, second, for_first])
    assert (sorted(kept), sorted(lost)) == ([-8, -7, -6, -5, 0, 1], [-4, -3, -2, -1])
    assert surviving([first, epoch(2, -3, 3)])[1] == {}
