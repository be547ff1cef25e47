"""A process of the worker's that verifies signatures, and the worker's end of it.

Verifying takes a fifth of what an enrolment costs, and the library holds the interpreter meanwhile:
in a process of its own it uses another core. That process has no secret, no ledger and no socket:
it reads frames from its standard input and ends with it, so it never outlives the worker.

    request     u32 length ‖ MessagePack [number, [[algorithm, spki, message, signature], …]]
    answer      u32 length ‖ MessagePack [number, [refusal or nil, …]]

An answer counts only under its request's number and with as many verdicts: one that belongs to
other signatures ends the process.
"""

import asyncio
import contextlib
import signal
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from typing import BinaryIO

import msgspec
import structlog

from hsm_drivers.hardening import harden
from kms.services.batching import Batcher
from kms.services.verifying import InlineVerifier, SignatureCheck, refusal

MAX_CHECKS = 1_000
"""Most signatures in one frame."""
BACKLOG = 20_000
FEW = 4
"""So few signatures are verified sooner than they are handed over."""
RESTART_SECONDS = 1.0

_LENGTH = struct.Struct(">I")
_MAX_FRAME = 64 << 20
_Row = tuple[str, bytes, bytes, bytes]
_requests = msgspec.msgpack.Decoder(tuple[int, list[_Row]])
_answers = msgspec.msgpack.Decoder(tuple[int, list[str | None]])
_log = structlog.get_logger()


@contextlib.asynccontextmanager
async def verifier_process() -> AsyncIterator["VerifierProcess"]:
    """A running process; it has ended when the context has."""
    verifier = VerifierProcess()
    try:
        await verifier.start()
        yield verifier
    finally:
        await verifier.stop()


class VerifierProcess:
    """`SignatureVerifier` in a process of its own.

    One frame is away at a time; what waits meanwhile goes with the next. While the process is
    away, the worker verifies by itself, and starts another.
    """

    def __init__(self) -> None:
        self._here = InlineVerifier()
        self._batcher: Batcher[SignatureCheck, str | None] = Batcher(
            self._handle, limit=MAX_CHECKS, backlog=BACKLOG
        )
        self._process: asyncio.subprocess.Process | None = None
        self._restart: asyncio.Task[None] | None = None
        self._number = 0

    @property
    def pid(self) -> int | None:
        """Of the process, while it runs."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the process; without it everything works, only slower."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", __name__),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            _log.warning("verifier.not-started", detail=str(error))

    async def stop(self) -> None:
        """Answer what waits, then let the process end."""
        await self._batcher.drain()
        if self._restart is not None:
            self._restart.cancel()
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            await process.wait()

    async def verify(self, checks: Sequence[SignatureCheck]) -> list[str | None]:
        """See `SignatureVerifier.verify`."""
        answers: list[str | None] = []
        for start in range(0, len(checks), MAX_CHECKS):
            answers += await self._batcher.submit(list(checks[start : start + MAX_CHECKS]))
        return answers

    async def _handle(self, checks: list[SignatureCheck]) -> list[str | None]:
        process = self._process
        if process is None or len(checks) < FEW:
            return await self._here.verify(checks)
        try:
            return await self._ask(process, checks)
        except (OSError, EOFError, msgspec.DecodeError) as error:
            self._lost(process, error)
            return await self._here.verify(checks)

    async def _ask(
        self, process: asyncio.subprocess.Process, checks: list[SignatureCheck]
    ) -> list[str | None]:
        self._number += 1
        rows = [(item.algorithm, item.spki, item.message, item.signature) for item in checks]
        body = await _exchange(process, msgspec.msgpack.encode((self._number, rows)))
        number, answers = _answers.decode(body)
        if (number, len(answers)) != (self._number, len(checks)):
            raise EOFError("the answer belongs to other signatures")
        return answers

    def _lost(self, process: asyncio.subprocess.Process, error: Exception) -> None:
        _log.warning("verifier.lost", detail=f"{type(error).__name__}: {error}")
        self._process = None
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        self._restart = asyncio.create_task(self._start_again(process))

    async def _start_again(self, lost: asyncio.subprocess.Process) -> None:
        await lost.wait()
        await asyncio.sleep(RESTART_SECONDS)
        await self.start()


async def _exchange(process: asyncio.subprocess.Process, body: bytes) -> bytes:
    if process.stdin is None or process.stdout is None:
        raise EOFError("the process has no pipes")
    process.stdin.write(_LENGTH.pack(len(body)) + body)
    await process.stdin.drain()
    (size,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
    return await process.stdout.readexactly(size)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer frames until there are no more."""
    while head := requests.read(_LENGTH.size):
        (size,) = _LENGTH.unpack(head)
        if size > _MAX_FRAME:
            return
        number, rows = _requests.decode(requests.read(size))
        answers_to = [refusal(SignatureCheck(*row)) for row in rows]
        body = msgspec.msgpack.encode((number, answers_to))
        answers.write(_LENGTH.pack(len(body)) + body)
        answers.flush()


def main() -> None:
    """Serve standard input; signals are the worker's business, which closes it when it ends."""
    harden()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
