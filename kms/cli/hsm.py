"""`kms hsm`: tokens before, beside and after the service: seen, probed, examined.

Works without a home: `--module` and `--token-label` name a token. No command here loads a module
itself, and none logs in while a service owns the token.
"""

import asyncio
import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsm_drivers.errors import HsmError
from hsm_drivers.surveys import PinState, TokenFacts
from kms.cli.commands import HomeOption, JsonOption, PinFdOption, finish, new_group
from kms.cli.errors import CliError, ExitCode
from kms.cli.hsm_choice import (
    Chosen,
    ChrootOption,
    EnvironmentOption,
    LabelOption,
    ModuleOption,
    NameArgument,
    PinFileOption,
    ProfileOption,
    PythonOption,
    choose,
    facts_of,
    opened,
    profile_of,
    token_of,
)
from kms.cli.output import Shown, lines, note, sheet, table
from kms.cli.p11kit import configured_modules
from kms.config import ConfigError, Environment, load, locate
from kms.processes.accounts import Separation
from kms.processes.home import HomeBusyError, home_lock
from kms.processes.one_token import surveyed
from kms.settings import Settings, shown

if TYPE_CHECKING:
    from hsm_drivers.ports import Driver, KeyAttributes, KeyRecord

group = new_group("hsm", "Tokens: which there are, how they are, what they can do.")
WEAK_PINS = {PinState.FINAL_TRY, PinState.LOCKED, PinState.NOT_SET}


@dataclass(frozen=True, slots=True)
class Row:
    """A token in the list."""

    name: str
    label: str
    module: str
    serial: str
    profile: str
    usable: bool
    state: str


@group.command("list")
def list_tokens(
    *,
    home: HomeOption = None,
    module: ModuleOption = None,
    environment: EnvironmentOption = None,
    chroot: ChrootOption = None,
    python: PythonOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the tokens of the home, or those that a module sees; nobody logs in."""
    if module is not None:
        token = token_of(module, "any", environment=environment, chroot=chroot, python=python)
        rows = _seen(token)
    elif home is not None or Environment().home is not None or Environment().config is not None:
        rows = _of_home(load(locate(home)))
    else:
        rows = []
    known = configured_modules()
    document = {
        "tokens": [asdict(row) for row in rows],
        "p11_kit_modules": [asdict(one) for one in known],
    }
    shown_rows = (
        (one.name, one.label, one.module, one.serial, one.profile, one.state) for one in rows
    )
    view = lines(
        table(("token", "label", "module", "serial", "profile", "state"), shown_rows),
        "",
        "Modules that p11-kit is configured for (--module PATH lists their tokens):",
        table(("name", "module"), ((one.name, one.path or one.remote) for one in known)),
    )
    status = ExitCode.DONE if all(row.usable for row in rows) else ExitCode.FAILED
    finish(Shown(document, view, status), as_json=as_json)


def _seen(token: Any) -> list[Row]:
    survey = surveyed(token, Separation())
    rows = []
    for facts in survey.tokens:
        one = token.model_copy(update={"label": facts.label})
        rows.append(_row(Chosen("", one, None), facts, survey, "-"))
    return rows


def _row(chosen: Chosen, facts: TokenFacts, survey: Any, name: str) -> Row:
    usable = facts.pin not in WEAK_PINS
    profile = profile_of(chosen, survey, facts).name
    state = f"there, user PIN {facts.pin}"
    module = str(chosen.token.module)
    return Row(name, facts.label, module, facts.serial, profile, usable, state)


def _of_home(settings: Settings) -> list[Row]:
    """By the running signer, or by looking while nobody else works in the home."""
    try:
        with home_lock(settings):
            return [
                _looked(Chosen(name, settings.estate[name], settings)) for name in settings.estate
            ]
    except HomeBusyError:
        return asyncio.run(_asked(settings))


def _looked(chosen: Chosen) -> Row:
    token = chosen.token
    try:
        survey = surveyed(token, chosen.separation())
        return _row(chosen, facts_of(chosen, survey), survey, shown(chosen.name))
    except (CliError, ConfigError) as error:
        profile = token.profile or "-"
        where = str(token.module)
        serial = token.serial or "-"
        return Row(shown(chosen.name), token.label, where, serial, profile, False, str(error))


async def _asked(settings: Settings) -> list[Row]:
    from hsm_drivers.client import SignerClient  # noqa: PLC0415 - remote commands start faster

    client = SignerClient(settings.signer_socket)
    try:
        said = {status.name: status for status in await client.tokens()}
    finally:
        await client.aclose()
    rows = []
    for name, token in settings.estate.items():
        status = said.get(name)
        usable = status is not None and status.healthy
        state = "the running signer does not know it" if status is None else status.detail
        serial, profile = token.serial or "-", token.profile or "-"
        rows.append(
            Row(shown(name), token.label, str(token.module), serial, profile, usable, state)
        )
    return rows


@dataclass(frozen=True, slots=True)
class KeyFinding:
    """A key on the token, or one that should be there."""

    label: str
    recorded: bool
    sound: bool
    detail: str


@group.command("probe")
def probe(
    name: NameArgument = None,
    *,
    home: HomeOption = None,
    module: ModuleOption = None,
    label: LabelOption = None,
    pin_file: PinFileOption = None,
    profile: ProfileOption = None,
    environment: EnvironmentOption = None,
    chroot: ChrootOption = None,
    python: PythonOption = None,
    pin_fd: PinFdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Log in once: what the token says of itself, and its keys with their attributes."""
    chosen = choose(
        name, home, module, label, pin_file=pin_file, profile=profile,
        environment=environment, chroot=chroot, python=python,
    )  # fmt: skip
    with opened(chosen, pin_fd) as token:
        records = {} if chosen.settings is None else _records(chosen.settings, chosen.name)
        with token.access.opened() as driver:
            findings = _keys(driver, records)
            capabilities = sorted(driver.capabilities)
            algorithms = list(driver.algorithms)
    told = asdict(token.facts) | {"profile": token.profile.name}
    told["mechanisms"] = len(token.facts.mechanisms)
    told |= {"capabilities": capabilities, "algorithms": algorithms}
    document = {"token": told, "keys": [asdict(one) for one in findings]}
    rows = ((one.label, "yes" if one.recorded else "no", one.detail) for one in findings)
    view = lines(sheet(told), "", table(("key", "recorded", "state"), rows))
    status = ExitCode.DONE if all(one.sound for one in findings) else ExitCode.FAILED
    finish(Shown(document, view, status), as_json=as_json)


def _records(settings: Settings, name: str) -> dict[str, tuple["KeyRecord | None", bytes]]:
    """What the signer's records want on that token: by label, and how the public half ends."""
    from hsm_drivers.state import SignerState  # noqa: PLC0415 - remote commands start faster
    from kms.processes.opening import expected, recorded  # noqa: PLC0415 - as above

    if not (settings.signer_state / "keys.json").exists():
        return {}
    with contextlib.closing(SignerState(settings.signer_state)) as state:
        records = recorded(state)
    by_label = {record.label: record for record in records}
    return {
        label: (by_label.get(label), ending) for label, ending in expected(records, name).items()
    }


def _keys(
    driver: "Driver", records: dict[str, tuple["KeyRecord | None", bytes]]
) -> list[KeyFinding]:
    there = set(driver.labels())
    labels = sorted(there | records.keys())
    return [_key(driver, label, label in there, records.get(label)) for label in labels]


def _key(
    driver: "Driver",
    label: Any,
    there: bool,  # noqa: FBT001 - of the line above
    wanted: tuple["KeyRecord | None", bytes] | None,
) -> KeyFinding:
    if not there:
        return KeyFinding(label, recorded=True, sound=False, detail="missing: restore the token")
    try:
        attributes, public = driver.attributes(label), driver.public_key(label)
    except HsmError as error:
        return KeyFinding(label, recorded=wanted is not None, sound=False, detail=str(error))
    if wanted is None:
        return KeyFinding(label, recorded=False, sound=True, detail=_described(attributes))
    record, ending = wanted
    if not public.endswith(ending):
        said = "another key under this label: its public key is not the recorded one"
        return KeyFinding(label, recorded=True, sound=False, detail=said)
    changed = record is not None and not record.components and record.attributes != attributes
    if changed and record is not None and not record.replicas:
        said = f"its attributes have changed: {_described(attributes)}"
        return KeyFinding(label, recorded=True, sound=False, detail=said)
    return KeyFinding(label, recorded=True, sound=True, detail=_described(attributes))


def _described(attributes: "KeyAttributes") -> str:
    if attributes.held():
        return "held: born here, never extractable"
    if attributes.transferable():
        return "transferable under a trusted key"
    return "can leave the token"


@group.command("compat")
def compat(
    name: NameArgument = None,
    *,
    home: HomeOption = None,
    module: ModuleOption = None,
    label: LabelOption = None,
    pin_file: PinFileOption = None,
    profile: ProfileOption = None,
    environment: EnvironmentOption = None,
    chroot: ChrootOption = None,
    python: PythonOption = None,
    pin_fd: PinFdOption = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.01, max=60, help="How long a rate is measured.")
    ] = 0.5,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the report, Markdown, to this file.")
    ] = None,
    conditions: Annotated[
        str, typer.Option("--conditions", help="A remark on machine and token, for the report.")
    ] = "",
    try_wrong_pin: Annotated[
        bool, typer.Option("--try-wrong-pin", help="Give one wrong PIN first; tokens count them.")
    ] = False,
    clean: Annotated[
        bool, typer.Option("--clean", help="Only destroy test keys that a killed run left.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Try on the token whatever the service needs; report what it can be used for.

    Test keys are called compat-test-… and are destroyed at the end.
    """
    from kms.cli.hsm_report import cleaned, examined  # noqa: PLC0415 - remote commands start faster

    chosen = choose(
        name, home, module, label, pin_file=pin_file, profile=profile,
        environment=environment, chroot=chroot, python=python,
    )  # fmt: skip
    with opened(chosen, pin_fd) as token:
        if clean:
            outcome = cleaned(token)
        else:
            outcome = examined(token, seconds, conditions, out, wrong=try_wrong_pin, tell=note)
    finish(outcome, as_json=as_json)
