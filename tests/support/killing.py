"""kill -9 of worker, signer and supervisor at random instants of a busy service, and its books.

The seed decides whom each kill hits, and how long after the last one or after the service was ready
again. Books are checked as the death of a supervisor left them, when nothing of the service runs,
and at the end with the service at rest.
"""

import math
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.acknowledged import PATIENCE
from tests.support.books import Books, books_of, sweep_later
from tests.support.crowd import Crowd
from tests.support.running import Service, wait_for
from tests.support.stranger import Verifier

WHOM = (*["worker"] * 5, *["signer"] * 5, *["supervisor"] * 2)
READY_FIRST = 0.5
"""So many of the kills wait until the service is ready again; the others meet it starting."""
BUSY_SECONDS = 0.4
STARTING_SECONDS = 0.8


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to a service.

    Attributes:
        seed: Of whom and when.
        kills: How many.
        check_every: Kills between two looks into the books, at least.
        seconds: No further kill after so long.
    """

    seed: int
    kills: int
    check_every: int
    seconds: float = math.inf


@dataclass
class Outcome:
    """What happened."""

    killed: Counter[str] = field(default_factory=Counter)
    checks: int = 0
    answered: int = 0
    events: int = 0
    certificates: int = 0
    orphans: int = 0
    rounds: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def __str__(self) -> str:
        killed = ", ".join(f"{name} {count}" for name, count in sorted(self.killed.items()))
        rounds = ", ".join(f"{name} {count}" for name, count in sorted(self.rounds.items()))
        total = sum(self.killed.values())
        return (
            f"{total} kills ({killed}) in {self.seconds:.0f} s, books checked {self.checks} times\n"
            f"{self.answered} calls answered and found in the books; rounds: {rounds}\n"
            f"{self.events} events, {self.certificates} certificates, {self.orphans} orphans found"
        )


class Killer:
    """Carries out a plan against a running service.

    Args:
        service: Runs, and runs again at the end.
        plan: What to do.
        folder: For copies of the books.
        progress: Told a line now and then.
    """

    def __init__(
        self,
        service: Service,
        plan: Plan,
        folder: Path,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.outcome = Outcome()
        self._service = service
        self._plan = plan
        self._folder = folder
        self._progress = progress
        self._choice = random.Random(plan.seed)  # noqa: S311 - no secret
        self._crowd = Crowd(service)
        self._checked_at = 0
        self._vkey = (service.home.root / "log.vkey").read_text()

    def run(self) -> Outcome:
        """Kill, check, come to rest, check all of it.

        Raises:
            AssertionError: A promise was broken.
        """
        began = time.monotonic()
        self._crowd.start()
        try:
            while self._kills < self._plan.kills and time.monotonic() - began < self._plan.seconds:
                self._crowd.check()
                self._kill()
        except BaseException:
            self._crowd.leave()
            raise
        self._crowd.stop()
        self._end()
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    @property
    def _kills(self) -> int:
        return sum(self.outcome.killed.values())

    def _kill(self) -> None:
        name = self._choice.choice(WHOM)
        if self._choice.random() < READY_FIRST:
            wait = self._choice.uniform(0.0, BUSY_SECONDS)
            self._service.wait_ready(PATIENCE)
        else:
            wait = self._choice.uniform(0.0, STARTING_SECONDS)
        time.sleep(wait)
        if name == "supervisor":
            self._service.crash()
        else:
            wait_for(lambda: self._service.kill(name), PATIENCE, f"no {name} to kill")
        self.outcome.killed[name] += 1
        self._crowd.kills = self._kills
        if name == "supervisor":
            if self._kills - self._checked_at >= self._plan.check_every:
                self._check_after_crash()
            self._service.start(ready=False)

    def _check_after_crash(self) -> None:
        """Nothing runs: the files are what the crash left."""
        self._checked_at = self._kills
        calls = self._crowd.acknowledged.take()
        verifier = Verifier.parse(self._vkey)
        with books_of(self._service.home, self._folder / f"books-{self._kills}") as books:
            books.check_after_crash()
            for call in calls:
                call.check(books, verifier)
            books.check_seen(self._crowd.seen)
            self._note(len(calls), books)

    def _end(self) -> None:
        """Everyone was answered: repeat what was not yet, stop in order, look for orphans."""
        self._service.wait_ready(PATIENCE)
        self._crowd.repeat_rest()
        assert self._service.stop() == 0
        sweep_later(self._service.home)
        acknowledged = self._crowd.acknowledged
        with books_of(self._service.home, self._folder / "books") as books:
            books.check()
            books.check_head_is_signed()
            books.check_seen(self._crowd.seen)
            acknowledged.check(books, self._vkey)
            self._note(len(acknowledged.calls), books)
            self.outcome.orphans = books.orphans
        self.outcome.rounds = self._crowd.rounds

    def _note(self, answered: int, books: Books) -> None:
        outcome = self.outcome
        outcome.checks += 1
        outcome.answered += answered
        outcome.events, outcome.certificates = len(books.events), len(books.serials)
        self._progress(
            f"{self._kills} kills, {outcome.answered} answers and {outcome.events} events in order"
        )
