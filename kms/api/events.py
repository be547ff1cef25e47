"""Events: each reader its own; what opens the commitments goes to those concerned alone."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from kms.api import answer_schemas as answers
from kms.api import documents, schemas
from kms.api.handling import Asking, answer
from kms.api.openapi import refusals
from kms.domain.authorisation import Action, may

router = APIRouter(tags=["events"])
Index = Annotated[int, Path(ge=0, le=2**53, description="Index in the log, from 0.")]
OfTenant = Annotated[schemas.TenantQuery, Query()]


@router.get("/v1/events", response_model=answers.EventsAnswer, responses=refusals(404))
async def list_events(asked: Asking, query: Annotated[schemas.EventsQuery, Query()]) -> Response:
    """Events above an index, a page at a time."""
    asked.require(Action.READ_EVENTS)
    found = asked.services.lookup.events(
        asked.reach(query.tenant),
        after=query.after,
        limit=query.limit,
        openings=may(asked.caller, Action.READ_OPENINGS),
    )
    return answer(
        {
            "events": [documents.event(seen) for seen in found.items],
            "next": found.after,
        }
    )


@router.get("/v1/events/{index}", response_model=answers.EventDocument, responses=refusals(404))
async def show_event(asked: Asking, index: Index, query: OfTenant) -> Response:
    """One event."""
    asked.require(Action.READ_EVENTS)
    seen = asked.services.lookup.event(
        asked.reach(query.tenant), index, openings=may(asked.caller, Action.READ_OPENINGS)
    )
    return answer(documents.event(seen))


@router.get("/v1/events/{index}/receipt", response_model=answers.Receipt, responses=refusals(404))
async def show_receipt(asked: Asking, index: Index, query: OfTenant) -> Response:
    """A receipt of one event against the newest signed checkpoint."""
    asked.require(Action.READ_EVENTS)
    return answer(await asked.services.lookup.receipt(asked.reach(query.tenant), index))
