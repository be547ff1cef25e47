"""A backup is taken of a working service and put back: whole, nothing more, never over anything."""

import asyncio
import hashlib
import json
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from hsm_drivers.ports import Component, KeyLabel, KeySpec, Operation
from hsm_drivers.state import SignerState
from kms.backup import archive, collect, recovery
from kms.backup.collect import SCRATCH, gathered
from kms.backup.drill import drill
from kms.backup.errors import (
    BackupError,
    DamagedBackupError,
    RecoveryKeyError,
    RestoreRefusedError,
    SharesError,
)
from kms.backup.examine import examine
from kms.backup.format import FileEntry
from kms.backup.marker import NAME, log_restore
from kms.backup.recovery import generate
from kms.backup.restore import Evidence
from kms.backup.signer_copy import key_entry, records_of
from kms.config import ConfigError, load
from kms.domain.records import Epoch, Event, EventId, EventOpenings, TenantId
from kms.services.head_signer import LogRolledBackError
from kms.services.heads import newest_signed
from kms.services.ports import Delete, Insert
from kms.storage import migrate
from kms.storage.sql import SqlLedger
from kms.tlog.notes import NoteSignature, VerifierKey, format_note
from kms.wire import EventType
from policies.decisions import Protection
from policies.policy import shipped
from tests.support.backups import NOW, SECRETS, Kept, kept
from tests.support.flow import enrol, new_device
from tests.support.services import OFFICER, TENANT

pytestmark = pytest.mark.anyio

WRAPPED = KeySpec(
    KeyLabel(f"s-{'ab' * 16}-1"),
    "ML-KEM-768",
    (),
    {},
    operations=(Operation.DECAPSULATE,),
    components=(Component("ML-KEM-768", Protection.WRAPPED),),
)
"""A key that a backup carries whole, wrapped."""


async def one_more(made: Kept, name: str = "ada") -> None:
    """Something happens."""
    await enrol(made.world, new_device(made.world, name, f"phone-of-{name}"))


def checkpoint(made: Kept) -> bytes:
    """The newest one, as the public listener has it."""
    head = made.world.ledger.head()
    assert head is not None
    signed = newest_signed(made.world.ledger, head.log)
    assert signed is not None
    return signed.note


def tree_of(directory: Path) -> dict[str, str]:
    """Digest of every file."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


async def test_a_restored_service_goes_on_where_the_backup_was_taken(tmp_path: Path) -> None:
    async with kept(tmp_path) as made:
        await one_more(made)
        await made.world.signer.generate(WRAPPED)
        done = made.put_back(made.back_up(), "other")
        head = made.world.ledger.head()
        assert head is not None
        assert (done.manifest.log.size, done.manifest.log.root) == (head.size, head.root)
        assert (done.kept_signer, done.loss) == (False, "")
        async with made.started("other") as services:
            ledger = services.core.ledger
            restored, own = await services.core.signer.keys(), await made.world.signer.keys()
            assert set(map(key_entry, restored)) == set(map(key_entry, own))
            (event,) = ledger.find(Event, type=EventType.SERVICE_RESTORED.value)
            assert event.index == head.size
            detail = json.loads(event.leaf)["detail"]
            assert (detail["size"], detail["backup"]) == (head.size, done.manifest.id)
            assert not (done.settings.data_dir / NAME).exists()
            assert ledger.find(Event, order=("log", "index"), limit=head.size) == (
                made.world.ledger.find(Event, order=("log", "index"), limit=head.size)
            )


async def test_a_restore_is_logged_once_though_the_marker_stayed(tmp_path: Path) -> None:
    """A crash between the event and the removal of its marker."""
    async with kept(tmp_path) as made:
        done = made.put_back(made.back_up(), "other")
        marker = (done.settings.data_dir / NAME).read_bytes()
        async with made.started("other") as services:
            (done.settings.data_dir / NAME).write_bytes(marker)
            assert await log_restore(services.core, done.settings.data_dir)
            assert not await log_restore(services.core, done.settings.data_dir)
            kinds = services.core.ledger.find(Event, type=EventType.SERVICE_RESTORED.value)
            assert len(kinds) == 1
            (done.settings.data_dir / NAME).write_bytes(b"{}")
            with pytest.raises(BackupError, match="damaged"):
                await log_restore(services.core, done.settings.data_dir)


async def test_wrapped_keys_come_back_and_the_others_are_named(tmp_path: Path) -> None:
    async with kept(tmp_path) as made:
        await made.world.signer.generate(WRAPPED)
        backup = made.back_up()
        manifest = archive.show(backup).manifest
        (token,) = manifest.tokens
        carried = {key.label: key.wrapped for key in token.keys}
        assert carried == {
            "log-1": False,
            "root-1": False,
            "people-1": False,
            "infrastructure-1": False,
            WRAPPED.label: True,
        }
        (sentence,) = [item for item in manifest.absent if item.startswith("token main")]
        needed = ["log-1", "root-1", "people-1", "infrastructure-1", *token.wrapping]
        assert sentence.endswith(", ".join(needed))
        assert len(token.wrapping) == 1
        done = made.put_back(backup, "other")
        with SignerState(done.settings.signer_state) as state:
            (record,) = [item for item in records_of(state) if item.label == WRAPPED.label]
        assert record.components[0].wrapped


async def test_no_secret_of_the_machine_is_in_it(tmp_path: Path) -> None:
    async with kept(tmp_path) as made:
        names = []

        def look(entry: FileEntry, pieces: Iterator[bytes]) -> None:
            names.append(entry.name)
            content = b"".join(pieces)
            assert not [name for name, secret in SECRETS.items() if secret in content]

        backup = made.back_up()
        archive.read(backup, made.shares, look)
        assert {name.partition("/")[0] for name in names} == {"ledger", "home", "signer"}
        assert {name for name in names if name.startswith("home/")} == {
            "home/kms.toml",
            "home/trust.pem",
            f"home/recovery/{made.key.public.id}.json",
        }
        assert backup.stat().st_mode & 0o777 == 0o600
        plain = made.settings.path.read_bytes()[:200]
        assert plain not in backup.read_bytes()


@pytest.mark.parametrize("place", ["policies/own.toml", "../own.toml"])
async def test_a_policy_of_ones_own(tmp_path: Path, place: str) -> None:
    """Below the home it is in the backup; elsewhere the backup says that it is not."""
    async with kept(tmp_path) as made:
        path = made.settings.home / place
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(shipped().source)
        text = made.settings.path.read_text()
        text, found = re.subn(r"(?m)^# policy = .*$", f'policy = "{place}"', text)
        assert found == 1
        made.settings.path.write_text(text)
        with gathered(load(made.settings.path), [made.key.public], NOW) as got:
            names = [entry.name for entry in got.manifest.files]
            outside = [item for item in got.manifest.absent if "own.toml" in item]
        assert ("home/policies/own.toml" in names) == (place == "policies/own.toml")
        assert bool(outside) == (place == "../own.toml")


async def test_what_was_erased_is_not_in_it(tmp_path: Path) -> None:
    """SQLite keeps deleted rows in its file for a while; the copy has the living ones alone."""
    async with kept(tmp_path) as made:
        gone = EventOpenings(TENANT, EventId("00" * 16), ({"value": "grace.of.the.vanished"},))
        made.world.ledger.reserve([Insert(gone)])
        made.world.ledger.reserve([Delete(gone)])
        kept_by_sqlite = b"".join(
            path.read_bytes() for path in made.settings.data_dir.glob("ledger.db*")
        )
        assert b"grace.of.the.vanished" in kept_by_sqlite
        with gathered(made.settings, [made.key.public], NOW) as found:
            assert b"grace.of.the.vanished" not in (found.directory / "ledger").read_bytes()


@pytest.mark.slow
async def test_taken_under_load_it_is_of_one_moment(tmp_path: Path) -> None:
    """Whatever happens meanwhile: the copy of the signer's memory is never behind the ledger's."""
    async with kept(tmp_path) as made:
        stop = threading.Event()
        backups: list[Path] = []

        def take() -> None:
            try:
                backups.extend(made.back_up(f"backup-{number}") for number in range(2))
            finally:
                stop.set()

        thread = threading.Thread(target=take)
        thread.start()
        count = 0
        while not stop.is_set():
            await one_more(made, f"user-{count}")
            count += 1
        await asyncio.to_thread(thread.join)
        assert count > 1
        assert len(backups) == 2
        for number, backup in enumerate(backups):
            done = made.put_back(backup, f"place-{number}")
            with SignerState(done.settings.signer_state) as state:
                (remembered,) = [head for head in state.heads() if head.origin.endswith("/1")]
            assert remembered.size >= newest_size(done.settings.database_url)
            assert bool(done.loss) == (remembered.size > done.manifest.log.size)
            proven = drill(backup, made.shares, made.settings, tmp_path)
            assert proven.ok, proven.findings


async def test_the_journal_is_copied_first_and_the_last_heads_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is signed meanwhile may be missing in the journal's copy, never in the memory's."""
    async with kept(tmp_path):
        copied: list[str] = []
        monkeypatch.setattr(collect, "_copy_file", lambda name, _fd, _to: copied.append(name))
        collect.copy_signer(tmp_path / "signer", tmp_path / "copy")
        assert (copied[0], copied[-1]) == ("journal", "heads.json")
        assert "lock" not in copied


def named(directory: Path, prefix: str) -> list[Path]:
    """What lies there under such a name."""
    return [path for path in directory.iterdir() if path.name.startswith(prefix)]


def newest_size(url: str) -> int:
    """Of the newest signed head."""
    ledger = SqlLedger(url)
    (epoch,) = ledger.find(Epoch)
    signed = newest_signed(ledger, epoch.log)
    ledger.close()
    assert signed is not None
    return signed.size


class TestEvidence:
    """What is known of the log's growth is never wound back."""

    async def test_without_any_nothing_is_restored(self, tmp_path: Path) -> None:
        async with kept(tmp_path) as made:
            backup = made.back_up()
            with pytest.raises(RestoreRefusedError, match="--seen-checkpoint"):
                made.put_back(backup, "other", Evidence({}, none_later=False))
            assert not (tmp_path / "other" / "home").exists()
            assert list((tmp_path / "other").iterdir()) == []

    async def test_a_newer_checkpoint_ends_the_epoch(self, tmp_path: Path) -> None:
        async with kept(tmp_path) as made:
            backup = made.back_up()
            await one_more(made)
            done = made.put_back(backup, "other", Evidence({"seen": checkpoint(made)}, False))
            assert re.search(r": [1-9]\d* are lost", done.loss)
            with pytest.raises(LogRolledBackError, match=r"kms log new-epoch"):
                async with made.started("other"):
                    pass

    async def test_the_backups_own_checkpoint_is_no_loss(self, tmp_path: Path) -> None:
        async with kept(tmp_path) as made:
            older = checkpoint(made)
            await one_more(made)
            seen = {"older": older, "same": checkpoint(made)}
            done = made.put_back(made.back_up(), "other", Evidence(seen, False))
            assert done.loss == ""
            async with made.started("other"):
                pass

    async def test_a_checkpoint_of_the_next_epoch_is_remembered(self, tmp_path: Path) -> None:
        async with kept(tmp_path) as made:
            backup = made.back_up()
            note = await signed(made, "log.test.example/2\n1\n" + "A" * 43 + "=\n")
            done = made.put_back(backup, "other", Evidence({"seen": note}, False))
            assert "log.test.example/2" in done.loss
            with SignerState(done.settings.signer_state) as state:
                assert [head.origin[-2:] for head in state.heads()] == ["/1", "/2"]

    async def test_what_is_no_checkpoint_of_the_log(self, tmp_path: Path) -> None:
        async with kept(tmp_path) as made:
            backup, note = made.back_up(), checkpoint(made)
            other = note.replace(b"log.test.example/1\n", b"log.other/1\n", 1)
            more = note.replace(b"\n\n", b"\nextension\n\n", 1)
            for changed in (other, more, note[:-10], b"", b"\xff"):
                message = "another log" if changed == other else "not a checkpoint"
                with pytest.raises(RestoreRefusedError, match=f"that file: .*{message}"):
                    made.put_back(backup, "other", Evidence({"that file": changed}, False))

    async def test_a_checkpoint_of_another_history(self, tmp_path: Path) -> None:
        """The log's key signed it, and yet the backup's log never was so."""
        async with kept(tmp_path) as made:
            note = await signed(made, "log.test.example/1\n5\n" + "A" * 43 + "=\n")
            with pytest.raises(RestoreRefusedError, match="one of the two is forged"):
                made.put_back(made.back_up(), "other", Evidence({"seen": note}, False))

    async def test_the_signers_state_of_this_machine_stays(self, tmp_path: Path) -> None:
        async with kept(tmp_path) as made:
            backup = made.back_up()
            await one_more(made)
            shutil.copytree(tmp_path / "signer", tmp_path / "other" / "signer")
            before = tree_of(tmp_path / "other" / "signer")
            done = made.put_back(backup, "other", Evidence({}, none_later=False))
            assert done.kept_signer
            assert re.search(r": [1-9]\d* are lost", done.loss)
            assert tree_of(tmp_path / "other" / "signer") == before

    async def test_a_seen_checkpoint_is_told_to_a_state_that_stays(self, tmp_path: Path) -> None:
        async with kept(tmp_path) as made:
            backup = made.back_up()
            shutil.copytree(tmp_path / "signer", tmp_path / "other" / "signer")
            await one_more(made)
            done = made.put_back(backup, "other", Evidence({"seen": checkpoint(made)}, False))
            assert done.kept_signer
            assert done.loss

    async def test_an_older_state_or_anothers_is_not_written_over(self, tmp_path: Path) -> None:
        async with kept(tmp_path) as made:
            shutil.copytree(tmp_path / "signer", tmp_path / "older" / "signer")
            await one_more(made)
            backup = made.back_up()
            with SignerState(tmp_path / "foreign" / "signer"):
                pass
            for place in ("older", "foreign"):
                before = tree_of(tmp_path / place / "signer")
                with pytest.raises(RestoreRefusedError, match="move it away"):
                    made.put_back(backup, place)
                assert tree_of(tmp_path / place / "signer") == before
                assert not (tmp_path / place / "home").exists()


async def signed(made: Kept, body: str) -> bytes:
    """A note by the log's key, past all the signer's rules: a stolen key could."""
    core = made.world.signer._core
    signature = core._tokens.driver("").sign(KeyLabel("log-1"), body.encode())
    own = VerifierKey.parse(made.world.report.vkey)
    origin = body.splitlines()[0]
    vkey = VerifierKey(origin, own.type, own.public)
    return format_note(body.encode(), [NoteSignature(origin, vkey.key_id, signature)])


class TestRefusals:
    async def test_a_home_that_is_in_use(self, tmp_path: Path) -> None:
        async with kept(tmp_path) as made:
            backup = made.back_up()
            for place in ("full", "file", "link"):
                (tmp_path / place).mkdir()
            (tmp_path / "full" / "home").mkdir()
            (tmp_path / "full" / "home" / "mine").write_text("x")
            (tmp_path / "file" / "home").write_text("x")
            (tmp_path / "link" / "home").symlink_to(tmp_path / "elsewhere")
            for place in ("full", "file", "link"):
                with pytest.raises(RestoreRefusedError, match="never writes over"):
                    made.put_back(backup, place)
            (tmp_path / "empty" / "home").mkdir(parents=True)
            assert made.put_back(backup, "empty").settings.path.exists()

    async def test_a_recovery_key_that_nobody_registered(self, tmp_path: Path) -> None:
        async with kept(tmp_path) as made:
            slipped = generate(shipped(), 2, 2, NOW).public
            with (
                pytest.raises(RecoveryKeyError, match=f"not registered recovery key {slipped.id}"),
                gathered(made.settings, [made.key.public, slipped], NOW),
            ):
                pass

    async def test_a_file_that_exists(self, tmp_path: Path) -> None:
        async with kept(tmp_path) as made:
            (tmp_path / "backup").write_text("precious")
            with pytest.raises(BackupError, match="never written over"):
                made.back_up()
            assert (tmp_path / "backup").read_text() == "precious"

    async def test_two_backups_at_a_time(self, tmp_path: Path) -> None:
        async with kept(tmp_path) as made:
            with (
                gathered(made.settings, [made.key.public], NOW),
                pytest.raises(BackupError, match="another backup"),
            ):
                made.back_up()
            assert named(made.settings.home, SCRATCH) == []
            made.back_up()

    async def test_the_schema_of_a_newer_program(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with kept(tmp_path) as made:
            monkeypatch.setattr(migrate, "current", lambda _: "9999")
            backup = made.back_up()
            with pytest.raises(DamagedBackupError, match=r"schema: '9999' is a newer program's"):
                made.put_back(backup, "other")

    async def test_wrong_shares(self, tmp_path: Path) -> None:
        async with kept(tmp_path) as made:
            backup = made.back_up()
            other = generate(shipped(), 2, 2, NOW)
            shares = {"one": made.key.shares[0], "two": other.shares[1]}
            with pytest.raises(SharesError, match="two: a share of recovery key"):
                archive.verify(backup, shares)


class TestForged:
    """Whoever has the public half of a recovery key can make a backup. It must still hold."""

    async def forged(self, made: Kept, change: Callable[[Path], object]) -> Path:
        """A backup whose content was changed before it was sealed; all its digests are right."""
        real = collect.copy_signer

        def copy_and_change(source: Path, target: Path) -> None:
            real(source, target)
            change(target.parent)

        collect.copy_signer = copy_and_change
        try:
            return made.back_up("forged")
        finally:
            collect.copy_signer = real

    async def test_an_event_that_was_changed(self, tmp_path: Path) -> None:
        def change(directory: Path) -> None:
            database = sqlite3.connect(directory / "ledger")
            with database:
                database.execute("update events set leaf = cast('{}' as blob) where \"index\" = 3")
            database.close()

        async with kept(tmp_path) as made:
            backup = await self.forged(made, change)
            with pytest.raises(DamagedBackupError, match="entry 3"):
                made.put_back(backup, "other")
            proven = drill(backup, made.shares, None, tmp_path)
            assert not proven.ok
            assert [item.name for item in proven.findings] == ["ledger"]

    async def test_a_head_that_the_logs_key_did_not_sign(self, tmp_path: Path) -> None:
        def change(directory: Path) -> None:
            database = sqlite3.connect(directory / "ledger")
            with database:
                ((size, note),) = database.execute(
                    "select size, note from checkpoints where length(note) > 0"
                    " order by size desc limit 1"
                )
                at = note.rindex(b" ") + 10
                forged = note[:at] + (b"B" if note[at : at + 1] == b"A" else b"A") + note[at + 1 :]
                database.execute("update checkpoints set note = ? where size = ?", (forged, size))
            database.close()

        async with kept(tmp_path) as made:
            backup = await self.forged(made, change)
            with pytest.raises(DamagedBackupError, match="its checkpoint is not the log's"):
                made.put_back(backup, "other")

    async def test_rows_beside_the_log_are_found_by_the_drill(self, tmp_path: Path) -> None:
        def change(directory: Path) -> None:
            database = sqlite3.connect(directory / "ledger")
            with database:
                database.execute(
                    "update crls set der = (select der from crls where authority = 'root')"
                    " where authority = 'people'"
                )
            database.close()

        async with kept(tmp_path) as made:
            proven = drill(await self.forged(made, change), made.shares, None, tmp_path)
            (failed,) = [item for item in proven.findings if not item.ok]
            assert failed.name == "audit"
            assert "ca/people.crl" in failed.detail

    async def test_a_key_record_that_was_left_out(self, tmp_path: Path) -> None:
        def change(directory: Path) -> None:
            path = directory / "signer" / "keys.json"
            document = json.loads(path.read_bytes())
            document["keys"] = [key for key in document["keys"] if key["label"] != "root-1"]
            path.write_text(json.dumps(document))

        async with kept(tmp_path) as made:
            backup = await self.forged(made, change)
            with pytest.raises(DamagedBackupError, match=r"no such records: root-1"):
                made.put_back(backup, "other")

    async def test_settings_that_are_none(self, tmp_path: Path) -> None:
        async with kept(tmp_path) as made:
            made.settings.path.write_text("not = [toml")
            backup = made.back_up()
            with pytest.raises(ConfigError, match="not TOML"):
                made.put_back(backup, "other")
            assert not (tmp_path / "other" / "home").exists()


async def test_a_manifest_that_says_something_else(tmp_path: Path) -> None:
    """Its digests hold, and yet it is not of what was unpacked."""
    async with kept(tmp_path) as made:
        manifest = archive.unpack(made.back_up(), made.shares, tmp_path / "unpacked")
        changed = msgspec.structs.replace
        smaller = changed(manifest.log, size=manifest.log.size - 1)
        unsigned = changed(manifest.log, checkpoint=manifest.log.checkpoint + "x")
        for told, name in (
            (changed(manifest, tokens=()), "references"),
            (changed(manifest, log=smaller), "log"),
            (changed(manifest, log=unsigned), "log"),
        ):
            found = examine(tmp_path / "unpacked", told)
            assert [item.name for item in found if not item.ok] == [name]
        assert all(item.ok for item in examine(tmp_path / "unpacked", manifest))


class TestDrill:
    async def test_a_good_backup(self, tmp_path: Path) -> None:
        async with kept(tmp_path) as made:
            backup = made.back_up()
            same = drill(backup, made.shares, made.settings, tmp_path)
            await one_more(made)
            grown = drill(backup, made.shares, made.settings, tmp_path)
            alone = drill(backup, made.shares, None, tmp_path)
        assert [item.name for item in same.findings] == [
            *("ledger", "log", "references", "keys", "audit", "compare", "journal")
        ]
        assert same.ok
        assert grown.ok
        assert alone.ok
        told = [found.detail for done in (same, grown) for found in done.findings]
        assert any("same head" in detail for detail in told)
        assert any(re.search(r"grew from the backup's, by [1-9]", detail) for detail in told)
        assert set(same.seconds) == {"decrypt", "examine", "audit", "compare", "total"}
        assert named(tmp_path, "kms-drill-") == []

    async def test_a_home_that_lost_events_or_is_another(self, tmp_path: Path) -> None:
        async with kept(tmp_path) as made:
            old = made.back_up("old")
            await one_more(made)
            new = made.back_up("new")
            done = made.put_back(old, "other")
            lost = drill(new, made.shares, done.settings, tmp_path)
            async with made.started("other") as services:
                for name in ("one", "two", "three", "four"):
                    request = made.world.call("tenants", name, who=OFFICER)
                    await services.principals.add_tenant(request, TenantId(name), f"{name}.example")
            forked = drill(new, made.shares, done.settings, tmp_path)
        assert not lost.ok
        assert "the home lost events" in str(lost.findings)
        assert not forked.ok
        assert "does not begin with" in str(forked.findings)
        assert "did not grow from the backup's" in str(forked.findings)


async def test_a_large_ledger_is_never_in_memory_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece is on its way to the disk before the next one is made."""
    async with kept(tmp_path) as made:
        sizes = []

        def pieces(_key: bytes, _plain: Iterator[bytes]) -> Iterator[bytes]:
            for _ in range(5):
                yield bytes(1 << 20)
                (partial,) = named(tmp_path, ".backup.")
                sizes.append(partial.stat().st_size)

        monkeypatch.setattr(archive, "seal", pieces)
        with pytest.raises(BackupError):  # that was no backup
            made.back_up()
        assert [size >> 20 for size in sizes] == [1, 2, 3, 4, 5]


async def test_a_file_that_changed_while_it_was_read(tmp_path: Path) -> None:
    """The manifest is written first: what it promises of a file is what must come."""
    async with kept(tmp_path) as made:
        keys = [made.key.public]
        with gathered(made.settings, keys, NOW) as found:
            (found.directory / "home" / "trust.pem").write_text("ANCHOR")
            archive.write(found, keys, tmp_path / "backup")
        with pytest.raises(DamagedBackupError, match=r"home/trust\.pem is not what the manifest"):
            archive.verify(tmp_path / "backup", made.shares)


def test_content_that_ends_early_or_goes_on() -> None:
    content = archive._Content(iter([b"abc", b"de"]))
    assert b"".join(content.take(4)) == b"abcd"
    with pytest.raises(DamagedBackupError, match="goes on"):
        content.end()
    with pytest.raises(DamagedBackupError, match="ends before"):
        list(content.take(2))


async def test_read_reads_what_was_gathered(tmp_path: Path) -> None:
    """Byte for byte, in pieces."""
    async with kept(tmp_path) as made:
        keys = [made.key.public]
        with gathered(made.settings, keys, NOW) as found:
            archive.write(found, keys, tmp_path / "backup")
            told = tree_of(found.directory)
        archive.unpack(tmp_path / "backup", made.shares, tmp_path / "unpacked")
        assert tree_of(tmp_path / "unpacked") == told
        keys = recovery.read_all(tmp_path / "unpacked" / "home" / "recovery")
        assert keys == [made.key.public]
