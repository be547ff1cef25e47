"""opencryptoki's soft token in its chroot, as `scripts/tokens/opencryptoki.sh` makes it."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hsm_drivers.pin import Pin
from kms.settings import Token

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "tokens" / "opencryptoki.sh"
DIRECTORY = ROOT / "var" / "tokens" / "opencryptoki"
LABEL = "kms-pq"
MODULE = f"/usr/lib/{os.uname().machine}-linux-gnu/opencryptoki/libopencryptoki.so.0"


def settings() -> dict[str, str]:
    """As they stand in kms.toml."""
    return {
        "module": MODULE,
        "label": LABEL,
        "chroot": str(DIRECTORY / "root"),
        "python": "/opt/kms/bin/python",
        "pin_file": str(DIRECTORY / "pin"),
    }


def token() -> Token:
    return Token.model_validate(settings(), context={"home": Path("/")})


def pin() -> Pin:
    return Pin((DIRECTORY / "pin").read_text())


@contextmanager
def running() -> Iterator[None]:
    """The slot daemon, until the block ends; code of this tree in the chroot."""
    _run("make", LABEL)
    _run("start")
    try:
        yield
    finally:
        _run("stop")


def _run(command: str, *arguments: str) -> None:
    done = subprocess.run(
        [SCRIPT, command, DIRECTORY, *arguments],
        capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
