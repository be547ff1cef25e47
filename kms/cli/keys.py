"""`kms key`: keys with a life, kept for clients; their uses are the messaging servers' own."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from kms.cli.certificates import listing_shown
from kms.cli.client import records_of, segment
from kms.cli.commands import LimitOption, Session, TenantOption, new_group, remote
from kms.cli.errors import UsageProblemError
from kms.cli.output import Shown, lines, note, sheet, table
from kms.domain.key_records import LogUses
from policies.key_life import KeyPurpose

group = new_group("key", "Keys: with a life, kept for clients; and replicas of any key.")

NameArgument = Annotated[str, typer.Argument(help="The key's name.", metavar="KEY")]
VersionOption = Annotated[
    int | None,
    typer.Option("--version", min=1, help="Which version; by default all that the step fits."),
]
ConfirmOption = Annotated[
    str | None, typer.Option("--confirm", help="The name again, instead of typing it.")
]
UntilOption = Annotated[
    str, typer.Option("--until", help="Until when it still opens, like 2027-01-31T08:00:00Z.")
]
AtOption = Annotated[
    str | None, typer.Option("--at", help="A time like 2027-01-31T08:00:00Z; by default now.")
]
_VERSION = (
    *("version", "state", "algorithm", "protection"),
    *("activates", "originator_end", "recipient_end", "destroys"),
)


@group.command("list")
@remote
def show_all(session: Session, tenant: TenantOption = None, limit: LimitOption = 1000) -> Shown:
    """Show the keys of a tenant."""
    found = session.api.listing("/v1/keys", "keys", {"tenant": tenant}, limit)
    columns = ("key", "purpose", "current", "state", "algorithm", "protection")
    return listing_shown("keys", found, table(columns, map(_row, found.records)))


@group.command("show")
@remote
def show_one(session: Session, name: NameArgument, tenant: TenantOption = None) -> Shown:
    """Show a key: its versions, how and where each is held, who may do what."""
    answer = session.api.get(f"/v1/keys/{segment(name)}", {"tenant": tenant})
    replicas = records_of(answer, "replicas")
    places = ("version", "token", "token_label", "how", "destroyed")
    allowed = answer.get("permissions")
    view = lines(
        key_view(answer),
        "",
        table(places, ([item.get(column) for column in places] for item in replicas)),
        "",
        permissions_view(allowed if isinstance(allowed, list) else []),
    )
    return Shown(answer, view)


@group.command("create")
@remote
def create(
    session: Session,
    name: Annotated[
        str, typer.Argument(help="A name that was never given in the tenant.", metavar="KEY")
    ],
    purpose: Annotated[KeyPurpose, typer.Option("--purpose", help="What it is for.")],
    algorithm: Annotated[
        str | None, typer.Option("--algorithm", help="By default the policy's first.")
    ] = None,
    protection: Annotated[
        str | None, typer.Option("--protection", help="token, transferable or wrapped.")
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", help="By default the service's own, `main`.")
    ] = None,
    at: AtOption = None,
    rotation_days: Annotated[int, typer.Option("--rotate-every", min=0, help="Days.")] = 0,
    overlap_days: Annotated[int, typer.Option("--overlap", min=0, help="Days.")] = 0,
    retention_days: Annotated[
        int, typer.Option("--retain", min=0, help="Days from deactivation to destruction.")
    ] = 0,
    log_uses: Annotated[
        LogUses, typer.Option("--log-uses", help="Which uses become events.")
    ] = LogUses.NONE,
    tenant: TenantOption = None,
) -> Shown:
    """Make a key for a purpose. Give others permission with `kms key permit`."""
    body = {
        "name": name,
        "purpose": purpose.value,
        "algorithm": algorithm,
        "protection": protection,
        "token": token,
        "activates": at,
        "tenant": tenant,
        "settings": {
            "rotation_days": rotation_days,
            "overlap_days": overlap_days,
            "retention_days": retention_days,
            "log_uses": log_uses.value,
        },
    }
    given = {field: value for field, value in body.items() if value is not None}
    return _changed(session.api.post("/v1/keys", given))


@group.command("rotate")
@remote
def rotate(
    session: Session, name: NameArgument, at: AtOption = None, tenant: TenantOption = None
) -> Shown:
    """Make the next version; the one before only undoes and checks from then on."""
    return _changed(_post(session, name, "rotate", {"activates": at, "tenant": tenant}))


def _step(verb: str, text: str) -> None:
    """A command that orders one step."""

    @group.command(verb, help=text)
    @remote
    def order(
        session: Session,
        name: NameArgument,
        version: VersionOption = None,
        tenant: TenantOption = None,
    ) -> Shown:
        return _changed(_post(session, name, verb, {"version": version, "tenant": tenant}))


_step("activate", "Activate the version that waits, before its time or without one.")
_step("suspend", "Suspend a key: it does nothing until it is resumed.")
_step("resume", "Resume a suspended key.")
_step("cancel-destruction", "Keep what is scheduled for destruction.")


@group.command("deactivate")
@remote
def deactivate(
    session: Session,
    name: NameArgument,
    version: VersionOption = None,
    confirm: ConfirmOption = None,
    tenant: TenantOption = None,
) -> Shown:
    """Deactivate a key for good: from now on it only undoes and checks."""
    named = confirmed(session, name, confirm, "deactivated for good")
    body = {"version": version, "confirm": named, "tenant": tenant}
    return _changed(_post(session, name, "deactivate", body))


@group.command("compromise")
@remote
def compromise(
    session: Session,
    name: NameArgument,
    version: VersionOption = None,
    confirm: ConfirmOption = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Since when; by default now.")
    ] = None,
    recover_until: Annotated[
        str | None,
        typer.Option("--recover-until", help="Until when it may still open; default: not at all."),
    ] = None,
    tenant: TenantOption = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what it would touch, and change nothing.")
    ] = False,
) -> Shown:
    """Hold a key to be compromised, for good: it does nothing, unless officers let it open."""
    if dry_run:
        path = f"/v1/keys/{segment(name)}/touches"
        found = session.api.get(path, {"version": version, "tenant": tenant})
        return Shown({"would_touch": found}, lines("It would touch:", touches_view(found)))
    body = {
        "version": version,
        "confirm": confirmed(session, name, confirm, "held to be compromised"),
        "since": since,
        "recover_until": recover_until,
        "tenant": tenant,
    }
    answer = _post(session, name, "compromise", body)
    touched = answer.get("touches")
    view = lines(key_view(answer), "", "It touches:", touches_view(touched or {}))
    return Shown(answer, view)


@group.command("recover")
@remote
def recover(
    session: Session,
    name: NameArgument,
    until: UntilOption,
    version: VersionOption = None,
    tenant: TenantOption = None,
) -> Shown:
    """Let a compromised key open what was sealed for it, until then; for officers."""
    body = {"version": version, "until": until, "tenant": tenant}
    return _changed(_post(session, name, "recover", body))


@group.command("destroy")
@remote
def destroy(
    session: Session,
    name: NameArgument,
    version: VersionOption = None,
    at: Annotated[
        str | None, typer.Option("--at", help="By default as soon as the delay allows.")
    ] = None,
    confirm: ConfirmOption = None,
    tenant: TenantOption = None,
) -> Shown:
    """Schedule the destruction of a key. Whatever it protects is gone for good with it."""
    named = confirmed(session, name, confirm, "destroyed")
    body = {"version": version, "at": at, "confirm": named, "tenant": tenant}
    answer = _post(session, name, "destroy", body)
    note(f"kms: until then `kms key cancel-destruction {name}` keeps it")
    return _changed(answer)


@group.command("permit")
@remote
def permit(
    session: Session,
    name: NameArgument,
    principal: Annotated[str, typer.Argument(help="A principal of the key's own tenant.")],
    operations: Annotated[
        list[str] | None,
        typer.Option("--operation", help="What it may do, or `manage`; none takes all away."),
    ] = None,
    tenant: TenantOption = None,
) -> Shown:
    """Say what a principal may do with a key from now on."""
    body = {"principal": principal, "operations": operations or [], "tenant": tenant}
    answer = _post(session, name, "permit", body)
    return Shown(answer, permissions_view([answer]))


@group.command("uses")
@remote
def show_uses(
    session: Session, name: NameArgument, tenant: TenantOption = None, limit: LimitOption = 1000
) -> Shown:
    """Show the uses of a key that the log holds."""
    path = f"/v1/keys/{segment(name)}/uses"
    found = session.api.listing(path, "uses", {"tenant": tenant}, limit)
    columns = ("index", "time")
    rows = ([item.get(column) for column in columns] for item in found.records)
    return listing_shown("uses", found, table(columns, rows))


def key_view(answer: Mapping[str, Any]) -> RenderableType:
    """A key and its versions."""
    settings = answer.get("settings")
    facts = {
        "key": answer.get("key"),
        "key id": answer.get("key_id"),
        "purpose": answer.get("purpose"),
        "tenant": answer.get("tenant"),
        "current": answer.get("current"),
        **(settings if isinstance(settings, dict) else {}),
    }
    versions = records_of(answer, "versions")
    rows = ([item.get(name) for name in _VERSION] for item in versions)
    return lines(sheet(facts), "", table(_VERSION, rows))


def touches_view(found: Mapping[str, Any]) -> RenderableType:
    """What a compromise touches."""
    facts = {
        "versions": [item.get("version") for item in found.get("versions") or []],
        "slots": found.get("slots"),
        "certificates": [item.get("serial") for item in found.get("certificates") or []],
        "on tokens": [item.get("token") for item in found.get("replicas") or []],
        "wrapped": [item.get("under") for item in found.get("wrapped") or []],
    }
    return sheet(facts)


def permissions_view(found: list[Any]) -> RenderableType:
    """Who may do what."""
    rows = ((item.get("principal"), ", ".join(item.get("operations") or [])) for item in found)
    return table(("principal", "may"), rows)


def _row(item: Mapping[str, Any]) -> list[object]:
    versions = {found.get("version"): found for found in records_of(item, "versions")}
    current = versions.get(item.get("current"), {})
    own = (item.get("key"), item.get("purpose"), item.get("current"))
    return [*own, *(current.get(name) for name in ("state", "algorithm", "protection"))]


def confirmed(session: Session, name: str, given: str | None, what: str) -> str:
    """The name again, given or typed: there is no way back from what is done to it.

    Raises:
        UsageProblemError: It is another one, or nobody can type it.
    """
    if given is None and session.json:
        raise UsageProblemError("nobody can type the name under --json", f"give --confirm {name}")
    if given is None:
        given = str(typer.prompt(f"Type the name to have it {what} ({name})", err=True))
    if given != name:
        raise UsageProblemError(f"that is not the name: {name}", "nothing was done")
    return given


def _post(session: Session, name: str, verb: str, body: Mapping[str, Any]) -> dict[str, Any]:
    given = {field: value for field, value in body.items() if value is not None}
    return session.api.post(f"/v1/keys/{segment(name)}/{verb}", given)


def _changed(answer: dict[str, Any]) -> Shown:
    return Shown(answer, key_view(answer))
