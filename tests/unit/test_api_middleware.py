"""The stages before routing, one by one, with hand-made ASGI messages."""

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kms.api import exchange as exchanges
from kms.api.errors import RequestTimeoutError
from kms.api.middleware import LARGE_BODY, UNMATCHED, Bounded, Observed, Screened
from kms.services.errors import BodyTooLargeError, PrivateKeyMaterialError, WeakKeyError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Watching:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str, int]] = []
        self.in_flight = 0

    def request_began(self, listener: str) -> None:
        self.in_flight += 1

    def request_ended(
        self, listener: str, method: str, route: str, status: int, seconds: float
    ) -> None:
        self.in_flight -= 1
        self.ended.append((method, route, status))


def scope(method: str = "POST") -> dict[str, Any]:
    headers = [(b"content-type", b"application/json")]
    return {
        "type": "http",
        "method": method,
        "path": "/x",
        "query_string": b"",
        "headers": headers,
    }


async def ask(app: ASGIApp, messages: Sequence[Message], method: str = "POST") -> list[Message]:
    pending = list(messages)
    sent: list[Message] = []

    async def receive() -> Message:
        return pending.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope(method), receive, send)
    return sent


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


GONE: Message = {"type": "http.disconnect"}


async def echo(_scope: Scope, receive: Receive, send: Send) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def observed(app: ASGIApp) -> tuple[ASGIApp, Watching, list[str]]:
    watching = Watching()
    refused: list[str] = []
    return Observed(app, "api", watching, refused.append, 10), watching, refused


async def test_who_leaves_before_the_end_is_not_answered():
    app, watching, refused = observed(Bounded(echo, 100, 1.0))
    assert await ask(app, [part(b"ab", more=True), GONE]) == []
    assert watching.ended == [("POST", UNMATCHED, 0)]
    assert watching.in_flight == 0
    assert refused == []


async def test_the_body_is_at_hand_and_given_again_in_one_piece():
    seen: list[bytes] = []

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(exchanges.of(scope).body)
        await echo(scope, receive, send)
        assert await receive() == GONE

    app, _, _ = observed(Bounded(look, 5, 1.0))
    sent = await ask(app, [part(b"ab", more=True), part(b"", more=True), part(b"cde"), GONE])
    assert seen == [b"abcde"]
    assert sent[-1]["body"] == b"abcde"


@pytest.mark.parametrize("sizes", [[6], [5, 1], [11, 0], [3] * 4])
async def test_one_byte_too_many(sizes: list[int]):
    bodies = [part(b"x" * size, more=True) for size in sizes] + [part(b"")]
    app, _, refused = observed(Bounded(echo, 5, 1.0))
    sent = await ask(app, bodies)
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]
    assert refused == [BodyTooLargeError.problem]


async def test_an_endless_body_is_not_read_to_its_end():
    bodies = [part(b"x" * 4, more=True)] * 1000
    app, _, _ = observed(Bounded(echo, 5, 1.0))
    sent = await ask(app, bodies)
    assert sent[0]["status"] == 413


async def test_a_refusal_behind_is_answered_here_once():
    async def refuse(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise WeakKeyError("too short", field="x")

    app, watching, refused = observed(refuse)
    sent = await ask(app, [part(b"")])
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert (sent[0]["status"], refused) == (422, ["weak-key"])
    assert watching.ended == [("POST", UNMATCHED, 422)]


async def test_an_error_after_the_answer_began_cannot_be_answered_any_more():
    async def broken(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    app, _, refused = observed(broken)
    sent = await ask(app, [part(b"")])
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert refused == ["internal"]


async def test_every_request_has_an_id_of_its_own():
    app, _, _ = observed(echo)
    ids = set()
    for _ in range(20):
        sent = await ask(app, [part(b"")])
        ids.add(dict(sent[0]["headers"])[b"x-request-id"])
    assert len(ids) == 20


async def test_methods_are_a_closed_set_of_labels():
    app, watching, _ = observed(echo)
    for method in ("GET", "BREW", "x" * 1000):
        await ask(app, [part(b"")], method)
    assert [method for method, _, _ in watching.ended] == ["GET", "other", "other"]


async def test_a_large_body_keeps_nobody_waiting():
    """Others are answered while a body of the largest size is screened, several at a time too."""
    large = json.dumps(["some words, " * 1000] * (8 * LARGE_BODY // 12_000)).encode()
    answered: list[int] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        answered.append(len(exchanges.of(scope).body))
        await echo(scope, receive, send)

    app, _, refused = observed(Bounded(Screened(note), len(large), 10.0))
    large_ones = [asyncio.create_task(ask(app, [part(large)])) for _ in range(3)]
    await asyncio.sleep(0)
    small_ones = [await ask(app, [part(b"{}")]) for _ in range(3)]
    assert answered == [2, 2, 2]
    assert [sent[0]["status"] for sent in small_ones] == [200, 200, 200]
    assert [(await task)[0]["status"] for task in large_ones] == [200, 200, 200]
    assert refused == []


async def test_a_large_body_is_refused_like_a_small_one():
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    for texts in (1, 2 * LARGE_BODY // 1000):
        value = {"a": ["x" * 1000] * texts, "b": base64.b64encode(der).decode()}
        body = json.dumps(value).encode()
        app, _, refused = observed(Bounded(Screened(echo), len(body), 10.0))
        assert (await ask(app, [part(body)]))[0]["status"] == 422
        assert refused == [PrivateKeyMaterialError.problem]


async def test_a_timeout_says_that_the_same_request_may_succeed():
    assert RequestTimeoutError("x").retry.value == "same"
