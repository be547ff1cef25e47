"""A client that says exactly what it is told to, over one kept-alive TLS connection."""

import http.client
import json
import secrets
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kms.device import Device
from tests.support.running import Home

PROBLEM = "urn:sovereign-kms:problem:"
JSON = "application/json"
LOST = (OSError, http.client.HTTPException)
"""What a client sees of a service that is killed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """Name of the problem, or nothing."""
        if self.headers.get("content-type") != "application/problem+json":
            return ""
        return str(self.document["type"]).removeprefix(PROBLEM)

    @property
    def field(self) -> str | None:
        """Where the problem lies."""
        found = self.document.get("field")
        return None if found is None else str(found)

    @property
    def retry(self) -> str:
        """What the problem says of sending it again."""
        return str(self.document["retry"])


class Client:
    """One connection of one client; reconnects after it broke."""

    def __init__(
        self, home: Home, name: str | None, *, files: tuple[Path, Path] | None = None
    ) -> None:
        self.name = name
        context = ssl.create_default_context(cafile=home.trust)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if files or name:
            context.load_cert_chain(*(files or home.client(str(name))))
        self._connection = http.client.HTTPSConnection(
            "127.0.0.1", home.port("api"), timeout=30, context=context
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request, sent once."""
        try:
            self._connection.request(method, path, body, dict(headers or {}))
            response = self._connection.getresponse()
            content = response.read()
        except LOST:
            self._connection.close()
            raise
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, content)

    def get(self, path: str) -> Answer:
        return self.send("GET", path)

    def post(self, path: str, body: object, key: str | None = None, **headers: str) -> Answer:
        """One POST, with a fresh Idempotency-Key unless one is given; bytes go as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        all_headers = {"Content-Type": JSON, "Idempotency-Key": key or secrets.token_hex(8)}
        return self.send("POST", path, content, all_headers | named)

    def until_answered(
        self, path: str, body: object, key: str | None = None, seconds: float = 40.0
    ) -> Answer:
        """The same POST again and again with the same key, while sending it again can help."""
        key, deadline = key or secrets.token_hex(8), time.monotonic() + seconds
        while True:
            try:
                answer = self.post(path, body, key)
            except LOST as error:
                last = repr(error)
            else:
                if not answer.problem or answer.retry == "never":
                    return answer
                last = answer.body.decode()
            assert time.monotonic() < deadline, f"never answered, last: {last}"
            time.sleep(0.05)


def enrol(client: Client, device: Device, *, again: bool = False) -> dict[str, Any]:
    """Certify a device; it verifies what it gets. Answers the document of the second call."""
    bundle = "device" if "kem" in device.keys else "device-identity"
    call = client.until_answered if again else client.post
    begun = call("/v1/enrolments", device.request(bundle))
    assert begun.status == 201, begun.body
    enrolment = begun.document["enrolment"]
    ended = call(f"/v1/enrolments/{enrolment}/proofs", device.prove(begun.document))
    assert ended.status == 201, ended.body
    device.accept(ended.document)
    document = ended.document
    assert isinstance(document, dict)
    return document
