"""What strangers and misbehaving clients do to a service: `python -m tests.support.attacks`.

A process of its own, so that its work is not that of the clients who are measured beside it. Every
attack is bounded in connections, ends by itself, and prints how many rounds it began.
"""

import argparse
import asyncio
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"
MEGABYTE = 1 << 20
REST_SECONDS = 0.01
"""Between two rounds of one attacker: the machine is for the service, too."""
_GET = b"GET /log/checkpoint HTTP/1.1\r\nHost: x\r\n\r\n"
_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""The beginning of a ClientHello."""
_POST = (
    b"POST /v1/enrolments:batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Idempotency-Key: attack\r\nContent-Length: %d\r\n\r\n"
)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Target:
    """Where the service is, and a client of another tenant's who misbehaves.

    Attributes:
        api: Port of the mTLS listener.
        public: Port of the public listener.
        trust: The root's certificate.
        client: Its certificate and its key.
    """

    api: int
    public: int
    trust: Path
    client: tuple[Path, Path]

    async def plain(self) -> Streams:
        return await asyncio.open_connection(LOOPBACK, self.public)

    async def silent(self) -> Streams:
        """To the mTLS listener, without a word of TLS."""
        return await asyncio.open_connection(LOOPBACK, self.api)

    async def tls(self, *, known: bool = True) -> Streams:
        context = ssl.create_default_context(cafile=self.trust)
        if known:
            context.load_cert_chain(*self.client)
        return await asyncio.open_connection(LOOPBACK, self.api, ssl=context)


Round = Callable[[Target], Awaitable[None]]


async def half_open(target: Target) -> None:
    """Connects to the mTLS listener and says nothing."""
    reader, writer = await target.silent()
    await _until_ended(reader, writer)


async def half_hello(target: Target) -> None:
    """Begins a handshake and says nothing more."""
    reader, writer = await target.silent()
    writer.write(_HELLO)
    await _until_ended(reader, writer)


async def handshakes(target: Target) -> None:
    """Shakes hands without a certificate, again and again."""
    reader, writer = await target.tls(known=False)
    await _until_ended(reader, writer)


async def slow_headers(target: Target) -> None:
    """Slow-loris: a header, letter by letter."""
    reader, writer = await target.plain()
    writer.write(_GET[:-2] + b"X-Slow: ")
    await _trickle(reader, writer)


async def slow_bodies(target: Target) -> None:
    """A known client's body, letter by letter."""
    reader, writer = await target.tls()
    writer.write(_POST % MEGABYTE)
    await _trickle(reader, writer)


async def pipelining(target: Target) -> None:
    """Thousands of requests at once, and no answer read."""
    reader, writer = await target.plain()
    writer.write(_GET * 20_000)
    with suppress(OSError):
        await writer.drain()
    await _until_ended(reader, writer)


async def unread_answers(target: Target) -> None:
    """A known client asks for the largest document again and again, and reads no answer."""
    _, writer = await target.tls()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 8)
    await asyncio.sleep(5)
    writer.close()


async def huge_headers(target: Target) -> None:
    """Headers of megabytes."""
    reader, writer = await target.plain()
    writer.write(_GET[:-2] + b"X-Huge: " + b"x" * 4 * MEGABYTE)
    await _until_ended(reader, writer)


async def huge_bodies(target: Target) -> None:
    """A known client's bodies, larger than allowed."""
    await _post(target, b" " * (9 * MEGABYTE))


async def deep_json(target: Target) -> None:
    """A known client's JSON, nested as deep as a body has room for."""
    await _post(target, b"[" * (4 * MEGABYTE))


async def wide_json(target: Target) -> None:
    """A known client's JSON of as many values as a body has room for."""
    await _post(target, b'{"items":[' + b"[]," * (2 * MEGABYTE) + b"[]]}")


async def many_strings(target: Target) -> None:
    """A known client's JSON, all of which has to be searched for private keys."""
    string = b'"' + b"MIIBIjANBgkq" * 8 + b'",'
    await _post(target, b'{"items":[' + string * 49_000 + b"0]}")


ATTACKS: dict[str, tuple[Round, int]] = {
    "half-open connections": (half_open, 2000),
    "half a ClientHello": (half_hello, 1000),
    "handshakes without certificate": (handshakes, 16),
    "slow-loris, headers": (slow_headers, 1500),
    "slow-loris, bodies": (slow_bodies, 300),
    "pipelining": (pipelining, 64),
    "unread answers": (unread_answers, 200),
    "huge headers": (huge_headers, 32),
    "huge bodies": (huge_bodies, 8),
    "deep JSON": (deep_json, 8),
    "wide JSON": (wide_json, 8),
    "JSON of many strings": (many_strings, 8),
}
"""By name: what one attacker does, and how many there are at a time."""


async def run(attack: Round, attackers: int, target: Target, seconds: float) -> int:
    """Attack for so long; answers how many rounds were begun."""
    until = time.monotonic() + seconds
    rounds = await asyncio.gather(*(_again(attack, target, until) for _ in range(attackers)))
    return sum(rounds)


async def _again(attack: Round, target: Target, until: float) -> int:
    rounds = 0
    while (left := until - time.monotonic()) > 0:
        rounds += 1
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(attack(target), left)
        await asyncio.sleep(REST_SECONDS)
    return rounds


async def _post(target: Target, body: bytes) -> None:
    reader, writer = await target.tls()
    writer.write(_POST % len(body) + body)
    with suppress(OSError):
        await writer.drain()
    try:
        await reader.readline()
    finally:
        writer.close()


async def _trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while not reader.at_eof():
            writer.write(b"x")
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(4096), 0.5)
    finally:
        writer.close()


async def _until_ended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.read(1)
    finally:
        writer.close()


def main() -> None:
    """Attack once, as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.attacks")
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--ports", type=int, nargs=2, required=True, metavar=("API", "PUBLIC"))
    parser.add_argument("--trust", type=Path, required=True)
    parser.add_argument("--client", type=Path, nargs=2, required=True, metavar=("PEM", "KEY"))
    options = parser.parse_args()
    target = Target(*options.ports, options.trust, tuple(options.client))
    attack, attackers = ATTACKS[options.attack]
    sys.stdout.write(f"{asyncio.run(run(attack, attackers, target, options.seconds))}\n")


if __name__ == "__main__":
    main()
