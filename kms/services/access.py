"""Who is calling: from a client certificate to a principal, as of this moment (DESIGN section 5).

TLS has verified the chain up to the infrastructure authority; here the ledger says whether the
certificate still stands, whom it names and what that principal is. Nothing is taken from the
certificate but issuer, serial and URI.
"""

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

from kms.domain.authorisation import Action, Caller, may, reaches
from kms.domain.records import (
    SYSTEM_TENANT,
    Certificate,
    CertificateStatus,
    Principal,
    Standing,
    Tenant,
    TenantId,
)
from kms.services.core import INFRASTRUCTURE, Core
from kms.services.errors import (
    AccessError,
    CertificateRevokedError,
    NotFoundError,
    UnauthenticatedError,
    UnknownPrincipalError,
)
from pki.chains import certificate_info
from pki.errors import PkiError

STALE_SECONDS = 1.0
CACHE = 4096


@dataclass(frozen=True, slots=True)
class _Known:
    caller: Caller
    not_after: datetime
    checked: float


class Access:
    """Authenticates callers and answers for what they may do."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    def authenticate(self, certificate: bytes | None) -> Caller:
        """The principal behind a client certificate (DER).

        At most `STALE_SECONDS` old; `forget` makes it fresh at once.

        Raises:
            UnauthenticatedError: No certificate, or none of the infrastructure authority.
            CertificateRevokedError: Revoked or expired.
            UnknownPrincipalError: Its principal or tenant is not registered and active.
        """
        if certificate is None:
            raise UnauthenticatedError("a client certificate is required")
        known = self._known.get(certificate)
        now = time.monotonic()
        if known is not None and now - known.checked < STALE_SECONDS:
            if self._core.clock.now() > known.not_after:
                raise CertificateRevokedError("the client certificate has expired")
            return known.caller
        record = self._standing(certificate, hashlib.sha256(certificate).hexdigest())
        caller = self._principal(certificate)
        self._known[certificate] = _Known(caller, record.not_after, now)
        self._known.move_to_end(certificate)
        while len(self._known) > CACHE:
            self._known.popitem(last=False)
        return caller

    def forget(self) -> None:
        """Check everyone anew: something was revoked or disabled."""
        self._known.clear()

    def require(self, caller: Caller, action: Action) -> None:
        """Refuse what the caller's role may not do.

        Raises:
            AccessError: It may not.
        """
        if not may(caller, action):
            raise AccessError(f"the role {caller.role.value} may not {action.value}")

    def tenant(self, caller: Caller, named: str | None) -> TenantId:
        """The tenant a request is about: the caller's own unless it names another it reaches.

        Raises:
            NotFoundError: It names a tenant that does not exist or is not the caller's.
        """
        if named is None:
            return caller.tenant
        tenant = TenantId(named)
        known = tenant == SYSTEM_TENANT or self._core.ledger.get(Tenant, tenant) is not None
        if not known or not reaches(caller, tenant):
            raise NotFoundError("there is no such tenant", field="tenant")
        return tenant

    def _standing(self, der: bytes, sha256: str) -> Certificate:
        try:
            info = certificate_info(der)
        except PkiError as error:
            raise UnauthenticatedError("the client certificate cannot be read") from error
        records = self._core.ledger.find(
            Certificate, authority=INFRASTRUCTURE, serial=info.serial, limit=2
        )
        record = next((item for item in records if item.sha256 == sha256), None)
        if record is None:
            raise UnauthenticatedError("the client certificate was not issued here")
        if record.status is not CertificateStatus.GOOD:
            raise CertificateRevokedError("the client certificate is revoked")
        if not record.not_before <= self._core.clock.now() <= record.not_after:
            raise CertificateRevokedError("the client certificate has expired or is not yet valid")
        return record

    def _principal(self, der: bytes) -> Caller:
        uris = certificate_info(der).uris
        found = [
            principal
            for uri in uris
            for principal in self._core.ledger.find(Principal, uri=uri, limit=2)
        ]
        if len(found) != 1 or found[0].standing is not Standing.ACTIVE:
            raise UnknownPrincipalError("the certificate names no active principal")
        principal = found[0]
        tenant = self._core.ledger.get(Tenant, principal.tenant)
        if tenant is None or tenant.standing is not Standing.ACTIVE:
            raise UnknownPrincipalError("the principal's tenant is not active")
        return Caller(principal.tenant, principal.name, principal.role, principal.bundles)
