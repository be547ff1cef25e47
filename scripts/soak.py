"""`make soak KILLS=1000 SEED=7`: a service of its own, killed so often under load, and its books.

What a failed run left stays where the first line says; a good one leaves nothing.
"""

import argparse
import math
import secrets
import shutil
from pathlib import Path
from tempfile import mkdtemp

from tests.support.crashing import QUICK_COMMAND
from tests.support.killing import Killer, Plan
from tests.support.running import prepare, running

CHECK_EVERY = 20
"""Kills between two looks into the books, at least; they wait for a supervisor's turn."""


def main() -> None:
    """Kill, and tell what came of it; ends with a traceback where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m scripts.soak")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, help="of whom is hit, and when; random unless given")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no kill after so long")
    options = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    folder = Path(mkdtemp(prefix="kms-soak-"))
    folder.chmod(0o711)  # the users of worker and signer pass through it
    print(f"seed {seed}: {options.kills} kills, in {folder}", flush=True)
    with running(prepare(folder / "own"), QUICK_COMMAND) as service:
        plan = Plan(seed, options.kills, CHECK_EVERY, options.minutes * 60)
        outcome = Killer(service, plan, folder, lambda line: print(line, flush=True)).run()
    print(f"seed {seed}: {outcome}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
