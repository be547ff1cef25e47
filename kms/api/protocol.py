"""HTTP/1.1 on a connection: uvicorn's protocol, with the peer's certificate and with bounds.

uvicorn neither hands the client certificate to the application nor limits the size of headers, the
time they take, the requests sent ahead or the time in which an answer is taken; all are added here,
and what is not HTTP is answered with a problem document.
"""

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from kms.api.connections import Connections
from kms.api.errors import HeadersTooLargeError, MalformedRequestError
from kms.api.identity import PEER_CERTIFICATE
from kms.api.problems import problem
from kms.services.errors import KmsError

MAX_HEADERS = 32 << 10
"""Bytes of request line and headers together."""
HEADER_SECONDS = 10.0
"""How long a request's headers may take, and a new connection to send any."""
CLOSE_SECONDS = 0.5
"""How long a peer may take to close its side when the server ends."""
STALLED_SECONDS = 75.0
"""How long a peer may leave an answer unread that does not fit into the socket."""
MAX_AHEAD = 16
"""Requests that may wait behind the one being served; who sends more loses the connection."""


class _NoFurtherError(Exception):
    """Stops the parser. Raised anew each time: an exception keeps what its raising frames held."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        connections: The listener's connections.
        given: What uvicorn makes its protocols with.
    """

    header_seconds: ClassVar[float] = HEADER_SECONDS
    close_seconds: ClassVar[float] = CLOSE_SECONDS
    max_headers: ClassVar[int] = MAX_HEADERS
    stalled_seconds: ClassVar[float] = STALLED_SECONDS

    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _farewell: asyncio.TimerHandle | None = None
    _reading_headers = True
    _reading_body = False
    _header_bytes = 0
    _unread = False
    _refusal: KmsError = MalformedRequestError("this is not an HTTP/1.1 request")

    def __init__(self, connections: Connections, **given: Any) -> None:
        super().__init__(**given)
        self._all = connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the peer's certificate: TLS has verified it."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        self.app_state = {**self.app_state, PEER_CERTIFICATE: certificate}
        self._all.enter(self)
        self._start_deadline()

    def abort(self) -> None:
        """Give the connection up for another one."""
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._all.leave(self)
        self._end_deadline()
        for timer in (self._farewell, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, as long as its headers stay within bounds."""
        super().data_received(data)
        if self._reading_headers and not self.transport.is_closing():
            self._header_bytes += len(data)
            if self._header_bytes > self.max_headers:
                self._refuse_headers()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._reading_headers, self._header_bytes = True, 0
        self._start_deadline()

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request can be served."""
        self._reading_headers, self._reading_body = False, True
        self._end_deadline()
        self._all.serve(self)
        super().on_headers_complete()
        if len(self.pipeline) > MAX_AHEAD:
            self.transport.abort()
            raise _NoFurtherError

    def on_message_complete(self) -> None:
        """The whole request is there."""
        self._reading_body = False
        self._end_deadline()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A request is answered; what is still to come of it is read, but not for long.

        The next one begins when the peer has taken this answer: it would hold a place among the
        calls that are served for as long as nobody reads.
        """
        self._unread = self.flow.write_paused
        if self._unread or not self.pipeline:
            self._all.wait(self)
        if self._unread:
            return
        if self._reading_body and not self.pipeline:
            self._start_deadline()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The peer does not take its answer."""
        super().pause_writing()
        self.flow.pause_reading()
        self._stalled = self.loop.call_later(self.stalled_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
        if self._unread:
            if self.pipeline:
                self._all.serve(self)
            self.on_response_complete()
        else:
            self.flow.resume_reading()

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection, at once where the peer does not even read its last answer."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """The server ends: close, once what was accepted is answered."""
        super().shutdown()
        self._end_soon()

    def _end_soon(self, *, idle_before: bool = False) -> None:
        """Give a connection with nothing to answer a moment to close, then end it.

        TLS's closing handshake would wait half a minute for a peer that says nothing more, and a
        stopping service with it.
        """
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        idle = cycle is None or cycle.response_complete
        if idle and idle_before:
            self.transport.abort()
            return
        self._farewell = self.loop.call_later(
            self.close_seconds, lambda: self._end_soon(idle_before=idle)
        )

    def send_400_response(self, _msg: str) -> None:
        """Answer what cannot be parsed; nothing more can be read from the connection."""
        if self.transport.is_closing():
            return
        found = problem(self._refusal)
        headers = {**found.headers, "content-length": str(len(found.body)), "connection": "close"}
        lines = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())
        self.transport.write(STATUS_LINE[found.status] + lines + b"\r\n" + found.body)
        self.transport.close()

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self.max_headers:
            self._refusal = HeadersTooLargeError(f"headers may have {self.max_headers} bytes")
            raise _NoFurtherError  # `send_400_response` answers

    def _refuse_headers(self) -> None:
        self._refusal = HeadersTooLargeError(f"headers may have {self.max_headers} bytes")
        self.send_400_response("")

    def _start_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.header_seconds, self.transport.abort)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
