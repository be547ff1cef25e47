"""Whose turn it is: calls are served, wait or are refused by class, before any work is done.

Work that nobody can do in time is not begun: a queue that only grows makes every answer late and
helps nobody. Each class of calls has places of its own, so that no flood of one class takes those
of another; within a class the principals take turns, and where it is full, whoever holds most of it
gives way. One principal, however busy, leaves a quarter of every class to the others.
"""

import asyncio
import itertools
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from kms.services.errors import OverloadedError, TooManyRequestsError
from kms.services.observing import Observer, Silent

Who = tuple[str, str]
"""Tenant and name of a principal."""

_LEFT_TO_OTHERS = 4
"""One principal leaves this part of a class's places to the others."""
_LONGEST_RETRY = 4
"""Seconds over which refused callers are told to spread their next attempts."""


class CallClass(StrEnum):
    """What calls have their places in common."""

    REVOCATION = "revocation"
    """Whatever ends trust: revocations, disabled principals, new CRLs."""
    ADMINISTRATION = "administration"
    ENROLMENT = "enrolment"
    BATCH = "batch"
    KEY_USE = "key-use"
    READING = "reading"


class Shed(StrEnum):
    """Why a call was refused."""

    SHARE = "share"
    """Its principal holds more of the class than any other, or as much as one may."""
    FULL = "full"
    """The class has no place, and nobody waits who could give way."""
    WAITED = "waited"
    """It was not its turn in time."""


@dataclass(frozen=True, slots=True)
class Room:
    """The places of a class.

    Attributes:
        at_once: Calls served at a time.
        waiting: Calls that may be there besides: their bodies on the way, or waiting for a turn.
        seconds: How long a call may wait for its turn.
        body: Largest body in bytes: what all places together may hold of memory.
    """

    at_once: int
    waiting: int
    seconds: float
    body: int

    @property
    def places(self) -> int:
        """All of them."""
        return self.at_once + self.waiting

    @property
    def share(self) -> int:
        """Places that one principal may hold."""
        return max(1, self.places - self.places // _LEFT_TO_OTHERS)


ROOMS: Mapping[CallClass, Room] = {
    CallClass.REVOCATION: Room(16, 496, 10.0, 16 << 10),
    CallClass.ADMINISTRATION: Room(4, 60, 10.0, 256 << 10),
    CallClass.ENROLMENT: Room(64, 192, 2.0, 256 << 10),
    CallClass.BATCH: Room(4, 12, 10.0, 64 << 20),
    CallClass.KEY_USE: Room(32, 96, 2.0, 2 << 20),
    CallClass.READING: Room(32, 96, 2.0, 16 << 10),
}
"""Defaults; `kms.settings` documents them."""


class Turns:
    """The turns of one class.

    Args:
        kind: Its name, for the metrics.
        room: Its places.
        observer: Told of who waited and who was refused.
    """

    def __init__(self, kind: CallClass, room: Room, observer: Observer) -> None:
        self._kind = kind
        self.room = room
        self._observer = observer
        self._places, self._share = room.places, room.share
        self._held: dict[Who, int] = {}
        self._queues: OrderedDict[Who, deque[asyncio.Future[None]]] = OrderedDict()
        self._pause = itertools.cycle(range(1, _LONGEST_RETRY + 1))
        self.present = 0
        """Calls that hold a place."""
        self.serving = 0
        """Calls that have their turn."""
        self.served = 0
        """Calls that have had theirs, those being served included."""

    @property
    def waiting(self) -> int:
        """Calls that hold a place and have not had their turn."""
        return self.present - self.serving

    def arrive(self, who: Who) -> None:
        """Take a place; `leave` gives it back.

        Raises:
            TooManyRequestsError: Whoever calls has its share already.
            OverloadedError: There is no place.
        """
        held = self._held.get(who, 0)
        if held >= self._share:
            raise self._refusal(Shed.SHARE)
        if self.present >= self._places:
            self._make_place(held)
        self._held[who] = held + 1
        self.present += 1

    def leave(self, who: Who, *, served: bool) -> None:
        """Give the place back, and the turn to the next where this call had one."""
        self.present -= 1
        held = self._held[who] - 1
        if held:
            self._held[who] = held
        else:
            del self._held[who]
        if served:
            self._pass_on()

    def try_begin(self) -> bool:
        """Take a turn, if nobody has to wait for one."""
        if self.serving >= self.room.at_once or self._queues:
            return False
        self.serving += 1
        self.served += 1
        return True

    async def wait(self, who: Who) -> None:
        """Wait for a turn.

        Raises:
            OverloadedError: It did not come in time.
            TooManyRequestsError: The place was given to a principal that holds fewer.
        """
        loop = asyncio.get_running_loop()
        started, turn = loop.time(), loop.create_future()
        self._queues.setdefault(who, deque()).append(turn)
        timer = loop.call_later(self.room.seconds, self._expire, turn)
        try:
            await turn
        except BaseException:
            self._give_up(who, turn)
            raise
        finally:
            timer.cancel()
            self._observer.waited(self._kind, loop.time() - started)

    def _make_place(self, held: int) -> None:
        """Refuse the last call of the principal that holds most, of those with calls waiting.

        What is refused leaves by itself in a moment; until then one more than all places are taken.
        """
        other = max(self._queues, key=self._held.__getitem__, default=None)
        if other is None or self._held[other] <= held + 1:
            most = max(self._held.values())
            raise self._refusal(Shed.SHARE if held + 1 >= most else Shed.FULL)
        queue = self._queues[other]
        last = queue.pop()
        if not queue:
            del self._queues[other]
        if not last.done():
            last.set_exception(self._refusal(Shed.SHARE))

    def _pass_on(self) -> None:
        """Give a turn that has become free to the principal whose last one is longest ago."""
        self.serving -= 1
        while self._queues and self.serving < self.room.at_once:
            who, queue = self._queues.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._queues[who] = queue  # at the end of the row
            if not turn.done():
                turn.set_result(None)
                self.serving += 1
                self.served += 1

    def _expire(self, turn: asyncio.Future[None]) -> None:
        if not turn.done():
            turn.set_exception(self._refusal(Shed.WAITED))

    def _give_up(self, who: Who, turn: asyncio.Future[None]) -> None:
        """It does not wait any more; a turn that came in that very moment goes to the next."""
        if not turn.cancelled() and turn.exception() is None:
            self._pass_on()
            return
        queue = self._queues.get(who)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._queues[who]

    def _refusal(self, why: Shed) -> OverloadedError:
        self._observer.shed(self._kind, why)
        pause = next(self._pause)
        if why is Shed.SHARE:
            return TooManyRequestsError(
                f"you have too many {self._kind} calls here at once; send fewer, later", after=pause
            )
        return OverloadedError(f"too many {self._kind} calls; try again later", after=pause)


@dataclass(slots=True)
class Place:
    """One call's place in its class, from its headers to its answer."""

    turns: Turns
    who: Who
    served: bool = field(default=False)

    @property
    def body(self) -> int:
        """Largest body of such a call in bytes."""
        return self.turns.room.body

    async def begin(self) -> None:
        """Take the call's turn, or wait for it.

        Raises:
            OverloadedError: As `Turns.wait`.
        """
        if not self.turns.try_begin():
            await self.turns.wait(self.who)
        self.served = True

    def leave(self) -> None:
        """Give up place and turn."""
        self.turns.leave(self.who, served=self.served)


class Admission:
    """Every class's turns."""

    def __init__(
        self, rooms: Mapping[CallClass, Room] = ROOMS, observer: Observer | None = None
    ) -> None:
        observer = observer or Silent()
        self.turns = {kind: Turns(kind, rooms[kind], observer) for kind in CallClass}

    def enter(self, kind: CallClass, who: Who) -> Place:
        """A place for a call, which is to be left in any case.

        Raises:
            OverloadedError: There is none, or none for this principal.
        """
        turns = self.turns[kind]
        turns.arrive(who)
        return Place(turns, who)
