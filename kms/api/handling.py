"""What handlers work with: who asks, what they sent, how the answer goes out."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Depends, Request, Response
from pydantic import BaseModel
from starlette.types import Scope

from kms.api import exchange as exchanges
from kms.api.validation import validated
from kms.domain.authorisation import Action, Caller
from kms.domain.records import TenantId
from kms.services.answers import Answer
from kms.services.errors import InputError, UnauthenticatedError
from kms.services.facade import Services
from kms.services.idempotency import Call, call

M = TypeVar("M", bound=BaseModel)

IDEMPOTENCY_HEADER = "Idempotency-Key"
_NO_STORE = {"cache-control": "no-store"}
_encoder = msgspec.json.Encoder()


class Asked:
    """One authenticated request.

    Attributes:
        services: The use cases.
        caller: Who asks.
        value: The body's JSON value.
    """

    def __init__(self, services: Services, scope: Scope) -> None:
        exchange = exchanges.of(scope)
        if exchange.caller is None:
            raise UnauthenticatedError("a client certificate is required")
        self.services = services
        self.caller: Caller = exchange.caller
        self.value = exchange.value
        self._body = exchange.body
        self._scope = scope

    def require(self, action: Action) -> None:
        """Refuse what the caller's role may not do.

        Raises:
            AccessError: It may not.
        """
        self.services.access.require(self.caller, action)

    def tenant(self, named: str | None) -> TenantId:
        """The one tenant a request is about: the caller's own unless it names another.

        Raises:
            NotFoundError: It names one that it does not reach.
        """
        return self.services.access.tenant(self.caller, named)

    def reach(self, named: str | None) -> TenantId | None:
        """As `tenant`, but None, for all, where a caller that acts across tenants names none."""
        if named is None and self.caller.across_tenants:
            return None
        return self.tenant(named)

    def read(self, model: type[M]) -> M:
        """The body as that model has it; an empty body counts as `{}`.

        Raises:
            InputError: It is not; `field` says where.
        """
        if self._scope["query_string"]:
            raise InputError("this call takes no query parameters; put them into the body")
        return validated(model, {} if self.value is None else self.value)

    async def once(self, work: Callable[[Call], Awaitable[Answer]]) -> Response:
        """Do the work at most once for this Idempotency-Key; its answer, or the stored one.

        The scope is method and path with its parameters: the same key for another user is another
        call.

        Raises:
            KmsError: As the key or the work is refused.
        """
        route = f"{self._scope['method']} {self._scope['path']}"
        request = call(self.caller, route, self._key(), self._body)
        answer = await self.services.idempotency.once(request, lambda: work(request))
        return _json(answer.body, answer.status)

    def _key(self) -> str | None:
        """The Idempotency-Key.

        Raises:
            InputError: There are several.
        """
        name = IDEMPOTENCY_HEADER.lower().encode()
        values = [value for header, value in self._scope["headers"] if header == name]
        if len(values) > 1:
            raise InputError("send one Idempotency-Key", field=IDEMPOTENCY_HEADER)
        return values[0].decode("latin-1") if values else None


async def _asked(request: Request) -> Asked:
    # A coroutine: FastAPI calls anything else in a thread.
    return Asked(request.app.state.services, request.scope)


Asking = Annotated[Asked, Depends(_asked)]
"""Parameter of a handler that works with the authenticated request."""


def answer(document: dict[str, Any]) -> Response:
    """A document that was read, as the answer."""
    return _json(_encoder.encode(document), 200)


def _json(body: bytes, status: int) -> Response:
    return Response(body, status, headers=_NO_STORE, media_type="application/json")
