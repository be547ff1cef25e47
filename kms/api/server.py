"""Runs the listeners of one worker in one event loop, and ends them in order.

At the end the API and the public listener stop accepting first and answer what they accepted; the
operator's listener stays until then, so that monitoring sees the end of it.
"""

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, TypeVar

import structlog
import uvicorn
import uvloop
from starlette.types import ASGIApp

from kms.api.connections import BACKLOG, MAX_CONNECTIONS, MAX_HANDSHAKES, Connections, Door
from kms.api.protocol import BoundedProtocol

T = TypeVar("T")

KEEP_ALIVE_SECONDS = 75
OTHER_DESCRIPTORS = 512
"""Ledger, signer, files; most are the ledger's connections."""
TURN_SECONDS = 0.0005
"""How long a thread that screens a large body keeps the interpreter when the event loop wants it:
every wait of a request for a lock, a socket or the disk ends with asking for it."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Listener:
    """One address and the application behind it.

    Attributes:
        name: For log lines.
        app: What answers.
        host: IP address.
        port: 0 for any free one.
        tls: TLS context; None for plain HTTP.
        last: Whether it stays until all others have ended.
    """

    name: str
    app: ASGIApp
    host: str
    port: int
    tls: ssl.SSLContext | None = None
    last: bool = False


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a worker's main coroutine on uvloop; answers its result."""
    sys.setswitchinterval(TURN_SECONDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def serve(
    listeners: Sequence[Listener],
    stop: asyncio.Event,
    *,
    ready: Callable[[dict[str, int]], None] | None = None,
    watch: Callable[[str, Callable[[], int]], None] | None = None,
    drain_seconds: int = 30,
) -> None:
    """Serve until `stop` is set, then answer what was accepted.

    Args:
        listeners: All that is to be served; every address is bound before any is served.
        stop: Ends everything, in order.
        ready: Called once all accept connections, with the port of each.
        watch: Told of each listener's name, and how to count its open connections.
        drain_seconds: How long accepted requests may take to finish.

    Raises:
        OSError: An address cannot be bound.
    """
    _allow_descriptors(len(listeners))
    sockets = _bind(listeners)
    servers = [(item, _Server(item, drain_seconds)) for item in listeners]
    for item, server in servers:
        if watch is not None:
            watch(item.name, server.open_connections)
    async with asyncio.TaskGroup() as group:
        tasks = {
            item.name: group.create_task(server.serve([sockets[item.name]]))
            for item, server in servers
        }
        await _started([server for _, server in servers], list(tasks.values()))
        if ready is not None:
            ready({name: bound.getsockname()[1] for name, bound in sockets.items()})
        await stop.wait()
        await _end([(server, tasks[item.name]) for item, server in servers if not item.last])
        await _end([(server, tasks[item.name]) for item, server in servers if item.last])


async def _end(servers: Sequence[tuple[uvicorn.Server, asyncio.Task[None]]]) -> None:
    for server, _ in servers:
        server.should_exit = True
    await asyncio.gather(*(task for _, task in servers))


def _allow_descriptors(listeners: int) -> None:
    """As many as all connections and the rest take, where the system's usual 1024 are not its most.

    With fewer, strangers' connections could leave none for the ledger.
    """
    wanted = listeners * (MAX_CONNECTIONS + MAX_HANDSHAKES) + OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _bind(listeners: Sequence[Listener]) -> dict[str, socket.socket]:
    bound: dict[str, socket.socket] = {}
    try:
        for item in listeners:
            bound[item.name] = _socket(item.host, item.port)
    except OSError:
        for opened in bound.values():
            opened.close()
        raise
    return bound


def _socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise OSError(
            error.errno, f"cannot listen on {host} port {port}: {error.strerror}"
        ) from error
    return opened


class _Server(uvicorn.Server):
    """A server that bounds its connections, and leaves signals to the worker."""

    def __init__(self, listener: Listener, drain_seconds: int) -> None:
        self._tls = listener.tls
        self._door: Door | None = None
        self._connections = Connections(MAX_CONNECTIONS)
        super().__init__(_config(listener, self._welcome, drain_seconds))

    def open_connections(self) -> int:
        """How many there are, with a request or without; handshakes aside."""
        return len(self.server_state.connections)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections: those of TLS at a door of their own."""
        if self._tls is None or sockets is None:
            await super().startup(sockets)
            return
        self._door = Door(sockets[0], self._tls, self._make)
        self._door.open()
        self.servers = []
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let nobody in any more, and answer what was accepted."""
        if self._door is not None:
            self._door.close()
        await super().shutdown(sockets)

    def _make(self) -> asyncio.Protocol:
        return self._welcome(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def _welcome(self, **given: Any) -> asyncio.Protocol:
        """What is made for each connection."""
        return BoundedProtocol(self._connections, **given)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing."""
        yield


def _config(
    listener: Listener, welcome: Callable[..., asyncio.Protocol], drain_seconds: int
) -> uvicorn.Config:
    return uvicorn.Config(
        listener.app,
        http=welcome,  # type: ignore[arg-type]  # it is only called
        ws="none",
        lifespan="off",
        interface="asgi3",
        loop="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=drain_seconds,
    )


async def _started(servers: Sequence[uvicorn.Server], tasks: Sequence[asyncio.Task[None]]) -> None:
    while not all(server.started for server in servers):
        if any(task.done() for task in tasks):
            return  # the task group raises what went wrong
        await asyncio.sleep(0.01)


class ServerLog(logging.Handler):
    """Brings what uvicorn and asyncio complain about into the structured log, without values."""

    def emit(self, record: logging.LogRecord) -> None:
        """Only the fixed part of the message: arguments and further lines may quote values."""
        info = record.exc_info[1] if record.exc_info else None
        line = _log.error if record.levelno >= logging.ERROR else _log.warning
        message = str(record.msg).partition("\n")[0][:200]
        line("server", source=record.name, message=message, exc_info=info)


def capture_server_log() -> None:
    """Route the servers' own complaints into the structured log; call once in a worker."""
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [ServerLog(logging.WARNING)]
        logger.propagate = False
