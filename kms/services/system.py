"""Clock and randomness of the machine."""

import secrets
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
        return EventId(secrets.token_hex(16))

    def random(self, size: int) -> bytes:
        """Random bytes."""
        return secrets.token_bytes(size)
