"""The API that messaging servers, officers and auditors call (8443), put together."""

from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import kms
from kms.api import (
    authorities,
    certificates,
    enrolments,
    events,
    kem_slots,
    key_uses,
    keys,
    log,
    people,
    principals,
)
from kms.api import exchange as exchanges
from kms.api.errors import MalformedRequestError, MethodNotAllowedError
from kms.api.hot import Hot
from kms.api.identity import NativeTls, PeerIdentity
from kms.api.middleware import Authenticated, Bounded, Observed, Refused, Screened, render
from kms.api.observing import HttpObserver, SilentHttp
from kms.api.openapi import describing, serving
from kms.api.problems import Problem
from kms.api.turns import Begun, Placed
from kms.api.validation import input_error
from kms.services.errors import KmsError, NotFoundError
from kms.services.facade import Services
from kms.services.ports import LedgerUnavailableError
from kms.services.turns import Admission

LISTENER = "api"
FAMILIES = (
    enrolments,
    certificates,
    people,
    principals,
    events,
    log,
    authorities,
    keys,
    key_uses,
    kem_slots,
)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds on a request; the operator may change the first two.

    Attributes:
        body: Largest body in bytes.
        concurrency: Requests served at a time on a listener without classes.
        body_seconds: How long a body may take to arrive.
    """

    body: int = 8 << 20
    concurrency: int = 256
    body_seconds: float = 30.0


def create_api(
    services: Services,
    limits: HttpLimits | None = None,
    *,
    admission: Admission | None = None,
    identity: PeerIdentity | None = None,
    observer: HttpObserver | None = None,
) -> ASGIApp:
    """The whole application of the mTLS listener.

    Args:
        services: The use cases.
        limits: Bounds on requests.
        admission: Who is served, waits, or is refused.
        identity: Where the client certificate comes from; the TLS connection by default.
        observer: Told of each request.
    """
    limits, identity = limits or HttpLimits(), identity or NativeTls()
    admission = admission or Admission(observer=services.core.observer)
    authenticate = services.access.authenticate
    screened = Screened(Hot(create_routes(services), services))
    begun = Begun(Authenticated(screened, identity, authenticate))
    bounded = Bounded(begun, limits.body, limits.body_seconds)
    placed = Placed(bounded, admission, identity, authenticate)
    return Observed(placed, LISTENER, observer or SilentHttp(), services.core.observer.refused)


def create_routes(services: Services) -> FastAPI:
    """Routes and their description, without the stages in front of them."""
    app = FastAPI(
        version=kms.__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # the framework would encode it anew each time; see `serving`
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.services = services
    for family in FAMILIES:
        app.include_router(family.router)
    app.openapi = describing(app)  # type: ignore[method-assign]  # the documented way
    app.add_route("/openapi.json", serving(app), include_in_schema=False)
    _answer_errors(app, services.core.observer.refused)
    return app


def _answer_errors(app: FastAPI, refused: Refused) -> None:
    """Every exception becomes a problem document; the framework's own answers never show."""

    async def handle(request: Request, error: Exception) -> Response:
        return _response(render(error, exchanges.of(request.scope), refused))

    async def handle_validation(request: Request, error: Exception) -> Response:
        errors = error.errors() if isinstance(error, RequestValidationError) else []
        place = [{**item, "loc": item["loc"][1:]} for item in errors]
        return await handle(request, input_error(place))

    async def handle_routing(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 400
        return await handle(request, _ROUTING.get(status, _ROUTING[400]))

    app.add_exception_handler(RequestValidationError, handle_validation)
    app.add_exception_handler(HTTPException, handle_routing)
    for kind in (KmsError, LedgerUnavailableError, Exception):
        app.add_exception_handler(kind, handle)


_ROUTING = {
    400: MalformedRequestError("the request cannot be read"),
    404: NotFoundError("there is no such resource"),
    405: MethodNotAllowedError("the resource does not offer this method"),
}


def _response(found: Problem) -> Response:
    return Response(found.body, found.status, headers=dict(found.headers))
