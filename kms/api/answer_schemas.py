"""What answers look like, for OpenAPI; tests hold real answers against these models."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from kms.domain.records import CertificateStatus, Reason, Role, Standing
from kms.services.errors import Retry
from kms.wire import Committed, EventType

Time = str
"""RFC 3339, UTC, with `Z`."""
Base64 = str


class Document(BaseModel):
    """Root: no member beyond those named."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ProblemDocument(Document):
    """Why a request was refused (RFC 9457); `docs/problems.md` lists every type."""

    type: str = Field(pattern=r"^urn:sovereign-kms:problem:[a-z-]+$")
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    retry: Retry = Field(description="Whether sending the same request again can help.")
    field: str | None = Field(default=None, description="Where in the request.")


class Receipt(Document):
    """Proof that an event is in the log; `text` is a C2SP tlog-proof."""

    status: Literal["final", "pending"]
    log: int
    index: int
    text: str | None


class Opening(Document):
    """What opens one commitment of an event."""

    field: Committed
    tenant: str
    value: str
    opening: Base64


class PolicyReference(Document):
    """The policy that decided, and by which rule for each slot."""

    hash: str
    rules: dict[str, str]


class EnrolmentAnswer(Document):
    """A reserved enrolment: what the device has to prove."""

    enrolment: str
    expires: Time
    transcript: Base64
    policy: PolicyReference
    challenges: dict[str, Base64] = Field(description="KEM slot to sealed challenge.")


class SlotCertificate(Document):
    """The certificate of one slot."""

    slot: str
    profile: str
    serial: str
    not_before: Time
    not_after: Time
    certificate: Base64


class CertifiedAnswer(Document):
    """A certified device, with all it needs to check that offline."""

    enrolment: str
    user: str
    device: str
    certificates: list[SlotCertificate]
    chain: list[Base64]
    receipt: Receipt
    leaf: Base64
    openings: list[Opening]


class ItemRefused(Document):
    """A refused item of a batch."""

    status: int
    problem: ProblemDocument


class EnrolmentItem(Document):
    """An accepted order of a batch."""

    status: int
    body: EnrolmentAnswer


class CertifiedItem(Document):
    """A certified device of a batch."""

    status: int
    body: CertifiedAnswer


class EnrolmentBatchAnswer(Document):
    """One result per item, in order."""

    results: list[EnrolmentItem | ItemRefused]


class CertifiedBatchAnswer(Document):
    """One result per item, in order."""

    results: list[CertifiedItem | ItemRefused]


class TenantDocument(Document):
    """A tenant."""

    tenant: str
    identity_domain: str
    standing: Standing


class TenantsAnswer(Document):
    """All tenants."""

    tenants: list[TenantDocument]


class TenantAnswer(Document):
    """A tenant just registered."""

    tenant: str
    identity_domain: str
    receipt: Receipt


class PrincipalDocument(Document):
    """A principal."""

    tenant: str
    name: str
    role: Role
    bundles: list[str]
    uri: str
    standing: Standing


class PrincipalsAnswer(Document):
    """Principals in reach."""

    principals: list[PrincipalDocument]


class PrincipalAnswer(Document):
    """A principal just registered."""

    tenant: str
    name: str
    role: Role
    bundles: list[str]
    uri: str
    receipt: Receipt


class DisabledAnswer(Document):
    """A principal just disabled."""

    tenant: str
    name: str
    standing: Standing
    receipt: Receipt


class IssuedAnswer(Document):
    """An infrastructure certificate just issued."""

    tenant: str
    name: str
    profile: str
    serial: str
    not_before: Time
    not_after: Time
    certificate: Base64
    chain: list[Base64]
    receipt: Receipt
    leaf: Base64
    openings: list[Opening]


class CertificateDocument(Document):
    """A certificate; `index` is that of the event that issued it."""

    tenant: str
    authority: str
    serial: str
    profile: str
    algorithm: str
    user: str | None
    device: str | None
    slot: str | None
    principal: str | None
    not_before: Time
    not_after: Time
    status: CertificateStatus
    revoked_at: Time | None
    reason: Reason | None
    sha256: str
    certificate: Base64
    index: int


class CertificatesAnswer(Document):
    """A page of certificates, by serial."""

    certificates: list[CertificateDocument]
    next: str | None = Field(description="Give it as `after` for the next page.")


class RevokedCertificate(Document):
    """A certificate that a revocation ended."""

    authority: str
    serial: str
    device: str | None
    slot: str | None


class RevocationAnswer(Document):
    """What a revocation ended; `receipt` is the first of `receipts`."""

    serial: str | None = None
    device: str | None = None
    user: str | None = None
    reason: Reason
    revoked: list[RevokedCertificate]
    receipt: Receipt
    receipts: list[Receipt]


class DeviceDocument(Document):
    """A device."""

    user: str
    device: str
    bundle: str
    standing: Standing


class DevicesAnswer(Document):
    """A page of a user's devices, by device id."""

    devices: list[DeviceDocument]
    next: str | None = Field(description="Give it as `after` for the next page.")


class EventDocument(Document):
    """An event; `leaf` holds its exact bytes."""

    index: int
    event: str
    type: EventType
    time: Time
    leaf: Base64
    openings: list[Opening]


class EventsAnswer(Document):
    """A page of events, by index."""

    events: list[EventDocument]
    next: int | None = Field(description="Give it as `after` for the next page.")


class LogAnswer(Document):
    """The log of the current epoch; `size` is covered by a signed checkpoint."""

    origin: str
    vkey: str
    log: int
    size: int


class CrlDocument(Document):
    """The CRL in force."""

    number: int
    this_update: Time
    next_update: Time
    entries: int


class AuthorityDocument(Document):
    """A certification authority."""

    name: str
    generation: int
    algorithm: str
    issuer: str
    certificate: Base64
    crl: CrlDocument | None


class AuthoritiesAnswer(Document):
    """All authorities, the root first."""

    authorities: list[AuthorityDocument]


class CrlAnswer(Document):
    """A CRL just published."""

    authority: str
    number: int
    entries: int
    this_update: Time
    next_update: Time
