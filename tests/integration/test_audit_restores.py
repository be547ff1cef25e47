"""Recovery keys and restores in the log, judged by `kms-audit`."""

from pathlib import Path

import pytest

from kms.wire import EventType, b64
from tests.support.auditing import verify
from tests.support.ministry import SYSTEM, Ministry, busy_ministry
from tests.support.naive_log import leaf_hash, tree_hash

KEY = "ab" * 32


def registered(ministry: Ministry, **other: object) -> None:
    detail = {
        "recovery_key": KEY[:16],
        "algorithm": "MLKEM1024-P384",
        "public_key_sha256": KEY,
        "quorum": 2,
        "shares": 3,
    }
    ministry.event(EventType.RECOVERY_KEY_REGISTERED, SYSTEM, {}, detail=detail | other)


def root(ministry: Ministry, size: int) -> bytes:
    return tree_hash([leaf_hash(leaf) for leaf in ministry.log.leaves[:size]])


def restored(ministry: Ministry, size: int, root: bytes, **other: object) -> None:
    detail = {
        "backup": "00" * 16,
        "made": "2026-01-01T00:00:00Z",
        "origin": ministry.log.origin,
        "size": size,
        "root": b64(root),
    }
    ministry.event(EventType.SERVICE_RESTORED, SYSTEM, {}, detail=detail | other)


def found(ministry: Ministry, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    _, faults, _ = verify(ministry.write(folder / "record"), capsys=capsys)
    return [fault for fault in faults if fault.startswith("backups: ")]


@pytest.fixture
def ministry() -> Ministry:
    return busy_ministry()


def test_what_happened_in_order(
    ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registered(ministry)
    size = len(ministry.log.leaves)
    restored(ministry, size, root(ministry, size))
    restored(ministry, size - 3, root(ministry, size - 3))
    status, faults, document = verify(ministry.write(tmp_path / "record"), capsys=capsys)
    (check,) = [item for item in document["checks"] if item["check"] == "backups"]
    assert (status, faults) == (0, [])
    assert check["examined"] == 3
    assert f"of {size} events" in check["notes"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quorum": 1}, "needs no quorum"),
        ({"quorum": 4}, "needs no quorum"),
        ({"recovery_key": "cd" * 8}, "is not that of its hash"),
        ({"public_key_sha256": "ab" * 8}, "is not that of its hash"),
    ],
)
def test_a_recovery_key_that_cannot_be(
    ministry: Ministry,
    change: dict[str, object],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    registered(ministry, **change)
    (fault,) = found(ministry, tmp_path, capsys)
    assert message in fault


def test_a_recovery_key_is_registered_once(
    ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registered(ministry)
    registered(ministry)
    (fault,) = found(ministry, tmp_path, capsys)
    assert "again" in fault


def test_another_log_or_its_future_was_not_restored(
    ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = len(ministry.log.leaves)
    restored(ministry, size, bytes(32))
    restored(ministry, size + 2, root(ministry, size))
    restored(ministry, -1, root(ministry, 0))
    faults = found(ministry, tmp_path, capsys)
    messages = ("another log", "came after it", "came after it")
    assert [message in fault for fault, message in zip(faults, messages, strict=True)] == [True] * 3


def test_an_epoch_that_is_not_at_hand_is_said(
    ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    restored(ministry, 5, bytes(32), origin="log.interior.example/0")
    status, _, document = verify(ministry.write(tmp_path / "record"), capsys=capsys)
    (check,) = [item for item in document["checks"] if item["check"] == "backups"]
    assert status == 0
    assert "no record was given" in check["notes"][0]
