"""Concurrent single calls share one trip: whatever waits while a batch is away goes with the next.

No timer is involved: an idle batcher sends at once, a busy one fills the next batch by itself.
What is urgent goes first, and has a backlog of its own.
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


class _Lane(Generic[T, R]):
    """What waits in order: the items of each caller, and where their results go."""

    def __init__(self) -> None:
        self.groups: deque[tuple[list[T], asyncio.Future[list[R]]]] = deque()
        self.items = 0

    @property
    def first(self) -> int:
        """Items of the caller who has waited longest."""
        return len(self.groups[0][0])

    def add(self, items: list[T], future: asyncio.Future[list[R]]) -> None:
        """Behind all others."""
        self.groups.append((items, future))
        self.items += len(items)

    def take(self) -> tuple[list[T], asyncio.Future[list[R]]]:
        """The first, for good."""
        group = self.groups.popleft()
        self.items -= len(group[0])
        return group


class Batcher(Generic[T, R]):
    """Gathers items of concurrent callers into batches for one handler.

    Args:
        handle: Takes a batch, answers one result per item in order. What it raises is raised to
            every caller of that batch.
        limit: Most items in one batch.
        backlog: Most items that may wait, urgent ones counted apart; beyond it `OverloadedError`.
    """

    def __init__(
        self, handle: Callable[[list[T]], Awaitable[list[R]]], *, limit: int, backlog: int
    ) -> None:
        self._handle = handle
        self._limit = limit
        self._backlog = backlog
        self._urgent: _Lane[T, R] = _Lane()
        self._usual: _Lane[T, R] = _Lane()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Items not yet handed to the handler."""
        return self._urgent.items + self._usual.items

    async def submit(self, items: list[T], *, urgent: bool = False) -> list[R]:
        """Have these items handled together, in order, possibly beside those of others.

        A caller that is cancelled does not take its items back: they may be done already.

        Args:
            items: What is to be done.
            urgent: Before all that waits and is not.

        Raises:
            OverloadedError: Too much is waiting.
        """
        if not items:
            return []
        lane = self._urgent if urgent else self._usual
        if lane.items and lane.items + len(items) > self._backlog:
            raise OverloadedError("too many requests are waiting; try again later")
        future: asyncio.Future[list[R]] = asyncio.get_running_loop().create_future()
        lane.add(items, future)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await asyncio.shield(future)

    async def drain(self) -> None:
        """Wait until nothing is waiting or away."""
        while self._task is not None:
            await asyncio.shield(self._task)

    async def _run(self) -> None:
        try:
            while self.waiting:
                await self._one_batch()
        finally:
            self._task = None

    async def _one_batch(self) -> None:
        group: list[tuple[list[T], asyncio.Future[list[R]]]] = []
        batch: list[T] = []
        for lane in (self._urgent, self._usual):
            while lane.groups and (not batch or len(batch) + lane.first <= self._limit):
                items, future = lane.take()
                group.append((items, future))
                batch.extend(items)
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
