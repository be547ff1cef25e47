"""The signer's end of a token process: one connection, requests in a row, answers in their order.

Nothing here waits, and nothing judges: the pool says when to send, and looks who has answered.
"""

import contextlib
import itertools
import os
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from hsm_drivers.errors import TokenUnavailableError
from hsm_drivers.framing import FrameBuffer, FrameError, encode
from hsm_drivers.pool import frames

_READ_SIZE = 256 * 1024
_PEER_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid (unix(7))."""
_numbers = itertools.count(1)


class LinkState(StrEnum):
    """Whether calls go to a process."""

    AWAY = "away"
    """No connection, or none that has answered."""
    PROBED = "probed"
    """It was asked to prove itself; calls wait for the answer."""
    HEALTHY = "healthy"
    QUARANTINED = "quarantined"
    """It erred; it gets no calls until a probe went well."""


@dataclass(slots=True, eq=False)
class Exchange:
    """A request and, once it is there, its answer.

    Attributes:
        answer: None until then.
        error: Why there will be none.
    """

    request: frames.Request
    answer: frames.Answer | None = None
    error: TokenUnavailableError | None = None

    @property
    def over(self) -> bool:
        """Whether there is nothing to wait for."""
        return self.answer is not None or self.error is not None


@dataclass(slots=True, eq=False)
class Link:
    """One process of one token.

    Attributes:
        token: The token's name in the configuration.
        call_seconds: How long it may be silent with work before others get that work, too.
        state: As the pool has it.
        detail: Why calls do not go to it, as a sentence.
        due: `monotonic()` of its next connection or probe.
        failures: In a row, without a healthy while between them.
        life: Which connection this is; errors of an earlier one say nothing of this.
        heard: `monotonic()` of the last answer, or of the request that broke its idleness.
        seconds_per_call: As measured lately.
    """

    token: str
    path: Path
    call_seconds: float
    state: LinkState = LinkState.AWAY
    detail: str = "it has not answered yet"
    due: float = 0.0
    failures: int = 0
    life: int = 0
    heard: float = 0.0
    seconds_per_call: float = 0.005
    sock: socket.socket | None = None
    waiting: deque[Exchange] = field(default_factory=deque)
    _received: FrameBuffer = field(default_factory=FrameBuffer)
    _pending: bytearray = field(default_factory=bytearray)

    def connect(self) -> None:
        """Connect; that it is accepted says nothing, since the supervisor listens.

        Raises:
            OSError: Nobody listens.
            TokenUnavailableError: A stranger does.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.connect(str(self.path))
            _refuse_stranger(self.path, sock)
        except BaseException:
            sock.close()
            raise
        self.sock = sock
        self.life += 1

    def send(self, request: frames.Request) -> Exchange:
        """Send, or have it sent by and by.

        Raises:
            FrameError: The request is too large.
        """
        frame = encode(request)
        exchange = Exchange(request)
        if self.sock is None:
            exchange.error = TokenUnavailableError(f"{self.path.stem} is away")
            return exchange
        if not self.waiting:
            self.heard = time.monotonic()
        self.waiting.append(exchange)
        self._pending += frame
        self.flush()
        return exchange

    def flush(self) -> None:
        """Send what is taken now."""
        try:
            while self._pending and self.sock is not None:
                del self._pending[: self.sock.send(self._pending)]
        except BlockingIOError:
            pass
        except OSError as error:
            self.drop(f"the connection broke ({error.strerror or error})")

    def receive(self) -> None:
        """Take what has come; a broken connection ends its exchanges."""
        try:
            while self.sock is not None:
                data = self.sock.recv(_READ_SIZE)
                if not data:
                    self.drop("its process ended")
                    return
                self._received.feed(data)
                self._hand_out()
                if len(data) < _READ_SIZE:
                    return
        except BlockingIOError:
            pass
        except OSError as error:
            self.drop(f"the connection broke ({error.strerror or error})")
        except FrameError as error:
            self.drop(f"it does not speak as it should: {error}")

    def drop(self, reason: str) -> None:
        """End the connection: nothing that waits will be answered."""
        sock, self.sock = self.sock, None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()
        self._received, self._pending = FrameBuffer(), bytearray()
        waiting, self.waiting = self.waiting, deque()
        self.detail = reason
        for exchange in waiting:
            exchange.error = TokenUnavailableError(f"token process {self.path.stem}: {reason}")

    @property
    def writing(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._pending)

    @property
    def well(self) -> bool:
        """Whether calls go to it."""
        return self.state is LinkState.HEALTHY and self.sock is not None and not self.late

    @property
    def late(self) -> bool:
        """Whether it has been silent with work for too long."""
        return bool(self.waiting) and time.monotonic() - self.heard > self.call_seconds

    def _hand_out(self) -> None:
        while (body := self._received.next()) is not None:
            answer = frames.decode_answer(body)
            if not self.waiting or self.waiting[0].request.id != answer.id:
                raise FrameError("an answer that nobody waits for")
            exchange = self.waiting.popleft()
            exchange.answer = answer
            now = time.monotonic()
            if isinstance(answer, frames.Made) and answer.outcomes:
                each = (now - self.heard) / len(answer.outcomes)
                self.seconds_per_call = 0.7 * self.seconds_per_call + 0.3 * each
            self.heard = now


def next_number() -> int:
    """Of a request, in this process."""
    return next(_numbers)


def _refuse_stranger(path: Path, sock: socket.socket) -> None:
    """Who listens is the service's supervisor: root, this user, or whose directory it is."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    uid = int(_PEER_CREDENTIALS.unpack(raw)[1])
    if uid not in {0, os.geteuid(), path.parent.stat().st_uid}:
        raise TokenUnavailableError(f"the socket {path} is user {uid}'s, not the service's")
