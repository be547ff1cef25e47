"""The command line in this process, before a fake service."""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from kms.cli.commands import Runtime
from kms.cli.main import run

SERVER = "https://kms.test:8443"
PUBLIC = "http://pki.test"
PROBLEM = "urn:sovereign-kms:problem:"


def problem(name: str, status: int, detail: str, **parts: Any) -> httpx.Response:
    document = {"type": PROBLEM + name, "status": status, "detail": detail, **parts}
    return httpx.Response(status, json=document, headers=parts.pop("headers", {}))


@dataclass
class FakeService:
    """Answers what it was told to, in order for each call; the last answer stays."""

    answers: dict[tuple[str, str], deque[httpx.Response | Exception]] = field(default_factory=dict)
    requests: list[httpx.Request] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def on(self, method: str, path: str, *answers: Any) -> None:
        """A dict stands for 200 with that JSON, bytes for 200 with those bytes."""
        made = [_response(answer) for answer in answers]
        self.answers[method, path] = deque(made)

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        queue = self.answers.get((request.method, request.url.path))
        if queue is None:
            return problem("not-found", 404, "there is no such resource")
        answer = queue[0] if len(queue) == 1 else queue.popleft()
        if isinstance(answer, Exception):
            raise answer
        return _copy(answer)

    @property
    def runtime(self) -> Runtime:
        def connect(base_url: str) -> httpx.Client:
            return httpx.Client(base_url=base_url, transport=httpx.MockTransport(self.handle))

        return Runtime(
            api=lambda settings: connect(settings.server),
            public=connect,
            sleep=self.slept.append,
        )

    def bodies(self, method: str = "POST") -> list[Any]:
        return [json.loads(item.content) for item in self.requests if item.method == method]

    def keys(self) -> list[str]:
        return [item.headers["Idempotency-Key"] for item in self.requests if item.method == "POST"]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON document and nothing else."""
        return json.loads(self.out)


@dataclass
class Cli:
    """Runs commands with a client's files that exist and a service that is fake."""

    directory: Path
    read: Callable[[], tuple[str, str]]
    service: FakeService = field(default_factory=FakeService)

    def remote(self, *arguments: str) -> Done:
        files = {name: self.directory / f"{name}.pem" for name in ("cert", "key", "trust")}
        for path in files.values():
            path.write_text("of no use to a fake service")
        named = [part for name, path in files.items() for part in (f"--{name}", str(path))]
        return self.run(*arguments, "--server", SERVER, *named)

    def run(self, *arguments: str) -> Done:
        self.read()
        status = run(arguments, self.service.runtime)
        return Done(status, *self.read())


def _response(answer: Any) -> httpx.Response | Exception:
    if isinstance(answer, httpx.Response | Exception):
        return answer
    if isinstance(answer, bytes):
        return httpx.Response(200, content=answer)
    return httpx.Response(200, json=answer)


def _copy(answer: httpx.Response) -> httpx.Response:
    """A response can be read once only."""
    return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)
