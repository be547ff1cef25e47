"""A home with a recovery key, its service in this process; and what was backed up, put back."""

import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from hsm_drivers.inprocess import InProcessSigner
from hsm_drivers.state import SignerState
from kms.backup import archive, recovery
from kms.backup.collect import gathered, recovery_dir
from kms.backup.marker import log_restore
from kms.backup.recovery import NewKey
from kms.backup.registering import register
from kms.backup.restore import Evidence, Restored, restore
from kms.backup.shares import Share
from kms.config import load
from kms.config_template import write_initial
from kms.domain.records import Epoch
from kms.services.facade import Services, compose
from kms.settings import Settings
from kms.storage.migrate import migrate
from kms.storage.sql import SqlLedger
from tests.support.services import CHECKERS, World, build_core, world

NOW = datetime(2026, 11, 22, tzinfo=UTC)
OFFICERS = ("alice", "bob")
NONE_LATER = Evidence({}, none_later=True)
SECRETS = {
    "token/pin": b"PIN 8675309 of the token",
    "home/pin": b"PIN 31337 beside the settings",
    "home/tls/server.key": b"TLS key of the service",
    "home/clients/alice.key": b"key of a client of the house",
    "home/run/state.json": b"how things stood",
}
"""Files near the settings that no backup holds."""


@dataclass(frozen=True)
class Kept:
    """A home whose service runs in this process."""

    root: Path
    settings: Settings
    world: World
    key: NewKey

    @property
    def shares(self) -> dict[str, Share]:
        """A quorum."""
        return {f"share-{share.number}.txt": share for share in self.key.shares[:2]}

    def back_up(self, name: str = "backup") -> Path:
        """A backup of this moment, beside the home."""
        path = self.root / name
        keys = [self.key.public]
        with gathered(self.settings, keys, NOW) as found:
            archive.write(found, keys, path)
        return path

    def put_back(self, backup: Path, place: str, evidence: Evidence = NONE_LATER) -> Restored:
        """As on another machine, in `<place>/home`."""
        return restore(backup, self.root / place / "home", self.shares, evidence)

    @asynccontextmanager
    async def started(self, place: str) -> AsyncIterator[Services]:
        """The restored service, its token being the same one."""
        settings = load(self.root / place / "home" / "kms.toml")
        tokens = cast("Any", self.world.signer)._core._tokens
        ledger = SqlLedger(settings.database_url)
        (epoch,) = ledger.find(Epoch)
        with SignerState(settings.signer_state) as state, ThreadPoolExecutor(1) as executor:
            now = self.world.clock.now
            signer = InProcessSigner(tokens, CHECKERS, state, ceremony=True, now=now)
            core = build_core(ledger, signer, self.world.clock, epoch.origin, epoch.vkey, executor)
            services = compose(core)
            services.crls.load()
            try:
                await services.upkeep.recover()
                await log_restore(core, settings.data_dir)
                yield services
            finally:
                await core.sequencer.drain()
                ledger.close()


@cache
def empty_ledger() -> bytes:
    """As `kms init` leaves it; making one takes longer than all else here."""
    with TemporaryDirectory() as directory:
        url = f"sqlite:///{directory}/ledger.db"
        migrate(url, create=True)
        return (Path(directory) / "ledger.db").read_bytes()


@asynccontextmanager
async def kept(root: Path) -> AsyncIterator[Kept]:
    """A home after its ceremony, with a recovery key in two of three shares."""
    settings = write_initial(
        root / "home",
        name="log.test.example",
        public_url="http://pki.authority.example",
        token_label="kms",
        pin_file=root / "token" / "pin",
    )
    text = settings.path.read_text()
    text, found = re.subn(r"(?m)^# state =$", 'state = "../signer"', text)
    assert found == 1
    settings.path.write_text(text)
    settings = load(settings.path)
    settings.data_dir.mkdir(mode=0o700)
    ledger = settings.data_dir / "ledger.db"
    ledger.write_bytes(empty_ledger())
    ledger.chmod(0o600)
    for name, content in SECRETS.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    settings.trust_path.write_text("anchor")
    async with world(root, SqlLedger(settings.database_url)) as made:
        core = made.services.core
        key = recovery.generate(core.policy, 2, 3, NOW)
        await register(core, key, OFFICERS)
        directory = recovery_dir(settings)
        directory.mkdir()
        (directory / f"{key.public.id}.json").write_bytes(recovery.encode(key.public))
        yield Kept(root, settings, made, key)
