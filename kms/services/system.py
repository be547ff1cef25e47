"""Clock and randomness of the machine."""

import os
from datetime import UTC, datetime

from kms.domain.records import EventId


class SystemClock:
    """Wall-clock time."""

    def now(self) -> datetime:
        """Aware UTC time, whole seconds."""
        return datetime.now(UTC).replace(microsecond=0)


class SystemIds:
    """The operating system's randomness."""

    def event(self) -> EventId:
        """128 random bits in hex."""
        return EventId(os.urandom(16).hex())

    def random(self, size: int) -> bytes:
        """Random bytes."""
        return os.urandom(size)
