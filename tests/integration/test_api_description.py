"""The OpenAPI document is complete, true and usable, as one reads it."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from pydantic import BaseModel

from kms.api import (
    answer_schemas,
    key_answers,
    key_schemas,
    key_uses,
    plain_openapi,
    schemas,
)
from kms.api.app import FAMILIES
from kms.services.slots.verbs import SLOT_VERBS
from tests.support.described import session
from tests.support.tls_site import Running, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("described")) as made:
        yield made


@pytest.fixture(scope="module")
def document(server: Running) -> dict[str, Any]:
    with session(server, "messenger") as asking:
        answer: dict[str, Any] = asking.get(server.url + "/openapi.json").json()
    return answer


USES = {route.path for route in key_uses.router.routes}  # type: ignore[attr-defined]
USES |= {f"/v1/kem-slots/{{slot}}/{verb}" for verb in SLOT_VERBS}
"""Calls that change nothing, though they are posted."""


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def test_every_route_stands_in_it(document: dict[str, Any]):
    described = {(method.upper(), path) for path, method, _ in operations(document)}
    offered = {
        (method, route.path.replace("{path:path}", "{path}"))  # type: ignore[attr-defined]
        for family in FAMILIES
        for route in family.router.routes
        for method in route.methods  # type: ignore[attr-defined]
    }
    assert described == offered


@pytest.mark.parametrize("listener", ["public", "operator"])
def test_every_page_of_a_plain_listener_stands_in_its_own(server: Running, listener: str):
    document: dict[str, Any] = getattr(plain_openapi, listener)()
    app: Any = getattr(server.site, listener)
    while not hasattr(app, "routes"):
        app = app._app
    tile = "tile/{path:path}"
    offered = set()
    for route in app.routes:
        wide = (
            {tile: ["tile/{level}/{tile}", "tile/{level}/{tile}.p/{width}"]}
            if tile in route.path
            else {"": [""]}
        )
        offered |= {route.path.replace(old, new) for old, some in wide.items() for new in some}
    assert set(document["paths"]) == offered - {plain_openapi.PATH}


def test_every_call_says_all_that_can_happen(document: dict[str, Any]):
    assert document["security"] == [{"mutualTLS": []}]
    assert document["components"]["securitySchemes"] == {"mutualTLS": {"type": "mutualTLS"}}
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))
    for path, method, operation in operations(document):
        answers = operation["responses"]
        assert {"400", "401", "403", "413", "422", "500", "503"} <= set(answers), path
        assert operation["summary"]
        assert not operation["summary"].endswith(".")
        for status, answer in answers.items():
            kinds = set(answer["content"])
            good = {"application/json"}, {"application/octet-stream"}
            assert kinds in good if status < "400" else kinds == {"application/problem+json"}
        if method == "post":
            assert "application/json" in operation["requestBody"]["content"]
            key = {"$ref": "#/components/parameters/IdempotencyKey"}
            assert (key in operation.get("parameters", [])) is (path not in USES), path


def models(module: Any) -> list[type[BaseModel]]:
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BaseModel) and value is not BaseModel
    ]


def test_references_lead_somewhere_and_the_schemas_are_schemas(document: dict[str, Any]):
    text = json.dumps(document)
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    for piece in text.split('"$ref": "')[1:]:
        reference = piece.split('"')[0]
        assert reference in known or reference == "#/components/parameters/IdempotencyKey"
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate(
            {**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"}
        )


def test_examples_are_examples_of_their_schema(document: dict[str, Any]):
    shown = 0
    for name, schema in document["components"]["schemas"].items():
        whole = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        for example in schema.get("examples", []):
            jsonschema_rs.validate(whole, example)
            shown += 1
    assert shown > 30
    for module in (schemas, answer_schemas, key_schemas, key_answers):
        for model in models(module):
            extra = model.model_config.get("json_schema_extra") or {}
            assert isinstance(extra, dict)
            for example in extra.get("examples", []):  # type: ignore[union-attr]
                if "..." not in json.dumps(example) or module in {answer_schemas, key_answers}:
                    model.model_validate(example)


def test_bodies_and_answers_have_examples(document: dict[str, Any]):
    everything = document["components"]["schemas"]
    for path, _, operation in operations(document):
        contents = [operation["responses"][next(iter(operation["responses"]))]["content"]]
        contents.append(operation.get("requestBody", {}).get("content", {}))
        for content in contents:
            reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
            name = reference.rpartition("/")[2]
            assert not name or name == "NothingBody" or everything[name].get("examples"), path
