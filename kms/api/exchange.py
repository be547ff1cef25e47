"""One request on its way through the middleware: what is known of it so far."""

from dataclasses import dataclass
from typing import Any, cast

from starlette.types import Scope

from kms.domain.authorisation import Caller
from kms.services.turns import Place

_STATE = "exchange"


@dataclass(slots=True)
class Exchange:
    """Filled in step by step, read by handlers.

    Attributes:
        request_id: Fresh for each request; stands in the log and in the answer.
        body: The whole body.
        value: Its JSON value; None for an empty body.
        caller: Who asks; None before authentication and on listeners without it.
        problem: Name of the problem it was answered with.
        place: Its place among the calls of its class; None on listeners without classes.
    """

    request_id: str
    body: bytes = b""
    value: Any = None
    caller: Caller | None = None
    problem: str | None = None
    place: Place | None = None


def begin(scope: Scope, request_id: str) -> Exchange:
    """Attach a fresh exchange to a request."""
    exchange = Exchange(request_id)
    scope.setdefault("state", {})[_STATE] = exchange
    return exchange


def of(scope: Scope) -> Exchange:
    """The exchange of a request."""
    return cast("Exchange", scope["state"][_STATE])
