"""Connections, from the first byte to the end of the process: bounded, and answered in order."""

import asyncio
import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from starlette.types import Receive, Scope, Send

from kms.api.connections import MAX_CONNECTIONS
from kms.api.middleware import Observed
from kms.api.observing import SilentHttp
from kms.api.protocol import MAX_AHEAD, BoundedProtocol
from kms.api.server import Listener, run, serve

LARGE = 64 << 20


@dataclass
class Slow:
    """An application that answers `/slow` only when it is let go, and counts `/large`."""

    entered: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    large: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while scope["path"] != "/early" and (await receive()).get("more_body", False):
            pass
        if scope["path"] == "/slow":
            self.entered.set()
            await asyncio.get_running_loop().run_in_executor(None, self.released.wait)
        body = b"ok"
        if scope["path"] == "/large":
            body = bytes(LARGE)
            self.large += 1
            self.entered.set()
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})


@dataclass
class Served:
    app: Slow
    ports: dict[str, int]
    stop: Callable[[], None]
    thread: threading.Thread

    def connect(self, name: str = "api") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.ports[name]), timeout=10)
        connection.settimeout(10)
        return connection


@contextmanager
def served(drain_seconds: int = 5) -> Iterator[Served]:
    app, ready = Slow(), threading.Event()
    ports: dict[str, int] = {}
    inside: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        stop = asyncio.Event()
        inside.append((asyncio.get_running_loop(), stop))

        def is_ready(bound: dict[str, int]) -> None:
            ports.update(bound)
            ready.set()

        listeners = [
            Listener("api", Observed(app, "api", SilentHttp(), print, 100), "127.0.0.1", 0),
            Listener("operator", app, "127.0.0.1", 0, last=True),
        ]
        await serve(listeners, stop, ready=is_ready, drain_seconds=drain_seconds)

    thread = threading.Thread(target=lambda: run(main()))
    thread.start()
    assert ready.wait(10)
    loop, stop = inside[0]
    made = Served(app, ports, lambda: loop.call_soon_threadsafe(stop.set), thread)
    try:
        yield made
    finally:
        app.released.set()
        if thread.is_alive():
            made.stop()
        thread.join(20)
        assert not thread.is_alive()


def read_all(connection: socket.socket) -> bytes:
    data = b""
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


def trickled(connection: socket.socket, most: int) -> int:
    """How many bytes can be sent, one at a time, until the connection ends."""
    for sent in range(most):
        time.sleep(0.05)
        try:
            connection.sendall(b"x")
        except OSError:
            return sent
    return most


def read_answer(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"ok"):
        part = connection.recv(65536)
        if not part:
            break
        data += part
    return data


def trickle(connection: socket.socket, data: bytes) -> None:
    for letter in data:
        connection.sendall(bytes([letter]))
        time.sleep(0.02)


def problem_of(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    return int(head.split()[1]), json.loads(body)["type"].rpartition(":")[2]


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE_GET = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"


def test_what_was_accepted_is_answered_and_nothing_else_is_accepted():
    with served() as made:
        busy, idle, half = made.connect(), made.connect(), made.connect()
        idle.sendall(GET)
        assert read_answer(idle).endswith(b"ok")
        half.sendall(b"GET / HTTP/1.1\r\nHo")
        busy.sendall(SLOW)
        assert made.app.entered.wait(5)
        made.stop()
        assert read_all(idle) == b""
        assert read_all(half) == b""
        with pytest.raises(ConnectionRefusedError):
            made.connect()
        watching = made.connect("operator")
        watching.sendall(GET)
        assert read_answer(watching).endswith(b"ok")
        made.app.released.set()
        answer = read_all(busy)
        assert answer.endswith(b"ok")
        assert b"connection: close" in answer
        made.thread.join(5)
        for connection in (busy, idle, half, watching):
            connection.close()


def test_draining_ends_in_time():
    with served(drain_seconds=1) as made, made.connect() as busy:
        busy.sendall(SLOW)
        assert made.app.entered.wait(5)
        started = time.monotonic()
        made.stop()
        assert problem_of(read_all(busy)) == (503, "unavailable")
        assert time.monotonic() - started < 5
        made.app.released.set()


def test_a_request_in_flight_is_finished_though_its_body_still_comes():
    with served() as made, made.connect() as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
        time.sleep(0.2)
        made.stop()
        time.sleep(0.2)
        slow.sendall(b"cd")
        assert read_all(slow).endswith(b"ok")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x, chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_not_http_is_told_so(garbage: bytes):
    with served() as made, made.connect() as connection:
        connection.sendall(garbage)
        assert problem_of(read_all(connection)) == (400, "malformed-request")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 6_000 + b"\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 60_000,
        b"GET /" + b"a" * 60_000,
    ],
)
def test_headers_are_bounded(head: bytes):
    with served() as made, made.connect() as connection:
        connection.sendall(head)
        assert problem_of(read_all(connection)) == (431, "headers-too-large")


def test_headers_that_just_fit_are_served():
    with served() as made, made.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 30_000 + b"\r\n\r\n")
        assert read_answer(connection).endswith(b"ok")
        connection.sendall(GET)
        assert read_answer(connection).endswith(b"ok")


@pytest.mark.parametrize("beginning", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-A: "])
def test_headers_are_bounded_in_time(beginning: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(BoundedProtocol, "header_seconds", 0.3)
    with served() as made, made.connect() as connection:
        connection.sendall(beginning)
        started = time.monotonic()
        assert read_all(connection) == b""
        assert 0.2 < time.monotonic() - started < 5


def test_trickled_headers_gain_no_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(BoundedProtocol, "header_seconds", 0.3)
    with served() as made, made.connect() as connection:
        connection.sendall(GET)  # the bound holds for the second request of a connection too
        assert read_answer(connection).endswith(b"ok")
        started = time.monotonic()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            trickle(connection, b"GET / HTTP/1.1\r\nHost: " + b"x" * 500)
        assert time.monotonic() - started < 5


def test_a_body_that_nobody_waits_for_gains_no_time(monkeypatch: pytest.MonkeyPatch):
    """Who was answered before its body came may send it, but not trickle it for ever."""
    monkeypatch.setattr(BoundedProtocol, "header_seconds", 0.3)
    with served() as service, service.connect() as connection:
        head = b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head + b"x")
        assert read_answer(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(b"x" * 999)
        connection.sendall(head + b"x")
        assert read_answer(connection).startswith(b"HTTP/1.1 200")
        assert trickled(connection, 200) < 200


def test_a_newcomer_takes_the_place_of_who_waits_longest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("kms.api.server.MAX_CONNECTIONS", 3)
    with served() as made:
        busy, silent, idle = (made.connect() for _ in range(3))
        busy.sendall(SLOW)
        assert made.app.entered.wait(5)
        idle.sendall(GET)
        assert read_answer(idle).endswith(b"ok")
        newcomer = made.connect()
        assert read_all(silent) == b""
        for connection in (idle, newcomer):
            connection.sendall(GET)
            assert read_answer(connection).endswith(b"ok")
        made.app.released.set()
        assert read_answer(busy).endswith(b"ok")
        for connection in (busy, silent, idle, newcomer):
            connection.close()


def test_requests_sent_ahead_are_answered_in_order_and_bounded():
    with served() as made, made.connect() as some, made.connect() as many:
        some.sendall(SLOW + MAX_AHEAD * GET)
        assert made.app.entered.wait(5)
        many.sendall(SLOW + 10_000 * GET)
        assert read_all(many) == b""
        made.app.released.set()
        answers = b""
        while answers.count(b"ok") <= MAX_AHEAD:
            answers += some.recv(65536)
        assert answers.count(b"HTTP/1.1 200") == MAX_AHEAD + 1


def test_the_next_request_waits_until_the_last_answer_is_read():
    """It holds no place among those served meanwhile."""
    with served() as made, made.connect() as lazy:
        lazy.sendall(3 * LARGE_GET)
        assert made.app.entered.wait(5)
        with made.connect() as other:
            for _ in range(20):
                other.sendall(GET)
                assert read_answer(other).endswith(b"ok")
        assert made.app.large == 1
        received = 0
        while received < 3 * LARGE:  # the heads of the answers come besides
            received += lazy.recv(1 << 20).count(0)
        assert made.app.large == 3
        lazy.sendall(GET)
        assert read_answer(lazy).endswith(b"ok")


@pytest.mark.parametrize("requests", [1, 2])
def test_who_does_not_read_loses_the_connection(monkeypatch: pytest.MonkeyPatch, requests: int):
    monkeypatch.setattr(BoundedProtocol, "stalled_seconds", 0.3)
    with served() as made, made.connect() as lazy:
        lazy.sendall(requests * LARGE_GET)
        assert made.app.entered.wait(5)
        time.sleep(1.5)
        assert len(read_all(lazy)) < LARGE


def test_an_address_in_use_is_said_and_nothing_stays_bound():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        listeners = [
            Listener("api", Slow(), "127.0.0.1", 0),
            Listener("public", Slow(), "127.0.0.1", port),
        ]

        async def main() -> None:
            await serve(listeners, asyncio.Event())

        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}"):
            run(main())


def test_descriptors_are_there_for_all_connections():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (900, hard))
    try:
        with served() as made, made.connect() as connection:
            connection.sendall(GET)
            assert read_answer(connection).endswith(b"ok")
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 2 * MAX_CONNECTIONS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_websockets_are_not_spoken():
    with served() as made, made.connect() as connection:
        connection.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        assert b"101" not in read_answer(connection).split(b"\r\n")[0]
