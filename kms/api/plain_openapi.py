"""The descriptions of the two plain listeners: public data (8080) and the operator's pages (9464).

Written by hand: their routes have no models, and the framework that could tell is not between.
"""

from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import kms
from kms.api.answer_schemas import ProblemDocument
from kms.api.problems import MEDIA_TYPE

PATH = "/openapi.json"

_BYTES = {"type": "string", "format": "binary"}
_TEXT = {"type": "string"}
_NAME = {"type": "string", "pattern": r"^[a-z0-9.-]{1,64}$"}
_EPOCH = {"type": "string", "pattern": r"^[1-9][0-9]{0,9}$"}
_LEVEL = {"type": "string", "pattern": r"^([0-9]|[1-5][0-9]|6[0-3])$"}
_TILE = {"type": "string", "pattern": r"^[0-9]{3}$"}
_WIDTH = {"type": "string", "pattern": r"^([1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5])$"}
_TILES = "A hash tile, whole or of a width (C2SP tlog-tiles); from 1000 on `x001/000` and so on."
_REFUSED = (400, 404, 405, 429, 431, 500, 503)
_CHECKS = {
    "type": "object",
    "required": ["ready", "checks"],
    "additionalProperties": False,
    "properties": {
        "ready": {"type": "boolean"},
        "checks": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "ok", "detail"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string"},
                    "ok": {"type": "boolean"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}


def public() -> dict[str, Any]:
    """What is read on the public listener."""
    certificate = _reading("A CA certificate, DER.", "application/pkix-cert", _BYTES, name=_NAME)
    crl = _reading("The CRL in force, DER.", "application/pkix-crl", _BYTES, name=_NAME)
    checkpoint = _reading(
        "The newest signed checkpoint (C2SP tlog-checkpoint).", "text/plain", _TEXT
    )
    at = {"level": _LEVEL, "tile": _TILE}
    tile = _reading(_TILES, "application/octet-stream", _BYTES, **at)
    partial = _reading(_TILES, "application/octet-stream", _BYTES, **at, width=_WIDTH)
    of_log = {
        "checkpoint": checkpoint,
        "tile/{level}/{tile}": tile,
        "tile/{level}/{tile}.p/{width}": partial,
    }
    return _document(
        "sovereign-kms, public",
        {"/pki/{name}.cer": certificate, "/pki/{name}.crl": crl}
        | {f"/log/{path}": page for path, page in of_log.items()}
        | {f"/log/{{epoch}}/{path}": _with(page, epoch=_EPOCH) for path, page in of_log.items()},
    )


def operator() -> dict[str, Any]:
    """What is read on the operator's listener."""
    ready = _page(
        "Whether everything that the service needs is there.", "application/json", _CHECKS
    )
    ready["get"]["responses"]["503"] = {
        **ready["get"]["responses"]["200"],
        "description": "Something is missing.",
    }
    return _document(
        "sovereign-kms, operator",
        {
            "/metrics": _page("Metrics in Prometheus' text format.", "text/plain", _TEXT),
            "/healthz": _page("Whether the process answers.", "text/plain", _TEXT),
            "/readyz": ready,
        },
    )


def route(document: dict[str, Any]) -> Route:
    """Serves a description."""
    encoded = msgspec.json.encode(document)

    async def serve(_request: Request) -> Response:
        return Response(encoded, media_type="application/json")

    return Route(PATH, serve)


def _document(title: str, paths: dict[str, Any]) -> dict[str, Any]:
    schema = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    models = {**schema.pop("$defs"), ProblemDocument.__name__: schema}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": kms.__version__},
        "paths": paths,
        "components": {"schemas": models},
    }


def _page(summary: str, media_type: str, schema: dict[str, Any], **names: Any) -> dict[str, Any]:
    good = {"description": summary, "content": {media_type: {"schema": schema}}}
    page = {"get": {"summary": summary, "parameters": [], "responses": {"200": good}}}
    return _with(page, **names)


def _with(page: dict[str, Any], **names: Any) -> dict[str, Any]:
    """The page, with more names in its path."""
    more = [
        {"name": name, "in": "path", "required": True, "schema": pattern}
        for name, pattern in names.items()
    ]
    return {"get": {**page["get"], "parameters": [*page["get"]["parameters"], *more]}}


def _reading(summary: str, media_type: str, schema: dict[str, Any], **names: Any) -> dict[str, Any]:
    page = _page(summary, media_type, schema, **names)
    reference = {"$ref": f"#/components/schemas/{ProblemDocument.__name__}"}
    for status in _REFUSED:
        page["get"]["responses"][str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": reference}},
        }
    return page
