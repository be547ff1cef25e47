"""Certificates: issued to principals, looked up, revoked."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from kms.api import answer_schemas as answers
from kms.api import documents, schemas
from kms.api.handling import Asking, answer
from kms.api.openapi import refusals, takes
from kms.api.validation import SerialText
from kms.domain.authorisation import Action
from kms.domain.records import DeviceId, Serial, UserId
from kms.services.core import INFRASTRUCTURE
from kms.services.errors import InvalidCsrError
from kms.wire import WireError, unb64

router = APIRouter(tags=["certificates"])
Named = Annotated[SerialText, Path(description="Lower-case hex, even length.")]


@router.post(
    "/v1/certificates",
    status_code=201,
    response_model=answers.IssuedAnswer,
    responses=refusals(404, 409),
    openapi_extra=takes(schemas.CertificateBody),
)
async def issue_certificate(asked: Asking) -> Response:
    """Certify a registered principal's key from a CSR."""
    asked.require(Action.ISSUE_INFRASTRUCTURE)
    body = asked.read(schemas.CertificateBody)
    tenant, csr = asked.tenant(body.tenant), _csr(body.csr)
    return await asked.once(
        lambda call: asked.services.infrastructure.issue_for_principal(call, tenant, body.name, csr)
    )


@router.get("/v1/certificates", response_model=answers.CertificatesAnswer, responses=refusals(404))
async def list_certificates(
    asked: Asking, query: Annotated[schemas.CertificatesQuery, Query()]
) -> Response:
    """Certificates by owner and status, a page at a time."""
    asked.require(Action.READ_PEOPLE)
    found = asked.services.lookup.certificates(
        asked.reach(query.tenant),
        user=None if query.user is None else UserId(query.user),
        device=None if query.device is None else DeviceId(query.device),
        principal=query.principal,
        status=query.status,
        after=query.after,
        limit=query.limit,
    )
    core = asked.services.core
    return answer(
        {
            "certificates": [documents.certificate(core, record) for record in found.items],
            "next": found.after,
        }
    )


@router.get(
    "/v1/certificates/{serial}",
    response_model=answers.CertificateDocument,
    responses=refusals(404),
)
async def show_certificate(
    asked: Asking, serial: Named, query: Annotated[schemas.TenantQuery, Query()]
) -> Response:
    """One certificate."""
    asked.require(Action.READ_PEOPLE)
    found = asked.services.lookup.certificate(asked.reach(query.tenant), Serial(serial))
    return answer(documents.certificate(asked.services.core, found))


@router.post(
    "/v1/certificates/{serial}/revoke",
    response_model=answers.RevocationAnswer,
    response_model_exclude_unset=True,
    responses=refusals(404, 409),
    openapi_extra=takes(schemas.RevocationBody, required=False),
)
async def revoke_certificate(asked: Asking, serial: Named) -> Response:
    """Revoke one certificate, effective at once."""
    body = asked.read(schemas.RevocationBody)
    tenant = asked.reach(body.tenant)
    asked.require(Action.REVOKE_PEOPLE)
    found = asked.services.lookup.certificate(tenant, Serial(serial))
    if found.authority == INFRASTRUCTURE:
        asked.require(Action.REVOKE_INFRASTRUCTURE)
    return await asked.once(
        lambda call: asked.services.revocation.certificate(
            call, found.tenant, found.serial, body.reason
        )
    )


def _csr(text: str) -> bytes:
    """PEM as it stands, anything else as base64 of DER."""
    if "-----BEGIN" in text:
        return text.encode()
    try:
        return unb64(text)
    except (WireError, ValueError) as error:
        raise InvalidCsrError("neither PEM nor standard base64 of DER", field="csr") from error
