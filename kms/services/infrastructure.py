"""Infrastructure certificates: for principals on an officer's order, and for this server's TLS.

Nothing a CSR asks for leaks into a certificate but its key and, for servers, the names the order
permits. Serial and validity are reserved before signing, so that a retry rebuilds the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from kms.domain.authorisation import Caller
from kms.domain.records import (
    SYSTEM_TENANT,
    Certificate,
    CertificateStatus,
    Fingerprint,
    Principal,
    Reservation,
    Role,
    Serial,
    Standing,
    Tenant,
    TenantId,
)
from kms.services.answers import Answer, AnswerSpec, receipt_slot, render
from kms.services.claims import Claims
from kms.services.core import INFRASTRUCTURE, Core, covered, prepare, sign_all
from kms.services.errors import (
    AlgorithmRefusedError,
    InvalidCsrError,
    KeyReusedError,
    NotFoundError,
    RevokedError,
    UnavailableError,
)
from kms.services.idempotency import Call
from kms.services.key_checks import KeyChecks
from kms.services.ports import Change, Conflict, Delete, EventDraft, Insert, Replace, Unit
from kms.wire import Committed, EventType, LeafCertificate, b64, serial_hex, timestamp
from pki.certificates import CertificateRequest, Issued, Prepared
from pki.csr import parse_csr
from pki.errors import InvalidCsrError as PkiCsrError
from pki.errors import InvalidKeyError as PkiKeyError
from pki.keys import PublicKey, fingerprints
from pki.names import Subject
from pki.profiles import CertificateProfile, certificate_profile
from policies.decisions import Protection, Question, Use, decide

PROFILE_OF_ROLE = {
    Role.OFFICER: "officer",
    Role.AUDITOR: "auditor",
    Role.MESSAGING_SERVER: "messaging-server",
}
TLS_SERVER = "tls-server"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be certified: for whom, which key, which names.

    `lifetime` None is the profile's; a longer one than the profile's is cut to it.
    """

    tenant: TenantId
    principal: str
    profile: CertificateProfile
    subject: Subject
    key: PublicKey
    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    ips: tuple[IPv4Address | IPv6Address, ...] = ()
    lifetime: timedelta | None = None


@dataclass(frozen=True, slots=True)
class _Made:
    """A signed certificate on its way into the ledger."""

    order: Order
    reservation: Reservation
    prepared: Prepared
    issued: Issued
    rule: str


class Infrastructure:
    """Issues under the infrastructure authority."""

    def __init__(self, core: Core, checks: KeyChecks, claims: Claims) -> None:
        self._core = core
        self._checks = checks
        self._claims = claims

    async def issue_for_principal(
        self, request: Call, tenant: TenantId, name: str, csr: bytes
    ) -> Answer:
        """Certify a principal's key from a CSR (PEM or DER).

        Raises:
            NotFoundError: No such principal.
            InvalidCsrError: The CSR is malformed or not signed by its own key.
            InputError: The key is refused.
        """
        return await self.issue(request, self._principal_order(tenant, name, csr))

    async def issue_for_server(
        self,
        request: Call,
        key: PublicKey,
        dns: Sequence[str],
        ips: Sequence[str],
        lifetime: timedelta,
    ) -> Answer:
        """Certify this service's own TLS key; its names are the operator's configuration."""
        order = Order(
            tenant=SYSTEM_TENANT,
            principal=TLS_SERVER,
            profile=certificate_profile(TLS_SERVER),
            subject=Subject([*dns, *ips][0]),
            key=key,
            dns=tuple(dns),
            ips=tuple(map(ip_address, ips)),
            lifetime=lifetime,
        )
        return await self.issue(request, order)

    async def issue(self, request: Call, order: Order) -> Answer:
        """Decide → prepare → lint → reserve → sign → commit → answer."""
        names = [f"{order.tenant}/{name}" for name in fingerprints(order.key)]
        with self._claims.hold(names):
            self._refuse_reuse(order)
            now = self._core.clock.now()
            reservation, changes = self._reservation(request, order, now)
            rule = self._decide(order, now, reservation.not_after)
            prepared = self._prepare(order, reservation)
            self._reserve(changes)
            (signature,) = await sign_all(self._core.signer, [prepared.statement])
            made = _Made(order, reservation, prepared, prepared.complete(signature), rule)
            return await self._commit(request, made)

    def _principal_order(self, tenant: TenantId, name: str, csr: bytes) -> Order:
        owner = self._core.ledger.get(Tenant, tenant)
        principal = self._core.ledger.get(Principal, tenant, name)
        if owner is None or principal is None:
            raise NotFoundError("there is no such principal; register it first", field="name")
        if principal.standing is not Standing.ACTIVE:
            raise RevokedError("the principal is disabled", field="name")
        try:
            request = parse_csr(csr)
        except PkiCsrError as error:
            raise InvalidCsrError(str(error), field="csr") from error
        except PkiKeyError as error:
            raise InvalidCsrError(f"the CSR's key: {error}", field="csr") from error
        algorithm = request.key.algorithm
        return Order(
            tenant=tenant,
            principal=name,
            profile=certificate_profile(PROFILE_OF_ROLE[principal.role]),
            subject=Subject(name, owner.identity_domain),
            key=self._checks.accept(request.key.spki, algorithm.name, algorithm.kind),
            uris=(principal.uri,),
        )

    def _refuse_reuse(self, order: Order) -> None:
        for fingerprint in fingerprints(order.key):
            if self._core.ledger.get(Fingerprint, order.tenant, fingerprint) is not None:
                raise KeyReusedError("the key is registered already; make a new one", field="csr")

    def _decide(self, order: Order, now: datetime, not_after: datetime) -> str:
        question = Question(
            Use.INFRASTRUCTURE, None, order.key.algorithm.name, Protection.DEVICE, now, not_after
        )
        decision = decide(self._core.policy, question)
        if not decision.allowed:
            raise AlgorithmRefusedError(decision.reason, field="csr")
        return decision.rule

    def _reservation(
        self, request: Call, order: Order, now: datetime
    ) -> tuple[Reservation, list[Change]]:
        """Serial and validity of this call, and what has to be stored before anything is signed.

        They are those of its first attempt, if there was one. Another body is another attempt,
        though it comes with the same key: no serial is signed twice for different certificates.
        """
        scope: dict[str, Any] = {
            "tenant": request.caller.tenant,
            "principal": request.caller.name,
            "route": request.route,
            "idempotency_key": f"{request.key} {request.body_sha256}",
        }
        changes: list[Change] = []
        for stored in self._core.ledger.find(Reservation, limit=1, **scope):
            if stored.expires > now:
                return stored, []
            changes.append(Delete(stored))
        issuer = self._core.authorities[INFRASTRUCTURE].issuer
        start = now - self._core.limits.backdate
        serial = int.from_bytes(self._core.ids.identifier(), "big")
        fresh = Reservation(
            authority=INFRASTRUCTURE,
            serial=Serial(serial_hex(serial)),
            not_before=start,
            not_after=min(start + self._lifetime(order), issuer.not_after),
            expires=now + self._core.limits.enrolment_ttl,
            **scope,
        )
        return fresh, [*changes, Insert(fresh)]

    def _reserve(self, changes: list[Change]) -> None:
        if changes and self._core.ledger.reserve(changes) is not None:
            raise UnavailableError("the same request is being answered; try again")

    def _lifetime(self, order: Order) -> timedelta:
        longest = order.profile.validity
        return longest if order.lifetime is None else min(order.lifetime, longest)

    def _prepare(self, order: Order, reservation: Reservation) -> Prepared:
        request = CertificateRequest(
            profile=order.profile,
            serial=int(reservation.serial, 16),
            not_before=reservation.not_before,
            not_after=reservation.not_after,
            subject=order.subject,
            key=order.key,
            uris=order.uris,
            dns=order.dns,
            ips=order.ips,
        )
        return prepare(self._core.authorities[INFRASTRUCTURE], request)

    async def _commit(self, request: Call, made: _Made) -> Answer:
        event = self._event(request.caller, made)
        spec = AnswerSpec.of(201, self._document(made, event))
        unit = Unit(
            changes=tuple(self._changes(made, event)),
            events=(event,),
            idempotent=request.record(self._core.clock, spec.encode()),
        )
        outcome = await self._core.sequencer.commit(unit)
        if isinstance(outcome, Conflict):
            if outcome.record == Fingerprint.__name__:
                raise KeyReusedError("the key has been registered meanwhile", field="csr")
            raise UnavailableError("the same request was answered a moment ago; send it again")
        self._core.observer.issued(made.order.profile.name, made.order.key.algorithm.name)
        return render(spec, covered(self._core, outcome))

    def _event(self, caller: Caller, made: _Made) -> EventDraft:
        certificate = LeafCertificate(
            INFRASTRUCTURE,
            made.reservation.serial,
            made.order.profile.name,
            None,
            made.issued.sha256,
        )
        return self._core.events.draft(
            EventType.CERTIFICATE_ISSUED,
            self._core.clock.now(),
            made.order.tenant,
            {Committed.ACTOR: caller.name, Committed.USER: made.order.principal},
            certificates=[certificate],
            policy={"hash": self._core.policy.hash, "rules": {made.order.profile.name: made.rule}},
        )

    def _changes(self, made: _Made, event: EventDraft) -> list[Change]:
        order, reservation = made.order, made.reservation
        certificate = Certificate(
            tenant=order.tenant,
            authority=INFRASTRUCTURE,
            serial=reservation.serial,
            generation=self._core.authorities[INFRASTRUCTURE].record.generation,
            profile=order.profile.name,
            profile_version=order.profile.version,
            algorithm=order.key.algorithm.name,
            user=None,
            device=None,
            slot=None,
            principal=order.principal,
            der=made.issued.der,
            sha256=made.issued.sha256,
            tbs_sha256=made.prepared.tbs_sha256,
            not_before=reservation.not_before,
            not_after=reservation.not_after,
            status=CertificateStatus.GOOD,
            event=event.event,
            policy=self._core.policy.hash,
            rule=made.rule,
        )
        return [
            Replace(reservation, expected=reservation),  # not ended by the sweep meanwhile
            Insert(certificate),
            *(Insert(self._fingerprint(order, name)) for name in fingerprints(order.key)),
            Delete(reservation),
        ]

    def _fingerprint(self, order: Order, fingerprint: str) -> Fingerprint:
        modulus = order.key.modulus
        return Fingerprint(
            tenant=order.tenant,
            fingerprint=fingerprint,
            owner=f"principal/{order.principal}",
            scheme=order.key.algorithm.scheme.value,
            modulus=None if modulus is None else f"{modulus:x}",
        )

    def _document(self, made: _Made, event: EventDraft) -> dict[str, object]:
        return {
            "tenant": made.order.tenant,
            "name": made.order.principal,
            "profile": made.order.profile.name,
            "serial": made.reservation.serial,
            "not_before": timestamp(made.reservation.not_before),
            "not_after": timestamp(made.reservation.not_after),
            "certificate": b64(made.issued.der),
            "chain": [b64(der) for der in self._core.authorities.chain(INFRASTRUCTURE)],
            "receipt": receipt_slot(0),
            "leaf": b64(event.leaf),
            "openings": [opening.document() for opening in event.openings],
        }
