"""KEM slots of the organisation: made, aged, held; served to senders; what was sealed opened."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel

from kms.api import key_answers, key_schemas, slot_schemas
from kms.api import slot_answers as answers
from kms.api.handling import Asking, answer
from kms.api.key_uses import used
from kms.api.keys import MAIN
from kms.api.openapi import refusals, takes, takes_either, without_key
from kms.api.schemas import TenantQuery
from kms.api.validation import PrincipalText
from kms.domain.authorisation import Action
from kms.domain.records import TenantId
from kms.services.answers import Answer
from kms.services.idempotency import Call
from kms.services.keys.lookup import use_document
from kms.services.keys.orders import KeyOrder
from kms.services.slots.composed import KemSlots
from kms.services.slots.verbs import SLOT_VERBS
from policies.key_life import KeyPurpose, Step

router = APIRouter(tags=["kem slots"])
Named = Annotated[PrincipalText, Path(description="The slot's name.")]
Work = Callable[[KemSlots, Call, TenantId, str, Any], Awaitable[Answer]]


@router.post(
    "/v1/kem-slots",
    status_code=201,
    response_model=key_answers.KeyChangedAnswer,
    responses=refusals(404, 409),
    openapi_extra=takes(slot_schemas.KemSlotBody),
)
async def create_slot(asked: Asking) -> Response:
    """Make a slot and its first version, proven and certified; who makes it may open with it."""
    asked.require(Action.CREATE_KEYS)
    body = asked.read(slot_schemas.KemSlotBody)
    tenant = asked.tenant(body.tenant)
    order = KeyOrder(
        name=body.name,
        purpose=KeyPurpose.KEM,
        slot=body.slot,
        algorithm=body.algorithm,
        protection=None if body.protection is None else body.protection.value,
        token="" if body.token in {None, MAIN} else str(body.token),
        activates=body.activates,
        settings=body.settings.settings_for(body.slot),
    )
    return await asked.once(lambda call: asked.services.slots.orders.create(call, tenant, order))


@router.get("/v1/kem-slots", response_model=key_answers.KeysAnswer, responses=refusals(404))
async def list_slots(asked: Asking, query: Annotated[key_schemas.KeysQuery, Query()]) -> Response:
    """Slots of a tenant, a page at a time."""
    asked.require(Action.READ_KEYS)
    tenant = asked.tenant(query.tenant)
    lookup = asked.services.slots.lookup
    found = lookup.keys(asked.caller, tenant, after=query.after, limit=query.limit)
    return answer({"keys": found.items, "next": found.after})


@router.get("/v1/kem-slots/{slot}", response_model=answers.SlotShownAnswer, responses=refusals(404))
async def show_slot(asked: Asking, slot: Named, query: Annotated[TenantQuery, Query()]) -> Response:
    """One slot: its versions, where they live, who may open with it, and its hold."""
    asked.require(Action.READ_KEYS)
    tenant, slots = asked.tenant(query.tenant), asked.services.slots
    document = slots.lookup.key(asked.caller, tenant, slot)
    return answer({**document, "held": slots.documents.held(asked.caller, tenant, slot)})


@router.get(
    "/v1/kem-slots/{slot}/public",
    response_model=answers.PublicSlotAnswer,
    responses=refusals(404),
)
async def show_public_slot(
    asked: Asking, slot: Named, query: Annotated[TenantQuery, Query()]
) -> Response:
    """What senders need: key, certificate, HPKE key, and the proof that the log has them."""
    asked.require(Action.READ_KEYS)
    tenant = asked.tenant(query.tenant)
    return answer(await asked.services.slots.documents.public(asked.caller, tenant, slot))


@router.get(
    "/v1/kem-slots/{slot}/uses", response_model=key_answers.KeyUsesAnswer, responses=refusals(404)
)
async def list_slot_uses(
    asked: Asking, slot: Named, query: Annotated[key_schemas.KeyUsesQuery, Query()]
) -> Response:
    """Logged openings of a slot, oldest first."""
    asked.require(Action.READ_KEYS)
    tenant, lookup = asked.tenant(query.tenant), asked.services.slots.lookup
    found = lookup.uses(asked.caller, tenant, slot, after=query.after)
    return answer({"uses": [use_document(item) for item in found.events], "next": found.after})


def _order(
    verb: str,
    body: type[BaseModel],
    sentence: str,
    work: Work,
    *,
    status: int = 200,
    required: bool = False,
    model: type[BaseModel] = key_answers.KeyChangedAnswer,
) -> None:
    """A route that changes a slot's life; whether the caller may stands in the ledger."""

    async def route(asked: Asking, slot: Named) -> Response:
        asked.require(Action.USE_KEYS)
        wanted: Any = asked.read(body)
        tenant = asked.tenant(wanted.tenant)
        if isinstance(wanted, key_schemas.ConfirmedBody):
            wanted.check(slot)
        return await asked.once(lambda call: work(asked.services.slots, call, tenant, slot, wanted))

    router.post(
        f"/v1/kem-slots/{{slot}}/{verb}",
        name=f"slot_{verb.replace('-', '_')}",
        description=sentence,
        status_code=status,
        response_model=model,
        responses=refusals(404, 409),
        openapi_extra=takes(body, required=required),
    )(route)


_order(
    "rotate",
    key_schemas.RotationBody,
    "Make the next version; the one before is sealed to until its overlap ends, and still opens.",
    lambda slots, call, tenant, slot, body: slots.orders.rotate(call, tenant, slot, body.activates),
    status=201,
)
_order(
    "activate",
    key_schemas.VersionBody,
    "Activate the version that waits, before its time or without one.",
    lambda slots, call, tenant, slot, body: slots.steps.activate(call, tenant, slot, body.version),
)
for _step, _sentence in (
    (Step.SUSPEND, "Suspend a slot: it is not served and opens nothing until it is resumed."),
    (Step.RESUME, "Resume a suspended slot."),
):
    _order(
        _step.value,
        key_schemas.VersionBody,
        _sentence,
        lambda slots, call, tenant, slot, body, step=_step: slots.steps.step(  # type: ignore[misc]
            call, tenant, slot, step, body.version
        ),
    )
_order(
    "deactivate",
    key_schemas.ConfirmedBody,
    "Deactivate a slot: from now on it only opens. There is no way back.",
    lambda slots, call, tenant, slot, body: slots.steps.step(
        call, tenant, slot, Step.DEACTIVATE, body.version
    ),
    required=True,
)
_order(
    "compromise",
    key_schemas.CompromiseBody,
    "Hold a slot to be compromised; the answer tells what that touches.",
    lambda slots, call, tenant, slot, body: slots.steps.compromise(
        call, tenant, slot, body.version, body.since, body.recover_until
    ),
    required=True,
    model=key_answers.KeyCompromisedAnswer,
)
_order(
    "recover",
    key_schemas.RecoveryBody,
    "Have a compromised slot open until then what was sealed to it. Officers alone may.",
    lambda slots, call, tenant, slot, body: slots.steps.recover(
        call, tenant, slot, body.version, body.until
    ),
    required=True,
)
_order(
    "destroy",
    key_schemas.DestructionBody,
    "Schedule the destruction of a version, or of all; until then it can be cancelled.",
    lambda slots, call, tenant, slot, body: slots.destruction.schedule(
        call, tenant, slot, body.version, body.confirm, body.at
    ),
    required=True,
)
_order(
    "cancel-destruction",
    key_schemas.VersionBody,
    "Keep what is scheduled for destruction.",
    lambda slots, call, tenant, slot, body: slots.destruction.cancel(
        call, tenant, slot, body.version
    ),
)
_order(
    "hold",
    slot_schemas.HoldBody,
    "Place a legal hold: nothing of the slot is destroyed until it is lifted. Officers alone may.",
    lambda slots, call, tenant, slot, body: slots.holds.place(call, tenant, slot, body.reason),
    required=True,
)
_order(
    "release",
    slot_schemas.HoldBody,
    "Lift the legal hold.",
    lambda slots, call, tenant, slot, body: slots.holds.release(call, tenant, slot, body.reason),
    required=True,
)
_order(
    "permit",
    key_schemas.PermissionBody,
    "Say what a principal may do with the slot from now on.",
    lambda slots, call, tenant, slot, body: slots.orders.permit(
        call, tenant, slot, body.principal, body.operations
    ),
    required=True,
    model=key_answers.KeyPermittedAnswer,
)

_USES = {
    "open": "Open HPKE messages and CMS envelopes; logged as the slot's policy says.",
    "unwrap": "The content keys of CMS envelopes whose content is large and kept by the caller.",
    "decapsulate": "Shared secrets of the slot's KEM, for forms of the caller's own.",
}


def _use(verb: str) -> None:
    bodies = slot_schemas.BODIES[verb]

    async def route(asked: Asking, slot: Named) -> Response:
        return await used(asked, asked.services.slots.use, slot, SLOT_VERBS[verb], bodies)

    router.post(
        f"/v1/kem-slots/{{slot}}/{verb}",
        name=f"slot_{verb}",
        description=_USES[verb],
        response_model=answers.SlotUsed | answers.SlotUsedBatch,
        responses=refusals(404, 409),
        openapi_extra=without_key(takes_either(bodies.one, bodies.many)),
    )(route)


for _verb in SLOT_VERBS:
    _use(_verb)
