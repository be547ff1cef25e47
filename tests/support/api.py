"""The HTTP applications over a service in memory, called without a network."""

import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from starlette.types import ASGIApp, Receive, Scope, Send

from hsm_drivers.ports import StatementSigner
from kms.api.app import HttpLimits, create_api
from kms.api.identity import PEER_CERTIFICATE
from kms.api.operator import create_operator
from kms.api.problems import describe
from kms.api.public import create_public
from kms.domain.records import SYSTEM_TENANT, Role, TenantId
from kms.metrics import Metrics
from kms.services.facade import Services, compose
from kms.services.ports import Ledger
from kms.services.turns import ROOMS, Admission, CallClass, Room
from kms.wire import unb64
from tests.support.services import DOMAIN, OFFICER, TENANT, World, decoded, world

BUNDLES = ["device", "device-identity"]
OTHER = TenantId("other")


@dataclass(frozen=True, slots=True)
class Client:
    """A principal's key and certificate."""

    tenant: str
    name: str
    der: bytes
    key: ec.EllipticCurvePrivateKey

    def write(self, folder: Path) -> tuple[Path, Path]:
        """PEM files of certificate and key."""
        certificate, key = folder / f"{self.name}.pem", folder / f"{self.name}.key"
        parsed = x509.load_der_x509_certificate(self.der)
        certificate.write_bytes(parsed.public_bytes(Encoding.PEM))
        key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, key


def csr_of(
    key: ec.EllipticCurvePrivateKey, name: str = "anything"
) -> x509.CertificateSigningRequest:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anything")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, hashes.SHA256())


class Presenting:
    """Stands for TLS: hands a certificate to the application, as the protocol does."""

    def __init__(self, app: ASGIApp, certificate: bytes | None) -> None:
        self._app = app
        self._certificate = certificate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})[PEER_CERTIFICATE] = self._certificate
        await self._app(scope, receive, send)


@dataclass
class Site:
    """A service with its applications and clients for them."""

    world: World
    services: Services
    metrics: Metrics
    api: ASGIApp
    public: ASGIApp
    operator: ASGIApp
    clients: dict[str, Client]
    admission: Admission

    def caller(self, name: str | None) -> "Session":
        """A session of that client; None presents no certificate."""
        certificate = None if name is None else self.clients[name].der
        return self.presenting(certificate)

    def presenting(self, certificate: bytes | None) -> "Session":
        return Session(Presenting(self.api, certificate))

    def reader(self) -> "Session":
        return Session(self.public)

    def monitor(self) -> "Session":
        return Session(self.operator)

    async def register(self, tenant: str, name: str, role: Role) -> Client:
        """A registered principal with a certificate of its own."""
        bundles = BUNDLES if role is Role.MESSAGING_SERVER else []
        request = self.world.call("principals", name, who=OFFICER)
        await self.services.principals.add_principal(request, TenantId(tenant), name, role, bundles)
        return await self.certify(tenant, name)

    async def certify(self, tenant: str, name: str) -> Client:
        key = ec.generate_private_key(ec.SECP256R1())
        csr = csr_of(key).public_bytes(Encoding.DER)
        request = self.world.call("certificates", name, who=OFFICER)
        answer = await self.services.infrastructure.issue_for_principal(
            request, TenantId(tenant), name, csr
        )
        client = Client(tenant, name, unb64(decoded(answer)["certificate"]), key)
        self.clients[name] = client
        return client


class Session:
    """HTTP calls to an application; every POST gets a fresh Idempotency-Key unless told."""

    def __init__(self, app: ASGIApp) -> None:
        transport = httpx.ASGITransport(app=app)
        self._http = httpx.AsyncClient(transport=transport, base_url="https://kms.test")

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self._http.get(path, **options)

    async def post(self, path: str, body: Any = None, key: str | None = None) -> httpx.Response:
        content = b"" if body is None else json.dumps(body).encode()
        headers = [
            ("content-type", "application/json"),
            ("idempotency-key", key or secrets.token_hex(8)),
        ]
        return await self.raw("POST", path, content, headers)

    async def raw(
        self, method: str, path: str, content: bytes, headers: list[tuple[str, str]]
    ) -> httpx.Response:
        """Exactly these headers, in bytes of Latin-1, besides those of the client."""
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        return await self._http.request(method, path, content=content, headers=encoded)

    async def stream(self, path: str, content: AsyncIterator[bytes]) -> httpx.Response:
        """A POST whose body comes in pieces."""
        headers = {"content-type": "application/json", "idempotency-key": "k"}
        return await self._http.post(path, content=content, headers=headers)


@asynccontextmanager
async def site(
    directory: Path,
    limits: HttpLimits | None = None,
    *,
    rooms: Mapping[CallClass, Room] = ROOMS,
    ledger: Ledger | None = None,
    wrap_signer: Callable[[StatementSigner], StatementSigner] = lambda signer: signer,
) -> AsyncIterator[Site]:
    """Ceremony held, tenants `ministry` and `other`, and clients of every role.

    Clients: officer, auditor (the authority's), messenger (of `ministry`), stranger (of `other`).
    """
    async with world(directory, ledger, wrap_signer) as made:
        metrics = Metrics()
        core = replace(made.services.core, describe=describe, observer=metrics)
        services = compose(core)
        services.crls.load()
        made.services = services
        metrics.watch(services)
        admission = Admission(rooms, metrics)
        metrics.watch_admission(admission)
        built = Site(
            world=made,
            services=services,
            metrics=metrics,
            api=create_api(services, limits, admission=admission, observer=metrics),
            public=create_public(services, limits, observer=metrics),
            operator=create_operator(services, metrics.registry),
            clients={},
            admission=admission,
        )
        await services.principals.add_tenant(
            made.call("tenants", OTHER, who=OFFICER), OTHER, "id.other.example"
        )
        await built.register(SYSTEM_TENANT, "officer", Role.OFFICER)
        await built.register(SYSTEM_TENANT, "auditor", Role.AUDITOR)
        await built.certify(TENANT, "messenger")
        await built.register(OTHER, "stranger", Role.MESSAGING_SERVER)
        yield built


__all__ = ["DOMAIN", "OTHER", "TENANT", "Client", "Session", "Site", "csr_of", "site"]
