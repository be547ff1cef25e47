"""Client certificates of all kinds: ordered from the service, or made by someone else."""

import asyncio
import base64
import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from kms.bootstrap import local_services
from kms.cli.certificates import chain_pem
from kms.cli.local_principals import CONSOLE
from kms.domain.records import Principal, TenantId
from kms.processes.pin import obtain_pin
from kms.services.idempotency import call
from kms.services.infrastructure import Order
from pki.keys import parse_public_key
from pki.names import Subject
from pki.profiles import certificate_profile
from policies.algorithms import algorithm
from tests.support.calling import Client
from tests.support.running import Home

Files = tuple[Path, Path]
Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def spki(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def csr(key: Key) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def files(folder: Path, name: str, chain: bytes, key: Key) -> Files:
    """Certificate chain and key as files of a client."""
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    paths[0].write_bytes(chain)
    paths[1].write_bytes(plain)
    return paths


def admit(officer: Client, folder: Path, name: str, tenant: str, role: str) -> tuple[Files, str]:
    """Register a principal and certify it; answers its files and the certificate's serial."""
    bundles = ["device-identity"] if role == "messaging-server" else []
    body = {"tenant": tenant, "name": name, "role": role, "bundles": bundles}
    assert officer.post("/v1/principals", body).status == 201
    return certify(officer, folder, name, tenant)


def certify(officer: Client, folder: Path, name: str, tenant: str) -> tuple[Files, str]:
    """Another certificate for a principal."""
    key = new_key()
    answer = officer.post("/v1/certificates", {"tenant": tenant, "name": name, "csr": csr(key)})
    assert answer.status == 201, answer.body
    document = answer.document
    return files(folder, document["serial"], chain_pem(document), key), document["serial"]


def certify_briefly(home: Home, folder: Path, tenant: str, name: str, seconds: float) -> Files:
    """A certificate of a stopped home that ends so many seconds from now."""
    key = new_key()

    async def issue() -> dict[str, Any]:
        async with local_services(home.settings, obtain_pin(home.settings)) as services:
            principal = services.core.ledger.get(Principal, TenantId(tenant), name)
            assert principal is not None
            order = Order(
                tenant=TenantId(tenant),
                principal=name,
                profile=certificate_profile("messaging-server"),
                subject=Subject(name),
                key=parse_public_key(spki(key), algorithm("ECDSA-P256")),
                uris=(principal.uri,),
                lifetime=services.core.limits.backdate + timedelta(seconds=seconds),
            )
            request = call(CONSOLE, "test/brief", name, spki(key))
            answer = await services.infrastructure.issue(request, order)
            document: dict[str, Any] = json.loads(answer.body)
            return document

    return files(folder, f"brief-{name}", chain_pem(asyncio.run(issue())), key)


def certify_device(client: Client, folder: Path, device: str) -> Files:
    """A device whose key a test has, to try its certificate as a client's."""
    key = new_key()
    encoded = base64.b64encode(spki(key)).decode()
    slot = {"name": "identity", "algorithm": "ECDSA-P256", "public_key": encoded}
    order = {"user": "ada", "device": device, "bundle": "device-identity", "slots": [slot]}
    begun = client.post("/v1/enrolments", order).document
    message = b"sovereign-kms/enrol/sign/v1\x00" + base64.b64decode(begun["transcript"])
    proof = base64.b64encode(key.sign(message, ec.ECDSA(hashes.SHA256()))).decode()
    path = f"/v1/enrolments/{begun['enrolment']}/proofs"
    answer = client.post(path, {"proofs": {"identity": proof}})
    assert answer.status == 201, answer.body
    document = answer.document
    chain = [document["certificates"][0]["certificate"], *document["chain"][:1]]
    pem = "".join(ssl.DER_cert_to_PEM_cert(base64.b64decode(item)) for item in chain)
    return files(folder, device, pem.encode(), key)


def forge(folder: Path, name: str, like: x509.Certificate, *, issuer: Key | None = None) -> Files:
    """A certificate that says what another one says, signed by somebody else (or by itself)."""
    key = new_key()
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(like.subject)
        .issuer_name(like.issuer)
        .public_key(key.public_key())
        .serial_number(like.serial_number)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
    )
    for extension in like.extensions:
        if not isinstance(extension.value, x509.SubjectKeyIdentifier):
            builder = builder.add_extension(extension.value, extension.critical)
    signed = builder.sign(issuer or key, hashes.SHA256())
    return files(folder, name, signed.public_bytes(Encoding.PEM), key)
