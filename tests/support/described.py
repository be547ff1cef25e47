"""Calls of a described API whose every answer is held against its description."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.schemas import OpenApiSchema

from tests.support.tls_site import Running

REFUSALS = ["400", "403", "404", "408", "409", "410", "413", "415", "422", "429", "431", "503"]
"""How input that does not fit the description may be answered."""
_UNNAMED = {"connection", "content-length", "content-type", "date", "transfer-encoding"}
"""Headers of HTTP itself, which OpenAPI leaves out."""


def _takes_items(operation: dict[str, Any]) -> bool:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = body.get("schema", {})
    names = [part.get("$ref", "") for part in (schema, *schema.get("oneOf", []))]
    return any(name.endswith("Batch") for name in names)


def named_headers(_context: object, response: Any, case: Case) -> None:
    """No answer carries a header that the description does not name."""
    answers = case.operation.definition.raw["responses"]
    named = set(answers.get(str(response.status_code), {}).get("headers", {}))
    unknown = {name.lower() for name in response.headers} - named - _UNNAMED
    assert not unknown, f"{case.operation.label}: {response.status_code} with {sorted(unknown)}"


PLAIN_CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
CHECKS: list[Any] = [*PLAIN_CHECKS, response_headers_conformance, named_headers]


class Described:
    """One listener as a caller knows it: address and description.

    Args:
        url: Without a path.
        asking: Carries the client certificate, if the listener wants one.
        checks: Of every answer.
    """

    def __init__(self, url: str, asking: requests.Session, checks: list[Any]) -> None:
        config = {"checks": {"negative_data_rejection": {"expected-statuses": REFUSALS}}}
        self.document: dict[str, Any] = asking.get(f"{url}/openapi.json", timeout=10).json()
        self.schema: OpenApiSchema = schemathesis.openapi.from_dict(
            self.document, config=SchemathesisConfig.from_dict(config)
        )
        self._url = url
        self._asking = asking
        self._checks = checks

    def operations(self) -> Iterator[APIOperation]:
        for found in self.schema.get_all_operations():
            yield found.ok()

    def fuzz(self, operation: APIOperation, mode: GenerationMode, examples: int) -> None:
        """Ask in so many ways, as described or not; each answer must be one that is described."""
        raw = operation.definition.raw
        checks = self._checks
        takes_input = "requestBody" in raw or raw.get("parameters")
        if mode is GenerationMode.NEGATIVE:
            if not takes_input:
                return
            if not _takes_items(raw):  # one bad item never sinks a batch
                checks = [*checks, negative_data_rejection]

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: Case) -> None:
            self._ask(case, checks)

        ask()

    def call(self, method: str, path: str, body: Any = None, **names: Any) -> tuple[int, Any]:
        """Status and JSON of one call; `names` are those in the path.

        A POST gets a fresh Idempotency-Key.
        """
        given: dict[str, Any] = {"path_parameters": names}
        if method == "POST":
            given["body"] = {} if body is None else body
            given["media_type"] = "application/json"
            given["headers"] = {"Idempotency-Key": secrets.token_hex(8)}
        answer = self._ask(self.schema[path][method].Case(**given), self._checks)
        return answer.status_code, json.loads(answer.content)

    def _ask(self, case: Case, checks: list[Any]) -> Any:
        answer = case.call(base_url=self._url, session=self._asking, verify=self._asking.verify)
        case.validate_response(answer, checks=checks)
        return answer


def session(server: Running, name: str | None) -> requests.Session:
    """Asks as that client; as nobody where the listener is plain."""
    made = requests.Session()
    made.trust_env = False
    if name is not None:
        made.cert = (str(server.folder / f"{name}.pem"), str(server.folder / f"{name}.key"))
        made.verify = str(server.folder / "trust.pem")
    return made
