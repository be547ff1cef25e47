"""Authorities and their CRLs."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from kms.api import answer_schemas as answers
from kms.api import documents, schemas
from kms.api.handling import Asking, answer
from kms.api.openapi import refusals, takes
from kms.domain.authorisation import Action
from kms.services.errors import NotFoundError

router = APIRouter(tags=["authorities"])


@router.get("/v1/authorities", response_model=answers.AuthoritiesAnswer, responses=refusals())
async def list_authorities(asked: Asking) -> Response:
    """All authorities with the CRL in force, the root first."""
    services = asked.services
    return answer(
        {
            "authorities": [
                documents.authority(active.record, services.crls.published(active.record.name))
                for active in services.core.authorities.all()
            ]
        }
    )


@router.post(
    "/v1/authorities/{name}/crl",
    status_code=201,
    response_model=answers.CrlAnswer,
    responses=refusals(404, 409),
    openapi_extra=takes(schemas.NothingBody, required=False),
)
async def publish_crl(
    asked: Asking, name: Annotated[str, Path(pattern=r"^[a-z0-9-]{1,64}$")]
) -> Response:
    """Publish a new CRL now."""
    asked.require(Action.PUBLISH_CRL)
    asked.read(schemas.NothingBody)
    services = asked.services
    if services.core.authorities.get(name) is None:
        raise NotFoundError("there is no such authority", field="name")
    return await asked.once(lambda call: services.crls.answer(call, name))
