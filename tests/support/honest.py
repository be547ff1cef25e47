"""Honest clients beside an attack: what share of their requests is answered, and how late.

Requests are sent when they are due, whether earlier ones were answered or not, and latency counts
from that moment: a service that stalls cannot hide it by stalling its clients.
"""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import ClassVar

from kms.device import Device, DeviceError, MessagingServer
from tests.support.running import MESSENGER, Home

LOOPBACK = "127.0.0.1"
PATIENCE_SECONDS = 20.0
_LOG = b"GET /v1/log HTTP/1.1\r\nHost: x\r\n\r\n"
_CHECKPOINT = b"GET /log/checkpoint HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Tally:
    """What one kind of client got.

    Attributes:
        due: Requests that were sent.
        seconds: Latencies of those answered as they should be.
    """

    due: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def lost(self) -> int:
        return self.due - len(self.seconds)

    def quantile(self, part: float) -> float:
        """Latency in seconds that this part of the answers kept; infinite without any."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("inf")


class Clients:
    """Messaging servers and readers of one service.

    Args:
        home: The service's.
        label: Makes its devices' names its own.
    """

    RATES: ClassVar = {"resident": 60.0, "enroller": 8.0, "newcomer": 10.0, "reader": 20.0}
    """Requests a second: on connections that stay; enrolments (two calls and their proofs); each
    with a TLS connection of its own; of public data, each with a connection of its own."""

    def __init__(self, home: Home, label: str) -> None:
        self._home = home
        self._context = ssl.create_default_context(cafile=home.trust)
        self._context.load_cert_chain(*home.client(MESSENGER))
        self._names = (f"{label}-{number}" for number in count())
        self._residents: asyncio.Queue[Streams | None] = asyncio.Queue()
        self._enrollers: asyncio.Queue[MessagingServer] = asyncio.Queue()

    async def run(self, seconds: float) -> dict[str, Tally]:
        """Ask for so long, wait for the answers; by kind of client."""
        with ExitStack() as stack:
            for _ in range(4):
                self._residents.put_nowait(None)
                self._enrollers.put_nowait(stack.enter_context(self._messaging_server()))
            kinds = {name: getattr(self, f"_{name}") for name in self.RATES}
            tallies = await asyncio.gather(
                *(_paced(self.RATES[name], seconds, one) for name, one in kinds.items())
            )
            while not self._residents.empty():
                streams = self._residents.get_nowait()
                if streams is not None:
                    await _close(streams)
        return dict(zip(kinds, tallies, strict=True))

    def _messaging_server(self) -> MessagingServer:
        url = f"https://{LOOPBACK}:{self._home.port('api')}"
        certificate, key = self._home.client(MESSENGER)
        return MessagingServer(
            url, certificate, key, self._home.trust, timeout=PATIENCE_SECONDS, attempts=1
        )

    async def _tls(self) -> Streams:
        return await asyncio.open_connection(
            LOOPBACK, self._home.port("api"), ssl=self._context, ssl_handshake_timeout=20
        )

    async def _resident(self) -> bool:
        streams = await self._residents.get()
        try:
            streams = streams or await self._tls()
            good = await _ask(streams, _LOG)
        except BaseException:
            if streams is not None:
                await _close(streams)
            self._residents.put_nowait(None)
            raise
        self._residents.put_nowait(streams)
        return good

    async def _enroller(self) -> bool:
        device: Device = self._home.device("ada", next(self._names))
        service = await self._enrollers.get()
        try:
            await asyncio.to_thread(service.enrol, device, "device-identity")
        except DeviceError:
            service.close()
            return False
        finally:
            self._enrollers.put_nowait(service)
        return True

    async def _newcomer(self) -> bool:
        streams = await self._tls()
        try:
            return await _ask(streams, _LOG)
        finally:
            await _close(streams)

    async def _reader(self) -> bool:
        streams = await asyncio.open_connection(LOOPBACK, self._home.port("public"))
        try:
            return await _ask(streams, _CHECKPOINT)
        finally:
            await _close(streams)


async def _close(streams: Streams) -> None:
    streams[1].transport.abort()
    with suppress(OSError):
        await streams[1].wait_closed()


async def _ask(streams: Streams, request: bytes) -> bool:
    """Whether the answer is a whole 200."""
    reader, writer = streams
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    (length,) = (
        int(line.partition(b":")[2])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    )
    await reader.readexactly(length)
    return head.startswith(b"HTTP/1.1 200 ")


async def _paced(rate: float, seconds: float, one: Callable[[], Awaitable[bool]]) -> Tally:
    tally, begun = Tally(), time.monotonic()

    async def ask(due: float) -> None:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            if await asyncio.wait_for(one(), PATIENCE_SECONDS):
                tally.seconds.append(time.monotonic() - due)

    tasks = []
    for number in range(max(1, int(rate * seconds))):
        due = begun + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tally.due += 1
        tasks.append(asyncio.create_task(ask(due)))
    await asyncio.gather(*tasks)
    return tally
