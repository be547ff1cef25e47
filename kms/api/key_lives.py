"""The routes of a key's life, the same for clients' keys and for KEM slots."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel

from kms.api import key_answers as answers
from kms.api import key_schemas as schemas
from kms.api.handling import Asking
from kms.api.openapi import refusals, takes
from kms.api.validation import PrincipalText
from kms.domain.authorisation import Action
from kms.domain.records import TenantId
from kms.services.answers import Answer
from kms.services.facade import Services
from kms.services.idempotency import Call
from kms.services.keys.composed import Keys
from kms.services.slots.composed import KemSlots
from policies.key_life import Step

Lives = Keys | KemSlots
"""Use cases that keys and slots have alike: orders, steps, destruction."""
Work = Callable[[Lives, Call, TenantId, str, Any], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Change:
    """One way to change a life.

    Attributes:
        body: What is sent; one that confirms is held against the name.
        work: Does it.
        status: Of the answer.
        model: Of the answer.
    """

    body: type[BaseModel]
    work: Work
    status: int = 200
    model: type[BaseModel] = answers.KeyChangedAnswer

    @property
    def required(self) -> bool:
        """Whether an empty body, which stands for `{}`, is none of these."""
        return any(field.is_required() for field in self.body.model_fields.values())


def _step(step: Step) -> Work:
    return lambda lives, call, tenant, name, body: lives.steps.step(
        call, tenant, name, step, body.version
    )


CHANGES: Mapping[str, Change] = {
    "rotate": Change(
        schemas.RotationBody,
        lambda lives, call, tenant, name, body: lives.orders.rotate(
            call, tenant, name, body.activates
        ),
        status=201,
    ),
    "activate": Change(
        schemas.VersionBody,
        lambda lives, call, tenant, name, body: lives.steps.activate(
            call, tenant, name, body.version
        ),
    ),
    "suspend": Change(schemas.VersionBody, _step(Step.SUSPEND)),
    "resume": Change(schemas.VersionBody, _step(Step.RESUME)),
    "deactivate": Change(schemas.ConfirmedBody, _step(Step.DEACTIVATE)),
    "compromise": Change(
        schemas.CompromiseBody,
        lambda lives, call, tenant, name, body: lives.steps.compromise(
            call, tenant, name, body.version, body.since, body.recover_until
        ),
        model=answers.KeyCompromisedAnswer,
    ),
    "recover": Change(
        schemas.RecoveryBody,
        lambda lives, call, tenant, name, body: lives.steps.recover(
            call, tenant, name, body.version, body.until
        ),
    ),
    "destroy": Change(
        schemas.DestructionBody,
        lambda lives, call, tenant, name, body: lives.destruction.schedule(
            call, tenant, name, body.version, body.confirm, body.at
        ),
    ),
    "cancel-destruction": Change(
        schemas.VersionBody,
        lambda lives, call, tenant, name, body: lives.destruction.cancel(
            call, tenant, name, body.version
        ),
    ),
    "permit": Change(
        schemas.PermissionBody,
        lambda lives, call, tenant, name, body: lives.orders.permit(
            call, tenant, name, body.principal, body.operations
        ),
        model=answers.KeyPermittedAnswer,
    ),
}
"""By the last part of the path."""


def add_change(
    router: APIRouter,
    place: str,
    verb: str,
    change: Change,
    sentence: str,
    lives: Callable[[Services], Lives],
) -> None:
    """A route; whether the caller may stands in the ledger.

    Args:
        router: Where it is added.
        place: Path up to the name and the name's parameter: `/v1/keys/{key}`.
        verb: What follows.
        change: What it does.
        sentence: Its description.
        lives: Which use cases it is about.
    """
    parameter = place[place.index("{") + 1 : -1]
    named = Path(alias=parameter, description=f"The {parameter}'s name.")

    async def route(asked: Asking, name: Annotated[PrincipalText, named]) -> Response:
        asked.require(Action.USE_KEYS)
        body: Any = asked.read(change.body)
        tenant = asked.tenant(body.tenant)
        if isinstance(body, schemas.ConfirmedBody):
            body.check(name)
        return await asked.once(
            lambda call: change.work(lives(asked.services), call, tenant, name, body)
        )

    router.post(
        f"{place}/{verb}",
        name=f"{parameter}_{verb.replace('-', '_')}",
        description=sentence,
        status_code=change.status,
        response_model=change.model,
        responses=refusals(404, 409),
        openapi_extra=takes(change.body, required=change.required),
    )(route)


def add_changes(
    router: APIRouter,
    place: str,
    sentences: Mapping[str, str],
    lives: Callable[[Services], Lives],
) -> None:
    """All of `CHANGES`, described by these sentences."""
    for verb, change in CHANGES.items():
        add_change(router, place, verb, change, sentences[verb], lives)
