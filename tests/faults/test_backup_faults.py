"""Backups and restores that are killed, or meet a full disk: whole, or not there."""

import asyncio
import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection

from kms.backup import archive, collect, examine, restore
from kms.backup.collect import SCRATCH
from kms.backup.errors import BackupError
from kms.config import load
from kms.services.ports import LedgerUnavailableError
from kms.storage import dialect, snapshot
from tests.support.backups import Kept, kept

Patch = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """A home that stands still; its files are all that a backup wants."""

    async def make() -> Kept:
        async with kept(tmp_path_factory.mktemp("founded")) as found:
            return found

    return asyncio.run(make())


@pytest.fixture
def made(founded: Kept, tmp_path: Path) -> Kept:
    """Another one like it."""
    shutil.copytree(founded.root, tmp_path, dirs_exist_ok=True)
    return replace(founded, root=tmp_path, settings=load(tmp_path / "home" / "kms.toml"))


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(work: Callable[[], object], patch: Patch) -> None:
    """Do it in a process that dies of kill -9 where the patch says."""
    child = os.fork()
    if child == 0:
        try:
            patch(pytest.MonkeyPatch())
            work()
        finally:
            os._exit(1)  # it should not have come here
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it was not killed"


def after(count: int, fault: Callable[[], object]) -> Callable[[Iterator[bytes]], Iterator[bytes]]:
    """So many pieces pass, then the fault."""

    def passing(pieces: Iterator[bytes]) -> Iterator[bytes]:
        for number, piece in enumerate(pieces):
            if number == count:
                fault()
            yield piece

    return passing


CREATING: dict[str, Patch] = {
    "before the ledger is copied": lambda m: m.setattr(snapshot, "copy", die),
    "before the signer's state is": lambda m: m.setattr(collect, "copy_signer", die),
    "with the ledger copied": lambda m: m.setattr(collect, "sha256_of", die),
    "at the first byte": lambda m: m.setattr(archive, "seal", die),
    "in the middle": lambda m: m.setattr(archive, "seal", dying_seal),
    "before it has its name": lambda m: m.setattr(archive, "show", die),
}


def dying_seal(key: bytes, plain: Iterator[bytes]) -> Iterator[bytes]:
    return after(2, die)(REAL_SEAL(key, plain))


REAL_SEAL = archive.seal


@pytest.mark.parametrize("moment", CREATING)
def test_a_killed_backup_is_none_and_the_next_one_is_whole(made: Kept, moment: str) -> None:
    killed(made.back_up, CREATING[moment])
    assert not (made.root / "backup").exists()
    for left in made.root.glob(".backup.*.part"):
        if moment == "before it has its name":
            archive.verify(left, made.shares)
            continue
        with pytest.raises(BackupError):
            archive.verify(left, made.shares)
    backup = made.back_up()
    archive.verify(backup, made.shares)
    assert list(made.settings.home.glob(f"{SCRATCH}*")) == []


RESTORING: dict[str, Patch] = {
    "before it is decrypted": lambda m: m.setattr(restore, "unpack", die),
    "before it is looked at": lambda m: m.setattr(restore, "examine", die),
    "before anything is in place": lambda m: m.setattr(restore, "_put_in_place", die),
    "with the ledger moved": lambda m: m.setattr(restore, "_move", die),
    "with the signer's state in place": lambda m: m.setattr(os, "sync", die),
    "with the home in place": lambda m: m.setattr(restore, "sync_directory", dying_sync),
}


def dying_sync(directory: Path) -> None:
    if (directory / "home" / "kms.toml").exists():
        die()


@pytest.mark.parametrize("moment", RESTORING)
def test_a_killed_restore_is_ended_by_the_same_command(made: Kept, moment: str) -> None:
    backup = made.back_up()
    killed(lambda: made.put_back(backup, "other"), RESTORING[moment])
    home = made.root / "other" / "home"
    if not home.exists():
        made.put_back(backup, "other")
        assert list(home.parent.glob(".*")) == []
    settings = restore.settings_of(unpacked(made, backup), home)
    assert settings.path.exists()
    assert (settings.data_dir / "restored.json").exists()
    directory = laid_out(settings.data_dir, settings.signer_state, made.root)
    found = examine.examine(directory, archive.show(backup).manifest)
    assert [item for item in found if not item.ok] == []


def unpacked(made: Kept, backup: Path) -> Path:
    archive.unpack(backup, made.shares, made.root / "unpacked")
    return made.root / "unpacked"


def laid_out(data: Path, signer: Path, root: Path) -> Path:
    """Ledger and signer's state as they lie in a backup."""
    directory = root / "laid-out"
    directory.mkdir()
    (data / "ledger.db").rename(directory / "ledger")
    signer.rename(directory / "signer")
    return directory


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_seal(key: bytes, plain: Iterator[bytes]) -> Iterator[bytes]:
    return after(2, full)(REAL_SEAL(key, plain))


def test_a_full_disk_leaves_nothing_of_a_backup(
    made: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(made.root.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(archive, "seal", full_seal)
        with pytest.raises(
            BackupError, match=r"could not be written: No space left.*nothing is left"
        ):
            made.back_up()
    with monkeypatch.context() as patch:
        patch.setattr(collect, "copy_signer", full)
        with pytest.raises(OSError, match="No space"):
            made.back_up()
    lock = made.settings.run_dir / "backup.lock"
    assert sorted(made.root.rglob("*")) == sorted({*before, lock})
    archive.verify(made.back_up(), made.shares)


def test_a_ledger_that_does_not_fit_is_said(made: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own word for a full disk, by a bound on what one of its files may have."""
    real = dialect.copy_into

    def bounded(connection: Connection, target: Path) -> None:
        connection.exec_driver_sql(f"ATTACH '{target}' AS full")
        connection.exec_driver_sql("PRAGMA full.max_page_count = 1")
        connection.exec_driver_sql("CREATE TABLE full.x AS SELECT * FROM events")
        real(connection, target)

    monkeypatch.setattr(dialect, "copy_into", bounded)
    with pytest.raises(LedgerUnavailableError, match=r"no copy of the ledger.*the disk is full"):
        made.back_up()
    assert list(made.settings.home.glob(f"{SCRATCH}*")) == []


def restored(place: Path) -> set[str]:
    """Files of home and signer's state."""
    names = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith(".") and not name.endswith("lock")}


SLOW = pytest.mark.slow
"""Renaming puts in place, and its faults are tried every time."""


@pytest.mark.parametrize(
    "call", ["rename", pytest.param("fsync", marks=SLOW), pytest.param("mkdir", marks=SLOW)]
)
def test_a_full_disk_leaves_nothing_of_a_restore(
    made: Kept, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The n-th call fails, for every n, until none does."""
    backup = made.back_up()
    made.put_back(backup, "whole")
    whole = restored(made.root / "whole")
    real = getattr(os, call)
    for number in range(1000):
        left = [number]

        def failing(*arguments: object, left: list[int] = left, **named: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                full()
            return real(*arguments, **named)

        place = f"place-{number}"
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            said = complaint(lambda place=place: made.put_back(backup, place))
        if not said:
            assert number > 0
            return
        assert "No space left" in said
        if not (made.root / place / "home" / "kms.toml").exists():
            made.put_back(backup, place)
        assert restored(made.root / place) == whole
    raise AssertionError("it never succeeded")


def complaint(work: Callable[[], object]) -> str:
    """What an error says, and the one that it came from; empty for none."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - every kind of it counts
        return f"{error} {error.__cause__}"
    return ""
