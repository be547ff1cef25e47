"""What operators and their monitoring read (9464): metrics and health, no authentication."""

from collections.abc import Callable, Sequence

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from kms.api import plain_openapi
from kms.services.facade import Services
from kms.services.readiness import Check

_NO_STORE = {"cache-control": "no-store"}


def create_operator(
    services: Services,
    registry: CollectorRegistry,
    more: Callable[[], Sequence[Check]] = tuple,
) -> ASGIApp:
    """The whole application of the operator's listener.

    Args:
        services: Asked for their readiness.
        registry: The metrics.
        more: What the process has to say of its own readiness.
    """

    async def metrics(_request: Request) -> Response:
        data = generate_latest(registry)
        return Response(data, headers={"content-type": CONTENT_TYPE_LATEST, **_NO_STORE})

    async def alive(_request: Request) -> Response:
        return Response("ok\n", media_type="text/plain", headers=_NO_STORE)

    async def ready(_request: Request) -> Response:
        checks = [*await services.readiness.checks(), *more()]
        good = all(check.ok for check in checks)
        body = msgspec.json.encode({"ready": good, "checks": checks})
        status = 200 if good else 503
        return Response(body, status, headers=_NO_STORE, media_type="application/json")

    return Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/healthz", alive),
            Route("/readyz", ready),
            plain_openapi.route(plain_openapi.operator()),
        ]
    )
