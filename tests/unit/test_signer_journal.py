"""The journal against torn, damaged and full files."""

import errno
import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hsm_drivers.errors import (
    StatementRefusedError,
    TokenFailureError,
    TokenUnavailableError,
)
from hsm_drivers.journal import MAX_BATCH, Intent, Journal, acceptable
from hsm_drivers.ports import KeyLabel, Purpose

SIZE = 192
NOW = 1_767_225_600


def intent(number: int) -> Intent:
    return Intent(KeyLabel("ca"), Purpose.CERTIFICATE, number.to_bytes(32, "big"), f"{number:x}")


def fill(path: Path, *batches: int) -> bytes:
    journal = Journal(path)
    number = journal.counter
    for size in batches:
        journal.append([intent(number + offset) for offset in range(size)], NOW)
        number += size
    journal.close()
    return path.read_bytes()


def reopened(path: Path) -> tuple[int, int]:
    journal = Journal(path)
    try:
        return journal.counter, journal.torn
    finally:
        journal.close()


def test_entries_come_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    assert len(fill(path, 3, 1, 2)) == 6 * SIZE
    journal = Journal(path)
    entries = journal.entries(0, 100)
    assert [entry.counter for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert [entry.digest for entry in entries] == [intent(n).digest for n in range(6)]
    assert [entry.reference for entry in entries] == [f"{n:x}" for n in range(6)]
    assert {entry.time for entry in entries} == {NOW}
    assert journal.entries(4, 1) == entries[4:5]
    assert journal.entries(6, 1) == journal.entries(99, 9) == journal.entries(0, 0) == []
    assert journal.entries(-1, 5) == journal.entries(0, -5) == []
    journal.close()
    assert path.stat().st_mode & 0o777 == 0o600


@given(keep=st.integers(0, 3 * SIZE))
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_last_batch_cut_anywhere_is_cut_off(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    data = fill(path, 4, 3)
    path.write_bytes(data[: 4 * SIZE + keep])
    assert reopened(path) == (4 + keep // SIZE, keep % SIZE)
    assert reopened(path) == (4 + keep // SIZE, 0)
    fill(path, 2)
    assert reopened(path) == (6 + keep // SIZE, 0)


@given(at=st.integers(0, 3 * SIZE - 1), value=st.integers(1, 255))
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damage_within_the_last_batch_cuts_from_there(tmp_path: Path, at: int, value: int) -> None:
    """Pages of one write may reach the disk in any order before power fails."""
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    data = bytearray(fill(path, 4, 3))
    data[4 * SIZE + at] ^= value
    path.write_bytes(data)
    counter, torn = reopened(path)
    assert counter == 4 + at // SIZE
    assert torn == (3 - at // SIZE) * SIZE


@given(at=st.integers(0, 4 * SIZE - 1), value=st.integers(1, 255))
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damage_before_the_last_batch_stops(tmp_path: Path, at: int, value: int) -> None:
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    data = bytearray(fill(path, 4, 3))
    data[at] ^= value
    path.write_bytes(data)
    with pytest.raises(TokenFailureError, match=f"entry {at // SIZE + 1} "):
        Journal(path)
    assert path.read_bytes() == data


def test_old_damage_is_found_on_reading(tmp_path: Path) -> None:
    """Only the last MAX_BATCH entries are looked at on opening."""
    path = tmp_path / "journal"
    data = bytearray(fill(path, 10, MAX_BATCH))
    data[0] ^= 1
    path.write_bytes(data)
    journal = Journal(path)
    assert len(journal.entries(1, MAX_BATCH)) == MAX_BATCH
    with pytest.raises(TokenFailureError, match="entry 1 "):
        journal.entries(0, 5)
    journal.close()


def test_a_foreign_file_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    fill(path, 5)
    data = path.read_bytes()
    path.write_bytes(data[SIZE:] + data[:SIZE])
    assert reopened(path) == (0, 5 * SIZE)


def test_a_batch_is_bounded(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    with pytest.raises(StatementRefusedError, match=str(MAX_BATCH)):
        journal.append([intent(0)] * (MAX_BATCH + 1), NOW)
    assert journal.counter == 0
    journal.close()


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_an_error_leaves_nothing_and_the_next_batch_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "journal"
    fill(path, 2)
    journal = Journal(path)

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(TokenUnavailableError, match="No space left"):
            journal.append([intent(9), intent(9), intent(9)], NOW)
    assert journal.counter == 2
    journal.append([intent(2)], NOW)
    assert [entry.digest for entry in journal.entries(0, 9)] == [
        intent(number).digest for number in range(3)
    ]
    journal.close()


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "journal")
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: whole(fd, data[:50], at))
    journal.append([intent(0), intent(1)], NOW)
    assert len(journal.entries(0, 9)) == 2
    journal.close()


def test_entries_from_before_times_were_kept(tmp_path: Path) -> None:
    """Their last eight bytes were the end of a longer reference, which nothing ever filled."""
    texts = (b"ca", b"certificate", b"2a" * 20)
    body = struct.pack(">QQ32s64s16s60s", 1, 1, bytes(32), *texts)
    (tmp_path / "journal").write_bytes(struct.pack(">I", zlib.crc32(body)) + body)
    journal = Journal(tmp_path / "journal")
    (entry,) = journal.entries(0, 9)
    assert (entry.reference, entry.time) == ("2a" * 20, 0)
    assert journal.signed_since(1) == {}
    journal.append([intent(7)], NOW)
    assert [entry.time for entry in journal.entries(0, 9)] == [0, NOW]
    journal.close()


def test_an_entry_damaged_under_the_signer_is_not_counted_as_another(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    fill(path, 3)
    journal = Journal(path)
    with path.open("r+b") as file:
        file.seek(SIZE + 52)
        file.write(b"\xff")
    with pytest.raises(TokenFailureError, match="damaged"):
        journal.signed_since(0)
    journal.close()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "journal").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TokenFailureError, match="cannot open"):
        Journal(tmp_path / "journal")


@pytest.mark.parametrize("reference", ["", "x" * 53, "ä", "a\0", "a\n"])
def test_references_that_do_not_fit(reference: str) -> None:
    assert not acceptable(reference)


def test_references_that_fit() -> None:
    assert acceptable("0" * 52)
