"""A running home with a second token: a clone of the first, as a maker's own backup makes one."""

import subprocess
from pathlib import Path

from hsm_drivers.client import SignerClient
from hsm_drivers.pin import Pin
from hsm_drivers.ports import KeyLabel
from kms.bootstrap import in_ceremony
from kms.processes.pin import obtain_pin
from kms.services import replication
from kms.services.core import Core
from kms.services.replication import Wish
from tests.support.estate import clone
from tests.support.running import KMS, Home
from tests.support.softhsm import SoftHsm

NAME = "safe"
AUTHORITIES = ("people-1", "infrastructure-1", "root-1")
LOG = "log-1"
OFFICERS = ("--officer", "alice", "--officer", "bob", "--yes")


def kms(home: Home, *arguments: str) -> str:
    """Run a command that has to end well."""
    command = [KMS, *arguments, "--home", str(home.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def add_token(home: Home) -> Path:
    """Put a clone of the token beside it, and tell the settings."""
    own = home.settings.token
    first = SoftHsm(str(own.module), own.label, Pin("-"), Path(), home.token)
    second = clone(first, home.root / NAME)
    path = home.path / "kms.toml"
    path.write_text(
        path.read_text()
        + f"""
[tokens.{NAME}]
label = "{own.label}"
module = "{own.module}"
pin_file = "{second.directory / "pin"}"
directory = "{second.directory / "tokens"}"
environment = {{ SOFTHSM2_CONF = "{second.conf}" }}
"""
    )
    return second.directory


def copy_both(home: Home, root: Path) -> Home:
    """As `Home.copy`, with a second token of its own, too."""
    made = home.copy(root)
    conf = root / NAME / "softhsm2.conf"
    conf.write_text(conf.read_text().replace(str(home.root), str(root)))
    return made


def replicate(home: Home) -> None:
    """Take the clone into the record of every key that a service uses."""
    kms(home, "key", "replicate", LOG, "--to", NAME, *OFFICERS)

    async def work(core: Core, signer: SignerClient) -> None:
        for label in AUTHORITIES:
            await replication.replicate(core, signer, Wish(KeyLabel(label), NAME), ("alice", "bob"))

    in_ceremony(home.settings, obtain_pin(home.settings), work)
