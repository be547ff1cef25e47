"""Which token a `kms hsm` command is about: one of a home, or one named by options alone."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from hsm_drivers.surveys import Survey, TokenFacts
from hsm_drivers.vendor import Profile, ProfileError, called, recognised
from kms.cli.errors import CheckFailedError, UsageProblemError
from kms.config import load, locate
from kms.logs import configure
from kms.processes.accounts import Separation, separate
from kms.processes.home import home_lock
from kms.processes.one_token import TokenAccess, holder, surveyed
from kms.processes.pin import pin_of
from kms.settings import MAIN, Settings, Token, shown

NameArgument = Annotated[
    str | None, typer.Argument(help="Token of the home: main, or the name of its table.")
]
ModuleOption = Annotated[
    Path | None, typer.Option("--module", help="PKCS#11 module: for a token outside any home.")
]
LabelOption = Annotated[str | None, typer.Option("--token-label", help="Its label.")]
PinFileOption = Annotated[
    Path | None, typer.Option("--pin-file", help="File with its user PIN, 0600.")
]
ProfileOption = Annotated[
    str | None, typer.Option("--profile", help="Vendor profile; else it is recognised.")
]
EnvironmentOption = Annotated[
    list[str] | None, typer.Option("--env", help="NAME=VALUE for the module; may be repeated.")
]
ChrootOption = Annotated[
    Path | None, typer.Option("--chroot", help="Root directory that the module lives in.")
]
PythonOption = Annotated[
    Path | None, typer.Option("--python", help="Interpreter for it, as seen inside.")
]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A token, and the home that it belongs to, if any."""

    name: str
    token: Token
    settings: Settings | None

    def separation(self) -> Separation:
        """Who its processes run as."""
        return Separation() if self.settings is None else separate(self.settings)


def choose(
    name: str | None,
    home: Path | None,
    module: Path | None,
    label: str | None,
    **rest: object,
) -> Chosen:
    """What the options say.

    Raises:
        UsageProblemError: They name no token, or none that there is.
    """
    if module is None:
        settings = load(locate(home))
        wanted = "" if name in {None, MAIN} else str(name)
        if wanted not in settings.estate:
            known = ", ".join(map(shown, settings.estate))
            raise UsageProblemError(f"{settings.path} names no token {name!r}; it has {known}")
        return Chosen(wanted, settings.estate[wanted], settings)
    if name is not None:
        raise UsageProblemError("name a token of the home, or one by --module, not both")
    if label is None:
        raise UsageProblemError("which of the module's tokens? Give --token-label")
    return Chosen("", token_of(module, label, **rest), None)


def token_of(module: Path, label: str, **rest: object) -> Token:
    """A token by options; relative paths are those of this directory.

    Raises:
        UsageProblemError: An option has an impossible value.
    """
    given = {key: value for key, value in rest.items() if value is not None}
    given["environment"] = dict(_variable(text) for text in rest.get("environment") or ())  # type: ignore[attr-defined]  # typer gives a list
    try:
        return Token.model_validate(
            {"module": module, "label": label, **given}, context={"home": Path.cwd()}
        )
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False, include_input=False, include_context=False)
        where = ".".join(str(part) for part in first["loc"])
        raise UsageProblemError(f"--{where}: {first['msg']}") from None


def _variable(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise UsageProblemError(f"--env wants NAME=VALUE, not {text[:40]!r}")
    return name, value


def facts_of(chosen: Chosen, survey: Survey) -> TokenFacts:
    """The chosen token among those that the module sees.

    Raises:
        CheckFailedError: There is none of that label, there are two, or it is another one.
    """
    token, found = chosen.token, survey.labelled(chosen.token.label)
    if not found:
        seen = ", ".join(sorted(repr(one.label) for one in survey.tokens)) or "none"
        raise CheckFailedError(
            f"no token is labelled {token.label!r} (the module sees: {seen})",
            "connect it, or point the module's configuration to it: [token].environment, --env",
        )
    if len(found) > 1:
        raise CheckFailedError(
            f"{len(found)} tokens are labelled {token.label!r}", "rename or remove all but one"
        )
    if token.serial is not None and found[0].serial != token.serial:
        raise CheckFailedError(
            f"token {token.label!r} has the serial number {found[0].serial!r}, not"
            f" {token.serial!r}: it is another one",
            "connect the right one, or set its serial anew if it was replaced on purpose",
        )
    return found[0]


def profile_of(chosen: Chosen, survey: Survey, facts: TokenFacts) -> Profile:
    """The profile that the token's processes will use.

    Raises:
        UsageProblemError: The one that is named is none.
    """
    name = chosen.token.profile
    if name is None:
        return recognised(facts.manufacturer, facts.model, survey.description)
    if "/" in name and chosen.token.chroot is not None:
        name = str(chosen.token.chroot / name.lstrip("/"))
    try:
        return called(name)
    except ProfileError as error:
        raise UsageProblemError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Opened:
    """A token that this command may use now."""

    access: TokenAccess
    survey: Survey
    facts: TokenFacts
    profile: Profile


@contextlib.contextmanager
def opened(chosen: Chosen, pin_fd: int | None) -> Iterator[Opened]:
    """Claim the token, look that it is there, and have its PIN; nobody is logged in yet.

    Raises:
        HomeBusyError: A service or another command uses the home.
        UsageProblemError: Another process uses a token that bears only one.
        CheckFailedError: The token is not there.
        PinError: No PIN is to be had.
    """
    configure("cli", quiet=True)  # standard output is the command's own
    with contextlib.ExitStack() as stack:
        if chosen.settings is not None:
            stack.enter_context(home_lock(chosen.settings))
        separation = chosen.separation()
        survey = surveyed(chosen.token, separation)
        facts = facts_of(chosen, survey)
        profile = profile_of(chosen, survey, facts)
        pid = holder(chosen.token) if profile.concurrency.processes == 1 else None
        if pid is not None:
            raise UsageProblemError(
                f"process {pid} uses that token, which bears one process only",
                "stop the service or command that it belongs to, or wait for its end",
            )
        pin = pin_of(chosen.token, chosen.name, pin_fd=pin_fd)
        stack.callback(pin.clear)
        access = stack.enter_context(TokenAccess(chosen.token, pin, separation))
        yield Opened(access, survey, facts, profile)
