"""Tenants and principals: who is known to the service."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from kms.api import answer_schemas as answers
from kms.api import documents, schemas
from kms.api.handling import Asking, answer
from kms.api.openapi import refusals, takes
from kms.api.validation import PrincipalText
from kms.domain.authorisation import Action

router = APIRouter(tags=["principals"])


@router.post(
    "/v1/tenants",
    status_code=201,
    response_model=answers.TenantAnswer,
    responses=refusals(409),
    openapi_extra=takes(schemas.TenantBody),
)
async def add_tenant(asked: Asking) -> Response:
    """Register a tenant under its identity domain."""
    asked.require(Action.MANAGE_PRINCIPALS)
    body = asked.read(schemas.TenantBody)
    return await asked.once(
        lambda call: asked.services.principals.add_tenant(call, body.tenant, body.identity_domain)
    )


@router.get("/v1/tenants", response_model=answers.TenantsAnswer, responses=refusals())
async def list_tenants(asked: Asking) -> Response:
    """All tenants."""
    asked.require(Action.MANAGE_PRINCIPALS)
    found = asked.services.principals.list_tenants()
    return answer({"tenants": [documents.tenant(record) for record in found]})


@router.post(
    "/v1/principals",
    status_code=201,
    response_model=answers.PrincipalAnswer,
    responses=refusals(404, 409),
    openapi_extra=takes(schemas.PrincipalBody),
)
async def add_principal(asked: Asking) -> Response:
    """Register a principal of a tenant."""
    asked.require(Action.MANAGE_PRINCIPALS)
    body = asked.read(schemas.PrincipalBody)
    tenant = asked.tenant(body.tenant)
    return await asked.once(
        lambda call: asked.services.principals.add_principal(
            call, tenant, body.name, body.role, body.bundles
        )
    )


@router.get("/v1/principals", response_model=answers.PrincipalsAnswer, responses=refusals(404))
async def list_principals(
    asked: Asking, query: Annotated[schemas.TenantQuery, Query()]
) -> Response:
    """Principals of one tenant, or of all."""
    asked.require(Action.MANAGE_PRINCIPALS)
    found = asked.services.principals.list_principals(asked.reach(query.tenant))
    return answer({"principals": [documents.principal(record) for record in found]})


@router.post(
    "/v1/principals/{name}/disable",
    response_model=answers.DisabledAnswer,
    responses=refusals(404, 409),
    openapi_extra=takes(schemas.TenantOnlyBody, required=False),
)
async def disable_principal(asked: Asking, name: Annotated[PrincipalText, Path()]) -> Response:
    """Take all rights from a principal, effective at once."""
    asked.require(Action.MANAGE_PRINCIPALS)
    tenant = asked.tenant(asked.read(schemas.TenantOnlyBody).tenant)
    return await asked.once(lambda call: asked.services.principals.disable(call, tenant, name))
