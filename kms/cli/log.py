"""`kms log`: the record of every key event."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from kms.cli.authorities import public_url
from kms.cli.certificates import listing_shown
from kms.cli.client import field_of
from kms.cli.commands import LimitOption, Session, TenantOption, new_group, remote
from kms.cli.errors import CheckFailedError
from kms.cli.export import export_log
from kms.cli.files import must_be_new, write
from kms.cli.output import Shown, lines, progress, sheet, table

group = new_group("log", "The log of every key event, and proofs from it.")


@group.command("show")
@remote
def show_log(session: Session) -> Shown:
    """Show the log's name, verifier key and size."""
    answer = session.api.get("/v1/log")
    return Shown(answer, sheet(answer))


@group.command("events")
@remote
def events(
    session: Session,
    after: Annotated[int, typer.Option("--after", min=-1, help="Above this index.")] = -1,
    tenant: TenantOption = None,
    limit: LimitOption = 1000,
) -> Shown:
    """Show events, with the names that you may see."""
    query = {"after": after, "tenant": tenant}
    found = session.api.listing("/v1/events", "events", query, limit)
    columns = ("index", "time", "type", "tenant", "actor", "user", "device")
    rows = (_row(item, columns) for item in found.records)
    return listing_shown("events", found, table(columns, rows))


@group.command("receipt")
@remote
def receipt(
    session: Session,
    index: Annotated[int, typer.Argument(min=0, help="Position of the event in the log.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where it goes: NAME.tlog-proof.")
    ] = None,
) -> Shown:
    """Get the proof that the log holds an event; it verifies offline."""
    must_be_new(out)
    answer = session.api.get(f"/v1/events/{index}/receipt")
    if answer.get("status") != "final":
        raise CheckFailedError(
            f"event {index} is not covered by a signed checkpoint yet", "try again in a moment"
        )
    text = field_of(answer, "text")
    if out is not None:
        write(out, text.encode())
    return Shown(answer, lines(text if out is None else f"Written to {out}."))


@group.command("checkpoint")
@remote
def checkpoint(
    session: Session,
    out: Annotated[Path | None, typer.Option("--out", help="Where its exact bytes go.")] = None,
) -> Shown:
    """Get the newest signed checkpoint."""
    must_be_new(out)
    with session.open_public(public_url(session)) as public:
        note = public.download("/log/checkpoint")
    if out is not None:
        write(out, note)
    text = note.decode("utf-8", "replace")
    return Shown({"checkpoint": text}, lines(text if out is None else f"Written to {out}."))


@group.command("export")
@remote
def export(
    session: Session,
    directory: Annotated[Path, typer.Argument(help="Where log/, events/ and log.vkey are made.")],
) -> Shown:
    """Write the whole log as plain files that `kms-audit verify` reads."""
    with session.open_public(public_url(session)) as public, progress() as bar:
        done = export_log(session.api, public, directory, bar)
    document = {
        "directory": str(directory),
        "origin": done.origin,
        "log_size": done.size,
        "tiles": done.tiles,
        "openings": done.openings,
    }
    return Shown(document, sheet(document))


def _row(item: Mapping[str, Any], columns: tuple[str, ...]) -> list[object]:
    """An event in one line; a name whose opening is gone, or not for this reader, is `-`."""
    openings = item.get("openings")
    opened = {
        str(entry.get("field")): entry.get("value")
        for entry in (openings if isinstance(openings, list) else [])
        if isinstance(entry, dict)
    }
    return [item.get(name, opened.get(name)) for name in columns]
