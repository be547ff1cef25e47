"""Heads of the log beside commits: nobody waits for another's, everybody gets one that covers."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hsm_drivers.errors import HsmError, StatementRefusedError
from hsm_drivers.ports import KeyLabel, Purpose, SignerHealth, Statement, StatementSigner
from kms.domain.records import LogId, Reason, UserId
from kms.services.head_signer import HeadSigner, LogRolledBackError
from kms.services.observing import Silent
from kms.services.ports import Placed, TreeHead
from kms.tlog.checkpoint import parse_checkpoint
from kms.tlog.notes import KeyType, VerifierKey, parse_note
from kms.tlog.receipt import parse_receipt
from tests.support.books import check_books
from tests.support.flow import IDENTITY, enrol, new_device, order, prove
from tests.support.services import TENANT, World, decoded, world

pytestmark = pytest.mark.anyio


class Slow:
    """A signer that takes its time for heads, or as long as it is held."""

    def __init__(self) -> None:
        self.held = asyncio.Event()
        self.held.set()
        self.seconds = 0.0
        self.heads = 0
        self._signer: StatementSigner | None = None

    def wrap(self, signer: StatementSigner) -> StatementSigner:
        self._signer = signer
        return self  # type: ignore[return-value]  # the rest is passed on

    def __getattr__(self, name: str) -> Any:
        return getattr(self._signer, name)

    async def sign(self, statements: Sequence[Statement]) -> list[bytes | HsmError]:
        assert self._signer is not None
        if statements[0].purpose is Purpose.CHECKPOINT:
            self.heads += 1
            await asyncio.sleep(self.seconds)
            await self.held.wait()
        return await self._signer.sign(statements)


def size_of(answer: dict[str, Any]) -> int:
    """Tree size that a receipt proves against."""
    receipt = parse_receipt(answer["receipt"]["text"].encode())
    return parse_checkpoint(parse_note(receipt.checkpoint_note).text).size


async def ordered(made: World, count: int) -> list[tuple[Any, dict[str, Any]]]:
    devices = [new_device(made, f"user-{n}", f"device-{n}", IDENTITY) for n in range(count)]
    return [(device, await order(made, device)) for device in devices]


async def test_the_next_commit_does_not_wait_for_the_head_of_the_last(tmp_path: Path):
    slow = Slow()
    async with world(tmp_path, wrap_signer=slow.wrap) as made:
        (first, second) = await ordered(made, 2)
        head = made.ledger.head()
        assert head is not None
        slow.held.clear()
        before = slow.heads
        one = asyncio.create_task(prove(made, *first, "k1"))
        await until(lambda: slow.heads > before)
        two = asyncio.create_task(prove(made, *second, "k2"))
        await grown_to(made, head.size + 2)
        assert not one.done()
        assert not two.done()
        slow.held.set()
        answers = [decoded(await task) for task in (one, two)]
        assert [size_of(answer) for answer in answers] == [head.size + 1, head.size + 2]
        for (device, _), answer in zip((first, second), answers, strict=True):
            device.accept(answer)
        await check_books(made)


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not reached():  # noqa: ASYNC110 - what it looks at happens in another thread
            await asyncio.sleep(0.001)


async def grown_to(made: World, size: int) -> None:
    await until(lambda: (head := made.ledger.head()) is not None and head.size >= size)


async def test_whoever_comes_while_a_head_is_signed_shares_the_next(tmp_path: Path):
    slow = Slow()
    async with world(tmp_path, wrap_signer=slow.wrap) as made:
        pairs = await ordered(made, 8)
        slow.held.clear()
        before = slow.heads
        tasks = [
            asyncio.create_task(prove(made, device, answer, f"k{n}"))
            for n, (device, answer) in enumerate(pairs)
        ]
        head = made.ledger.head()
        assert head is not None
        await grown_to(made, head.size + len(pairs))
        slow.held.set()
        for (device, _), task in zip(pairs, tasks, strict=True):
            device.accept(decoded(await task))
        assert slow.heads - before <= 3
        await check_books(made)


async def test_a_repeated_call_gets_the_same_bytes_whatever_head_covered_it(tmp_path: Path):
    slow = Slow()
    slow.seconds = 0.003
    async with world(tmp_path, wrap_signer=slow.wrap) as made:
        pairs = await ordered(made, 24)

        async def later(n: int) -> bytes:
            await asyncio.sleep(n * 0.001)
            return (await prove(made, *pairs[n], f"k{n}")).body

        first = await asyncio.gather(*map(later, range(len(pairs))))
        again = [(await prove(made, *pair, f"k{n}")).body for n, pair in enumerate(pairs)]
        assert first == again
        await check_books(made)


async def test_a_revocation_does_not_wait_for_a_head_that_hangs(tmp_path: Path):
    slow = Slow()
    async with world(tmp_path, wrap_signer=slow.wrap) as made:
        await enrol(made, new_device(made, "ada", "phone", IDENTITY))
        ((device, answer),) = await ordered(made, 1)
        slow.held.clear()
        waiting = asyncio.create_task(prove(made, device, answer, "k1"))
        request = made.call("revoke", {"user": "ada"})
        async with asyncio.timeout(10):
            revoked = decoded(
                await made.services.revocation.user(
                    request, TENANT, UserId("ada"), Reason.UNSPECIFIED
                )
            )
        assert revoked["receipt"]["status"] == "pending"
        assert not waiting.done()
        slow.held.set()
        device.accept(decoded(await waiting))
        await check_books(made)


async def test_draining_waits_for_those_whose_head_is_on_its_way(tmp_path: Path):
    slow = Slow()
    async with world(tmp_path, wrap_signer=slow.wrap) as made:
        ((device, answer),) = await ordered(made, 1)
        slow.seconds = 0.05
        waiting = asyncio.create_task(prove(made, device, answer, "k1"))
        head = made.ledger.head()
        assert head is not None
        await grown_to(made, head.size + 1)
        await made.services.core.sequencer.drain()
        assert waiting.done()
        device.accept(decoded(await waiting))


class _Exchanged:
    """A ledger whose file is exchanged for an older copy under a running worker."""

    def __init__(self) -> None:
        self.size = 10

    def head(self) -> TreeHead:
        return TreeHead(LogId(1), "log.test.example/1", self.size, bytes([self.size]) * 32)

    def store_note(self, log: LogId, size: int, note: bytes) -> None:
        pass

    def tile(self, log: LogId, level: int, number: int) -> bytes:
        return bytes(32 * 256)


class _Remembering:
    """A signer that never signs a smaller head."""

    def __init__(self) -> None:
        self.last = 0

    async def health(self) -> SignerHealth:
        return SignerHealth("token", ready=True, detail="", counter=0, heads=())

    async def sign(self, statements: Sequence[Statement]) -> list[bytes | HsmError]:
        size = int(statements[0].message.split(b"\n")[1])
        if size < self.last:
            return [StatementRefusedError("a log never shrinks")]
        self.last = size
        return [bytes(64)]


async def test_an_old_head_never_covers_a_commit_to_an_exchanged_ledger():
    ledger, signer = _Exchanged(), _Remembering()
    vkey = VerifierKey("log.test.example/1", KeyType.ED25519, bytes(32))
    with ThreadPoolExecutor(1) as executor:
        heads = HeadSigner(ledger, signer, KeyLabel("log-1"), vkey, executor, Silent())  # type: ignore[arg-type]
        first = heads.begun
        covering = await heads.cover(Placed(LogId(1), 9, 10), first)
        assert covering.size == 10
        ledger.size = 8  # the head of size 10 is larger, and of another tree
        with pytest.raises(LogRolledBackError):
            await heads.cover(Placed(LogId(1), 7, 8), heads.begun)
