"""What may be missing from a certificate revocation list, and why."""

from datetime import timedelta
from pathlib import Path

import pytest

from kms import wire
from kms.wire import EventType
from tests.support.auditing import Misdeed, relog, verify
from tests.support.ministry import Ministry, busy_ministry


def test_expired_certificates_may_leave_the_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ministry = busy_ministry()
    ministry.now += timedelta(days=91)
    ministry.revoked["people"] = [
        item for item in ministry.revoked["people"] if item[2] == "cessation-of-operation"
    ]
    ministry.publish_all()
    status, found, _ = verify(ministry.write(tmp_path / "record"), capsys=capsys)
    assert (status, found) == (0, [])


def test_orphans_leave_the_list_after_ten_years(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ministry = busy_ministry()
    ministry.now += timedelta(days=3650)
    ministry.revoked["people"].clear()
    ministry.publish_all()
    status, found, _ = verify(ministry.write(tmp_path / "record"), capsys=capsys)
    assert (status, found) == (0, [])


def revoked_now(ministry: Ministry) -> None:
    """After the newest list."""
    ministry.revoke(EventType.DEVICE_REVOKED, ["bob-phone"])


def revoked_meanwhile(ministry: Ministry) -> None:
    """While the list is being made: before its event, but after its entries were gathered."""
    made = ministry.now + timedelta(seconds=3)
    ministry.revoke(EventType.DEVICE_REVOKED, ["bob-phone"])
    late = ministry.revoked["people"].pop()
    logged, ministry.now = ministry.now, made
    ministry.publish("people")
    ministry.revoked["people"].append(late)
    relog(ministry, -1, lambda _: {"time": wire.timestamp(logged)})


def revoked_in_the_same_second(ministry: Ministry) -> None:
    ministry.revoke(EventType.DEVICE_REVOKED, ["bob-phone"])
    late = ministry.revoked["people"].pop()
    ministry.publish("people")
    ministry.revoked["people"].append(late)


@pytest.mark.parametrize("how", [revoked_now, revoked_meanwhile, revoked_in_the_same_second])
def test_a_revocation_younger_than_the_list_is_told_and_no_failure(
    how: Misdeed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ministry = busy_ministry()
    how(ministry)
    status, found, document = verify(ministry.write(tmp_path / "record"), capsys=capsys)
    assert (status, found) == (0, [])
    notes = [note for check in document["checks"] for note in check["notes"]]
    assert "ca/people.crl: 1 revocations, younger than the list, not yet on a list" in notes


def test_an_orphan_with_a_short_serial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ministry = busy_ministry()
    ministry.orphan("people", 0x0DECAF)
    ministry.publish_all()
    status, found, _ = verify(ministry.write(tmp_path / "record"), capsys=capsys)
    assert (status, found) == (0, [])
