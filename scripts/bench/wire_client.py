"""A lean HTTP/1.1 client over TLS 1.3 for load: keep-alive, JSON in, JSON out, nothing more."""

import asyncio
import itertools
import secrets
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec

_MOST = 64 << 20
_END = b"\r\n\r\n"


class LoadError(Exception):
    """The service did not answer as it should: the measurement is void."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the API listens, and who calls it; paths of PEM files."""

    host: str
    port: int
    cert: str
    key: str
    trust: str

    def context(self) -> ssl.SSLContext:
        """TLS 1.3 with the client certificate."""
        context = ssl.create_default_context(cafile=self.trust)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(Path(self.cert), Path(self.key))
        return context


class Connection:
    """One keep-alive connection, one call at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._keys = (f"{prefix}-{number}" for prefix, number in _numbered())

    @classmethod
    async def open(cls, target: Target, context: ssl.SSLContext) -> Self:
        """Connect and shake hands."""
        return cls(
            *await asyncio.open_connection(target.host, target.port, ssl=context, limit=_MOST)
        )

    async def post(self, path: str, body: bytes, answer: msgspec.json.Decoder[Any]) -> Any:
        """POST JSON with a fresh Idempotency-Key; the decoded answer.

        Raises:
            LoadError: Any status but 200 and 201.
        """
        head = (
            f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
            f"idempotency-key: {next(self._keys)}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        status, content = await self._answer()
        if status not in {200, 201}:
            raise LoadError(f"{path} was answered {status}: {content[:300]!r}")
        return answer.decode(content)

    async def close(self) -> None:
        """Say goodbye."""
        self._writer.close()
        await self._writer.wait_closed()

    async def _answer(self) -> tuple[int, bytes]:
        head = (await self._reader.readuntil(_END)).lower()
        status = int(head[9:12])
        start = head.index(b"content-length:") + 15
        size = int(head[start : head.index(b"\r\n", start)])
        return status, await self._reader.readexactly(size)


def _numbered() -> Any:
    prefix = secrets.token_hex(8)
    return ((prefix, number) for number in itertools.count())
