"""`kms tenant`: ministries and agencies."""

from typing import Annotated

import typer

from kms.cli.client import records_of
from kms.cli.commands import Session, new_group, remote
from kms.cli.output import Shown, lines, table

group = new_group("tenant", "Ministries and agencies whose people are certified.")


@group.command("add")
@remote
def add(
    session: Session,
    tenant: Annotated[str, typer.Argument(help="Id: 1 to 64 of A-Z a-z 0-9 . _ -")],
    identity_domain: Annotated[
        str, typer.Argument(help="Domain of its people's names, such as id.ministry.example.")
    ],
) -> Shown:
    """Register a tenant."""
    body = {"tenant": tenant, "identity_domain": identity_domain}
    answer = session.api.post("/v1/tenants", body)
    view = lines(
        f"Registered {tenant}; its people are named below https://{identity_domain}/users/.",
        f"Next: kms principal add NAME --tenant {tenant} --role messaging-server --bundle device",
    )
    return Shown(answer, view)


@group.command("list")
@remote
def show_all(session: Session) -> Shown:
    """Show all tenants."""
    answer = session.api.get("/v1/tenants")
    columns = ("tenant", "identity_domain", "standing")
    rows = ([item.get(name) for name in columns] for item in records_of(answer, "tenants"))
    return Shown(answer, table(columns, rows))
