"""Clock, ids and randomness of the machine."""

import os
import time
from datetime import UTC, datetime

CLOCK_TOLERANCE = 300.0
"""Seconds by which the machine's clock may be set while a service runs, and be followed."""


def clock_base() -> float:
    """What the machine's clock shows beyond its uptime, in seconds; processes share it."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


class SystemClock:
    """Wall-clock time, as far as the machine's uptime bears it out.

    An event's time is never taken back: were a clock followed that is set a year ahead, the log
    would be a year ahead for good. Whatever the machine's is set to while a service runs, this one
    stays within `CLOCK_TOLERANCE` of where it would be. A new service believes the machine.

    Args:
        base: `clock_base` of when the service began.
    """

    def __init__(self, base: float | None = None) -> None:
        self._base = clock_base() if base is None else base

    def now(self) -> datetime:
        """Aware UTC time, whole seconds."""
        step = max(-CLOCK_TOLERANCE, min(self.step, CLOCK_TOLERANCE))
        return datetime.fromtimestamp(int(self._steady() + step), UTC)

    @property
    def step(self) -> float:
        """Seconds by which the machine's clock was set since the service began."""
        return self._wall() - self._steady()

    def _steady(self) -> float:
        return self._base + time.clock_gettime(time.CLOCK_BOOTTIME)

    def _wall(self) -> float:
        return time.time()


class SystemIds:
    """The operating system's time and randomness."""

    def identifier(self) -> bytes:
        """See `Ids.identifier`."""
        return (time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10)

    def random(self, size: int) -> bytes:
        """Random bytes."""
        return os.urandom(size)
