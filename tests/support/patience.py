"""Waiting for a condition in an event loop: never for a time."""

import asyncio
from collections.abc import Callable

SECONDS = 20.0


async def until(reached: Callable[[], object]) -> None:
    """Let others run until something is so.

    Raises:
        TimeoutError: It does not become so in `SECONDS`.
    """
    async with asyncio.timeout(SECONDS):
        while not reached():  # noqa: ASYNC110 - what is looked at tells nobody when it changes
            await asyncio.sleep(0.001)
