"""What a check finds: failures, all of them, and what could not be looked at."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that is not as it must be.

    Attributes:
        where: A file of the directory, or `event <index>`.
        message: What is wrong.
    """

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(slots=True)
class Check:
    """One question put to the record.

    Attributes:
        name: Short name, stable for scripts.
        claim: What holds if there is no failure.
        examined: How many things were looked at; none examined proves nothing.
        failures: In the order found.
        notes: What was left out, and why.
    """

    name: str
    claim: str
    examined: int = 0
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def fail(self, where: str, message: str) -> None:
        """Record a failure."""
        self.failures.append(Failure(where, message))

    def expect(self, condition: object, where: str, message: str) -> bool:
        """Record a failure unless the condition holds; answers whether it does."""
        if not condition:
            self.fail(where, message)
        return bool(condition)

    def document(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "check": self.name,
            "claim": self.claim,
            "ok": self.ok,
            "examined": self.examined,
            "failures": [{"where": item.where, "message": item.message} for item in self.failures],
            "notes": self.notes,
        }


def event(index: int) -> str:
    """How a failure names an event; one of an earlier epoch is counted back from this one."""
    return f"event {index}"
