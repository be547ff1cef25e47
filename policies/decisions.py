"""May this algorithm be used, here, now and until then? The pure decision (promise P4)."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Protection(StrEnum):
    """Where a private key lives (promise P2); DEVICE is the device's own affair."""

    TOKEN = "token"  # noqa: S105 - a place, not a password
    TRANSFERABLE = "transferable"
    WRAPPED = "wrapped"
    SOFTWARE = "software"
    DEVICE = "device"


class Use(StrEnum):
    """What a key is wanted for."""

    SLOT = "slot"
    INFRASTRUCTURE = "infrastructure"
    AUTHORITY = "authority"
    LOG = "log"


class Verdict(StrEnum):
    """DEPRECATED is allowed, and said to be on its way out."""

    ALLOWED = "allowed"
    DEPRECATED = "deprecated"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be decided.

    Attributes:
        use: What the key is wanted for.
        slot: Name of the bundle slot, or None outside bundles.
        algorithm: Registry name; an unknown one is refused, not an error.
        protection: Where the private key lives.
        at: The moment of use.
        not_after: Until when the result will be relied on.
    """

    use: Use
    slot: str | None
    algorithm: str
    protection: Protection
    at: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer: verdict, the rule that gave it, a sentence why, and the policy's hash."""

    verdict: Verdict
    rule: str
    reason: str
    policy: str

    @property
    def allowed(self) -> bool:
        """Whether the use may go ahead."""
        return self.verdict is not Verdict.REFUSED
