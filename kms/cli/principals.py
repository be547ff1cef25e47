"""`kms principal`: officers, auditors and messaging servers."""

from typing import Annotated

import typer

from kms.cli.client import records_of, segment
from kms.cli.commands import Session, TenantOption, new_group, remote
from kms.cli.output import Shown, lines, table
from kms.domain.records import Role

group = new_group("principal", "Officers, auditors and messaging servers: who may call the API.")


@group.command("add")
@remote
def add(
    session: Session,
    name: Annotated[str, typer.Argument(help="Id: 1 to 64 of A-Z a-z 0-9 . _ -")],
    role: Annotated[Role, typer.Option("--role", help="What it may do.")],
    tenant: TenantOption = None,
    bundle: Annotated[
        list[str] | None,
        typer.Option("--bundle", help="Bundle profile it may enrol; may be given several times."),
    ] = None,
) -> Shown:
    """Register a principal; its certificate is issued by `kms cert issue`."""
    body = {"tenant": tenant, "name": name, "role": role.value, "bundles": bundle or []}
    answer = session.api.post("/v1/principals", body)
    owner = answer.get("tenant", tenant)
    view = lines(
        f"Registered {role.value} {name} of {owner}: {answer.get('uri')}",
        f"Next: kms cert issue {name} --tenant {owner} --csr FILE --out {name}.pem",
    )
    return Shown(answer, view)


@group.command("list")
@remote
def show_all(session: Session, tenant: TenantOption = None) -> Shown:
    """Show principals."""
    answer = session.api.get("/v1/principals", {"tenant": tenant})
    columns = ("tenant", "name", "role", "bundles", "uri", "standing")
    rows = ([item.get(name) for name in columns] for item in records_of(answer, "principals"))
    return Shown(answer, table(columns, rows))


@group.command("disable")
@remote
def disable(
    session: Session,
    name: Annotated[str, typer.Argument(help="Whose rights end.")],
    tenant: TenantOption = None,
) -> Shown:
    """Take all rights from a principal, at once."""
    answer = session.api.post(f"/v1/principals/{segment(name)}/disable", {"tenant": tenant})
    return Shown(answer, lines(f"Disabled {name}: its certificates open nothing any more."))
