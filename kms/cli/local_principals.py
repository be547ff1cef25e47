"""The first principals of a home, made at its console: nobody can call the API before them.

The console's part is certified under the name `console` in the log. Who works here holds the home
and the token's PIN, which is why nothing else of the command line issues certificates this way.
"""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kms.cli.certificates import chain_pem
from kms.cli.commands import PinFdOption, local
from kms.cli.errors import UsageProblemError
from kms.cli.files import PRIVATE, must_be_new, read_small, write
from kms.cli.output import Shown, lines, table
from kms.domain.authorisation import Caller
from kms.domain.records import SYSTEM_TENANT, Principal, Role, Tenant, TenantId
from kms.processes.pin import obtain_pin
from kms.services.answers import Answer
from kms.services.idempotency import Call, call
from kms.settings import Settings

if TYPE_CHECKING:
    from kms.services.facade import Services

T = TypeVar("T")

CONSOLE = Caller(SYSTEM_TENANT, "console", Role.OFFICER, ())
"""Whoever works at the console, as events name the actor."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A principal to be registered and certified; `domain` is its tenant's."""

    name: str
    role: Role
    tenant: TenantId = SYSTEM_TENANT
    domain: str = ""
    bundles: tuple[str, ...] = ()


MINISTRY = TenantId("ministry")
DEVELOPMENT = (
    Wanted("alice", Role.OFFICER),
    Wanted("bob", Role.OFFICER),
    Wanted("audrey", Role.AUDITOR),
    Wanted(
        "messenger",
        Role.MESSAGING_SERVER,
        MINISTRY,
        "id.ministry.example",
        ("device", "device-identity"),
    ),
)
"""Who a development home is used by."""


@local
def dev_clients(
    settings: Settings,
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory; clients/ of the home by default.")
    ] = None,
    pin_fd: PinFdOption = None,
) -> Shown:
    """Make development clients: keys here, certificates from the home. Production takes CSRs."""
    directory = out or settings.clients_dir
    missing = [item for item in DEVELOPMENT if not _made(directory, item.name)]
    if missing:
        asyncio.run(with_services(settings, pin_fd, _make_clients(directory, missing)))
    files = [directory / f"{item.name}{end}" for item in DEVELOPMENT for end in (".pem", ".key")]
    document = {
        "directory": str(directory),
        "made": [item.name for item in missing],
        "trust": str(settings.trust_path),
        "clients": [
            {
                "name": item.name,
                "role": item.role.value,
                "tenant": item.tenant,
                "certificate": str(directory / f"{item.name}.pem"),
                "key": str(directory / f"{item.name}.key"),
            }
            for item in DEVELOPMENT
        ],
    }
    view = lines(
        table(
            ("client", "role", "tenant"), ((i.name, i.role.value, i.tenant) for i in DEVELOPMENT)
        ),
        "",
        f"{len(files)} files in {directory}; {len(missing)} clients are new.",
        "For development only. In production keys are made where they are used:"
        " `kms principal bootstrap-officer` and `kms cert issue` take CSRs.",
    )
    return Shown(document, view)


@local
def bootstrap_officer(
    settings: Settings,
    name: Annotated[str, typer.Argument(help="The officer.")],
    csr: Annotated[Path, typer.Option("--csr", help="The officer's CSR, PEM or DER.")],
    out: Annotated[Path, typer.Option("--out", help="Where the certificate goes, PEM.")],
    pin_fd: PinFdOption = None,
) -> Shown:
    """Register and certify an officer at the console: the first ones, who then admit the others."""
    must_be_new(out)
    request = read_small(csr)

    async def work(services: "Services") -> dict[str, Any]:
        return await _admit(services, Wanted(name, Role.OFFICER), request)

    answer = asyncio.run(with_services(settings, pin_fd, work))
    write(out, chain_pem(answer))
    view = lines(
        f"Certified officer {name}, serial {answer['serial']}: {out}",
        f"Hand it over with the trust anchor {settings.trust_path}.",
    )
    return Shown({**answer, "path": str(out)}, view)


def _made(directory: Path, name: str) -> bool:
    return all((directory / f"{name}{end}").is_file() for end in (".pem", ".key"))


def _make_clients(
    directory: Path, missing: list[Wanted]
) -> Callable[["Services"], Awaitable[None]]:
    async def work(services: "Services") -> None:
        for item in missing:
            key, csr = _new_key(item.name)
            # The key lies on disk before anyone certifies it; one without certificate is made anew.
            write(directory / f"{item.name}.key", key, PRIVATE)
            write(directory / f"{item.name}.pem", chain_pem(await _admit(services, item, csr)))

    return work


def _new_key(name: str) -> tuple[bytes, bytes]:
    """A fresh private key and a CSR by it, PEM."""
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject)
    key = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return key, csr.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


async def with_services(
    settings: Settings, pin_fd: int | None, work: Callable[["Services"], Awaitable[T]]
) -> T:
    """Do something with the use cases of a home that no service is at work in.

    Raises:
        HomeBusyError: One is.
        PinError: The token refused the PIN.
    """
    from kms.bootstrap import local_services  # noqa: PLC0415 - remote commands start faster

    pin = obtain_pin(settings, pin_fd=pin_fd)
    try:
        async with local_services(settings, pin) as services:
            return await work(services)
    finally:
        pin.clear()


async def _admit(services: "Services", wanted: Wanted, csr: bytes) -> dict[str, Any]:
    """Register tenant and principal as far as they are not, and certify the CSR's key."""
    ledger, principals = services.core.ledger, services.principals
    if ledger.get(Tenant, wanted.tenant) is None:
        await _once(
            services,
            "tenants",
            lambda request: principals.add_tenant(request, wanted.tenant, wanted.domain),
        )
    known = ledger.get(Principal, wanted.tenant, wanted.name)
    if known is None:
        await _once(
            services,
            "principals",
            lambda request: principals.add_principal(
                request, wanted.tenant, wanted.name, wanted.role, wanted.bundles
            ),
        )
    elif known.role is not wanted.role:
        raise UsageProblemError(
            f"{wanted.name} is registered as {known.role.value}", "choose another name"
        )
    return await _once(
        services,
        "certificates",
        lambda request: services.infrastructure.issue_for_principal(
            request, wanted.tenant, wanted.name, csr
        ),
    )


async def _once(
    services: "Services", route: str, work: Callable[[Call], Awaitable[Answer]]
) -> dict[str, Any]:
    request = call(CONSOLE, f"console/{route}", secrets.token_hex(16), b"")
    answer = await services.idempotency.once(request, lambda: work(request))
    document: dict[str, Any] = json.loads(answer.body)
    return document
