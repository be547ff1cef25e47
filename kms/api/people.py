"""Users and their devices: looked up, revoked everywhere at once."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from kms.api import answer_schemas as answers
from kms.api import documents, schemas
from kms.api.handling import Asking, answer
from kms.api.openapi import refusals, takes
from kms.api.validation import DeviceText, UserText
from kms.domain.authorisation import Action
from kms.domain.records import DeviceId, UserId

router = APIRouter(tags=["people"])
NamedUser = Annotated[UserText, Path(description="User id.")]
NamedDevice = Annotated[DeviceText, Path(description="Device id.")]


@router.get(
    "/v1/users/{user}/devices", response_model=answers.DevicesAnswer, responses=refusals(404)
)
async def list_devices(
    asked: Asking, user: NamedUser, query: Annotated[schemas.DevicesQuery, Query()]
) -> Response:
    """A user's devices, a page at a time."""
    asked.require(Action.READ_PEOPLE)
    found = asked.services.lookup.devices(
        asked.tenant(query.tenant), UserId(user), after=query.after, limit=query.limit
    )
    return answer(
        {
            "devices": [documents.device(record) for record in found.items],
            "next": found.after,
        }
    )


@router.post(
    "/v1/users/{user}/revoke",
    response_model=answers.RevocationAnswer,
    responses=refusals(404, 409),
    openapi_extra=takes(schemas.RevocationBody, required=False),
)
async def revoke_user(asked: Asking, user: NamedUser) -> Response:
    """Revoke a person: every device and certificate, effective at once, for good."""
    asked.require(Action.REVOKE_PEOPLE)
    body = asked.read(schemas.RevocationBody)
    tenant = asked.tenant(body.tenant)
    return await asked.once(
        lambda call: asked.services.revocation.user(call, tenant, UserId(user), body.reason)
    )


@router.get("/v1/devices/{device}", response_model=answers.DeviceDocument, responses=refusals(404))
async def show_device(
    asked: Asking, device: NamedDevice, query: Annotated[schemas.TenantQuery, Query()]
) -> Response:
    """One device."""
    asked.require(Action.READ_PEOPLE)
    tenant = asked.tenant(query.tenant)
    return answer(documents.device(asked.services.lookup.device(tenant, DeviceId(device))))


@router.post(
    "/v1/devices/{device}/revoke",
    response_model=answers.RevocationAnswer,
    responses=refusals(404, 409),
    openapi_extra=takes(schemas.RevocationBody, required=False),
)
async def revoke_device(asked: Asking, device: NamedDevice) -> Response:
    """Revoke a device and all its certificates, effective at once, for good."""
    asked.require(Action.REVOKE_PEOPLE)
    body = asked.read(schemas.RevocationBody)
    tenant = asked.tenant(body.tenant)
    return await asked.once(
        lambda call: asked.services.revocation.device(call, tenant, DeviceId(device), body.reason)
    )
