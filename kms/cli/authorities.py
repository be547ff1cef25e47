"""`kms authority`: certification authorities and their revocation lists."""

import base64
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509
from cryptography.x509 import CRLDistributionPoints, UniformResourceIdentifier

from kms.cli.certificates import der_of, pem_of
from kms.cli.client import ApiClient, field_of, records_of, segment
from kms.cli.commands import Session, new_group, remote
from kms.cli.errors import MalformedAnswerError, UsageProblemError
from kms.cli.files import write
from kms.cli.output import Shown, lines, table

group = new_group("authority", "Certification authorities, their ceremony and revocation lists.")


@group.command("list")
@remote
def show_all(session: Session) -> Shown:
    """Show the authorities and the state of their revocation lists."""
    answer = session.api.get("/v1/authorities")
    columns = ("name", "generation", "algorithm", "issuer", "crl", "next update", "revoked")
    return Shown(answer, table(columns, map(_row, records_of(answer, "authorities"))))


@group.command("publish-crl")
@remote
def publish_crl(
    session: Session,
    names: Annotated[list[str] | None, typer.Argument(help="Which; all by default.")] = None,
) -> Shown:
    """Make and publish revocation lists now."""
    wanted = names or [field_of(item, "name") for item in _authorities(session.api)]
    made = [
        session.api.post(f"/v1/authorities/{segment(name)}/crl", {}, step=name) for name in wanted
    ]
    columns = ("authority", "number", "entries", "this_update", "next_update")
    rows = ([item.get(name) for name in columns] for item in made)
    return Shown({"crls": made}, table(columns, rows))


@group.command("export")
@remote
def export(
    session: Session,
    directory: Annotated[Path, typer.Argument(help="Where ca/ is made.")],
) -> Shown:
    """Write every authority's certificate and revocation list: ca/NAME.pem, .crl, .crl.pem."""
    known = _authorities(session.api)
    files: list[Path] = []
    with session.open_public(public_url(session, known)) as public:
        for item in known:
            name = field_of(item, "name")
            crl = public.download(f"/pki/{segment(name)}.crl")
            contents = {
                f"{name}.pem": pem_of(field_of(item, "certificate")),
                f"{name}.crl": crl,
                f"{name}.crl.pem": crl_pem(crl),
            }
            for file, data in contents.items():
                write(directory / "ca" / file, data)
                files.append(directory / "ca" / file)
    document = {"directory": str(directory), "files": [str(path) for path in files]}
    return Shown(document, lines(*(str(path) for path in files)))


def public_url(session: Session, known: list[dict[str, Any]] | None = None) -> str:
    """Base URL of the public listener: as given, else as the people authority's certificate says.

    Raises:
        UsageProblemError: No certificate names it.
    """
    if session.public_url is not None:
        return session.public_url
    for item in known or _authorities(session.api):
        url = _crl_address(der_of(field_of(item, "certificate")))
        if url is not None:
            base, separator, _ = url.rpartition("/pki/")
            if separator:
                return base
    raise UsageProblemError(
        "no authority's certificate says where the public listener is", "give --public URL"
    )


def crl_pem(der: bytes) -> bytes:
    """PEM of a revocation list (RFC 7468 section 6)."""
    body = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    return f"-----BEGIN X509 CRL-----\n{body}\n-----END X509 CRL-----\n".encode()


def _authorities(api: ApiClient) -> list[dict[str, Any]]:
    return records_of(api.get("/v1/authorities"), "authorities")


def _crl_address(der: bytes) -> str | None:
    try:
        certificate = x509.load_der_x509_certificate(der)
        points = certificate.extensions.get_extension_for_class(CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return None
    except ValueError as error:
        raise MalformedAnswerError("an authority's certificate does not parse") from error
    names = [name for point in points for name in point.full_name or ()]
    urls = [name.value for name in names if isinstance(name, UniformResourceIdentifier)]
    return urls[0] if urls else None


def _row(item: Mapping[str, Any]) -> list[object]:
    crl = item.get("crl")
    state = crl if isinstance(crl, dict) else {}
    return [
        item.get("name"),
        item.get("generation"),
        item.get("algorithm"),
        item.get("issuer"),
        state.get("number"),
        state.get("next_update"),
        state.get("entries"),
    ]
