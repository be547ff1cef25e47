"""Clock, ids and randomness of the machine."""

import os
import time
from datetime import UTC, datetime


class SystemClock:
    """Wall-clock time."""

    def now(self) -> datetime:
        """Aware UTC time, whole seconds."""
        return datetime.now(UTC).replace(microsecond=0)


class SystemIds:
    """The operating system's time and randomness."""

    def identifier(self) -> bytes:
        """See `Ids.identifier`."""
        return (time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10)

    def random(self, size: int) -> bytes:
        """Random bytes."""
        return os.urandom(size)
