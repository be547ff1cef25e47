"""`make attack SECONDS=10`: every attack from outside on a service of its own, and what it cost.

Prints a table and writes `var/attack.json`.
"""

import argparse
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.support.attacks import ATTACKS
from tests.support.besieged import QUIET, Siege, besiege
from tests.support.running import prepare, running

HEAD = (
    "attack                          attackers  rounds | answered  on open connections  enrolments"
    "   new TLS connections  public reads | memory of the worker\n"
    "                                                  |  of all     p50  p99 (ms)       p99 (ms)"
    "        p99 (ms)         p99 (ms)    |  before  peak (MB)"
)


def main() -> None:
    """Attack, tell, write down."""
    parser = argparse.ArgumentParser(prog="python -m scripts.attack")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each attack")
    parser.add_argument("--only", choices=ATTACKS, action="append", help="this attack")
    parser.add_argument("--output", type=Path, default=Path("var/attack.json"))
    options = parser.parse_args()
    folder = Path(mkdtemp(prefix="kms-attack-"))
    folder.chmod(0o711)  # the users of worker and signer pass through it
    found = []
    print(HEAD)
    try:
        with running(prepare(folder / "own")) as service:
            for attack in (QUIET, *(options.only or ATTACKS)):
                found.append(besiege(service, attack, options.seconds))
                print(_line(found[-1]), flush=True)
    finally:
        shutil.rmtree(folder)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(_document(found, options.seconds), indent=2) + "\n")


def _line(siege: Siege) -> str:
    due = sum(tally.due for tally in siege.honest.values())
    resident, enroller, newcomer, reader = (
        siege.honest[kind] for kind in ("resident", "enroller", "newcomer", "reader")
    )
    return (
        f"{siege.attack:32}{siege.attackers:8}{siege.rounds:8}  |{due - siege.lost:6}/{due:<6}"
        f"{1000 * resident.quantile(0.5):5.1f}{1000 * resident.quantile(0.99):8.1f}"
        f"{1000 * enroller.quantile(0.99):16.1f}{1000 * newcomer.quantile(0.99):16.1f}"
        f"{1000 * reader.quantile(0.99):17.1f}    |{siege.before:8.0f}{siege.peak:6.0f}"
    )


def _document(found: list[Siege], seconds: float) -> dict[str, Any]:
    return {
        "processors": os.cpu_count(),
        "seconds": seconds,
        "attacks": [asdict(siege) for siege in found],
    }


if __name__ == "__main__":
    main()
