"""Replicas of keys on further tokens: `kms key replicate` and `kms log move`, local ceremonies."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from hsm_drivers.ports import KeyLabel, Replication
from kms.cli.commands import PinFdOption, YesOption, local
from kms.cli.errors import UsageProblemError
from kms.cli.founding import check_officers, sign_off
from kms.cli.output import Shown, lines
from kms.processes.pin import obtain_pin
from kms.settings import MAIN, Settings, shown

if TYPE_CHECKING:
    from hsm_drivers.client import SignerClient
    from hsm_drivers.ports import KeyRecord
    from kms.services.core import Core

    Work = Callable[[Core, SignerClient], Awaitable[KeyRecord]]

_OfficerOption = Annotated[
    list[str], typer.Option("--officer", help="Who is present; at least two, each once.")
]
_ToOption = Annotated[str, typer.Option("--to", help="Token, as the settings name it.")]


@local
def replicate(
    settings: Settings,
    label: Annotated[str, typer.Argument(help="The key's label, as `kms key list` shows it.")],
    officer: _OfficerOption,
    to: _ToOption,
    how: Annotated[
        Replication,
        typer.Option(
            "--how",
            help="maker: its own backup or clone put the key there before. transfer: here and now,"
            " under a trusted wrapping key.",
        ),
    ] = Replication.MAKER,
    trusted: Annotated[
        str | None, typer.Option("--trusted", help="Label of that wrapping key on both tokens.")
    ] = None,
    pin_fd: PinFdOption = None,
    *,
    yes: YesOption = False,
) -> Shown:
    """Take a further token into a key's record, once it has shown that it holds that key."""
    check_officers(officer)
    token = _known(settings, to)
    if (how is Replication.TRANSFER) != (trusted is not None):
        raise UsageProblemError(
            "a transfer needs a wrapping key, and nothing else does",
            "give --how transfer together with --trusted LABEL",
        )
    if not yes:
        sign_off(officer)

    async def work(core: "Core", signer: "SignerClient") -> "KeyRecord":
        from kms.services.replication import Wish  # noqa: PLC0415 - remote commands start faster
        from kms.services.replication import replicate as add  # noqa: PLC0415 - as above

        wish = Wish(KeyLabel(label), token, how, None if trusted is None else KeyLabel(trusted))
        return await add(core, signer, wish, officer)

    record = _held(settings, pin_fd, work)
    places = [shown(place) for place in record.places]
    view = lines(
        f"{label} is on {', '.join(places)}; the log has it.",
        "Start the service: certificates are signed by all of them. A log's key signs on the"
        f" first only, {places[0]}.",
    )
    return Shown({"label": label, "places": places, "how": how.value}, view)


@local
def move_log(
    settings: Settings,
    officer: _OfficerOption,
    to: _ToOption,
    pin_fd: PinFdOption = None,
    *,
    yes: YesOption = False,
) -> Shown:
    """Let another token that holds the log's key sign from now on, and no other."""
    check_officers(officer)
    token = _known(settings, to)
    if not yes:
        sign_off(officer)

    async def work(core: "Core", signer: "SignerClient") -> "KeyRecord":
        from kms.services.replication import (  # noqa: PLC0415 - remote commands start faster
            current_log_key,
        )
        from kms.services.replication import move_log as move  # noqa: PLC0415 - as above

        return await move(core, signer, current_log_key(core), token, officer)

    record = _held(settings, pin_fd, work)
    view = lines(f"{record.label} signs on {shown(record.home)} from now on; start the service.")
    return Shown({"label": record.label, "token": shown(record.home)}, view)


def _known(settings: Settings, to: str) -> str:
    name = "" if to == MAIN else to
    if name not in settings.estate:
        known = ", ".join(shown(each) for each in settings.estate)
        raise UsageProblemError(
            f"the settings have no token {to}", f"add it as [tokens.{to}], or choose of: {known}"
        )
    return name


def _held(settings: Settings, pin_fd: int | None, work: "Work") -> "KeyRecord":
    from kms.bootstrap import in_ceremony  # noqa: PLC0415 - remote commands start faster

    pin = obtain_pin(settings, pin_fd=pin_fd)
    try:
        return in_ceremony(settings, pin, work)
    finally:
        pin.clear()
