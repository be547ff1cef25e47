"""What happens to every request before it is routed, in this order.

    Observed        request id, answer for every exception, metrics, log line
    Placed          a place in the class of the call (`kms.api.turns`)
    Bounded         the whole body, limited in size and time
    Begun           the call's turn
    Authenticated   certificate → principal, as of now: body and turn may have taken long
    Screened        private key material refused; JSON parsed strictly

Pure ASGI: each stage works on scope, receive and send, raises a `KmsError` to refuse, and leaves
what it found in the request's `Exchange`.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kms.api import exchange as exchanges
from kms.api.errors import RequestTimeoutError, UnsupportedMediaTypeError
from kms.api.exchange import Exchange
from kms.api.identity import PeerIdentity
from kms.api.observing import HttpObserver
from kms.api.problems import Problem, as_kms_error, problem
from kms.api.screening import screen_body, screen_target
from kms.domain.authorisation import Caller
from kms.services.errors import (
    BodyTooLargeError,
    InputError,
    KmsError,
    OverloadedError,
    UnavailableError,
)

UNMATCHED = "unmatched"
"""Route template of a request that no route takes."""

LARGE_BODY = 64 << 10
"""Bytes up to which a body is screened at once, in a few milliseconds."""
_SCREENING_THREADS = 2
REFUSAL_SECONDS = 0.25
"""How long one who is refused for want of places waits for the answer: whoever calls again and
again without a pause costs little then."""

_METHODS = frozenset({"GET", "HEAD", "POST"})
_log = structlog.get_logger()

Refused = Callable[[str], None]
"""Told the problem name of each refusal."""


class ClientGoneError(Exception):
    """The client went away before its request was complete: there is nobody to answer."""


def render(error: Exception, exchange: Exchange, refused: Refused) -> Problem:
    """What the caller is answered; counted, and the unforeseen logged by type and place."""
    if not isinstance(error, KmsError):
        _log.error("request.failed", request_id=exchange.request_id, exc_info=error)
    found = problem(as_kms_error(error))
    exchange.problem = found.name
    refused(found.name)
    return found


class Observed:
    """Outermost stage of a listener.

    Args:
        app: The next stage.
        listener: Name of the listener in metrics and log.
        observer: Told of each request.
        refused: Told of each refusal.
        places: Requests served at a time, more are refused as `overloaded`; None where a stage
            behind decides.
    """

    def __init__(
        self,
        app: ASGIApp,
        listener: str,
        observer: HttpObserver,
        refused: Refused,
        places: int | None = None,
    ) -> None:
        self._app = app
        self._listener = listener
        self._observer = observer
        self._refused = refused
        self._places = places
        self._taken = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, whatever happens in it."""
        exchange = exchanges.begin(scope, secrets.token_hex(8))
        answer = _Answer(send, exchange.request_id)
        started = time.perf_counter()
        self._observer.request_began(self._listener)
        self._taken += 1
        try:
            self._check_places()
            await self._app(scope, receive, answer)
        except ClientGoneError:
            exchange.problem = "client-gone"
        except asyncio.CancelledError:  # the time to drain is over
            await self._refuse(UnavailableError("the service is stopping"), exchange, answer)
            raise
        except Exception as error:  # noqa: BLE001 - every request gets an answer
            await self._refuse(error, exchange, answer)
        finally:
            self._taken -= 1
            self._report(scope, exchange, answer.status, time.perf_counter() - started)

    async def _refuse(self, error: Exception, exchange: Exchange, answer: "_Answer") -> None:
        if exchange.problem is not None:
            return  # the framework raises again what it has answered
        found = render(error, exchange, self._refused)
        if isinstance(error, OverloadedError):
            await asyncio.sleep(REFUSAL_SECONDS)
        if not answer.status:
            await answer.problem(found)

    def _check_places(self) -> None:
        if self._places is not None and self._taken > self._places:
            raise OverloadedError("too many requests are being served; try again")

    def _report(self, scope: Scope, exchange: Exchange, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = getattr(scope.get("route"), "path", UNMATCHED)
        self._observer.request_ended(self._listener, method, route, status, seconds)
        _log.info(
            "request",
            request_id=exchange.request_id,
            listener=self._listener,
            method=method,
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
            problem=exchange.problem,
        )


class _Answer:
    """`send` that adds the request id and remembers the status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id.encode("ascii")
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", self._request_id),
                (b"x-content-type-options", b"nosniff"),
            ]
        await self._send(message)

    async def problem(self, found: Problem) -> None:
        """Send a problem document."""
        headers = [(name.encode(), value.encode()) for name, value in found.headers.items()]
        headers.append((b"content-length", str(len(found.body)).encode()))
        if found.status in {408, 413}:  # the rest of the body is still on its way
            headers.append((b"connection", b"close"))
        await self({"type": "http.response.start", "status": found.status, "headers": headers})
        await self({"type": "http.response.body", "body": found.body})


class Bounded:
    """Reads the whole body: at most `size` bytes, or what its class allows, in `seconds`."""

    def __init__(self, app: ASGIApp, size: int, seconds: float) -> None:
        self._app = app
        self._size = size
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what is too large or too slow, else go on with the whole body at hand."""
        exchange = exchanges.of(scope)
        size = self._size if exchange.place is None else min(self._size, exchange.place.body)
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._read(receive, size)
        except TimeoutError:
            raise RequestTimeoutError("the body did not arrive in time") from None
        exchange.body = body
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, receive: Receive, most: int) -> bytes:
        """The body.

        One that is too large is read on and thrown away, up to twice the limit: most clients look
        for an answer only once they have sent everything.
        """
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part = message.get("body", b"")
            size += len(part)
            if size <= most:
                parts.append(part)
            else:
                parts.clear()
            more = message.get("more_body", False)
            if size > most and (not more or size > 2 * most):
                raise BodyTooLargeError(f"the body may have at most {most} bytes here")
            if not more:
                return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body in one piece, then whatever comes next."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


class Authenticated:
    """Finds out who asks, anew for each request: a connection outlives a revocation."""

    def __init__(
        self,
        app: ASGIApp,
        identity: PeerIdentity,
        authenticate: Callable[[bytes | None], Caller],
    ) -> None:
        self._app = app
        self._identity = identity
        self._authenticate = authenticate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go on with the caller known."""
        exchanges.of(scope).caller = self._authenticate(self._identity.certificate(scope))
        await self._app(scope, receive, send)


class Screened:
    """Refuses private key material and parses the body.

    A large body takes up to seconds, so that it is looked at in a thread. Few at a time: the
    threads share one interpreter with the requests that are served meanwhile.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._threads = asyncio.Semaphore(_SCREENING_THREADS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go on with the body's JSON value at hand."""
        exchange = exchanges.of(scope)
        screen_target(scope)
        exchange.value = await self._screen(exchange.body)
        if exchange.body:
            self._check_declared(scope)
        await self._app(scope, receive, send)

    async def _screen(self, body: bytes) -> Any:
        if len(body) <= LARGE_BODY:
            return screen_body(body)
        async with self._threads:
            return await asyncio.to_thread(screen_body, body)

    def _check_declared(self, scope: Scope) -> None:
        if scope["method"] != "POST":
            raise InputError("a request of this method has no body")
        given: Any = [value for name, value in scope["headers"] if name == b"content-type"]
        if len(given) != 1 or given[0].split(b";")[0].strip().lower() != b"application/json":
            raise UnsupportedMediaTypeError("send the body with Content-Type: application/json")
