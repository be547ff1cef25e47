"""`kms backup` and `kms restore` as people and scripts meet them."""

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kms.cli.main import run
from kms.config import load
from tests.support.backups import Kept, kept


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    async def make() -> Kept:
        async with kept(tmp_path_factory.mktemp("founded")) as found:
            return found

    return asyncio.run(make())


@pytest.fixture
def made(founded: Kept, tmp_path: Path) -> Kept:
    shutil.copytree(founded.root, tmp_path, dirs_exist_ok=True)
    for share in founded.key.shares:
        (tmp_path / f"share-{share.number}").write_text(share.text())
    return replace(founded, root=tmp_path, settings=load(tmp_path / "home" / "kms.toml"))


class Console:
    def __init__(self, made: Kept, capsys: pytest.CaptureFixture[str]) -> None:
        self.made, self._capsys = made, capsys
        self.backup = made.root / "backup"

    def __call__(self, *words: object, status: int = 0) -> tuple[str, str]:
        """Output and errors of a command that ends with that status."""
        self._capsys.readouterr()
        home = ("--home", str(self.made.settings.home)) if words[1] == "create" else ()
        assert run([*map(str, words), *home]) == status
        out, err = self._capsys.readouterr()
        return out, err

    def document(self, *words: object, status: int = 0) -> dict[str, object]:
        found: dict[str, object] = json.loads(self(*words, "--json", status=status)[0])
        return found

    def shares(self, *numbers: int) -> list[object]:
        return [part for n in numbers for part in ("--share", self.made.root / f"share-{n}")]


@pytest.fixture
def kms(made: Kept, capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(made, capsys)


def test_made_shown_verified_proven_and_put_back(kms: Console) -> None:
    made = kms.document("backup", "create", "--out", kms.backup)
    head = kms.made.world.report.origin
    assert made["origin"] == head
    shown = kms.document("backup", "show", kms.backup)
    assert {name: shown[name] for name in ("id", "made", "log_size", "root")} == {
        name: made[name] for name in ("id", "made", "log_size", "root")
    }
    assert [token["label"] for token in shown["tokens"]] == ["kms"]  # type: ignore[attr-defined]
    digest = ("--sha256", made["sha256"])
    assert kms.document("backup", "verify", kms.backup)["checked"] == "size"
    assert kms.document("backup", "verify", kms.backup, *digest)["checked"] == "digest"
    opened = kms.document("backup", "verify", kms.backup, *digest, *kms.shares(1, 3))
    assert opened["checked"] == "every byte"
    home = ("--home", kms.made.settings.home)
    drill = kms.document("restore", "--drill", kms.backup, *home, *kms.shares(2, 3))
    assert drill["ok"] is True
    other = ("--home", kms.made.root / "other" / "home", "--no-later-checkpoint")
    back = kms.document("restore", kms.backup, *other, *digest, *kms.shares(1, 2))
    assert back["events_lost"] is None
    assert (kms.made.root / "other" / "signer" / "journal").exists()


def test_for_people(kms: Console) -> None:
    kms("backup", "create", "--out", kms.backup)
    out, _ = kms("backup", "show", kms.backup)
    assert "Nothing here is proven" in out
    assert "its keys are in the maker's own backup alone: log-1" in out
    home = ("--home", kms.made.settings.home)
    out, _ = kms("restore", "--drill", kms.backup, *home, *kms.shares(1, 2))
    assert "Verdict: the backup restores" in out
    other = ("--home", kms.made.root / "other" / "home", "--no-later-checkpoint")
    out, _ = kms("restore", kms.backup, *other, *kms.shares(1, 2))
    assert "It must hold log-1, root-1, people-1, infrastructure-1." in out
    assert "EVENTS ARE LOST" not in out


QUORUM = ["--share", "{share-1}", "--share", "{share-2}"]
WRONG = [
    (["backup", "show", "{home/kms.toml}"], 1, "not a backup of this service"),
    (["backup", "show", "{none}"], 2, "No such file"),
    (["backup", "verify", "{backup}", "--sha256", "00"], 1, "not the one given"),
    (["backup", "verify", "{backup}", "--share", "{home/kms.toml}"], 2, "of a share's five is"),
    (["backup", "verify", "{backup}", "--share", "{none}"], 2, "cannot be read"),
    (["backup", "verify", "{backup}", "--share", "{share-1}"], 2, "1 of the 2 shares"),
    (["backup", "create", "--out", "{backup}"], 2, "exists already"),
    (["restore", "{backup}", "--home", "{home}", "--share", "{share-1}"], 2, "never writes"),
    (["restore", "{backup}", "--share", "{share-1}"], 2, "which home?"),
    (["restore", "{backup}", "--sha256", "00", *QUORUM, "--home", "{x}"], 1, "not the one given"),
    (["restore", "--drill", "{backup}", "--sha256", "00", *QUORUM], 1, "not the one given"),
    (["backup", "verify", "{backup}", "--sha256", "00", *QUORUM], 1, "not the one given"),
    (["restore", "{backup}", "--home", "{x}"], 2, "no share was given; the backup opens with 2"),
]


def test_what_is_wrong_is_said(kms: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KMS_HOME", raising=False)
    kms("backup", "create", "--out", kms.backup)
    for words, status, message in WRONG:
        spelled = [
            str(kms.made.root / word[1:-1]) if word.startswith("{") else word for word in words
        ]
        _, err = kms(*spelled, status=status)
        assert message in err, words
    assert not (kms.made.root / "x").exists()


def test_what_is_restored_is_what_the_digest_is_of(
    kms: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anyone can encrypt to a recovery key: here, in the moment after the file was looked at."""
    meant = kms.document("backup", "create", "--out", kms.backup)
    forged = kms.made.root / "forged"
    kms("backup", "create", "--out", forged)
    opened = Path.open

    def exchanged(path: Path, *mode: Any, **more: Any) -> Any:
        file = opened(path, *mode, **more)
        if path == kms.backup and forged.exists():
            forged.rename(kms.backup)
        return file

    monkeypatch.setattr(Path, "open", exchanged)
    digest = ("--sha256", meant["sha256"])
    home = ("--home", kms.made.root / "other" / "home", "--no-later-checkpoint")
    back = kms.document("restore", kms.backup, *home, *digest, *kms.shares(1, 2))
    assert not forged.exists()
    assert back["backup"] == meant["id"]


def test_a_drill_that_fails_ends_with_1(kms: Console) -> None:
    """The home that it is held against is of another signer."""
    kms("backup", "create", "--out", kms.backup)
    journal = kms.made.settings.signer_state / "journal"
    journal.write_bytes(bytes(192) + journal.read_bytes()[192:])
    home = ("--home", kms.made.settings.home)
    drill = kms.document("restore", "--drill", kms.backup, *home, *kms.shares(1, 2), status=1)
    failed = [check["check"] for check in drill["checks"] if not check["ok"]]  # type: ignore[attr-defined]
    assert failed == ["journal"]


def test_no_recovery_key_no_backup(kms: Console) -> None:
    shutil.rmtree(kms.made.settings.home / "recovery")
    _, err = kms("backup", "create", "--out", kms.backup, status=1)
    assert "make one, `kms backup new-recovery-key`" in err
    assert not kms.backup.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--officer", "alice"],
        ["--officer", "alice", "--officer", "alice"],
    ],
)
def test_a_recovery_key_wants_two_officers(kms: Console, wrong: list[str]) -> None:
    home = ("--home", str(kms.made.settings.home))
    counts = ("--shares", "3", "--quorum", "2", "--out", str(kms.made.root / "shares"))
    _, err = kms("backup", "new-recovery-key", *home, *counts, *wrong, status=2)
    assert "two or more different officers" in err
    assert not (kms.made.root / "shares").exists()
