"""`kms cert`: certificates of people, devices and principals."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from kms.cli.client import Page, field_of, segment
from kms.cli.commands import LimitOption, Session, TenantOption, new_group, remote
from kms.cli.errors import MalformedAnswerError
from kms.cli.files import must_be_new, read_small, write
from kms.cli.output import Shown, lines, note, sheet, table
from kms.domain.records import CertificateStatus, Reason
from kms.wire import WireError, b64, unb64

group = new_group("cert", "Certificates: issue for principals, search, revoke.")

ReasonOption = Annotated[Reason, typer.Option("--reason", help="Reason, as CRLs give it.")]


def _as_outside(serial: str) -> str:
    """A serial as this service writes it, from what other tools print: `0x`, colons, capitals."""
    return serial.lower().removeprefix("0x").replace(":", "")


SerialArgument = Annotated[
    str, typer.Argument(help="Serial number, hex.", callback=_as_outside, metavar="SERIAL")
]

_COLUMNS = ("serial", "status", "profile", "algorithm", "owner", "not_after", "index")


@group.command("issue")
@remote
def issue(
    session: Session,
    name: Annotated[str, typer.Argument(help="A registered principal.")],
    csr: Annotated[Path, typer.Option("--csr", help="Its certification request, PEM or DER.")],
    tenant: TenantOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the certificate and its issuer go, PEM.")
    ] = None,
) -> Shown:
    """Certify a principal's key."""
    must_be_new(out)
    answer = session.api.post(
        "/v1/certificates", {"tenant": tenant, "name": name, "csr": csr_text(read_small(csr))}
    )
    pem = chain_pem(answer)
    if out is not None:
        write(out, pem)
    where = {} if out is None else {"written to": out}
    view = sheet(
        {
            "principal": f"{name} of {answer.get('tenant')}",
            "profile": answer.get("profile"),
            "serial": answer.get("serial"),
            "not after": answer.get("not_after"),
            **where,
        }
    )
    return Shown(answer, view if out is not None else lines(view, "", pem.decode()))


@group.command("list")
@remote
def search(
    session: Session,
    user: Annotated[str | None, typer.Option("--user", help="Of this person.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="Of this device.")] = None,
    principal: Annotated[str | None, typer.Option("--principal", help="Of this principal.")] = None,
    status: Annotated[CertificateStatus | None, typer.Option("--status")] = None,
    tenant: TenantOption = None,
    limit: LimitOption = 1000,
) -> Shown:
    """Search certificates."""
    query = {
        "user": user,
        "device": device,
        "principal": principal,
        "status": None if status is None else status.value,
        "tenant": tenant,
    }
    found = session.api.listing("/v1/certificates", "certificates", query, limit)
    return listing_shown("certificates", found, certificate_table(found.records))


@group.command("show")
@remote
def show_one(
    session: Session,
    serial: SerialArgument,
    tenant: TenantOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where it goes, PEM.")] = None,
) -> Shown:
    """Show one certificate."""
    must_be_new(out)
    answer = session.api.get(f"/v1/certificates/{segment(serial)}", {"tenant": tenant})
    if out is not None:
        write(out, pem_of(field_of(answer, "certificate")))
    hidden = {"certificate"}
    return Shown(answer, sheet({k: v for k, v in answer.items() if k not in hidden}))


@group.command("revoke")
@remote
def revoke(
    session: Session,
    serial: SerialArgument,
    reason: ReasonOption = Reason.UNSPECIFIED,
    tenant: TenantOption = None,
) -> Shown:
    """Revoke one certificate, for good."""
    path = f"/v1/certificates/{segment(serial)}/revoke"
    answer = session.api.post(path, {"reason": reason.value, "tenant": tenant})
    return Shown(answer, revocation_view(answer))


def csr_text(data: bytes) -> str:
    """A CSR as the API takes it: PEM as text, DER in base64."""
    from_pem = data.lstrip().startswith(b"-----BEGIN")
    return data.decode("ascii", "replace") if from_pem else b64(data)


def chain_pem(answer: Mapping[str, Any]) -> bytes:
    """The certificate and those above it but the root, as TLS clients present them.

    Raises:
        MalformedAnswerError: The answer holds no certificates.
    """
    chain = answer.get("chain")
    if not isinstance(chain, list) or not all(isinstance(item, str) for item in chain):
        raise MalformedAnswerError("the answer has no chain of certificates")
    return b"".join(pem_of(text) for text in [field_of(answer, "certificate"), *chain[:-1]])


def pem_of(base64_der: str) -> bytes:
    """PEM of a certificate that an answer holds.

    Raises:
        MalformedAnswerError: It is not base64.
    """
    return ssl.DER_cert_to_PEM_cert(der_of(base64_der)).encode()


def der_of(text: str) -> bytes:
    """Bytes that an answer holds in base64.

    Raises:
        MalformedAnswerError: It is not base64.
    """
    try:
        return unb64(text)
    except WireError as error:
        raise MalformedAnswerError(f"the answer holds {error}") from error


def certificate_table(records: list[dict[str, Any]]) -> RenderableType:
    """Certificates as people look at them."""
    rows = ([{**item, "owner": owner_of(item)}.get(name) for name in _COLUMNS] for item in records)
    return table(_COLUMNS, rows)


def owner_of(record: Mapping[str, Any]) -> str:
    """Whose certificate it is, in one word."""
    if record.get("user"):
        return "/".join(str(record.get(name) or "-") for name in ("user", "device", "slot"))
    return str(record.get("principal") or "-")


def listing_shown(name: str, found: Page, view: RenderableType) -> Shown:
    """A listing; says so when there is more."""
    if found.next is not None:
        note(f"kms: there are more than these {len(found.records)}; raise --limit to see them")
    return Shown({name: found.records, "next": found.next}, view)


def revocation_view(answer: Mapping[str, Any]) -> RenderableType:
    """What was revoked, and whether the log's signed head covers it already."""
    revoked = answer.get("revoked")
    items = revoked if isinstance(revoked, list) else []
    receipt = answer.get("receipt")
    status = receipt.get("status") if isinstance(receipt, dict) else None
    index = receipt.get("index") if isinstance(receipt, dict) else None
    head = f"Revoked {len(items)} certificate{'' if len(items) == 1 else 's'};"
    head += f" event {index}, receipt {status}."
    columns = ("serial", "authority", "device", "slot")
    return lines(head, table(columns, ([item.get(name) for name in columns] for item in items)))
