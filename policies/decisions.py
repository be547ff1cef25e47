"""May this algorithm be used, here, now and until then? The pure decision (promise P4).

Rules state what is allowed; what no rule speaks of is refused. A decision depends on nothing but
the policy and the question, so an auditor who has both comes to the same answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from enum import StrEnum

from policies.algorithms import UnknownAlgorithmError, algorithm

DEFAULT_RULE = "default"
"""Rule id of the refusal when no rule speaks of the case; no policy may use it."""
_SHOWN = 64


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
    BACKUP = "backup"
    KEY = "key"
    KEM_SLOT = "kem-slot"


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
        slot: Name of the bundle slot; of a key or KEM slot of the organisation what it is for;
            else None.
        algorithm: Registry name; an unknown one is refused, not an error.
        protection: Where the private key lives.
        at: The moment of use.
        not_after: Until when the result will be relied on.

    Raises:
        ValueError: A time without a time zone, which would mean another moment on every host.
    """

    use: Use
    slot: str | None
    algorithm: str
    protection: Protection
    at: datetime
    not_after: datetime

    def __post_init__(self) -> None:
        if self.at.tzinfo is None or self.not_after.tzinfo is None:
            raise ValueError("a policy is asked about times with a time zone")


@dataclass(frozen=True, slots=True)
class Rule:
    """One statement of a policy. Days are days in UTC.

    Attributes:
        id: Names it in decisions and events.
        use: What it speaks of.
        slot: Which slot, when `use` is `SLOT`, and which purpose, when it is `KEY` or `KEM_SLOT`;
            None otherwise, and for KEM slots of every purpose.
        algorithms: Registry names it speaks of; a loader resolves requirements to names.
        protections: Where keys may live for it to apply.
        refuses: Whether it forbids; a rule that forbids beats all that allow.
        starts: First day it is in force; None means always.
        deprecated_from: First day on which use is deprecated; None means never.
        until: Last day on which a use may begin, and on which it may still be relied on.
        reason: Why it is so, for people.
    """

    id: str
    use: Use
    slot: str | None
    algorithms: frozenset[str]
    protections: frozenset[Protection]
    refuses: bool
    starts: date | None
    deprecated_from: date | None
    until: date | None
    reason: str

    def speaks_of(self, question: Question) -> bool:
        """Whether it says anything on the question at that moment."""
        return (
            question.use is self.use
            and (question.slot == self.slot or self._general)
            and question.algorithm in self.algorithms
            and question.protection in self.protections
            and (self.starts is None or question.at >= _begin(self.starts))
        )

    @property
    def _general(self) -> bool:
        return self.use is Use.KEM_SLOT and self.slot is None

    def verdict(self, question: Question) -> Verdict:
        """What it says on a question that it speaks of."""
        if self.refuses:
            return Verdict.REFUSED
        if self.until and max(question.at, question.not_after) > _end(self.until):
            return Verdict.REFUSED
        if self.deprecated_from and question.at >= _begin(self.deprecated_from):
            return Verdict.DEPRECATED
        return Verdict.ALLOWED


@dataclass(frozen=True, slots=True)
class Policy:
    """A versioned set of rules.

    The order of rules means nothing, so a set can be read rule by rule. A regime (what a nation's
    authority or an alliance demands) is a further `Policy` decided beside this one: the use goes
    ahead only if each of them allows it, because a regime can take away and never give.

    Attributes:
        name: What the policy is called.
        version: Counts up with every change.
        hash: SHA-256 (hex) of `source`; stands in every decision and event.
        source: The exact bytes of the file.
        rules: In the file's order.
    """

    name: str
    version: int
    hash: str
    source: bytes
    rules: tuple[Rule, ...]


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


def decide(policy: Policy, question: Question) -> Decision:
    """The policy's answer; total: whatever no rule speaks of is refused.

    A rule that forbids beats all others. Among those that allow, the most favourable one decides,
    so that a use can be given a second, later end by adding a rule and not by changing one.
    """
    rules = [rule for rule in policy.rules if rule.speaks_of(question)]
    if not rules:
        return Decision(Verdict.REFUSED, DEFAULT_RULE, _default_reason(question), policy.hash)
    rule = _deciding(rules, question)
    verdict = rule.verdict(question)
    return Decision(verdict, rule.id, _reason(rule, verdict, question), policy.hash)


_FAVOUR = (Verdict.ALLOWED, Verdict.DEPRECATED, Verdict.REFUSED)


def _deciding(rules: Sequence[Rule], question: Question) -> Rule:
    """Ties go to the smaller id, so that the order of rules means nothing."""
    return min(
        rules,
        key=lambda rule: (not rule.refuses, _FAVOUR.index(rule.verdict(question)), rule.id),
    )


def _reason(rule: Rule, verdict: Verdict, question: Question) -> str:
    if verdict is Verdict.REFUSED and rule.until and not rule.refuses:
        return f"{question.algorithm} may be used and relied on until {rule.until}: {rule.reason}"
    if verdict is Verdict.DEPRECATED:
        return f"{question.algorithm} is on its way out: {rule.reason}"
    return rule.reason


def _default_reason(question: Question) -> str:
    name = question.algorithm[:_SHOWN]
    try:
        algorithm(question.algorithm)
    except UnknownAlgorithmError:
        return f"no algorithm is called {name!r}"
    place = question.use if question.slot is None else f"{question.use} {question.slot[:_SHOWN]!r}"
    return f"no rule allows {name} with protection {question.protection} for {place}"


def _begin(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)


def _end(day: date) -> datetime:
    return datetime.combine(day, time.max, UTC)
