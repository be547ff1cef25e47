"""A lean client of plain HTTP/1.1: the read path, static files, CFSSL.

Commands come as JSON lines on standard input, one answer line each on standard output:

    {"do": "get", "port": P, "path": "/…", "connections": C, "seconds": S}
    {"do": "requests", "count": N}      make that many certificate requests (PKCS#10, P-256)
    {"do": "sign", "port": P, "connections": C, "seconds": S}       have CFSSL sign them, in turn

It works at the level of the protocol, so that on two cores the server is what is measured.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator
from typing import Any, cast

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_END = b"\r\n\r\n"
_SIGN = "/api/v1/cfssl/sign"


class LoadError(Exception):
    """The server did not answer as it should: the measurement is void."""


class Repeating(asyncio.Protocol):
    """One keep-alive connection: a request, its answer, the next request, until time is up.

    Args:
        requests: What to send, endlessly.
        deadline: Of `time.perf_counter`; no request begins after it.
    """

    def __init__(self, requests: Iterator[bytes], deadline: float) -> None:
        self._requests = requests
        self._deadline = deadline
        self._buffer = b""
        self.answered = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        """Count a whole answer and send what comes next."""
        self._buffer += data
        head, found, body = self._buffer.partition(_END)
        if not found or len(body) < _content_length(head):
            return
        if not head.startswith(b"HTTP/1.1 200 "):
            self._end(LoadError(f"answered {self._buffer[:300]!r}"))
            return
        self._buffer = b""
        self.answered += 1
        if time.perf_counter() < self._deadline:
            self._transport.write(next(self._requests))
        else:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side must not end it."""
        if not self.done.done():
            self.done.set_exception(exc or LoadError("the connection was closed"))

    def _end(self, error: Exception | None) -> None:
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
        self._transport.close()


def _content_length(head: bytes) -> int:
    low = head.lower()
    start = low.find(b"content-length:")
    if start < 0:
        raise LoadError(f"no length in {head!r}")
    return int(low[start + 15 :].split(b"\r\n", 1)[0])


class Plain:
    """What standard input may ask for."""

    def __init__(self) -> None:
        self._signing: list[bytes] = []

    async def get(self, port: int, path: str, connections: int, seconds: float) -> dict[str, Any]:
        """Fetch one path again and again."""
        request = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode()
        return await _repeat(port, [request], connections, seconds)

    async def requests(self, count: int) -> dict[str, Any]:
        """Make certificate requests, each with a key of its own."""
        self._signing = [_signing_request(number) for number in range(count)]
        return {"requests": count}

    async def sign(self, port: int, connections: int, seconds: float) -> dict[str, Any]:
        """Have them signed, from the first again after the last."""
        return await _repeat(port, self._signing, connections, seconds)


async def _repeat(
    port: int, requests: list[bytes], connections: int, seconds: float
) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    endless = itertools.cycle(requests)
    started, cpu = time.perf_counter(), time.process_time()
    links = [
        (await loop.create_connection(lambda: Repeating(endless, started + seconds), host, port))[1]
        for host in ["127.0.0.1"] * connections
    ]
    await asyncio.gather(*(link.done for link in links))
    took = time.perf_counter() - started
    return {
        "requests": sum(link.answered for link in links),
        "seconds": took,
        "client_cpu": time.process_time() - cpu,
    }


def _signing_request(number: int) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"device-{number}")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    signed = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    pem = signed.public_bytes(serialization.Encoding.PEM).decode()
    body = json.dumps({"certificate_request": pem}).encode()
    head = (
        f"POST {_SIGN} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def main() -> None:
    """Do what standard input says until it ends."""
    plain = Plain()
    commands = {"get": plain.get, "requests": plain.requests, "sign": plain.sign}
    for line in iter(sys.stdin.readline, ""):
        wanted = json.loads(line)
        answer = await commands[wanted.pop("do")](**wanted)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
