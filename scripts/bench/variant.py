"""The service as everyone starts it, but for one thing that the benchmark wants to compare with.

    variant.py NAME serve --home DIR      the service; its worker is the variant
    variant.py NAME worker …              that worker, started by the supervisor

NAME is `stages` (a clock on every stage) or `commit-each` (no two calls share a transaction).
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import stages


def commit_each() -> None:
    """One unit in a transaction, however many wait."""
    from kms.services import sequencer  # noqa: PLC0415 - the supervisor needs none of this

    sequencer.MAX_UNITS = 1


VARIANTS: dict[str, Callable[[], None]] = {"stages": stages.install, "commit-each": commit_each}


def _serve(arguments: argparse.Namespace) -> int:
    from kms.bootstrap import probe  # noqa: PLC0415 - the worker needs none of this
    from kms.config import load  # noqa: PLC0415 - as above
    from kms.logs import configure  # noqa: PLC0415 - as above
    from kms.processes.pin import obtain_pin  # noqa: PLC0415 - as above
    from kms.processes.supervisor import Commands, serve  # noqa: PLC0415 - as above

    configure("supervisor")
    settings = load(arguments.home / "kms.toml")
    here = os.fspath(Path(__file__).resolve())
    worker = (sys.executable, here, arguments.variant, "worker")
    return serve(settings, obtain_pin(settings), probe, commands=Commands(worker=worker))


def _work(variant: str, given: list[str]) -> int:
    """The worker as the supervisor starts it, whatever it gives it."""
    from kms.bootstrap import main as child  # noqa: PLC0415 - the supervisor needs none of this

    VARIANTS[variant]()
    sys.argv[1:] = ["worker", *given]
    return child()


def main() -> int:
    """Start what the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("variant", choices=sorted(VARIANTS))
    commands = parser.add_subparsers(dest="command", required=True)
    served = commands.add_parser("serve")
    served.add_argument("--home", type=Path, required=True)
    commands.add_parser("worker", add_help=False)
    arguments, given = parser.parse_known_args()
    if arguments.command == "worker":
        return _work(arguments.variant, given)
    return _serve(arguments)


if __name__ == "__main__":
    sys.exit(main())
