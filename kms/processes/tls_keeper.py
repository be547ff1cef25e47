"""The API's own TLS certificate: made, renewed and swapped without a restart.

The key is a short-lived 0600 file (P2): made here, certified by the infrastructure authority like
any other, replaced well before its end. A crash between key and certificate leaves a key that
nothing uses; the next round makes both anew.
"""

import asyncio
import json
import os
import secrets
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_address

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kms.services.crls import SERVICE
from kms.services.errors import KmsError
from kms.services.facade import Services
from kms.services.idempotency import call
from kms.services.infrastructure import TLS_SERVER
from kms.services.ports import LedgerUnavailableError
from kms.settings import Settings
from kms.wire import unb64
from pki.keys import infer_algorithm, parse_public_key
from policies.algorithms import Kind

RETRY_SECONDS = 2.0
LOOK_SECONDS = 60.0

_log = structlog.get_logger()


class TlsKeeper:
    """Keeps `tls/server.pem` (leaf and chain) and `tls/server.key` fresh.

    Args:
        settings: Names, lifetime and directory.
        services: Issue the certificate.
        renewed: Called after each change, to swap the listener's certificate.
    """

    def __init__(self, settings: Settings, services: Services, renewed: Callable[[], None]) -> None:
        self._settings = settings
        self._services = services
        self._renewed = renewed
        self.certificate = settings.tls_dir / "server.pem"
        self.key = settings.tls_dir / "server.key"

    async def ensure(self) -> None:
        """Wait until there is a certificate that is good for now."""
        good = await self._round()
        while not good:
            await asyncio.sleep(RETRY_SECONDS)
            good = await self._round()

    async def run(self) -> None:
        """Renew in time; ends only when cancelled."""
        while True:
            good = await self._round()
            await asyncio.sleep(LOOK_SECONDS if good else RETRY_SECONDS)

    async def _round(self) -> bool:
        try:
            if self._due():
                await self._renew()
        except (KmsError, LedgerUnavailableError, OSError) as error:
            _log.warning("tls.not-renewed", error_type=type(error).__name__, detail=str(error))
            return self._valid()
        return True

    def _current(self) -> x509.Certificate | None:
        """The certificate that there is; None for none.

        Raises:
            OSError: It is there and cannot be read now, which is no reason to make another.
        """
        try:
            return x509.load_pem_x509_certificate(self.certificate.read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def _valid(self) -> bool:
        try:
            current = self._current()
        except OSError:
            return False
        now = self._services.core.clock.now()
        return current is not None and self.key.exists() and now < current.not_valid_after_utc

    def _due(self) -> bool:
        current = self._current()
        if current is None or not self.key.exists():
            return True
        issuer = self._services.core.authorities["infrastructure"].issuer
        margin = timedelta(hours=self._settings.tls.renew_before_hours)
        expiring = self._services.core.clock.now() >= current.not_valid_after_utc - margin
        foreign = current.issuer.public_bytes() != issuer.subject
        return expiring or foreign or _names(current) != set(self._settings.tls.server_names)

    async def _renew(self) -> None:
        private = ec.generate_private_key(ec.SECP256R1())
        spki = private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        key = parse_public_key(spki, infer_algorithm(spki, Kind.SIGNATURE))
        names = self._settings.tls.server_names
        ips = [name for name in names if _is_ip(name)]
        request = call(SERVICE, f"tls/{TLS_SERVER}", secrets.token_hex(16), spki)
        answer = await self._services.infrastructure.issue_for_server(
            request,
            key,
            [name for name in names if name not in ips],
            ips,
            timedelta(hours=self._settings.tls.certificate_hours),
        )
        document = json.loads(answer.body)
        chain = [unb64(document["certificate"]), unb64(document["chain"][0])]
        pem = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self._write(b"".join(map(_pem, chain)), pem)
        _log.info("tls.renewed", serial=document["serial"])
        self._renewed()

    def _write(self, chain: bytes, key: bytes) -> None:
        self._settings.tls_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, data in ((self.key, key), (self.certificate, chain)):
            fresh = path.with_suffix(path.suffix + ".new")
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)


def _names(certificate: x509.Certificate) -> set[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    dns = extension.value.get_values_for_type(x509.DNSName)
    ips = extension.value.get_values_for_type(x509.IPAddress)
    return {*dns, *map(str, ips)}


def _is_ip(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
