"""What everyone may read (8080): CA certificates, CRLs, checkpoint and hash tiles.

Signed data over plain HTTP, nothing about people; entries of the log are not here.
"""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from kms.api import exchange as exchanges
from kms.api import plain_openapi
from kms.api.app import HttpLimits
from kms.api.errors import MalformedRequestError, MethodNotAllowedError
from kms.api.middleware import Observed, render
from kms.api.observing import HttpObserver, SilentHttp
from kms.api.places import epoch_of, tile_of
from kms.domain.records import LogId
from kms.services.errors import KmsError, NotFoundError
from kms.services.facade import Services
from kms.services.ports import LedgerUnavailableError
from kms.tlog.tiles import TILE_WIDTH

LISTENER = "public"
FOREVER = "public, max-age=31536000, immutable"
BRIEFLY = "public, max-age=60"
AT_ONCE = "public, max-age=1"
CERTIFICATE, CRL = "application/pkix-cert", "application/pkix-crl"
BYTES, TEXT = "application/octet-stream", "text/plain; charset=utf-8"


def create_public(
    services: Services,
    limits: HttpLimits | None = None,
    *,
    observer: HttpObserver | None = None,
) -> ASGIApp:
    """The whole application of the public listener."""
    public = _Public(services)
    tile = "/tile/{path:path}"
    app = Starlette(
        routes=[
            Route("/pki/{name}.cer", public.certificate),
            Route("/pki/{name}.crl", public.crl),
            Route("/log/checkpoint", public.checkpoint),
            Route("/log" + tile, public.tile),
            Route("/log/{epoch}/checkpoint", public.checkpoint),
            Route("/log/{epoch}" + tile, public.tile),
            plain_openapi.route(plain_openapi.public()),
        ],
    )
    app.router.redirect_slashes = False
    refused = services.core.observer.refused
    for kind in (HTTPException, KmsError, LedgerUnavailableError, Exception):
        app.add_exception_handler(kind, public.refuse)
    limits = limits or HttpLimits()
    return Observed(app, LISTENER, observer or SilentHttp(), refused, limits.concurrency)


class _Public:
    """Handlers."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def certificate(self, request: Request) -> Response:
        """A CA certificate, DER (RFC 5280 4.2.2.1)."""
        active = self._services.core.authorities.get(request.path_params["name"])
        if active is None:
            raise NotFoundError("there is no such authority")
        return _answer(active.record.certificate, CERTIFICATE, BRIEFLY)

    async def crl(self, request: Request) -> Response:
        """The CRL in force, DER (RFC 5280 4.2.1.13)."""
        published = self._services.crls.published(request.path_params["name"])
        if published is None:
            raise NotFoundError("no CRL of that name is published")
        return _answer(published.der, CRL, BRIEFLY)

    async def checkpoint(self, request: Request) -> Response:
        """The newest signed checkpoint, exact bytes (C2SP tlog-tiles)."""
        return _answer(self._services.lookup.checkpoint(_epoch(request)), TEXT, AT_ONCE)

    async def tile(self, request: Request) -> Response:
        """A hash tile (C2SP tlog-tiles); what is signed never changes, whatever its width."""
        named = tile_of(f"tile/{request.path_params['path']}")
        data = self._services.lookup.tile(
            _epoch(request), named.level or 0, named.number, named.width
        )
        return _answer(data, BYTES, FOREVER if named.width == TILE_WIDTH else BRIEFLY)

    async def refuse(self, request: Request, error: Exception) -> Response:
        """Any exception as a problem document."""
        if isinstance(error, HTTPException):
            error = _ROUTING.get(error.status_code, _ROUTING[400])
        exchange = exchanges.of(request.scope)
        found = render(error, exchange, self._services.core.observer.refused)
        return Response(found.body, found.status, headers=dict(found.headers))


_ROUTING = {
    400: MalformedRequestError("the request cannot be read"),
    404: NotFoundError("there is no such resource"),
    405: MethodNotAllowedError("everything here is for reading only"),
}


def _epoch(request: Request) -> LogId | None:
    epoch = request.path_params.get("epoch")
    return None if epoch is None else epoch_of(epoch)


def _answer(data: bytes, media_type: str, caching: str) -> Response:
    return Response(data, media_type=media_type, headers={"cache-control": caching})
