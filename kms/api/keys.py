"""Keys: made, aged, destroyed, and who may use them. What they do stands in `kms.api.key_uses`."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from kms.api import key_answers as answers
from kms.api import key_schemas as schemas
from kms.api.handling import Asked, Asking, answer
from kms.api.openapi import refusals, takes
from kms.api.schemas import TenantQuery
from kms.api.validation import PrincipalText
from kms.domain.authorisation import Action
from kms.domain.records import TenantId
from kms.services.errors import InputError
from kms.services.keys.lookup import use_document
from kms.services.keys.orders import KeyOrder
from kms.services.keys.steps import numbers_of
from policies.key_life import KeyPurpose, Step

router = APIRouter(tags=["keys"])
Named = Annotated[PrincipalText, Path(description="The key's name.")]
MAIN = "main"
"""What the service's own token is called."""


@router.post(
    "/v1/keys",
    status_code=201,
    response_model=answers.KeyChangedAnswer,
    responses=refusals(404, 409),
    openapi_extra=takes(schemas.KeyBody),
)
async def create_key(asked: Asking) -> Response:
    """Make a key for a purpose; who makes it may do everything with it."""
    asked.require(Action.CREATE_KEYS)
    body = asked.read(schemas.KeyBody)
    if body.purpose is KeyPurpose.KEM:
        raise InputError("KEM slots are made with /v1/kem-slots", field="purpose")
    tenant = asked.tenant(body.tenant)
    order = KeyOrder(
        name=body.name,
        purpose=body.purpose,
        algorithm=body.algorithm,
        protection=None if body.protection is None else body.protection.value,
        token="" if body.token in {None, MAIN} else str(body.token),
        activates=body.activates,
        settings=body.settings.settings(),
    )
    return await asked.once(lambda call: asked.services.keys.orders.create(call, tenant, order))


@router.get("/v1/keys", response_model=answers.KeysAnswer, responses=refusals(404))
async def list_keys(asked: Asking, query: Annotated[schemas.KeysQuery, Query()]) -> Response:
    """Keys of a tenant, a page at a time."""
    asked.require(Action.READ_KEYS)
    found = asked.services.keys.lookup.keys(
        asked.caller, asked.tenant(query.tenant), after=query.after, limit=query.limit
    )
    return answer({"keys": found.items, "next": found.after})


@router.get("/v1/keys/{key}", response_model=answers.KeyShownAnswer, responses=refusals(404))
async def show_key(asked: Asking, key: Named, query: Annotated[TenantQuery, Query()]) -> Response:
    """One key: its versions, where they live, who may do what."""
    asked.require(Action.READ_KEYS)
    tenant = asked.tenant(query.tenant)
    return answer(asked.services.keys.lookup.key(asked.caller, tenant, key))


@router.get("/v1/keys/{key}/uses", response_model=answers.KeyUsesAnswer, responses=refusals(404))
async def list_key_uses(
    asked: Asking, key: Named, query: Annotated[schemas.KeyUsesQuery, Query()]
) -> Response:
    """Logged uses of a key, oldest first."""
    asked.require(Action.READ_KEYS)
    tenant = asked.tenant(query.tenant)
    found = asked.services.keys.lookup.uses(asked.caller, tenant, key, after=query.after)
    return answer({"uses": [use_document(item) for item in found.events], "next": found.after})


@router.get("/v1/keys/{key}/touches", response_model=answers.KeyTouches, responses=refusals(404))
async def show_key_touches(
    asked: Asking, key: Named, query: Annotated[schemas.TouchesQuery, Query()]
) -> Response:
    """What the compromise of a version, or of all, would touch; changes nothing."""
    asked.require(Action.READ_KEYS)
    tenant = asked.tenant(query.tenant)
    steps = asked.services.keys.steps
    book = steps.managed(asked.caller, tenant, key)
    return answer(steps.touches(book, numbers_of(book, query.version)))


@router.post(
    "/v1/keys/{key}/rotate",
    status_code=201,
    response_model=answers.KeyChangedAnswer,
    responses=refusals(404, 409),
    openapi_extra=takes(schemas.RotationBody, required=False),
)
async def rotate_key(asked: Asking, key: Named) -> Response:
    """Make the next version; once it is active, the one before only undoes and checks."""
    body = asked.read(schemas.RotationBody)
    tenant = _managing(asked, body.tenant)
    return await asked.once(
        lambda call: asked.services.keys.orders.rotate(call, tenant, key, body.activates)
    )


@router.post(
    "/v1/keys/{key}/activate",
    response_model=answers.KeyChangedAnswer,
    responses=refusals(404, 409),
    openapi_extra=takes(schemas.VersionBody, required=False),
)
async def activate_key(asked: Asking, key: Named) -> Response:
    """Activate the version that waits, before its time or without one."""
    body = asked.read(schemas.VersionBody)
    tenant = _managing(asked, body.tenant)
    return await asked.once(
        lambda call: asked.services.keys.steps.activate(call, tenant, key, body.version)
    )


async def _step(asked: Asked, key: str, step: Step) -> Response:
    body = asked.read(schemas.VersionBody)
    tenant = _managing(asked, body.tenant)
    return await asked.once(
        lambda call: asked.services.keys.steps.step(call, tenant, key, step, body.version)
    )


@router.post(
    "/v1/keys/{key}/suspend",
    response_model=answers.KeyChangedAnswer,
    responses=refusals(404, 409),
    openapi_extra=takes(schemas.VersionBody, required=False),
)
async def suspend_key(asked: Asking, key: Named) -> Response:
    """Suspend a key: it does nothing until it is resumed."""
    return await _step(asked, key, Step.SUSPEND)


@router.post(
    "/v1/keys/{key}/resume",
    response_model=answers.KeyChangedAnswer,
    responses=refusals(404, 409),
    openapi_extra=takes(schemas.VersionBody, required=False),
)
async def resume_key(asked: Asking, key: Named) -> Response:
    """Resume a suspended key."""
    return await _step(asked, key, Step.RESUME)


@router.post(
    "/v1/keys/{key}/deactivate",
    response_model=answers.KeyChangedAnswer,
    responses=refusals(404, 409),
    openapi_extra=takes(schemas.ConfirmedBody),
)
async def deactivate_key(asked: Asking, key: Named) -> Response:
    """Deactivate a key: from now on it only undoes and checks. There is no way back."""
    asked.require(Action.USE_KEYS)
    body = asked.read(schemas.ConfirmedBody)
    tenant = _managing(asked, body.tenant)
    body.check(key)
    return await asked.once(
        lambda call: asked.services.keys.steps.step(
            call, tenant, key, Step.DEACTIVATE, body.version
        )
    )


@router.post(
    "/v1/keys/{key}/compromise",
    response_model=answers.KeyCompromisedAnswer,
    responses=refusals(404, 409),
    openapi_extra=takes(schemas.CompromiseBody),
)
async def compromise_key(asked: Asking, key: Named) -> Response:
    """Hold a key to be compromised; the answer tells what that touches."""
    asked.require(Action.USE_KEYS)
    body = asked.read(schemas.CompromiseBody)
    tenant = _managing(asked, body.tenant)
    body.check(key)
    return await asked.once(
        lambda call: asked.services.keys.steps.compromise(
            call, tenant, key, body.version, body.since, body.recover_until
        )
    )


@router.post(
    "/v1/keys/{key}/recover",
    response_model=answers.KeyChangedAnswer,
    responses=refusals(404, 409),
    openapi_extra=takes(schemas.RecoveryBody),
)
async def recover_key(asked: Asking, key: Named) -> Response:
    """Have a compromised key open until then what was sealed for it. Officers alone may."""
    asked.require(Action.USE_KEYS)
    body = asked.read(schemas.RecoveryBody)
    tenant = _managing(asked, body.tenant)
    return await asked.once(
        lambda call: asked.services.keys.steps.recover(call, tenant, key, body.version, body.until)
    )


@router.post(
    "/v1/keys/{key}/destroy",
    response_model=answers.KeyChangedAnswer,
    responses=refusals(404, 409),
    openapi_extra=takes(schemas.DestructionBody),
)
async def destroy_key(asked: Asking, key: Named) -> Response:
    """Schedule the destruction of a key; until then it can be cancelled."""
    asked.require(Action.USE_KEYS)
    body = asked.read(schemas.DestructionBody)
    tenant = _managing(asked, body.tenant)
    return await asked.once(
        lambda call: asked.services.keys.destruction.schedule(
            call, tenant, key, body.version, body.confirm, body.at
        )
    )


@router.post(
    "/v1/keys/{key}/cancel-destruction",
    response_model=answers.KeyChangedAnswer,
    responses=refusals(404, 409),
    openapi_extra=takes(schemas.VersionBody, required=False),
)
async def cancel_key_destruction(asked: Asking, key: Named) -> Response:
    """Keep what is scheduled for destruction."""
    body = asked.read(schemas.VersionBody)
    tenant = _managing(asked, body.tenant)
    return await asked.once(
        lambda call: asked.services.keys.destruction.cancel(call, tenant, key, body.version)
    )


@router.post(
    "/v1/keys/{key}/permit",
    response_model=answers.KeyPermittedAnswer,
    responses=refusals(404, 409),
    openapi_extra=takes(schemas.PermissionBody),
)
async def permit_key(asked: Asking, key: Named) -> Response:
    """Say what a principal may do with the key from now on."""
    asked.require(Action.USE_KEYS)
    body = asked.read(schemas.PermissionBody)
    tenant = _managing(asked, body.tenant)
    return await asked.once(
        lambda call: asked.services.keys.orders.permit(
            call, tenant, key, body.principal, body.operations
        )
    )


def _managing(asked: Asked, tenant: str | None) -> TenantId:
    """The tenant of a call that changes a key's life; whether it may stands in the ledger."""
    asked.require(Action.USE_KEYS)
    return asked.tenant(tenant)
