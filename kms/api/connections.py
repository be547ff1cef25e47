"""Who may stay connected: numbers are bounded, and whoever waits longest goes first.

Strangers can open connections faster than anybody can use them, and hold them for nothing. What a
listener can hold is therefore limited, and a newcomer always gets in: in place of the connection
that has waited longest for its peer. One that is being served is never given up. Handshakes have
places of their own, so that who has no certificate displaces nobody who has.
"""

import asyncio
import contextlib
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import structlog

MAX_CONNECTIONS = 1024
"""Open connections of one listener, handshakes aside."""
MAX_HANDSHAKES = 512
"""Connections of one listener that TLS has not let in yet."""
HANDSHAKE_SECONDS = 10.0
"""How long a peer may take to be let in."""
GOODBYE_SECONDS = 5.0
"""How long a peer may take to answer TLS's closing message."""
BACKLOG = 1024
"""Connections that the kernel keeps for a listener until they are accepted."""
AT_ONCE = 8
"""Connections accepted before other work has its turn; a handshake takes about a millisecond."""
PAUSE_SECONDS = 0.2
"""How long nobody is accepted after descriptors ran out."""

_log = structlog.get_logger()


class Guest(Protocol):
    """A connection."""

    def abort(self) -> None:
        """End it at once."""


class Connections:
    """The connections of one listener, those that wait in the order in which they began to.

    Args:
        limit: How many it holds.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: OrderedDict[Guest, None] = OrderedDict()
        self._served: set[Guest] = set()

    def enter(self, guest: Guest) -> None:
        """Let a connection in; where there is no place, end the one that has waited longest.

        That is the newcomer itself where all others are being served.
        """
        self._waiting[guest] = None
        if len(self._waiting) + len(self._served) > self._limit:
            longest, _ = self._waiting.popitem(last=False)
            longest.abort()

    def serve(self, guest: Guest) -> None:
        """It has a request that is being served."""
        self._waiting.pop(guest, None)
        self._served.add(guest)

    def wait(self, guest: Guest) -> None:
        """Its request is answered."""
        if guest in self._served:
            self._served.remove(guest)
            self._waiting[guest] = None

    def leave(self, guest: Guest) -> None:
        """It is gone."""
        self._waiting.pop(guest, None)
        self._served.discard(guest)


class Door:
    """Accepts the connections of a TLS listener and shakes hands with their peers.

    The event loop's own TLS server neither bounds handshakes nor takes turns with other work.

    Args:
        listening: Bound to its address.
        context: TLS.
        make: Makes the protocol that a connection gets once TLS has let its peer in.
    """

    def __init__(
        self,
        listening: socket.socket,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol],
    ) -> None:
        self._listening = listening
        self._context = context
        self._make = make
        self._handshakes: OrderedDict[asyncio.Task[None], None] = OrderedDict()
        self._pause: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def open(self) -> None:
        """Begin to accept."""
        self._listening.setblocking(False)
        self._listening.listen(BACKLOG)
        self._watch()

    def close(self) -> None:
        """Accept nobody any more, and end the handshakes."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listening)
        for task in self._handshakes:
            task.cancel()

    def _watch(self) -> None:
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        """Some of those who knock; requests come between them and the next."""
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors, no memory: others must give some back
                _log.error("listener.cannot-accept", detail=error.strerror)
                self._loop.remove_reader(self._listening)
                self._pause = self._loop.call_later(PAUSE_SECONDS, self._watch)
                return
            self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        task = self._loop.create_task(self._shake_hands(connection))
        self._handshakes[task] = None
        task.add_done_callback(lambda _: self._end(task, connection))
        if len(self._handshakes) > MAX_HANDSHAKES:
            longest, _ = self._handshakes.popitem(last=False)
            longest.cancel()

    def _end(self, task: asyncio.Task[None], connection: socket.socket) -> None:
        self._handshakes.pop(task, None)
        if task.cancelled():
            connection.close()  # nobody else does if the task never began

    async def _shake_hands(self, connection: socket.socket) -> None:
        # Refused, too slow or gone: TLS has told the peer what there is to tell.
        with contextlib.suppress(OSError):
            await self._loop.connect_accepted_socket(
                self._make,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=GOODBYE_SECONDS,
            )
