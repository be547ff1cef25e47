"""Batches of service calls: every call a few steps, each step for the whole batch at once.

So a batch goes to the tokens in as many rounds as its longest call has steps, and a pool of tokens
works on all of a round together.
"""

import logging
import time
from collections import Counter
from collections.abc import Generator, Sequence

from hsm_drivers.errors import HsmError, TokenFailureError
from hsm_drivers.opened import open_wrapped
from hsm_drivers.operations import NEEDED, ServiceCall
from hsm_drivers.ports import KeyLabel, Operation
from hsm_drivers.service.nonces import Nonces
from hsm_drivers.service.steps import Asking, Steps
from hsm_drivers.service.store import Held, ServiceStore
from hsm_drivers.tokens import SLICE_SECONDS, Job, Tokens

_log = logging.getLogger(__name__)

Outcome = tuple[bytes, ...] | HsmError
Using = Generator[None, None, list[Outcome]]
"""A batch being worked on, slice by slice."""


class ServiceUse:
    """Makes calls with the keys of a store.

    Attributes:
        made: Calls by operation, since the process began.
        failed: Those of them that came to an error.
    """

    def __init__(self, tokens: Tokens, store: ServiceStore) -> None:
        self._tokens = tokens
        self._store = store
        self._nonces = Nonces()
        self.made: Counter[Operation] = Counter()
        self.failed: Counter[Operation] = Counter()

    def forget(self, key: KeyLabel) -> None:
        """The key is gone."""
        self._nonces.forget(key)

    def using(self, calls: Sequence[ServiceCall]) -> Using:
        """An answer or an error for each call, in order; with pauses, as `Tokens.perform`."""
        entries = [self._store.get(key) for key in {call.key for call in calls}]
        records = [entry.record for entry in entries if isinstance(entry, Held)]
        keys = yield from open_wrapped(self._tokens, records)
        batch = _Batch(Steps(self._store, self._nonces, keys), calls)
        yield from batch.begin()
        while batch.running:
            answers = yield from self._tokens.perform(batch.jobs())
            yield from batch.advance(answers)
        self._count(calls, batch.outcomes)
        return batch.outcomes

    def _count(self, calls: Sequence[ServiceCall], outcomes: Sequence[Outcome]) -> None:
        for call, outcome in zip(calls, outcomes, strict=True):
            operation = NEEDED[type(call)]
            self.made[operation] += 1
            if isinstance(outcome, HsmError):
                self.failed[operation] += 1


_Waiting = tuple[int, Asking, tuple[Job, ...]]
"""Place of a call in the batch, its steps, and what they wait for."""


class _Batch:
    """Calls, and how far each of them is."""

    def __init__(self, steps: Steps, calls: Sequence[ServiceCall]) -> None:
        self.outcomes: list[Outcome] = [()] * len(calls)
        self.running: list[_Waiting] = []
        self._steps = steps
        self._calls = calls

    def begin(self) -> Generator[None, None, None]:
        """The first step of every call; what needs no token is done with it."""
        pause = time.monotonic() + SLICE_SECONDS
        for place, call in enumerate(self._calls):
            try:
                steps = self._steps.of(call)
            except HsmError as error:
                self.outcomes[place] = error
                continue
            self._step(place, steps, None)
            if time.monotonic() >= pause:
                yield
                pause = time.monotonic() + SLICE_SECONDS

    def jobs(self) -> list[Job]:
        """What is asked of tokens now."""
        return [job for _, _, jobs in self.running for job in jobs]

    def advance(self, answers: Sequence[bytes | HsmError]) -> Generator[None, None, None]:
        """Hand the answers out and take the next steps."""
        waiting, self.running = self.running, []
        begin, pause = 0, time.monotonic() + SLICE_SECONDS
        for place, steps, jobs in waiting:
            end = begin + len(jobs)
            self._step(place, steps, answers[begin:end])
            begin = end
            if time.monotonic() >= pause:
                yield
                pause = time.monotonic() + SLICE_SECONDS

    def _step(self, place: int, steps: Asking, answers: Sequence[bytes | HsmError] | None) -> None:
        """Errors are values: one bad call never sinks the batch."""
        try:
            jobs = next(steps) if answers is None else _told(steps, answers)
        except StopIteration as done:
            self.outcomes[place] = done.value
        except HsmError as error:
            self.outcomes[place] = error
        except Exception as error:  # noqa: BLE001 - see below
            # What chokes on foreign bytes must not stop the signer for everyone else; its words may
            # hold what it choked on, so only its kind is told.
            _log.error("a service call failed with %s", type(error).__name__)
            self.outcomes[place] = TokenFailureError("the call failed; see the signer's log")
        else:
            self.running.append((place, steps, jobs))


def _told(steps: Asking, answers: Sequence[bytes | HsmError]) -> tuple[Job, ...]:
    made = []
    for answer in answers:
        if isinstance(answer, HsmError):
            return steps.throw(answer)
        made.append(answer)
    return steps.send(tuple(made))
