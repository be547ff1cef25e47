"""Ceremonies after the first: further authorities below the root, and the log's cosigner."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from kms.cli.commands import PinFdOption, YesOption, local
from kms.cli.errors import UsageProblemError
from kms.cli.files import read_small
from kms.cli.founding import (
    agree_to,
    check_officers,
    report_document,
    report_view,
    step_teller,
)
from kms.cli.output import Shown
from kms.processes.pin import obtain_pin
from kms.services.ceremony_plan import (
    OWN_TOKEN,
    AuthorityPlan,
    CosignerPlan,
    Plan,
    load_further,
    plan_cosigner,
)
from kms.services.founded import Founded, read_founded
from kms.settings import Settings
from policies.decisions import Protection

_AFTER = (
    "Publish the new fingerprints and keys where strangers can find them.",
    "Next: start the service; let messaging servers enrol the bundles that are certified now.",
)
_OfficerOption = Annotated[
    list[str], typer.Option("--officer", help="Who is present; at least two, each once.")
]


@local
def add_authorities(
    settings: Settings,
    officer: _OfficerOption,
    plan: Annotated[Path, typer.Option("--plan", help="TOML file; see the guide.")],
    pin_fd: PinFdOption = None,
    *,
    yes: YesOption = False,
) -> Shown:
    """Make further authorities below the root. Interrupted, it is ended by the same command."""
    check_officers(officer)
    founded = _founded(settings)
    wanted = load_further(read_small(plan), founded.organization)
    names = {item.name for item in wanted}
    if names <= founded.authorities:
        raise UsageProblemError(
            f"{settings.home} has {', '.join(sorted(names))} already",
            "nothing is to be done; `kms authority list` shows them",
        )
    return _extend(settings, pin_fd, _plan(settings, founded, wanted, None), officer, yes=yes)


@local
def add_cosigner(
    settings: Settings,
    officer: _OfficerOption,
    token: Annotated[
        str, typer.Option("--token", help="Token that is to hold its key.")
    ] = OWN_TOKEN,
    protection: Annotated[
        str, typer.Option("--protection", help="token, or wrapped under a key of that token.")
    ] = Protection.TOKEN.value,
    pin_fd: PinFdOption = None,
    *,
    yes: YesOption = False,
) -> Shown:
    """Make the log's ML-DSA-44 cosigner: from then on every checkpoint carries its signature."""
    check_officers(officer)
    founded = _founded(settings)
    if founded.cosigned:
        raise UsageProblemError(
            "the log has its cosigner already", "nothing is to be done; `kms log show` names it"
        )
    cosigner = plan_cosigner({"token": token, "protection": protection})
    return _extend(settings, pin_fd, _plan(settings, founded, (), cosigner), officer, yes=yes)


def _founded(settings: Settings) -> Founded:
    from kms.bootstrap import open_ledger  # noqa: PLC0415 - remote commands start faster

    ledger = open_ledger(settings)
    try:
        return read_founded(ledger)
    finally:
        ledger.close()


def _plan(
    settings: Settings,
    founded: Founded,
    authorities: tuple[AuthorityPlan, ...],
    cosigner: CosignerPlan | None,
) -> Plan:
    return Plan(
        log_name=settings.name,
        log_label=founded.log_label,
        organization=founded.organization,
        identity_domain=founded.identity_domain,
        authorities=authorities,
        cosigner=cosigner,
    )


def _extend(
    settings: Settings, pin_fd: int | None, plan: Plan, officers: Sequence[str], *, yes: bool
) -> Shown:
    from kms.bootstrap import extend_home  # noqa: PLC0415 - remote commands start faster

    if not yes:
        agree_to(plan, officers)
    pin = obtain_pin(settings, pin_fd=pin_fd)
    try:
        report = extend_home(settings, pin, plan, officers, step_teller())
    finally:
        pin.clear()
    return Shown(report_document(report, plan, officers), report_view(report, _AFTER))
