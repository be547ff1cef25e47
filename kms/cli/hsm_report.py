"""The self-test as a command: run on an opened token, shown or written."""

import platform
import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import RenderableType
from rich.text import Text

from hsm_drivers.compat import Options, clean, examine
from hsm_drivers.compat.markdown import markdown
from hsm_drivers.compat.report import Outcome, Report, Step
from hsm_drivers.surveys import PinState
from kms.cli.errors import ExitCode, printable
from kms.cli.files import write
from kms.cli.hsm_choice import Opened
from kms.cli.output import Shown, lines
from kms.processes.one_token import TokenAccess, TokenAccessError, surveyed
from kms.processes.pin import Pin, PinError

_SAFE_PINS = {PinState.SOUND, PinState.TO_BE_CHANGED}


def examined(
    token: Opened,
    seconds: float,
    conditions: str,
    out: Path | None,
    *,
    wrong: bool,
    tell: Callable[[str], None],
) -> Shown:
    """Run the self-test; a report that finds nothing wrong is a success."""
    logins = (_login(token), *([_wrong_login(token)] if wrong else []))
    with token.access.opened() as driver:
        options = Options(
            seconds=seconds,
            opener=token.access.opened,
            survey=token.survey,
            logins=logins,
            conditions=conditions or _machine(),
            progress=lambda what: tell(f"trying {what}"),
            afterwards=lambda: (_lives(token.access),),
        )
        report = examine(driver, token.profile, options)
    if out is None:
        return _shown(report, Text(printable(markdown(report))))
    write(out, markdown(report).encode())
    return _shown(report, lines(f"Wrote {out}: {_verdict(report)}"))


def cleaned(token: Opened) -> Shown:
    """Destroy what killed runs left."""
    with token.access.opened() as driver:
        gone = clean(driver)
    told = [f"destroyed {label}" for label in gone] or ["nothing was left"]
    view = lines(*told)
    return Shown({"destroyed": list(gone)}, view)


def _shown(report: Report, view: RenderableType) -> Shown:
    status = ExitCode.DONE if report.sound else ExitCode.FAILED
    return Shown(msgspec.to_builtins(report), view, status)


def _verdict(report: Report) -> str:
    fits = sum(role.fits for role in report.roles)
    state = "nothing that it offers went wrong" if report.sound else "something went wrong"
    return f"{state}; it fits {fits} of {len(report.roles)} roles."


def _machine() -> str:
    return (
        f"{platform.system()} {platform.machine()}, through a process of the token's own and its"
        " socket, one call at a time"
    )


def _login(token: Opened) -> Step:
    facts = token.facts
    detail = (
        f"user PIN {facts.pin}, {facts.shortest_pin} to {facts.longest_pin} characters;"
        f" it was given once"
    )
    good = facts.pin in _SAFE_PINS
    return Step("log in", Outcome.GOOD if good else Outcome.BAD, detail)


def _lives(access: TokenAccess) -> Step:
    what = "keep its processes alive"
    if access.crashes:
        said = f"a process that has its module ended {access.crashes} times, see the lines above"
        return Step(what, Outcome.BAD, said)
    return Step(what, Outcome.GOOD, "none ended by itself")


def _wrong_login(token: Opened) -> Step:
    """One wrong PIN, and what the token makes of it; the right one, given next, makes it good."""
    what = "give one wrong PIN"
    if token.facts.pin not in _SAFE_PINS:
        return Step(what, Outcome.LACKING, f"not tried: user PIN {token.facts.pin}")
    size = min(max(8, token.facts.shortest_pin), token.facts.longest_pin)
    pin = Pin(bytearray(secrets.token_hex(128)[:size].encode()))
    try:
        with (
            TokenAccess(token.access.token, pin, token.access.separation) as access,
            access.opened(),
        ):
            return Step(what, Outcome.BAD, "it was let in")
    except PinError:
        after = surveyed(token.access.token, token.access.separation)
        facts = after.labelled(token.facts.label)[0]
        return Step(what, Outcome.GOOD, f"refused; user PIN {facts.pin} afterwards")
    except TokenAccessError as error:
        return Step(what, Outcome.BAD, str(error))
