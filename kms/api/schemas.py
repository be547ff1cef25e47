"""Bodies and queries that callers send: unknown members refused, everything bounded."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.config import JsonDict

from kms.api.validation import (
    DeviceText,
    DomainText,
    EnrolmentText,
    NameText,
    PrincipalText,
    ProofBytes,
    PublicKeyBytes,
    SerialText,
    SlotText,
    TenantText,
    UserText,
)
from kms.domain.records import CertificateStatus, Reason, Role
from kms.wire import EnrolmentPurpose

MAX_SLOTS = 8
MAX_CSR = 32 << 10
MAX_BATCH = 1000
PAGE = 100


def described(example: dict[str, Any] | None = None) -> ConfigDict:
    """Of every body: nothing unknown, nothing that changes, and what it looks like."""
    extra: JsonDict | None = {"examples": [example]} if example else None
    return ConfigDict(extra="forbid", frozen=True, json_schema_extra=extra)


_SLOT: dict[str, Any] = {
    "name": "identity",
    "algorithm": "ECDSA-P256",
    "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE...",
}
_ORDER: dict[str, Any] = {
    "user": "alice@interior.example",
    "device": "phone-1",
    "bundle": "device-identity",
    "purpose": "enrol",
    "slots": [_SLOT],
}
_ENROLMENT = "8f14e45fceea167a5a36dedd4bea2543"
_PROOFS: dict[str, Any] = {"proofs": {"identity": "MEUCIQDx..."}}


class SlotBody(BaseModel):
    """One public key of the bundle."""

    model_config = described(_SLOT)

    name: SlotText = Field(description="A slot of the bundle profile.")
    algorithm: NameText = Field(description="Registry name, `ECDSA-P256` for example.")
    public_key: PublicKeyBytes = Field(description="SubjectPublicKeyInfo DER, base64.")


class EnrolmentBody(BaseModel):
    """Order for one device."""

    model_config = described(_ORDER)

    user: UserText
    device: DeviceText
    bundle: NameText = Field(description="Bundle profile, `device` or `device-identity`.")
    purpose: EnrolmentPurpose = EnrolmentPurpose.ENROL
    slots: tuple[SlotBody, ...] = Field(min_length=1, max_length=MAX_SLOTS)


class ProofsBody(BaseModel):
    """A proof for every slot of an enrolment."""

    model_config = described(_PROOFS)

    proofs: dict[SlotText, ProofBytes] = Field(
        min_length=1,
        max_length=MAX_SLOTS,
        description="Slot to signature (signature slots) or MAC (KEM slots), base64.",
    )


class BatchProofsItem(ProofsBody):
    """The proofs of one enrolment of a batch."""

    model_config = described({"enrolment": _ENROLMENT, **_PROOFS})

    enrolment: EnrolmentText


class EnrolmentBatch(BaseModel):
    """Orders for many devices; each is judged by itself."""

    model_config = described({"items": [_ORDER]})

    items: list[EnrolmentBody] = Field(min_length=1, max_length=MAX_BATCH)


class ProofsBatch(BaseModel):
    """The proofs of many enrolments; each is judged by itself."""

    model_config = described({"items": [{"enrolment": _ENROLMENT, **_PROOFS}]})

    items: list[BatchProofsItem] = Field(min_length=1, max_length=MAX_BATCH)


class TenantBody(BaseModel):
    """A tenant to register."""

    model_config = described({"tenant": "interior", "identity_domain": "id.interior.example"})

    tenant: TenantText
    identity_domain: DomainText = Field(description="Stands in the SAN URIs of its people.")


class PrincipalBody(BaseModel):
    """A principal to register."""

    model_config = described(
        {
            "tenant": "interior",
            "name": "matrix-1",
            "role": "messaging-server",
            "bundles": ["device", "device-identity"],
        }
    )

    tenant: TenantText | None = None
    name: PrincipalText
    role: Role
    bundles: tuple[NameText, ...] = Field(default=(), max_length=32)


class TenantOnlyBody(BaseModel):
    """Whose thing it is, where not the caller's own."""

    model_config = described({"tenant": "interior"})

    tenant: TenantText | None = None


class NothingBody(BaseModel):
    """No members."""

    model_config = described()


class CertificateBody(BaseModel):
    """Order for an infrastructure certificate."""

    model_config = described(
        {
            "tenant": "interior",
            "name": "matrix-1",
            "csr": "-----BEGIN CERTIFICATE REQUEST-----\nMIH...",
        }
    )

    tenant: TenantText | None = None
    name: PrincipalText = Field(description="A registered principal.")
    csr: Annotated[str, StringConstraints(min_length=1, max_length=MAX_CSR)] = Field(
        description="PKCS#10 request: PEM text, or DER in base64."
    )


class RevocationBody(BaseModel):
    """Why something is revoked."""

    model_config = described({"reason": "key-compromise"})

    reason: Reason = Reason.UNSPECIFIED
    tenant: TenantText | None = None


class TenantQuery(BaseModel):
    """Whose things are asked for."""

    model_config = described()

    tenant: TenantText | None = None


class CertificatesQuery(TenantQuery):
    """Which certificates are asked for."""

    user: UserText | None = None
    device: DeviceText | None = None
    principal: PrincipalText | None = None
    status: Literal[CertificateStatus.GOOD, CertificateStatus.REVOKED] | None = None
    after: SerialText | None = Field(default=None, description="`next` of the page before.")
    limit: int = Field(default=PAGE, ge=1, le=PAGE)


class DevicesQuery(TenantQuery):
    """Which page of a user's devices is asked for."""

    after: DeviceText | None = Field(default=None, description="`next` of the page before.")
    limit: int = Field(default=PAGE, ge=1, le=PAGE)


class EventsQuery(TenantQuery):
    """Which page of events is asked for."""

    after: int = Field(default=-1, ge=-1, le=2**53, description="`next` of the page before.")
    limit: int = Field(default=PAGE, ge=1, le=PAGE)
