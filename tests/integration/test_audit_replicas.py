"""Replicas of keys and moves of the log's key, as `kms-audit` judges them."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from kms.wire import EventType
from tests.support.auditing import verify
from tests.support.ministry import SYSTEM, Ministry, busy_ministry

HELD = {"sensitive": True, "extractable": False, "wrap_with_trusted": False}


def born(ministry: Ministry) -> str:
    """SHA-256 of a key whose birth the log tells."""
    spki = b"a key of the ministry"
    digest = hashlib.sha256(spki).hexdigest()
    detail = {
        "label": "people-2",
        "algorithm": "ECDSA-P256",
        "purposes": ["certificate"],
        "protection": "token",
        "public_key_sha256": digest,
        "attributes": HELD,
    }
    ministry.event(EventType.KEY_GENERATED, SYSTEM, {}, detail=detail)
    return digest


def replicated(ministry: Ministry, digest: str, **other: Any) -> None:
    detail = {
        "label": "people-2",
        "public_key_sha256": digest,
        "token": "safe",
        "how": "maker",
        "attributes": HELD,
    }
    ministry.event(EventType.KEY_REPLICATED, SYSTEM, {}, detail=detail | other)


def moved(ministry: Ministry, digest: str) -> None:
    detail = {"label": "people-2", "public_key_sha256": digest, "token": "safe"}
    ministry.event(EventType.KEY_MOVED, SYSTEM, {}, detail=detail)


def found(ministry: Ministry, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    _, faults, _ = verify(ministry.write(folder / "record"), capsys=capsys)
    return faults


@pytest.fixture
def ministry() -> Ministry:
    return busy_ministry()


def test_what_is_as_it_should_be(
    ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = born(ministry)
    replicated(ministry, digest)
    transferable = {"sensitive": True, "extractable": True, "wrap_with_trusted": True}
    replicated(ministry, digest, token="other", how="transfer", attributes=transferable)
    moved(ministry, digest)
    health = {"token": "safe", "healthy": False}
    ministry.event(EventType.TOKEN_HEALTH, SYSTEM, {}, detail=health)
    assert found(ministry, tmp_path, capsys) == []


@pytest.mark.parametrize(
    "attributes",
    [
        {"sensitive": False, "extractable": False},
        {"sensitive": True, "extractable": True, "wrap_with_trusted": False},
        {"sensitive": True},
        {},
    ],
)
def test_a_replica_that_could_leave_its_token(
    attributes: dict[str, bool],
    ministry: Ministry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    replicated(ministry, born(ministry), attributes=attributes)
    (fault,) = found(ministry, tmp_path, capsys)
    assert "its replica on safe could leave that token" in fault


def test_a_key_that_was_never_born(
    ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replicated(ministry, "00" * 32)
    moved(ministry, "11" * 32)
    faults = found(ministry, tmp_path, capsys)
    assert len(faults) == 2
    assert all("of a key whose birth is not told" in fault for fault in faults)


def test_a_replica_without_a_word_of_how(
    ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replicated(ministry, born(ministry), how=None)
    faults = found(ministry, tmp_path, capsys)
    assert any("detail 'how' is missing or malformed" in fault for fault in faults)
