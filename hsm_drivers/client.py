"""The signer from the other side of its socket, for asyncio.

`ports.StatementSigner` and `ports.ServiceKeys`.
"""

import asyncio
import itertools
import math
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from hsm_drivers import frames
from hsm_drivers.errors import HsmError, StatementRefusedError, TokenUnavailableError
from hsm_drivers.operations import ServiceCall
from hsm_drivers.ports import (
    JournalEntry,
    JournalSeal,
    KeyAttributes,
    KeyLabel,
    KeyRecord,
    KeySpec,
    Operation,
    Replication,
    SignerHealth,
    Statement,
    TokenStatus,
)

Observer = Callable[[str, float, str], None]
"""Told of each request: operation, seconds, `"ok"` or the error's code. Must not raise."""

GREETING_SECONDS = 3.0
"""How long a new connection may take to its first answer: a signer that starts again needs about
one second, and whoever listens for it accepts connections while it is not there."""
PAUSE_SECONDS = 1.0
"""How long requests fail at once after a connection failed."""

_PEER_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid (unix(7))."""

_A = TypeVar("_A", bound=frames.Answer)


def _unobserved(_operation: str, _seconds: float, _outcome: str) -> None:
    pass


class SignerClient:
    """One connection, made when first needed and again when it broke; requests are pipelined.

    Whatever is wrong with the signer or the way to it surfaces as `TokenUnavailableError`. After
    one from `sign`, nothing is known: the batch may be signed and journalled, or never have come.
    """

    def __init__(
        self,
        path: Path,
        timeout: float = 30.0,
        observer: Observer = _unobserved,
        *,
        greeting: float = GREETING_SECONDS,
    ) -> None:
        """Connect to nothing yet.

        Args:
            path: The signer's Unix socket.
            timeout: Seconds for one request, waiting for its turn included.
            observer: For metrics.
            greeting: Seconds for a new connection to its first answer.
        """
        self._path = path
        self._timeout = timeout
        self._observer = observer
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._greeting = greeting
        self._failed_at = -math.inf
        self._ids = itertools.count()
        self._closed = False
        self.waiting = 0
        """Requests not yet answered."""

    async def sign(self, statements: Sequence[Statement]) -> list[bytes | HsmError]:
        """As `ports.StatementSigner.sign`; a batch too large for one frame goes as several."""
        outcomes: list[bytes | HsmError] = []
        for part in frames.parts(statements):
            outcomes += await self._sign_part(part)
        return outcomes

    async def keys(self) -> list[KeyRecord]:
        """As `ports.ServiceKeys.keys`; read in pages."""
        records: list[KeyRecord] = []
        more = True
        while more:
            after = records[-1].label if records else KeyLabel("")
            request = frames.ReadKeys(next(self._ids), after)
            page = await self._ask("keys", request, frames.KeysRead)
            records += page.records
            more = page.more and bool(page.records)
        return records

    async def attributes(self, label: KeyLabel) -> KeyAttributes:
        """As `ports.StatementSigner.attributes`."""
        request = frames.ReadAttributes(next(self._ids), label)
        return (await self._ask("attributes", request, frames.AttributesRead)).attributes

    async def journal(self, after: int, limit: int) -> list[JournalEntry]:
        """As `ports.StatementSigner.journal`; read in pages."""
        entries: list[JournalEntry] = []
        while len(entries) < limit:
            size = min(limit - len(entries), frames.MAX_PAGE)
            request = frames.ReadJournal(next(self._ids), after + len(entries), size)
            page = (await self._ask("journal", request, frames.JournalRead)).entries
            entries += page
            if len(page) < size:
                break
        return entries

    async def seal_journal(self, label: KeyLabel) -> JournalSeal:
        """As `SignerCore.seal_journal`."""
        request = frames.SealJournal(next(self._ids), label)
        return (await self._ask("seal", request, frames.JournalSealed)).seal

    async def health(self) -> SignerHealth:
        """As `ports.StatementSigner.health`."""
        request = frames.ReadHealth(next(self._ids))
        return (await self._ask("health", request, frames.HealthRead)).health

    async def generate(self, spec: KeySpec) -> KeyRecord:
        """As `ports.StatementSigner.generate`."""
        constraints = {purpose: dict(fixed) for purpose, fixed in spec.constraints.items()}
        request = frames.Generate(
            next(self._ids),
            spec.label,
            spec.algorithm,
            spec.purposes,
            constraints,
            spec.ceremony_only,
            spec.operations,
            spec.token,
            spec.components,
        )
        return (await self._ask("generate", request, frames.Generated)).record

    async def use(self, calls: Sequence[ServiceCall]) -> list[tuple[bytes, ...] | HsmError]:
        """As `ports.ServiceKeys.use`; a batch too large for one frame goes as several."""
        outcomes: list[tuple[bytes, ...] | HsmError] = []
        for part in frames.call_parts(calls):
            outcomes += await self._use_part(part)
        return outcomes

    async def tokens(self) -> list[TokenStatus]:
        """As `ports.ServiceKeys.tokens`."""
        request = frames.ReadTokens(next(self._ids))
        return (await self._ask("tokens", request, frames.TokensRead)).tokens

    async def narrow(self, label: KeyLabel, operations: Sequence[Operation]) -> None:
        """As `ports.ServiceKeys.narrow`."""
        request = frames.Narrow(next(self._ids), label, tuple(operations))
        await self._ask("narrow", request, frames.Changed)

    async def schedule_destruction(self, label: KeyLabel, at: datetime) -> None:
        """As `ports.ServiceKeys.schedule_destruction`."""
        request = frames.ScheduleDestruction(next(self._ids), label, at)
        await self._ask("schedule-destruction", request, frames.Changed)

    async def cancel_destruction(self, label: KeyLabel) -> None:
        """As `ports.ServiceKeys.cancel_destruction`."""
        request = frames.CancelDestruction(next(self._ids), label)
        await self._ask("cancel-destruction", request, frames.Changed)

    async def destroy(self, label: KeyLabel) -> tuple[str, ...]:
        """As `ports.ServiceKeys.destroy`."""
        request = frames.Destroy(next(self._ids), label)
        return (await self._ask("destroy", request, frames.Destroyed)).tokens

    async def replicate(
        self, label: KeyLabel, token: str, how: Replication, trusted: KeyLabel | None = None
    ) -> KeyRecord:
        """As `replicas.Replicas.add`."""
        request = frames.Replicate(next(self._ids), label, token, how, trusted)
        return (await self._ask("replicate", request, frames.Generated)).record

    async def move(self, label: KeyLabel, token: str) -> KeyRecord:
        """As `replicas.Replicas.move`."""
        request = frames.Move(next(self._ids), label, token)
        return (await self._ask("move", request, frames.Generated)).record

    async def aclose(self) -> None:
        """Close the connection; what still waits fails with `TokenUnavailableError`."""
        self._closed = True
        if self._connection is not None:
            await self._connection.aclose()

    async def _sign_part(self, part: list[frames.StatementFrame]) -> list[bytes | HsmError]:
        request = frames.Sign(next(self._ids), part)
        outcomes = (await self._ask("sign", request, frames.Signed)).outcomes
        if len(outcomes) != len(part):
            raise TokenUnavailableError("the signer answered for another number of statements")
        return [
            outcome if isinstance(outcome, bytes) else frames.raised(outcome)
            for outcome in outcomes
        ]

    async def _use_part(self, part: list[ServiceCall]) -> list[tuple[bytes, ...] | HsmError]:
        try:
            answer = await self._ask("use", frames.Use(next(self._ids), part), frames.Used)
        except TokenUnavailableError:
            raise
        except HsmError as error:
            return [error] * len(part)
        if len(answer.outcomes) != len(part):
            raise TokenUnavailableError("the signer answered for another number of calls")
        return [
            outcome.answer if isinstance(outcome, frames.Done) else frames.raised(outcome.error)
            for outcome in answer.outcomes
        ]

    async def _ask(self, operation: str, request: frames.Request, expected: type[_A]) -> _A:
        """Send, wait, take the answer apart, tell the observer."""
        started = time.perf_counter()
        outcome = "ok"
        self.waiting += 1
        try:
            return _as_expected(await self._exchange(request), expected)
        except HsmError as error:
            outcome = error.code
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            self.waiting -= 1
            self._observer(operation, time.perf_counter() - started, outcome)

    async def _exchange(self, request: frames.Request) -> frames.Answer:
        try:
            frame = frames.encode(request)
        except frames.FrameError as error:
            raise StatementRefusedError(f"the signer does not take this request: {error}") from None
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._connected()
                return await connection.exchange(request.id, frame)
        except TimeoutError:
            raise TokenUnavailableError(
                f"the signer at {self._path} did not answer within {self._timeout:g} s"
            ) from None
        except OSError as error:
            raise TokenUnavailableError(
                f"the signer at {self._path} cannot be reached ({error.strerror or error})"
            ) from error

    async def _connected(self) -> "_Connection":
        """The open connection, or a new one that has answered.

        Whoever waited while another request failed to connect shares its failure, and so does who
        comes right after: a queue of requests must not wait as often as it is long.
        """
        asked = time.monotonic()
        async with self._connecting:
            if self._closed:
                raise TokenUnavailableError("the connection to the signer was closed on this side")
            if self._connection is not None and not self._connection.broken:
                return self._connection
            if self._failed_at >= asked - PAUSE_SECONDS:
                raise self._no_answer()
            try:
                self._connection = await self._greeted()
            except BaseException:  # given up by the caller, too: it did not answer so far
                self._failed_at = time.monotonic()
                raise
            return self._connection

    async def _greeted(self) -> "_Connection":
        """A connection whose other end has answered: that it was accepted says nothing."""
        connection = await _Connection.open(self._path)
        number = next(self._ids)
        try:
            async with asyncio.timeout(self._greeting):
                await connection.exchange(number, frames.encode(frames.ReadKeys(number, limit=0)))
        except TimeoutError:
            await connection.aclose()
            raise self._no_answer() from None
        except BaseException:
            await connection.aclose()
            raise
        return connection

    def _no_answer(self) -> TokenUnavailableError:
        return TokenUnavailableError(
            f"no signer answers at {self._path}; it is being started again, or is wedged"
        )


def _as_expected(answer: frames.Answer, expected: type[_A]) -> _A:
    if isinstance(answer, frames.Failed):
        raise frames.raised(answer.error)
    if not isinstance(answer, expected):
        raise TokenUnavailableError("the signer answered another question")
    return answer


class _Connection:
    """An open connection and the requests that wait on it."""

    def __init__(
        self, path: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._path = path
        self._reader = reader
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[frames.Answer]] = {}
        self._broken = False
        self._task = asyncio.create_task(self._read())

    @property
    def broken(self) -> bool:
        """Whether it takes no more requests; the transport knows a moment before its reader."""
        return self._broken or self._writer.is_closing()

    @classmethod
    async def open(cls, path: Path) -> "_Connection":
        """Connect."""
        reader, writer = await asyncio.open_unix_connection(str(path))
        try:
            _refuse_stranger(path, _peer_uid(writer.get_extra_info("socket")))
        except TokenUnavailableError:
            writer.close()
            raise
        return cls(path, reader, writer)

    async def exchange(self, number: int, frame: bytes) -> frames.Answer:
        """Send a frame and wait for the answer of that number; abandoned, the answer is dropped."""
        answer: asyncio.Future[frames.Answer] = asyncio.get_running_loop().create_future()
        if self.broken:
            raise self._broke_off("it ended the connection")
        self._waiting[number] = answer
        try:
            self._writer.write(frame)
            await self._writer.drain()
            return await answer
        finally:
            self._waiting.pop(number, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # seen, should `drain` have failed first

    async def aclose(self) -> None:
        """Close and fail what waits."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        """Hand answers out until the connection breaks, then fail what waits."""
        reason = "the connection was closed"
        try:
            while True:
                header = await self._reader.readexactly(frames.HEADER.size)
                size = frames.checked_size(frames.HEADER.unpack(header)[0])
                answer = frames.decode_answer(await self._reader.readexactly(size))
                waiting = self._waiting.get(answer.id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        except asyncio.IncompleteReadError:
            reason = "it ended the connection"
        except (OSError, frames.FrameError) as error:
            reason = str(error)
        finally:
            self._break(reason)

    def _break(self, reason: str) -> None:
        self._broken = True
        self._writer.close()
        error = self._broke_off(reason)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error)

    def _broke_off(self, reason: str) -> TokenUnavailableError:
        return TokenUnavailableError(f"the signer at {self._path} broke off: {reason}")


def _refuse_stranger(path: Path, uid: int) -> None:
    """Who listens is the service's supervisor: root, this user, or whose directory it is.

    Raises:
        TokenUnavailableError: Another user has put a socket of their own there.
    """
    if uid not in {0, os.geteuid(), path.parent.stat().st_uid}:
        raise TokenUnavailableError(
            f"the socket {path} is user {uid}'s, not the service's: somebody else could put it"
            " there; take the right to write in its directory from them"
        )


def _peer_uid(sock: socket.socket) -> int:
    """User of the process that listens (SO_PEERCRED, unix(7))."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    return int(_PEER_CREDENTIALS.unpack(raw)[1])
