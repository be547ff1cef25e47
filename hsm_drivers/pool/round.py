"""One batch of calls in a pool, from the first frame to the last outcome."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from hsm_drivers.calls import DecapsulateCall, DecryptCall, TokenCall, UnwrapCall
from hsm_drivers.errors import (
    HsmError,
    KeyNotFoundError,
    TokenFailureError,
    TokenUnavailableError,
    UnsupportedError,
)
from hsm_drivers.framing import MAX_FRAME, FrameError
from hsm_drivers.pool import frames
from hsm_drivers.pool.health import Health
from hsm_drivers.pool.link import Exchange, Link, next_number
from hsm_drivers.tokens import Job
from hsm_drivers.vendor import Remedy

MOST_DEATHS = 3
"""Processes that may die with a call before nobody tries it any more."""
_WINDOW = 2
"""Frames that a process has at once: one at work, one on its way."""
_FRAME_S = 0.1
"""How long a frame's calls should take, at most."""
_WORTHWHILE_S = 0.001
"""How long they should take at least: a frame costs, too."""
_FRAME_BYTES = 1 << 20
_FOREIGN = (DecapsulateCall, DecryptCall, UnwrapCall)
"""Calls with bytes of others: that the token refuses them says nothing of the token."""
_PASSING = frozenset({Remedy.LOG_IN, Remedy.REOPEN, Remedy.QUARANTINE})
"""The driver did what the remedy says, and it did not help: the process is quarantined."""


class Estate(Protocol):
    """What a round needs of the pool."""

    health: Health

    def links(self, token: str) -> tuple[Link, ...]:
        """All of a token's."""
        ...

    def well(self, token: str) -> list[Link]:
        """Those that get calls."""
        ...

    def may_come(self, token: str) -> bool:
        """Whether it is worth waiting for the token."""
        ...

    def away(self, tokens: Sequence[str]) -> TokenUnavailableError:
        """Why a call finds no place."""
        ...


@dataclass(slots=True, eq=False)
class _Flight:
    """Calls on their way to one process."""

    link: Link
    exchange: Exchange
    numbers: list[int]
    """Of jobs."""


class Round:
    """The batch; `step` never waits."""

    def __init__(self, jobs: Sequence[Job], estate: Estate) -> None:
        self._jobs = jobs
        self._estate = estate
        self._outcomes: list[bytes | HsmError | None] = [None] * len(jobs)
        self._left = len(jobs)
        self._queues: dict[tuple[str, ...], deque[int]] = {}
        for number, job in enumerate(jobs):
            self._queues.setdefault(job.places, deque()).append(number)
        self._again: deque[int] = deque()
        """Jobs that failed somewhere; they go alone, so that one bad call harms no others."""
        self._deaths: dict[int, int] = {}
        self._tried: dict[int, set[Link]] = {}
        self._flights: list[_Flight] = []

    def outcomes(self) -> list[bytes | HsmError]:
        """Of all jobs, once `step` said that it is over."""
        return [outcome for outcome in self._outcomes if outcome is not None]

    def step(self) -> bool:
        """Take in what came, send what can be sent; true once all is over."""
        self._land()
        if self._left:
            self._estate.health.tend()
            self._launch_again()
            for places, queue in self._queues.items():
                if queue:
                    self._launch(places, queue)
            self._give_up()
        return not self._left

    def _settle(self, number: int, outcome: bytes | HsmError) -> None:
        if self._outcomes[number] is None:
            self._outcomes[number] = outcome
            self._left -= 1

    def _land(self) -> None:
        flying = []
        for flight in self._flights:
            if not flight.exchange.over:
                if flight.link.late and self._elsewhere(flight):
                    self._again.extend(flight.numbers)
                else:
                    flying.append(flight)
            elif flight.exchange.error is not None:
                self._died(flight, flight.exchange.error)
            else:
                self._arrived(flight)
        self._flights = flying

    def _elsewhere(self, flight: _Flight) -> bool:
        places = self._jobs[flight.numbers[0]].places
        return any(self._estate.well(place) for place in places)

    def _died(self, flight: _Flight, error: TokenUnavailableError) -> None:
        for number in flight.numbers:
            self._deaths[number] = self._deaths.get(number, 0) + 1
            if self._deaths[number] >= MOST_DEATHS:
                self._settle(number, error)
            else:
                self._again.append(number)

    def _arrived(self, flight: _Flight) -> None:
        answer = flight.exchange.answer
        if not isinstance(answer, frames.Made) or len(answer.outcomes) != len(flight.numbers):
            flight.link.drop("it answered another question")
            self._died(flight, TokenUnavailableError("a token process answered another question"))
            return
        for number, outcome in zip(flight.numbers, answer.outcomes, strict=True):
            if isinstance(outcome, bytes):
                self._settle(number, outcome)
            else:
                self._failed(number, flight.link, outcome)

    def _failed(self, number: int, link: Link, fault: frames.Fault) -> None:
        """Final, or made again by another process; the process is judged by the remedy."""
        error = fault.raised()
        if _final(self._jobs[number].call, error, fault.remedy):
            self._settle(number, error)
            return
        if fault.remedy in _PASSING:
            self._estate.health.quarantine(link, fault.message)
        tried = self._tried.setdefault(number, set())
        tried.add(link)
        places = self._jobs[number].places
        others = {other for place in places for other in self._estate.links(place)} - tried
        if others:
            self._again.append(number)
        else:
            self._settle(number, error)

    def _launch_again(self) -> None:
        """Jobs that failed, alone and to processes without other work."""
        for _ in range(len(self._again)):
            number = self._again.popleft()
            if self._outcomes[number] is not None:
                continue
            tried = self._tried.get(number, set())
            places = self._jobs[number].places
            well = [link for place in places for link in self._estate.well(place)]
            link = next((link for link in well if not link.waiting and link not in tried), None)
            if link is None:
                self._again.append(number)
            else:
                self._send(link, [number])

    def _launch(self, places: tuple[str, ...], queue: deque[int]) -> None:
        """The queue's calls to whoever has room, one frame each before anyone gets a second."""
        well = [link for place in places for link in self._estate.well(place)]
        for depth in range(_WINDOW):
            for link in well:
                if not queue:
                    return
                if len(link.waiting) == depth:
                    self._send(link, self._chunk(queue, link, len(well)))

    def _chunk(self, queue: deque[int], link: Link, links: int) -> list[int]:
        """A fair part of what is left, neither too long nor too short for the process."""
        each = max(link.seconds_per_call, 1e-6)
        fair = -(-len(queue) // (_WINDOW * links))
        wanted = min(max(fair, int(_WORTHWHILE_S / each)), int(_FRAME_S / each), frames.MAX_CALLS)
        numbers = [queue.popleft()]
        size = _size(self._jobs[numbers[0]].call)
        while queue and len(numbers) < wanted and size < _FRAME_BYTES:
            numbers.append(queue.popleft())
            size += _size(self._jobs[numbers[-1]].call)
        return numbers

    def _send(self, link: Link, numbers: list[int]) -> None:
        request = frames.Make(next_number(), [self._jobs[number].call for number in numbers])
        try:
            exchange = link.send(request)
        except FrameError:
            if len(numbers) > 1:
                self._again.extend(numbers)
            else:
                size = f"at most {MAX_FRAME} bytes go to a token process at once"
                self._settle(numbers[0], UnsupportedError(f"the call is too large: {size}"))
            return
        self._flights.append(_Flight(link, exchange, numbers))

    def _give_up(self) -> None:
        """What no place takes, now or soon, is told so."""
        busy = {self._jobs[flight.numbers[0]].places for flight in self._flights}
        waiting = {self._jobs[number].places for number in self._again}
        waiting |= {places for places, queue in self._queues.items() if queue}
        for places in waiting - busy:
            hope = any(self._estate.well(place) or self._estate.may_come(place) for place in places)
            if not hope:
                self._abandon(places)

    def _abandon(self, places: tuple[str, ...]) -> None:
        error = self._estate.away(places)
        queue = self._queues[places]
        for number in [*queue, *self._again]:
            if self._jobs[number].places == places:
                self._settle(number, error)
        queue.clear()
        self._again = deque(number for number in self._again if self._outcomes[number] is None)


def _final(call: TokenCall, error: HsmError, remedy: Remedy) -> bool:
    """Whether another process or replica could not do better."""
    if isinstance(error, KeyNotFoundError):
        return False  # a replica that lacks the key; the next probe finds it out
    if isinstance(call, _FOREIGN) and isinstance(error, TokenFailureError):
        return True
    return remedy is Remedy.NONE


def _size(call: TokenCall) -> int:
    return sum(len(value) for value in msgspec.structs.astuple(call) if isinstance(value, bytes))
