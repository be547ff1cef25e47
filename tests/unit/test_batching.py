"""The batcher: what waits shares a trip, and what is urgent goes first."""

import asyncio

import pytest

from hsm_drivers.ports import KeyLabel, Purpose, Statement
from kms.services.batching import Batcher
from kms.services.errors import OverloadedError
from kms.services.observing import Silent
from kms.services.signing import SharedSigner

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Handler:
    """Keeps each batch away until it is released."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self._released = asyncio.Semaphore(0)

    async def __call__(self, batch: list[str]) -> list[str]:
        self.batches.append(batch)
        await self._released.acquire()
        return [item.upper() for item in batch]

    def release(self, batches: int) -> None:
        for _ in range(batches):
            self._released.release()


async def submitted(
    batcher: Batcher[str, str], *groups: list[str], urgent: bool = False
) -> list[asyncio.Task[list[str]]]:
    tasks = [asyncio.create_task(batcher.submit(group, urgent=urgent)) for group in groups]
    await asyncio.sleep(0)
    return tasks


async def test_the_urgent_goes_before_all_that_waited_longer():
    handler = Handler()
    batcher = Batcher(handler, limit=3, backlog=10)
    away = await submitted(batcher, ["a"])
    usual = await submitted(batcher, ["b"], ["c"], ["d"])
    urgent = await submitted(batcher, ["x"], ["y"], urgent=True)
    assert batcher.waiting == 5
    handler.release(3)
    results = await asyncio.gather(*away, *usual, *urgent)
    assert handler.batches == [["a"], ["x", "y", "b"], ["c", "d"]]
    assert results == [["A"], ["B"], ["C"], ["D"], ["X"], ["Y"]]
    assert batcher.waiting == 0


async def test_a_full_backlog_leaves_room_for_the_urgent():
    handler = Handler()
    batcher = Batcher(handler, limit=10, backlog=2)
    away = await submitted(batcher, ["a"])
    usual = await submitted(batcher, ["b", "c"])
    with pytest.raises(OverloadedError):
        await batcher.submit(["d"])
    urgent = await submitted(batcher, ["x"], ["y"], urgent=True)
    with pytest.raises(OverloadedError):
        await batcher.submit(["z"], urgent=True)
    handler.release(2)
    await asyncio.gather(*away, *usual, *urgent)
    assert handler.batches == [["a"], ["x", "y", "b", "c"]]


class Slow:
    """A signer that notes what it is given, one batch at a time."""

    def __init__(self) -> None:
        self.batches: list[list[Purpose]] = []
        self.free = asyncio.Event()

    async def sign(self, statements: list[Statement]) -> list[bytes]:
        self.batches.append([item.purpose for item in statements])
        await self.free.wait()
        return [b""] * len(statements)


def statement(purpose: Purpose) -> Statement:
    return Statement(KeyLabel("key"), purpose, b"")


async def test_heads_and_crls_are_signed_before_certificates():
    slow = Slow()
    shared = SharedSigner(slow, Silent())  # type: ignore[arg-type]  # it is only asked to sign
    wanted = [
        [Purpose.CERTIFICATE],
        [Purpose.CERTIFICATE] * 999,
        [Purpose.CERTIFICATE] * 999,
        [Purpose.CHECKPOINT],
        [Purpose.CRL],
    ]
    tasks = []
    for purposes in wanted:
        tasks.append(asyncio.create_task(shared.sign([statement(one) for one in purposes])))
        await asyncio.sleep(0)
    slow.free.set()
    await asyncio.gather(*tasks)
    assert slow.batches[0] == [Purpose.CERTIFICATE]
    assert slow.batches[1][:2] == [Purpose.CHECKPOINT, Purpose.CRL]
    assert sum(len(batch) for batch in slow.batches) == sum(len(group) for group in wanted)
