"""`kms device` and `kms user`: people, their devices, and ending both at once."""

from typing import Annotated, Any

import typer

from kms.cli.certificates import (
    ReasonOption,
    certificate_table,
    listing_shown,
    revocation_view,
)
from kms.cli.client import Page, segment
from kms.cli.commands import (
    LimitOption,
    Session,
    TenantOption,
    YesOption,
    confirm,
    new_group,
    remote,
)
from kms.cli.output import Shown, lines, note, sheet, table
from kms.domain.records import Reason

MANY = 1_000_000
"""More devices or certificates than one person has."""

devices = new_group("device", "Devices of people.")
users = new_group("user", "People.")

DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be revoked, and revoke nothing.")
]


@devices.command("list")
@remote
def show_devices(
    session: Session,
    user: Annotated[str, typer.Argument(help="Whose devices.")],
    tenant: TenantOption = None,
    limit: LimitOption = 1000,
) -> Shown:
    """Show a person's devices."""
    found = _devices_of(session, user, tenant, limit)
    columns = ("device", "user", "bundle", "standing")
    rows = ([item.get(name) for name in columns] for item in found.records)
    return listing_shown("devices", found, table(columns, rows))


@devices.command("show")
@remote
def show_device(
    session: Session,
    device: Annotated[str, typer.Argument(help="Which device.")],
    tenant: TenantOption = None,
) -> Shown:
    """Show a device and its certificates."""
    answer = session.api.get(f"/v1/devices/{segment(device)}", {"tenant": tenant})
    held = _certificates(session, tenant, device=device)
    document = {**answer, "certificates": held}
    facts = {name: value for name, value in answer.items() if not isinstance(value, list | dict)}
    return Shown(document, lines(sheet(facts), "", certificate_table(held)))


@devices.command("revoke")
@remote
def revoke_device(
    session: Session,
    device: Annotated[str, typer.Argument(help="Which device.")],
    reason: ReasonOption = Reason.UNSPECIFIED,
    tenant: TenantOption = None,
    *,
    dry_run: DryRunOption = False,
) -> Shown:
    """Revoke a device and all its certificates; it cannot be enrolled again."""
    if dry_run:
        return _preview(_certificates(session, tenant, device=device, status="good"))
    path = f"/v1/devices/{segment(device)}/revoke"
    answer = session.api.post(path, {"reason": reason.value, "tenant": tenant})
    return Shown(answer, revocation_view(answer))


@users.command("revoke")
@remote
def revoke_user(
    session: Session,
    user: Annotated[str, typer.Argument(help="Whose certificates and devices.")],
    reason: ReasonOption = Reason.UNSPECIFIED,
    tenant: TenantOption = None,
    *,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> Shown:
    """Revoke a person everywhere: every device and certificate, at once and for good."""
    if dry_run or not yes:
        held = _certificates(session, tenant, user=user, status="good")
        owned = _devices_of(session, user, tenant, MANY).records
        if dry_run:
            return _preview(held)
        note(f"{user}: {len(owned)} devices, {len(held)} certificates in force")
        confirm("Revoke all of them, for good?", yes=yes, as_json=session.json)
    path = f"/v1/users/{segment(user)}/revoke"
    answer = session.api.post(path, {"reason": reason.value, "tenant": tenant})
    return Shown(answer, revocation_view(answer))


def _devices_of(session: Session, user: str, tenant: str | None, limit: int) -> Page:
    path = f"/v1/users/{segment(user)}/devices"
    return session.api.listing(path, "devices", {"tenant": tenant}, limit)


def _certificates(session: Session, tenant: str | None, **query: str) -> list[dict[str, Any]]:
    asked = {**query, "tenant": tenant}
    return session.api.listing("/v1/certificates", "certificates", asked, MANY).records


def _preview(held: list[dict[str, Any]]) -> Shown:
    count = f"{len(held)} certificate{'' if len(held) == 1 else 's'} would be revoked; none was."
    return Shown({"would_revoke": held}, lines(count, certificate_table(held)))
