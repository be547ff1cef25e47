"""The log for those entitled to its entries; hash tiles and checkpoints are public."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from kms.api import answer_schemas as answers
from kms.api.handling import Asking, answer
from kms.api.openapi import refusals
from kms.api.places import entries_of, epoch_of
from kms.domain.authorisation import Action
from kms.services.errors import AccessError

router = APIRouter(tags=["log"])
BYTES = "application/octet-stream"
Epoch = Annotated[str, Path(pattern=r"^(?:current|[1-9][0-9]{0,9})$")]


@router.get("/v1/log", response_model=answers.LogAnswer, responses=refusals(404))
async def show_log(asked: Asking) -> Response:
    """Origin, verifier keys and signed size of the current epoch."""
    services = asked.services
    epoch = services.lookup.epoch(None)
    return answer(
        {
            "origin": epoch.origin,
            "vkey": epoch.vkey,
            "cosigner_vkey": services.core.sequencer.cosigner_vkey,
            "log": epoch.log,
            "size": services.core.sequencer.signed_size,
        }
    )


@router.get(
    "/v1/log/{epoch}/tile/entries/{path:path}",
    response_class=Response,
    responses={
        200: {"content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}},
        **refusals(404),
    },
)
async def read_entries(asked: Asking, epoch: Epoch, path: str) -> Response:
    """An entry bundle (C2SP tlog-tiles): every tenant's entries, so for the authority only."""
    asked.require(Action.READ_EVENTS)
    if not asked.caller.across_tenants:
        raise AccessError("entries of all tenants are for the authority's own auditors")
    named = entries_of(f"tile/entries/{path}")
    number = None if epoch == "current" else epoch_of(epoch)
    data = asked.services.lookup.bundle(number, named.number, named.width)
    return Response(data, media_type=BYTES, headers={"cache-control": "private, no-store"})
