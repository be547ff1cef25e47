"""The OpenAPI document is complete, true and usable: by reading it, and by a fuzzer's reading."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from pydantic import BaseModel
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from kms.api import answer_schemas, schemas
from kms.api.app import FAMILIES
from tests.support.tls_site import Running, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("described")) as made:
        yield made


def session(server: Running, name: str) -> requests.Session:
    made = requests.Session()
    made.trust_env = False
    made.cert = (str(server.folder / f"{name}.pem"), str(server.folder / f"{name}.key"))
    made.verify = str(server.folder / "trust.pem")
    return made


@pytest.fixture(scope="module")
def document(server: Running) -> dict[str, Any]:
    with session(server, "messenger") as asking:
        answer: dict[str, Any] = asking.get(server.url + "/openapi.json").json()
    return answer


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
            assert {"$ref": "#/components/parameters/IdempotencyKey"} in operation["parameters"]


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
    for module in (schemas, answer_schemas):
        for model in models(module):
            extra = model.model_config.get("json_schema_extra") or {}
            assert isinstance(extra, dict)
            for example in extra.get("examples", []):  # type: ignore[union-attr]
                if "..." not in json.dumps(example) or module is answer_schemas:
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


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.mark.parametrize("name", ["officer", "messenger"])
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_a_fuzzer_finds_no_crash_and_no_undocumented_answer(
    server: Running, document: dict[str, Any], name: str, mode: GenerationMode
):
    described = schemathesis.openapi.from_dict(document)
    with session(server, name) as asking:
        for found in described.get_all_operations():
            operation = found.ok()
            if mode is GenerationMode.POSITIVE or ":batch" in operation.path:
                _fuzz(operation, mode, asking, server, CHECKS)
            elif _takes_input(operation.definition.raw):
                _fuzz(operation, mode, asking, server, [*CHECKS, negative_data_rejection])


def _takes_input(operation: dict[str, Any]) -> bool:
    return "requestBody" in operation or "parameters" in operation


def _fuzz(
    operation: APIOperation,
    mode: GenerationMode,
    asking: requests.Session,
    server: Running,
    checks: list[Any],
) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=8,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Case) -> None:
        answer = case.call(
            base_url=server.url, session=asking, verify=str(server.folder / "trust.pem")
        )
        case.validate_response(answer, checks=checks)

    ask()
