"""A SoftHSM2 token of a test's own."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from hsm_drivers.pin import Pin

_SCRIPT = Path(__file__).parents[2] / "softhsm" / "init-token.sh"


@dataclass(frozen=True, slots=True)
class SoftHsm:
    """Where the token is and how to log in to it; `directory` is what init-token.sh made."""

    module: str
    label: str
    pin: Pin
    conf: Path
    directory: Path


def make_token(directory: Path, label: str = "test") -> SoftHsm:
    done = subprocess.run([_SCRIPT, directory, label], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return SoftHsm(
        module="/usr/lib/softhsm/libsofthsm2.so",
        label=label,
        pin=Pin((directory / "pin").read_text()),
        conf=directory / "softhsm2.conf",
        directory=directory,
    )
