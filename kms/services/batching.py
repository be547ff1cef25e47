"""Concurrent single calls share one trip: whatever waits while a batch is away goes with the next.

No timer is involved: an idle batcher sends at once, a busy one fills the next batch by itself.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from kms.services.errors import OverloadedError

T = TypeVar("T")
R = TypeVar("R")

_STRIDE = 16


async def breathe(at: int) -> None:
    """Let others run after every few items: a batch of 1,000 must not hold up everyone else."""
    if at % _STRIDE == _STRIDE - 1:
        await asyncio.sleep(0)


class Batcher(Generic[T, R]):
    """Gathers items of concurrent callers into batches for one handler.

    Args:
        handle: Takes a batch, answers one result per item in order. What it raises is raised to
            every caller of that batch.
        limit: Most items in one batch.
        backlog: Most items that may wait; beyond it `OverloadedError`.
    """

    def __init__(
        self, handle: Callable[[list[T]], Awaitable[list[R]]], *, limit: int, backlog: int
    ) -> None:
        self._handle = handle
        self._limit = limit
        self._backlog = backlog
        self._waiting: deque[tuple[list[T], asyncio.Future[list[R]]]] = deque()
        self._items = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Items not yet handed to the handler."""
        return self._items

    async def submit(self, items: list[T]) -> list[R]:
        """Have these items handled together, in order, possibly beside those of others.

        A caller that is cancelled does not take its items back: they may be done already.

        Raises:
            OverloadedError: Too much is waiting.
        """
        if not items:
            return []
        if self._items and self._items + len(items) > self._backlog:
            raise OverloadedError("too many requests are waiting; try again later")
        future: asyncio.Future[list[R]] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, future))
        self._items += len(items)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await asyncio.shield(future)

    async def drain(self) -> None:
        """Wait until nothing is waiting or away."""
        while self._task is not None:
            await asyncio.shield(self._task)

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._one_batch()
        finally:
            self._task = None

    async def _one_batch(self) -> None:
        group: list[tuple[list[T], asyncio.Future[list[R]]]] = []
        batch: list[T] = []
        while self._waiting and (not batch or len(batch) + len(self._waiting[0][0]) <= self._limit):
            items, future = self._waiting.popleft()
            group.append((items, future))
            batch.extend(items)
        self._items -= len(batch)
        try:
            results = await self._handle(batch)
        except Exception as error:  # noqa: BLE001 - belongs to the callers, who each get it
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        start = 0
        for items, future in group:
            if not future.done():
                future.set_result(results[start : start + len(items)])
            start += len(items)
