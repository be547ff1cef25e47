"""What a check finds."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kms.settings import Settings


class Severity(StrEnum):
    """FAILED: something is broken or unsafe. WARNING: it may become so, or could not be looked at.

    The order is that of growing concern.
    """

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer.

    Attributes:
        check: Short name, stable for scripts.
        detail: What was found, in a sentence.
        remedy: What to do about it; empty where all is well.
    """

    check: str
    severity: Severity
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined.

    Attributes:
        settings: The home's.
        now: The moment of the examination.
        running: Whether a service, or another local command, is at work in the home.
        own: Whether this user may work in the home, as its owner and root may.
    """

    settings: Settings
    now: datetime
    running: bool
    own: bool = True


def ok(check: str, detail: str) -> Finding:
    """All is well."""
    return Finding(check, Severity.OK, detail)


def warning(check: str, detail: str, remedy: str) -> Finding:
    """It may become wrong, or could not be looked at."""
    return Finding(check, Severity.WARNING, detail, remedy)


def failed(check: str, detail: str, remedy: str) -> Finding:
    """It is wrong."""
    return Finding(check, Severity.FAILED, detail, remedy)


def worst(findings: Iterable[Finding]) -> Severity:
    """The gravest severity; OK for none."""
    order = list(Severity)
    return max((item.severity for item in findings), key=order.index, default=Severity.OK)
