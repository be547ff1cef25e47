"""What answers look like, for OpenAPI; tests hold real answers and the examples against them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kms.api import examples
from kms.domain.records import CertificateStatus, Reason, Role, Standing
from kms.services.errors import Retry
from kms.wire import Committed, EventType

Time = str
"""RFC 3339, UTC, with `Z`."""
Base64 = str


class Document(BaseModel):
    """Root: no member beyond those named."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def shown(example: dict[str, Any]) -> ConfigDict:
    """With an example."""
    return ConfigDict(json_schema_extra={"examples": [example]})


class ProblemDocument(Document):
    """Why a request was refused (RFC 9457); `docs/problems.md` lists every type."""

    model_config = shown(examples.PROBLEM)

    type: str = Field(pattern=r"^urn:sovereign-kms:problem:[a-z-]+$")
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    retry: Retry = Field(description="Whether sending the same request again can help.")
    field: str | None = Field(default=None, description="Where in the request.")


class Receipt(Document):
    """Proof that an event is in the log; `text` is a C2SP tlog-proof."""

    model_config = shown(examples.RECEIPT)

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

    model_config = shown(examples.ENROLMENT)

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

    model_config = shown(examples.CERTIFIED)

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

    model_config = shown(
        {
            "results": [
                {"status": 201, "body": examples.ENROLMENT},
                {"status": 422, "problem": examples.PROBLEM},
            ]
        }
    )

    results: list[EnrolmentItem | ItemRefused]


class CertifiedBatchAnswer(Document):
    """One result per item, in order."""

    model_config = shown(
        {
            "results": [
                {"status": 201, "body": examples.CERTIFIED},
                {"status": 422, "problem": examples.PROBLEM},
            ]
        }
    )

    results: list[CertifiedItem | ItemRefused]


class TenantDocument(Document):
    """A tenant."""

    tenant: str
    identity_domain: str
    standing: Standing


class TenantsAnswer(Document):
    """All tenants."""

    model_config = shown(
        {
            "tenants": [
                {
                    "tenant": "interior",
                    "identity_domain": "id.interior.example",
                    "standing": "active",
                }
            ]
        }
    )

    tenants: list[TenantDocument]


class TenantAnswer(Document):
    """A tenant just registered."""

    model_config = shown(
        {
            "tenant": "interior",
            "identity_domain": "id.interior.example",
            "receipt": examples.RECEIPT,
        }
    )

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

    model_config = shown({"principals": [{**examples.PRINCIPAL, "standing": "active"}]})

    principals: list[PrincipalDocument]


class PrincipalAnswer(Document):
    """A principal just registered."""

    model_config = shown({**examples.PRINCIPAL, "receipt": examples.RECEIPT})

    tenant: str
    name: str
    role: Role
    bundles: list[str]
    uri: str
    receipt: Receipt


class DisabledAnswer(Document):
    """A principal just disabled."""

    model_config = shown(
        {
            "tenant": "interior",
            "name": "matrix-1",
            "standing": "revoked",
            "receipt": examples.RECEIPT,
        }
    )

    tenant: str
    name: str
    standing: Standing
    receipt: Receipt


class IssuedAnswer(Document):
    """An infrastructure certificate just issued."""

    model_config = shown(
        {
            "tenant": "interior",
            "name": "matrix-1",
            "profile": "messaging-server",
            "serial": examples.SERIAL,
            **examples.TIMES,
            "certificate": examples.DER,
            "chain": [examples.DER, examples.DER],
            "receipt": examples.RECEIPT,
            "leaf": "eyJh...",
            "openings": [examples.OPENING],
        }
    )

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

    model_config = shown(examples.CERTIFICATE)

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

    model_config = shown({"certificates": [examples.CERTIFICATE], "next": None})

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

    model_config = shown(
        {
            "user": "alice@interior.example",
            "reason": "affiliation-changed",
            "revoked": [
                {
                    "authority": "people",
                    "serial": examples.SERIAL,
                    "device": "phone-1",
                    "slot": "identity",
                }
            ],
            "receipt": examples.RECEIPT,
            "receipts": [examples.RECEIPT],
        }
    )

    serial: str | None = None
    device: str | None = None
    user: str | None = None
    reason: Reason
    revoked: list[RevokedCertificate]
    receipt: Receipt
    receipts: list[Receipt]


class DeviceDocument(Document):
    """A device."""

    model_config = shown(examples.DEVICE)

    user: str
    device: str
    bundle: str
    standing: Standing


class DevicesAnswer(Document):
    """A page of a user's devices, by device id."""

    model_config = shown({"devices": [examples.DEVICE], "next": None})

    devices: list[DeviceDocument]
    next: str | None = Field(description="Give it as `after` for the next page.")


class EventDocument(Document):
    """An event; `leaf` holds its exact bytes."""

    model_config = shown(examples.EVENT)

    index: int
    event: str
    type: EventType
    time: Time
    leaf: Base64
    openings: list[Opening]


class EventsAnswer(Document):
    """A page of events, by index."""

    model_config = shown({"events": [examples.EVENT], "next": 41})

    events: list[EventDocument]
    next: int | None = Field(description="Give it as `after` for the next page.")


class LogAnswer(Document):
    """The log of the current epoch; `size` is covered by a signed checkpoint.

    `cosigner_vkey` is null where the log has no cosigner.
    """

    model_config = shown(
        {
            "origin": "log.interior.example/1",
            "vkey": "log.interior.example/1+c990e7b5+AUXf...",
            "cosigner_vkey": None,
            "log": 1,
            "size": 42,
        }
    )

    origin: str
    vkey: str
    cosigner_vkey: str | None
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

    model_config = shown({"authorities": [examples.AUTHORITY]})

    authorities: list[AuthorityDocument]


class CrlAnswer(Document):
    """A CRL just published."""

    model_config = shown({"authority": "people", **examples.CRL})

    authority: str
    number: int
    entries: int
    this_update: Time
    next_update: Time
