"""`kms kem`: KEM slots of the organisation, which others seal to and only the HSM opens."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from kms.cli.certificates import listing_shown, pem_of
from kms.cli.client import field_of, records_of, segment
from kms.cli.commands import (
    LimitOption,
    Session,
    TenantOption,
    new_group,
    remote,
)
from kms.cli.errors import MalformedAnswerError, UsageProblemError
from kms.cli.files import PRIVATE, must_be_new, write
from kms.cli.keys import ConfirmOption, UntilOption, confirmed
from kms.cli.output import Shown, lines, note, sheet, table
from kms.domain.key_records import LogUses
from kms.wire import WireError, b64, unb64

group = new_group("kem", "KEM slots: what others seal to, and only the HSM opens.")

SMALL = 48 << 10
"""Bytes of an object that is sent whole; of larger ones only what holds the content key is."""
MAX_OBJECT = 13 << 20
_COLUMNS = ("version", "state", "algorithm", "held", "activates", "sealed to until", "destroys")

SlotArgument = Annotated[str, typer.Argument(help="The slot.", metavar="SLOT")]
VersionOption = Annotated[
    int | None, typer.Option("--version", min=1, help="Which version; all that it fits by default.")
]
ReasonArgument = Annotated[
    str, typer.Option("--reason", help="Why, in a sentence without personal data: it is logged.")
]


def _path(slot: str, verb: str = "") -> str:
    return f"/v1/kem-slots/{segment(slot)}" + (f"/{verb}" if verb else "")


@group.command("create")
@remote
def create(
    session: Session,
    slot: Annotated[str, typer.Argument(help="A new name; it is never given again.")],
    use: Annotated[str, typer.Option("--for", help="archive, transport, ...")] = "archive",
    algorithm: Annotated[
        str | None, typer.Option("--algorithm", help="The policy's first by default.")
    ] = None,
    token: Annotated[str | None, typer.Option("--token", help="Where it is made.")] = None,
    rotation_days: Annotated[int, typer.Option("--rotate-every", min=0, help="Days.")] = 0,
    overlap_days: Annotated[int, typer.Option("--overlap", min=0, help="Days.")] = 0,
    retention_days: Annotated[
        int, typer.Option("--retain", min=0, help="Days that an old version is kept; 0: for good.")
    ] = 0,
    log_uses: Annotated[LogUses | None, typer.Option("--log-uses")] = None,
    tenant: TenantOption = None,
) -> Shown:
    """Make a slot: key, proof, certificate, all on the record."""
    settings: dict[str, Any] = {
        "rotation_days": rotation_days,
        "overlap_days": overlap_days,
        "retention_days": retention_days,
    }
    if log_uses is not None:
        settings["log_uses"] = log_uses.value
    wanted = {"name": slot, "slot": use, "algorithm": algorithm, "token": token, "tenant": tenant}
    body = {name: value for name, value in wanted.items() if value is not None}
    return _changed(session.api.post("/v1/kem-slots", {**body, "settings": settings}))


@group.command("list")
@remote
def show_all(session: Session, tenant: TenantOption = None, limit: LimitOption = 1000) -> Shown:
    """Show the slots."""
    found = session.api.listing("/v1/kem-slots", "keys", {"tenant": tenant}, limit)
    columns = ("slot", "for", "current", "algorithm", "held", "state", "hold")
    return listing_shown("keys", found, table(columns, map(_row, found.records)))


def _row(item: Mapping[str, Any]) -> list[object]:
    versions = {found.get("version"): found for found in records_of(item, "versions")}
    current = versions.get(item.get("current"), {})
    held = "yes" if item.get("hold") else "no"
    shown = (current.get("algorithm"), _held(current), current.get("state"))
    return [item.get("key"), item.get("slot"), item.get("current"), *shown, held]


@group.command("show")
@remote
def show_one(session: Session, slot: SlotArgument, tenant: TenantOption = None) -> Shown:
    """Show a slot: versions, how each part is held, who may open, the hold."""
    answer = session.api.get(_path(slot), {"tenant": tenant})
    held = answer.get("held")
    facts = {
        "slot": answer.get("key"),
        "for": answer.get("slot"),
        "key id": answer.get("key_id"),
        "hold": held.get("reason") if isinstance(held, dict) else None,
    }
    allowed = [
        f"{item.get('principal')}: {', '.join(item.get('operations') or [])}"
        for item in answer.get("permissions") or []
    ]
    view = lines(sheet({**facts, "permitted": allowed}), "", _versions(answer))
    return Shown(answer, view)


@group.command("export")
@remote
def export(
    session: Session,
    slot: SlotArgument,
    directory: Annotated[Path, typer.Argument(help="Where the public half goes.")],
    tenant: TenantOption = None,
) -> Shown:
    """Write the public half for senders: public.json, and certificate and key of each version."""
    answer = session.api.get(_path(slot, "public"), {"tenant": tenant})
    written = ["public.json"]
    text = json.dumps(answer, indent=1, ensure_ascii=False) + "\n"
    write(directory / "public.json", text.encode())
    for item in records_of(answer, "versions"):
        name = f"{item.get('version')}"
        write(directory / f"{name}.pem", pem_of(field_of(item, "certificate")))
        write(directory / f"{name}.spki", _bytes_of(item, "public_key"))
        written += [f"{name}.pem", f"{name}.spki"]
    return Shown(answer, sheet({"written to": directory, "files": written}))


@group.command("open")
@remote
def open_object(
    session: Session,
    slot: SlotArgument,
    sealed: Annotated[Path, typer.Argument(help="A CMS envelope (DER) or an HPKE message.")],
    out: Annotated[Path, typer.Option("--out", help="Where the plaintext goes, readable by you.")],
    sealed_for: Annotated[str, typer.Option("--context", help="What it was sealed for.")] = "",
    tenant: TenantOption = None,
) -> Shown:
    """Open what was sealed to a slot; the log has the object's hash."""
    must_be_new(out)
    data = _read(sealed)
    asked = {"context": b64(sealed_for.encode()), "tenant": tenant}
    if len(data) <= SMALL:
        answer = session.api.post(_path(slot, "open"), {**asked, "ciphertext": b64(data)})
        plaintext = _bytes_of(answer, "plaintext")
    else:
        answer, plaintext = _open_large(session, slot, data, asked)
    write(out, plaintext, PRIVATE)
    shown = {name: answer.get(name) for name in ("version", "sha256")}
    return Shown(shown, sheet({**shown, "bytes": len(plaintext), "written to": out}))


def _open_large(
    session: Session, slot: str, data: bytes, asked: Mapping[str, Any]
) -> tuple[dict[str, Any], bytes]:
    """Only what holds the content key goes to the service; the content is decrypted here."""
    from pki import cms  # noqa: PLC0415 - remote commands start faster
    from pki.errors import EnvelopeError  # noqa: PLC0415 - as above

    try:
        head = cms.detached(data)
        answer = session.api.post(_path(slot, "unwrap"), {**asked, "ciphertext": b64(head)})
        return answer, cms.parse_envelope(data).decrypt(_bytes_of(answer, "content_key"))
    except EnvelopeError as error:
        raise UsageProblemError(f"not an envelope that can be opened: {error}") from error


@group.command("rotate")
@remote
def rotate(session: Session, slot: SlotArgument, tenant: TenantOption = None) -> Shown:
    """Make the next version; old ones still open."""
    return _changed(session.api.post(_path(slot, "rotate"), {"tenant": tenant}))


@group.command("suspend")
@remote
def suspend(
    session: Session, slot: SlotArgument, version: VersionOption = None, tenant: TenantOption = None
) -> Shown:
    """Suspend a slot: it is not served and opens nothing until it is resumed."""
    return _step(session, slot, "suspend", version, tenant)


@group.command("resume")
@remote
def resume(
    session: Session, slot: SlotArgument, version: VersionOption = None, tenant: TenantOption = None
) -> Shown:
    """Resume a suspended slot."""
    return _step(session, slot, "resume", version, tenant)


@group.command("deactivate")
@remote
def deactivate(
    session: Session,
    slot: SlotArgument,
    version: VersionOption = None,
    confirm: ConfirmOption = None,
    tenant: TenantOption = None,
) -> Shown:
    """Deactivate versions: from now on they only open. There is no way back."""
    named = confirmed(session, slot, confirm, "deactivated for good")
    body = {"confirm": named, "version": version, "tenant": tenant}
    return _changed(session.api.post(_path(slot, "deactivate"), body))


@group.command("compromise")
@remote
def compromise(
    session: Session,
    slot: SlotArgument,
    version: VersionOption = None,
    recover_until: Annotated[
        str | None, typer.Option("--recover-until", help="Until when it still opens, RFC 3339.")
    ] = None,
    confirm: ConfirmOption = None,
    tenant: TenantOption = None,
) -> Shown:
    """Hold a slot to be compromised, and see what that touches."""
    body = {
        "confirm": confirmed(session, slot, confirm, "held to be compromised"),
        "version": version,
        "recover_until": recover_until,
        "tenant": tenant,
    }
    answer = session.api.post(_path(slot, "compromise"), body)
    touched = answer.get("touches") or {}
    serials = [item.get("serial") for item in touched.get("certificates") or []]
    return Shown(answer, lines(_versions(answer), "", sheet({"certificates": serials})))


@group.command("recover")
@remote
def recover(
    session: Session,
    slot: SlotArgument,
    until: UntilOption,
    version: VersionOption = None,
    tenant: TenantOption = None,
) -> Shown:
    """Let a compromised slot open what was sealed to it, until then; for officers."""
    body = {"version": version, "until": until, "tenant": tenant}
    return _changed(session.api.post(_path(slot, "recover"), body))


@group.command("destroy")
@remote
def destroy(
    session: Session,
    slot: SlotArgument,
    version: VersionOption = None,
    at: Annotated[
        str | None, typer.Option("--at", help="When, RFC 3339; as soon as the delay allows.")
    ] = None,
    confirm: ConfirmOption = None,
    tenant: TenantOption = None,
) -> Shown:
    """Schedule the destruction of what is not active any more; until then it can be cancelled."""
    what = "every version" if version is None else f"version {version}"
    note(f"what is sealed to {what} of {slot} can never be opened again afterwards")
    named = confirmed(session, slot, confirm, "destroyed")
    body = {"confirm": named, "version": version, "at": at, "tenant": tenant}
    return _changed(session.api.post(_path(slot, "destroy"), body))


@group.command("cancel-destruction")
@remote
def cancel_destruction(
    session: Session, slot: SlotArgument, version: VersionOption = None, tenant: TenantOption = None
) -> Shown:
    """Keep what is scheduled for destruction."""
    return _step(session, slot, "cancel-destruction", version, tenant)


@group.command("hold")
@remote
def hold(
    session: Session, slot: SlotArgument, reason: ReasonArgument, tenant: TenantOption = None
) -> Shown:
    """Place a legal hold: nothing of the slot is destroyed until it is lifted."""
    return _changed(session.api.post(_path(slot, "hold"), {"reason": reason, "tenant": tenant}))


@group.command("release")
@remote
def release(
    session: Session, slot: SlotArgument, reason: ReasonArgument, tenant: TenantOption = None
) -> Shown:
    """Lift the legal hold."""
    return _changed(session.api.post(_path(slot, "release"), {"reason": reason, "tenant": tenant}))


@group.command("permit")
@remote
def permit(
    session: Session,
    slot: SlotArgument,
    principal: Annotated[str, typer.Argument(help="Of the slot's tenant.")],
    operation: Annotated[
        list[str] | None, typer.Option("--may", help="decapsulate, manage; none takes all away.")
    ] = None,
    tenant: TenantOption = None,
) -> Shown:
    """Say what a principal may do with the slot: decapsulate is to open."""
    body = {"principal": principal, "operations": operation or [], "tenant": tenant}
    answer = session.api.post(_path(slot, "permit"), body)
    return Shown(answer, sheet({principal: answer.get("operations") or ["nothing"]}))


def _step(session: Session, slot: str, verb: str, version: int | None, tenant: str | None) -> Shown:
    body = {"version": version, "tenant": tenant}
    return _changed(session.api.post(_path(slot, verb), body))


def _changed(answer: dict[str, Any]) -> Shown:
    return Shown(
        answer, lines(f"{answer.get('key')}, for {answer.get('slot')}", "", _versions(answer))
    )


def _versions(answer: Mapping[str, Any]) -> RenderableType:
    return table(
        _COLUMNS,
        (
            [
                item.get("version"),
                item.get("state"),
                item.get("algorithm"),
                _held(item),
                item.get("activates"),
                item.get("deactivates") or item.get("originator_end"),
                item.get("destroyed") or item.get("destroys"),
            ]
            for item in records_of(answer, "versions")
        ),
    )


def _held(version: Mapping[str, Any]) -> str:
    """Every part with its protection."""
    parts = version.get("components") or []
    return ", ".join(f"{item.get('algorithm')}: {item.get('protection')}" for item in parts)


def _bytes_of(answer: Mapping[str, Any], name: str) -> bytes:
    try:
        return unb64(field_of(answer, name))
    except WireError as error:
        raise MalformedAnswerError(f"{name} of the answer is not base64") from error


def _read(path: Path) -> bytes:
    """The whole object.

    Raises:
        UsageProblemError: It is absent, unreadable or larger than any that is opened.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_OBJECT + 1)
    except OSError as error:
        raise UsageProblemError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_OBJECT:
        raise UsageProblemError(f"{path}: larger than {MAX_OBJECT} bytes")
    return data
