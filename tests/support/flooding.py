"""More requests than a service can answer: so many a second, whatever becomes of those before.

Each waits for nobody: a flood does not slow down because it is answered late. Connections are kept,
and opened as they are needed.
"""

import asyncio
import secrets
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import quantiles
from types import TracebackType
from typing import Self

from tests.support.calling import JSON, Answer
from tests.support.running import Home

CONNECTIONS = 400
"""At most: beyond it a request of a flood is left out, and counted so."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and what became of it; `seconds` from its sending to its whole answer."""

    answer: Answer
    seconds: float

    @property
    def shed(self) -> bool:
        return self.answer.status in {429, 503}


@dataclass(frozen=True, slots=True)
class Wish:
    """A POST that may be sent any number of times."""

    path: str
    body: bytes

    def encode(self) -> bytes:
        """With a fresh Idempotency-Key."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {JSON}\r\n"
            f"Content-Length: {len(self.body)}\r\nIdempotency-Key: {secrets.token_hex(8)}\r\n\r\n"
        )
        return head.encode() + self.body


class Link:
    """One connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, wish: Wish) -> Asked:
        """Send it and read the answer.

        Raises:
            OSError: The connection is gone.
            EOFError: As before.
        """
        started = time.perf_counter()
        self._writer.write(wish.encode())
        await self._writer.drain()
        answer = await self._answer()
        return Asked(answer, time.perf_counter() - started)

    @property
    def ended(self) -> bool:
        """Whether the service has closed it, as it does with what is idle for long."""
        return self._reader.at_eof() or self._writer.is_closing()

    def close(self) -> None:
        self._writer.transport.abort()

    async def _answer(self) -> Answer:
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await self._reader.readexactly(int(headers["content-length"]))
        return Answer(int(first.split()[1]), headers, body)


class Pool:
    """The connections of one client, opened as they are needed."""

    def __init__(self, home: Home, name: str) -> None:
        self._port = home.port("api")
        self._context = ssl.create_default_context(cafile=home.trust)
        self._context.load_cert_chain(*home.client(name))
        self._idle: deque[Link] = deque()
        self._all: list[Link] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        for link in self._all:
            link.close()

    async def open(self, connections: int) -> None:
        """Have so many at hand: handshakes are work, too, and not what is asked for."""
        while len(self._all) < connections:
            self._idle.append(await self._open())

    @property
    def full(self) -> bool:
        return not self._idle and len(self._all) >= CONNECTIONS

    async def ask(self, wish: Wish) -> Asked:
        """On an idle connection, or on a new one."""
        link = self._idle.pop() if self._idle else await self._open()
        while link.ended:
            self._all.remove(link)
            link = self._idle.pop() if self._idle else await self._open()
        asked = await link.ask(wish)
        self._idle.append(link)
        return asked

    async def _open(self) -> Link:
        link = Link(*await asyncio.open_connection("127.0.0.1", self._port, ssl=self._context))
        self._all.append(link)
        return link


async def one_by_one(pool: Pool, wish: Wish, times: int) -> list[Asked]:
    """So many, each after the answer to the one before."""
    return [await pool.ask(wish) for _ in range(times)]


async def capacity(pool: Pool, wish: Wish, at_once: int, seconds: float) -> float:
    """Answers a second with so many under way all the time."""
    end, done = time.perf_counter() + seconds, 0

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < end:
            asked = await pool.ask(wish)
            assert not asked.shed, asked.answer.body
            done += 1

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return done / (time.perf_counter() - started)


@dataclass(frozen=True, slots=True)
class Flood:
    """What became of a flood; `left_out` found no connection."""

    asked: Sequence[Asked]
    left_out: int
    seconds: float

    @property
    def accepted(self) -> list[Asked]:
        return [item for item in self.asked if not item.shed]

    @property
    def sheds(self) -> list[Asked]:
        return [item for item in self.asked if item.shed]

    @property
    def offered_rate(self) -> float:
        return (len(self.asked) + self.left_out) / self.seconds

    @property
    def accepted_rate(self) -> float:
        return len(self.accepted) / self.seconds


async def flood(pool: Pool, wish: Wish, rate: float, goes_on: Callable[[], bool]) -> Flood:
    """Send so many a second while it goes on; wait for what is under way then."""
    started, sent, left_out = time.perf_counter(), 0, 0
    tasks: list[asyncio.Task[Asked]] = []
    while goes_on():
        due = int((time.perf_counter() - started) * rate)
        while sent + left_out < due:
            if pool.full:
                left_out += 1
                continue
            tasks.append(asyncio.create_task(pool.ask(wish)))
            sent += 1
            await asyncio.sleep(0)
        await asyncio.sleep(1 / rate)
    seconds = time.perf_counter() - started
    return Flood(await asyncio.gather(*tasks), left_out, seconds)


def high(asked: Iterable[Asked]) -> float:
    """The 99th percentile of the seconds."""
    return quantiles([item.seconds for item in asked], n=100, method="inclusive")[98]


def median(asked: Iterable[Asked]) -> float:
    """The middle of the seconds."""
    return quantiles([item.seconds for item in asked], n=2, method="inclusive")[0]
