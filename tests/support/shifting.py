"""A service on a machine whose clock is set while it runs.

`python -m tests.support.shifting serve --home DIR` is `kms serve` whose processes see the machine's
clock as many seconds ahead as the file `clock-shift` in the home says.
"""

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import Any

from kms import bootstrap
from kms.config import load
from kms.logs import configure
from kms.processes.pin import obtain_pin
from kms.processes.supervisor import Commands, serve

CHILD = (sys.executable, "-P", "-m", "tests.support.shifting")
COMMAND = (*CHILD, "serve")
SHIFT = "clock-shift"

_now = time.time


def set_clock(home: Path, seconds: float) -> None:
    """Set the machine's clock that far from where it should be."""
    new = home / f"{SHIFT}.new"
    new.write_text(str(seconds))
    new.chmod(0o644)
    new.replace(home / SHIFT)


def shift(home: Path) -> None:
    """Let this process see the clock that was set."""

    def shifted() -> float:
        seconds = 0.0
        with contextlib.suppress(OSError):
            seconds = float((home / SHIFT).read_text())
        return _now() + seconds

    time.time = shifted


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("process", choices=("serve", "worker", "signer"))
    parser.add_argument("--home", type=Path)
    parser.add_argument("--config", type=Path)
    options: Any = parser.parse_known_args()[0]
    if options.process != "serve":
        shift(options.config.parent)
        return bootstrap.main()
    shift(options.home)
    settings = load(options.home / "kms.toml")
    configure("supervisor")
    commands = Commands(signer=(*CHILD, "signer"), worker=(*CHILD, "worker"))
    return serve(settings, obtain_pin(settings), bootstrap.probe, commands=commands)


if __name__ == "__main__":
    sys.exit(main())
