"""NSS softoken as a post-quantum token, where its package could be had (scripts/tokens/nss.sh)."""

import ctypes
import functools
import os
import shutil
import subprocess
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from hsm_drivers.pin import Pin

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "tokens" / "nss.sh"
LIBRARIES = ROOT / "var" / "tokens" / "nss"
WHY_NOT = ROOT / "var" / "tokens" / "nss-missing"
"""What scripts/setup.sh wrote when the package could not be had."""


@dataclass(frozen=True, slots=True)
class Nss:
    """Where the token is and how to log in to it."""

    module: str
    label: str
    pin: Pin
    environment: dict[str, str]
    directory: Path


def missing() -> str:
    """Why there is no NSS softoken here; empty where there is."""
    if (LIBRARIES / "done").exists():
        return ""
    why = WHY_NOT.read_text().strip() if WHY_NOT.exists() else "scripts/setup.sh test was not run"
    return f"NSS softoken is not here ({why})"


def make_nss(directory: Path, label: str = "pq") -> Nss:
    """A fresh token; processes that use it need its `environment` from their start."""
    command = [SCRIPT, "make", LIBRARIES, directory, label]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = tomllib.loads(done.stdout)
    pin = Pin((directory / "pin").read_text())
    return Nss(said["module"], said["label"], pin, said["environment"], directory)


def copied(token: Nss, directory: Path) -> Nss:
    """The same empty token at another place, with the same PIN: faster than to make one."""
    shutil.copytree(token.directory, directory)
    environment = {
        name: value.replace(str(token.directory), str(directory))
        for name, value in token.environment.items()
    }
    return replace(token, environment=environment, directory=directory)


@functools.cache
def preload() -> None:
    """Let this very process load the module: the machine may have an older libnssutil3.

    Processes that are started anew have LD_LIBRARY_PATH for it.
    """
    ctypes.CDLL(str(LIBRARIES / "libnssutil3.so"), mode=os.RTLD_GLOBAL)
