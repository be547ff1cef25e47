"""The API's description: what routes declare, plus what holds for all of them.

Bodies are parsed by `kms.api.strict_json` and not by FastAPI, so their schemas are declared by
`takes` and put into the document here.
"""

from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from kms.api import (
    answer_schemas,
    key_answers,
    key_schemas,
    key_use_schemas,
    schemas,
    slot_answers,
    slot_schemas,
)
from kms.api.answer_schemas import ProblemDocument
from kms.api.handling import IDEMPOTENCY_HEADER
from kms.api.problems import MEDIA_TYPE, PROBLEMS, TYPE_PREFIX
from kms.services.errors import KmsError, Retry

_REF = "#/components/schemas/{model}"
_NO_KEY = "x-no-idempotency-key"
_ALWAYS = (400, 401, 403, 408, 413, 422, 429, 431, 500, 503)
"""Statuses with which any call may be refused."""

_MODELS = [
    model
    for module in (schemas, answer_schemas, key_schemas, key_answers, slot_answers)
    for model in vars(module).values()
    if isinstance(model, type) and issubclass(model, BaseModel) and model is not BaseModel
] + [*key_use_schemas.MODELS, *slot_schemas.MODELS]

_DESCRIPTION = """Certifies users' and devices' public keys on a public, verifiable record.

Every call comes over TLS 1.3 with a client certificate of the infrastructure authority. Every call
that changes state carries an `Idempotency-Key`: sent again with the same body it gives the same
bytes. Refusals are problem documents (RFC 9457); none repeats anything of the request."""


def takes(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """`openapi_extra` of a route whose body is that model."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    body = {"required": required, "content": {"application/json": {"schema": schema}}}
    return {"requestBody": body}


def takes_either(one: type[BaseModel], other: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route whose body is one of two models."""
    names = [_REF.format(model=model.__name__) for model in (one, other)]
    schema = {"oneOf": [{"$ref": name} for name in names]}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def without_key(extra: dict[str, Any]) -> dict[str, Any]:
    """Of a call that changes nothing, though it is a POST: it takes no Idempotency-Key."""
    return {**extra, _NO_KEY: True}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route: the problems it may answer with, beside those of every call."""
    return {status: _refusal(status) for status in sorted({*_ALWAYS, *statuses})}


def _refusal(status: int) -> dict[str, Any]:
    examples = {
        kind.problem: {"value": _example(kind)}
        for kind, row in PROBLEMS.items()
        if row.status == status
    }
    schema = {"$ref": _REF.format(model=ProblemDocument.__name__)}
    return {
        "description": HTTPStatus(status).phrase,
        "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
    }


def _example(kind: type[KmsError]) -> dict[str, Any]:
    return {
        "type": TYPE_PREFIX + kind.problem,
        "title": PROBLEMS[kind].title,
        "status": PROBLEMS[kind].status,
        "detail": "A sentence that says what is wrong and what to do.",
        "retry": kind.retry.value,
    }


def describing(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """The app's `openapi` method; the document is made once."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(
                get_openapi(
                    title="sovereign-kms",
                    version=app.version,
                    description=_DESCRIPTION,
                    routes=app.routes,
                )
            )
        return app.openapi_schema

    return describe


def serving(app: FastAPI) -> Callable[[Request], Awaitable[Response]]:
    """The handler that answers with the document; a quarter of a megabyte, encoded once."""
    encoded = b""

    async def serve(_request: Request) -> Response:
        nonlocal encoded
        encoded = encoded or msgspec.json.encode(app.openapi())
        return Response(encoded, media_type="application/json")

    return serve


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    modes: list[tuple[type[BaseModel], JsonSchemaMode]] = [(item, "validation") for item in _MODELS]
    _, models = models_json_schema(modes, ref_template=_REF)
    components = document.setdefault("components", {})
    # FastAPI's own rendering of the same models drops nulls from examples.
    components.setdefault("schemas", {}).update(models["$defs"])
    components["securitySchemes"] = {"mutualTLS": {"type": "mutualTLS"}}
    components["parameters"] = {"IdempotencyKey": _idempotency_key()}
    document["security"] = [{"mutualTLS": []}]
    for operation in (*_operations(document, "get"), *_operations(document, "post")):
        operation["summary"] = operation["description"].splitlines()[0].rstrip(".")
    for operation in _operations(document, "post"):
        if operation.pop(_NO_KEY, False):
            continue
        reference = {"$ref": "#/components/parameters/IdempotencyKey"}
        operation.setdefault("parameters", []).append(reference)
    _name_headers(document)
    return document


def _name_headers(document: dict[str, Any]) -> None:
    """Declare the headers of every answer."""
    later = {row.status for kind, row in PROBLEMS.items() if kind.retry is not Retry.NEVER}
    for path in document["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                headers = answer["headers"] = dict(_HEADERS)
                if int(status) in later:
                    headers["retry-after"] = _header("Seconds after which to try again.", "[0-9]+")
                if status == "401":
                    headers["www-authenticate"] = _header("What is missing.", ".+")


def _header(description: str, pattern: str) -> dict[str, Any]:
    return {
        "description": description,
        "schema": {"type": "string", "pattern": f"^{pattern}$"},
    }


_HEADERS = {
    "x-request-id": _header(
        "Names the request in the service's log; absent where no request could be read.",
        "[0-9a-f]{16}",
    ),
    "x-content-type-options": _header("The content is what it says it is.", "nosniff"),
    "cache-control": _header("Whether anybody may keep the answer.", ".+"),
}


def _idempotency_key() -> dict[str, Any]:
    return {
        "name": IDEMPOTENCY_HEADER,
        "in": "header",
        "required": True,
        "description": "Fresh for each new request; the same one when a request is sent again.",
        "schema": {"type": "string", "pattern": r"^[\x21-\x7e]{1,128}$"},
        "example": "5f0c1f0e-6f0b-4a52-9a65-0f6f0f6f2c11",
    }


def _operations(document: dict[str, Any], method: str) -> Iterable[dict[str, Any]]:
    return (path[method] for path in document["paths"].values() if method in path)
