"""`kms demo`: the demonstration as a command."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from kms.cli.commands import JsonOption, finish
from kms.cli.demo import DemoError, Outcome, SurroundingsError, tell
from kms.cli.errors import CheckFailedError, UsageProblemError
from kms.cli.output import Shown, lines, note, sheet
from kms.settings import Token

MODULE = Token().module


def demo(
    *,
    directory: Annotated[
        Path, typer.Option("--dir", help="Where its record is left; remade each time.")
    ] = Path("var/demo"),
    module: Annotated[Path, typer.Option("--module", help="SoftHSM2's PKCS#11 module.")] = MODULE,
    as_json: JsonOption = False,
) -> None:
    """Show the whole path once: token, ceremony, devices, refusals, revocation, audit."""
    say = note if as_json else _print
    try:
        with _ended_in_order():
            outcome = tell(directory, module, say)
    except SurroundingsError as error:
        raise UsageProblemError(str(error)) from error
    except DemoError as error:
        raise CheckFailedError(str(error), "the lines above tell how far it came") from error
    finish(Shown(_document(outcome), _view(outcome)), as_json=as_json)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM ends the demonstration like Ctrl-C, so that it ends its children."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _document(outcome: Outcome) -> dict[str, Any]:
    return {
        "directory": str(outcome.place.record),
        "home": str(outcome.place.home),
        "good": outcome.good,
        "checks": "held",
        **outcome.summary,
    }


def _view(outcome: Outcome) -> RenderableType:
    record, summary = outcome.place.record, outcome.summary
    phone = record / "devices" / "amina" / "amina-phone" / "identity.pem"
    made = {
        "log": f"{summary['origin']}, {summary['log_size']} events, every one accounted for",
        "people": f"{len(summary['users'])} users, {summary['devices']} devices",
        "certificates": f"{outcome.good} good, {outcome.revoked} revoked",
        "refused": ", ".join(item.type.rpartition(":")[2] for item in outcome.refusals),
        "record": str(record),
        "service": f"{outcome.place.home} (stopped)",
    }
    look = {
        "a certificate": f"openssl x509 -text -noout -in {phone}",
        "a revocation list": f"openssl crl -text -noout -in {record}/ca/people.crl.pem",
        "an event": f"cat {record}/events/0.json",
        "all of it again": f"kms-audit verify {record}",
        "run the service": f"kms serve --home {outcome.place.home}",
    }
    held = ["", "Every check held.", ""]
    return lines(*held, "What was made", sheet(made), "", "How to look at it", sheet(look))
