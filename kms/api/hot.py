"""A short cut for enrolments and key uses: their handlers without the framework around them.

FastAPI's routing and dependency solving cost about 100 µs a request, as much as a signature. The
handlers are those of `kms.api.enrolments` and `kms.api.key_uses`, whose routes still describe them
and still answer whatever is not exactly one of these calls.
"""

import re
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

from fastapi import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from kms.api import enrolments, key_uses
from kms.api.handling import Asked
from kms.services.facade import Services
from kms.wire import DEVICE_PATTERN

Handler = Callable[[Asked], Awaitable[Response]]

_PROOFS = re.compile(r"/v1/enrolments/([0-9a-f]{32})/proofs")
_USE = re.compile(rf"/v1/keys/({DEVICE_PATTERN})/({'|'.join(key_uses.HANDLERS)})")
_EXACT: dict[str, Handler] = {
    "/v1/enrolments": enrolments.order_enrolment,
    "/v1/enrolments:batch": enrolments.order_enrolments,
    "/v1/enrolments:batch-proofs": enrolments.prove_enrolments,
}


class Hot:
    """Last stage before the framework."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer such a call here, anything else behind."""
        found = _find(scope["path"]) if scope["method"] == "POST" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        template, handler = found
        scope["route"] = SimpleNamespace(path=template)
        response = await handler(Asked(self._services, scope))
        await response(scope, receive, send)


def _find(path: str) -> tuple[str, Handler] | None:
    handler = _EXACT.get(path)
    if handler is not None:
        return path, handler
    use = _USE.fullmatch(path)
    if use is not None:
        return f"/v1/keys/{{key}}/{use[2]}", lambda asked: key_uses.HANDLERS[use[2]](asked, use[1])
    match = _PROOFS.fullmatch(path)
    if match is None:
        return None
    return "/v1/enrolments/{enrolment}/proofs", lambda asked: enrolments.prove_enrolment(
        asked, match[1]
    )
