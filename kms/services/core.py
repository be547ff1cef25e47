"""What every use case works with: ports, policy, authorities, limits. Built by bootstrap."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from hsm_drivers.errors import HsmError, RateExceededError
from hsm_drivers.ports import KeyLabel, ServiceKeys, Statement, StatementSigner
from kms.domain.records import SYSTEM_TENANT, Authority, Standing
from kms.services.answers import Covered
from kms.services.errors import (
    KmsError,
    SignerUnavailableError,
    SigningRateError,
    UnavailableError,
)
from kms.services.events import EventFactory
from kms.services.observing import Observer
from kms.services.ports import Clock, Ids, Ledger
from kms.services.sequencer import Sealed, Sequencer
from kms.services.verifying import SignatureVerifier
from pki.certificates import CertificateFactory, CertificateRequest, Issuer, Prepared
from pki.crl import CrlFactory
from pki.errors import PkiError
from policies.algorithms import algorithm
from policies.policy import Policy

ROOT, PEOPLE, INFRASTRUCTURE = "root", "people", "infrastructure"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that the operator may tighten.

    Attributes:
        batch: Most items in a batch call.
        enrolment_ttl: Between an enrolment's two calls.
        crl_validity: thisUpdate to nextUpdate.
        crl_interval: A new list at least this often.
        backdate: How far notBefore lies before now, for clocks that lag.
        keep_answers: How long answers are kept for repeated calls; at least seven days.
        destruction: Shortest time from scheduling a key's destruction to it; the signer has its
            own, and enforces that.
    """

    batch: int = 1000
    enrolment_ttl: timedelta = timedelta(minutes=10)
    crl_validity: timedelta = timedelta(days=1)
    crl_interval: timedelta = timedelta(hours=1)
    backdate: timedelta = timedelta(minutes=5)
    keep_answers: timedelta = timedelta(days=7)
    destruction: timedelta = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class ActiveAuthority:
    """An authority that can sign now: its record and the factories under its name."""

    record: Authority
    issuer: Issuer
    certificates: CertificateFactory
    crls: CrlFactory


class AuthoritySet:
    """The active authorities by name."""

    def __init__(self, ledger: Ledger, base_url: str) -> None:
        self._ledger = ledger
        self._base_url = base_url
        self._by_name: dict[str, ActiveAuthority] = {}

    @property
    def base_url(self) -> str:
        """Where CRLs and CA certificates are published."""
        return self._base_url

    def load(self) -> None:
        """Read the newest active generation of each authority."""
        records = self._ledger.find(Authority, tenant=SYSTEM_TENANT, standing=Standing.ACTIVE)
        for record in sorted(records, key=lambda item: item.generation):
            self.add(record)

    def add(self, record: Authority) -> ActiveAuthority:
        """Use this authority from now on."""
        issuer = Issuer(
            name=record.name,
            generation=record.generation,
            key=KeyLabel(record.key),
            algorithm=algorithm(record.algorithm),
            certificate=record.certificate,
        )
        active = ActiveAuthority(
            record, issuer, CertificateFactory(issuer, self._base_url), CrlFactory(issuer)
        )
        self._by_name[record.name] = active
        return active

    def get(self, name: str) -> ActiveAuthority | None:
        """The active authority of that name."""
        return self._by_name.get(name)

    def __getitem__(self, name: str) -> ActiveAuthority:
        """The active authority of that name.

        Raises:
            SignerUnavailableError: There is none yet: the ceremony has not been held.
        """
        active = self._by_name.get(name)
        if active is None:
            raise SignerUnavailableError(f"there is no {name!r} authority: hold the ceremony first")
        return active

    def all(self) -> list[ActiveAuthority]:
        """Every active authority, root first."""
        order = {ROOT: 0, PEOPLE: 1, INFRASTRUCTURE: 2}
        return sorted(
            self._by_name.values(),
            key=lambda item: (order.get(item.record.name, len(order)), item.record.name),
        )

    def chain(self, name: str) -> list[bytes]:
        """DER of that authority's certificate and of those above it, root last."""
        chain = [self[name].record.certificate]
        while self[name].record.issuer != name:
            name = self[name].record.issuer
            chain.append(self[name].record.certificate)
        return chain


@dataclass(frozen=True, slots=True)
class Core:
    """Everything a use case needs."""

    ledger: Ledger
    signer: StatementSigner
    keys: ServiceKeys
    sequencer: Sequencer
    clock: Clock
    ids: Ids
    policy: Policy
    events: EventFactory
    authorities: AuthoritySet
    observer: Observer
    limits: Limits
    verifier: SignatureVerifier
    describe: Callable[[KmsError], dict[str, Any]]
    """A refused item as batch answers carry it: `{"status", "problem"}`."""


def prepare(authority: ActiveAuthority, request: CertificateRequest) -> Prepared:
    """Build and lint a certificate.

    Raises:
        UnavailableError: The lint refuses it: a clock that was set back before the authority's own
            certificate, say. What callers send never leads here; it is checked before.
    """
    try:
        return authority.certificates.prepare(request)
    except PkiError as error:
        raise UnavailableError(f"no certificate can be made now: {error}") from error


def covered(core: Core, sealed: Sealed) -> Covered:
    """How to prove the events of a committed unit."""
    placed = sealed.placed
    nodes = core.sequencer.nodes(placed.log)
    return Covered(placed.log, placed.first_index, placed.size, sealed.note, nodes)


async def sign_all(signer: StatementSigner, statements: list[Statement]) -> list[bytes]:
    """Signatures of a batch, all or none.

    Raises:
        SignerUnavailableError: The signer is away, or refused one of them, which is a fault of
            this process and never of the caller's input.
        SigningRateError: The key has signed as much as it may for now.
    """
    try:
        answers = await signer.sign(statements)
    except HsmError as error:
        raise SignerUnavailableError(f"the signer is away: {error}") from error
    signatures = []
    for answer in answers:
        if isinstance(answer, RateExceededError):
            raise SigningRateError(str(answer)) from answer
        if isinstance(answer, HsmError):
            raise SignerUnavailableError(f"the signer did not sign: {answer}") from answer
        signatures.append(answer)
    return signatures
