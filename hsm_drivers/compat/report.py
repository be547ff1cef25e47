"""What the self-test found, as values; `markdown` writes them for people."""

from dataclasses import dataclass, field
from enum import StrEnum

from hsm_drivers.ports import KeyAttributes
from hsm_drivers.surveys import Survey, TokenFacts
from policies.algorithms import Kind


class Outcome(StrEnum):
    """How a step went."""

    GOOD = "good"
    LACKING = "lacking"
    """The token does not offer it; nothing is wrong."""
    BAD = "bad"
    """It offers it and gets it wrong, or fails."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried.

    Attributes:
        what: The operation, for people.
        detail: What came; for a refusal that was wanted, how the token told it.
        code: Return code in what the token said last, if there was one.
    """

    what: str
    outcome: Outcome
    detail: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class AlgorithmResult:
    """How keys of one algorithm do on the token.

    Attributes:
        algorithm: Registry name.
        post_quantum: Whether it resists a quantum attacker (and is no secret-key algorithm).
        attributes: Of the test key as read back; None where none was made.
        make_ms: Milliseconds to make and store one key.
        rate: Operations a second, one at a time, in one process; None where none succeeded.
    """

    algorithm: str
    kind: Kind
    post_quantum: bool
    steps: tuple[Step, ...]
    attributes: KeyAttributes | None = None
    make_ms: float | None = None
    rate: float | None = None

    @property
    def good(self) -> bool:
        """Whether the service can use such keys here."""
        return bool(self.steps) and all(step.outcome is Outcome.GOOD for step in self.steps)

    @property
    def offered(self) -> bool:
        """Whether the token claims to do it."""
        return all(step.outcome is not Outcome.LACKING for step in self.steps)

    @property
    def why_not(self) -> str:
        """The first step that did not go well."""
        return next((step.detail for step in self.steps if step.outcome is not Outcome.GOOD), "")


@dataclass(frozen=True, slots=True)
class Concurrency:
    """Several processes on the token at once, each with its own session and login.

    Attributes:
        processes: How many were tried; 1 where the profile allows no more.
        alone: Operations a second of one.
        together: Of all.
        errors: What went wrong, each sentence once.
        detail: What was done, or why it was not.
    """

    processes: int
    alone: float | None
    together: float | None
    errors: tuple[str, ...]
    detail: str


@dataclass(frozen=True, slots=True)
class Role:
    """What the service could use the token for.

    Attributes:
        name: The role, for people.
        fits: Whether the token can take it.
        algorithms: With which; empty where that is not the question.
        why: What it rests on, or what is missing.
    """

    name: str
    fits: bool
    algorithms: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class ProfileUsed:
    """The vendor profile that the driver spoke by."""

    name: str
    title: str
    tested: bool


@dataclass(frozen=True, slots=True)
class Report:
    """The whole self-test of one token.

    Attributes:
        made: RFC 3339 UTC, when it began.
        conditions: Machine and path, so that rates can be compared.
        survey: Module as it describes itself; None where it was not asked (the twin).
        token: The token as it describes itself.
        general: Steps that belong to no algorithm.
        refusals: What the token was asked wrongly, and how it said no.
        deviations: From the standard or from its profile, a sentence each.
        roles: What it can be used for.
        leftovers: Test keys of runs that were killed, found at the beginning.
    """

    made: str
    conditions: str
    token_label: str
    profile: ProfileUsed
    survey: Survey | None
    token: TokenFacts | None
    algorithms: tuple[AlgorithmResult, ...]
    general: tuple[Step, ...]
    refusals: tuple[Step, ...]
    concurrency: Concurrency
    deviations: tuple[str, ...] = field(default=())
    roles: tuple[Role, ...] = field(default=())
    leftovers: tuple[str, ...] = field(default=())

    @property
    def sound(self) -> bool:
        """Whether nothing that the token offers went wrong."""
        every = [*self.general, *self.refusals]
        every += [step for result in self.algorithms for step in result.steps]
        return not self.concurrency.errors and all(
            step.outcome is not Outcome.BAD for step in every
        )
