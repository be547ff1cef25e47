"""Enrolments: the two calls for one device, and their batch forms. The hot routes."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from kms.api import answer_schemas as answers
from kms.api import schemas
from kms.api.handling import Asked, Asking
from kms.api.openapi import refusals, takes
from kms.api.validation import EnrolmentText, validated
from kms.domain.authorisation import Action
from kms.domain.records import DeviceId, EnrolmentId, UserId
from kms.services.enrolment_orders import EnrolmentOrder, SlotOrder
from kms.services.enrolment_proofs import ProofOrder
from kms.services.errors import InputError

router = APIRouter(tags=["enrolments"])


@router.post(
    "/v1/enrolments",
    status_code=201,
    response_model=answers.EnrolmentAnswer,
    responses=refusals(409),
    openapi_extra=takes(schemas.EnrolmentBody),
)
async def order_enrolment(asked: Asking) -> Response:
    """Order the certification of one device: policy, key checks, reservation, challenges."""
    asked.require(Action.ENROL)
    wanted = _order(asked.read(schemas.EnrolmentBody))
    return await asked.once(lambda call: asked.services.orders.create(call, wanted))


@router.post(
    "/v1/enrolments:batch",
    response_model=answers.EnrolmentBatchAnswer,
    responses=refusals(409),
    openapi_extra=takes(schemas.EnrolmentBatch),
)
async def order_enrolments(asked: Asking) -> Response:
    """Order many; one bad item never sinks the rest."""
    asked.require(Action.ENROL)
    items = _items(asked)
    wanted = [_try_order(item) for item in items]
    return await asked.once(lambda call: asked.services.orders.create_many(call, wanted))


@router.post(
    "/v1/enrolments/{enrolment}/proofs",
    status_code=201,
    response_model=answers.CertifiedAnswer,
    responses=refusals(404, 409, 410),
    openapi_extra=takes(schemas.ProofsBody),
)
async def prove_enrolment(asked: Asking, enrolment: Annotated[EnrolmentText, Path()]) -> Response:
    """Prove that every key is held; the answer holds the certificates and their receipt."""
    asked.require(Action.ENROL)
    proofs = asked.read(schemas.ProofsBody).proofs
    given = ProofOrder(EnrolmentId(enrolment), proofs)
    return await asked.once(lambda call: asked.services.proofs.complete(call, given))


@router.post(
    "/v1/enrolments:batch-proofs",
    response_model=answers.CertifiedBatchAnswer,
    responses=refusals(409),
    openapi_extra=takes(schemas.ProofsBatch),
)
async def prove_enrolments(asked: Asking) -> Response:
    """Prove many in one commit; one bad item never sinks the rest."""
    asked.require(Action.ENROL)
    items = _items(asked)
    given = [_try_proofs(item) for item in items]
    return await asked.once(lambda call: asked.services.proofs.complete_many(call, given))


def _items(asked: Asked) -> list[Any]:
    """The items of a batch, each still to be judged.

    Raises:
        InputError: The body is not a batch of the allowed size.
    """
    value = asked.value
    if (
        not isinstance(value, dict)
        or set(value) != {"items"}
        or not isinstance(value["items"], list)
    ):
        raise InputError('a batch is {"items": [...]} and nothing else', field="items")
    limit = asked.services.core.limits.batch
    if not 1 <= len(value["items"]) <= limit:
        raise InputError(f"a batch has 1 to {limit} items", field="items")
    return value["items"]


def _order(body: schemas.EnrolmentBody) -> EnrolmentOrder:
    return EnrolmentOrder(
        user=UserId(body.user),
        device=DeviceId(body.device),
        bundle=body.bundle,
        purpose=body.purpose,
        slots=tuple(SlotOrder(slot.name, slot.algorithm, slot.public_key) for slot in body.slots),
    )


def _try_order(item: Any) -> EnrolmentOrder | InputError:
    try:
        return _order(validated(schemas.EnrolmentBody, item))
    except InputError as error:
        return error


def _try_proofs(item: Any) -> ProofOrder | InputError:
    try:
        body = validated(schemas.BatchProofsItem, item)
    except InputError as error:
        return error
    return ProofOrder(EnrolmentId(body.enrolment), body.proofs)
