"""Several tokens, each behind processes of its own: `tokens.Tokens` as a pool.

A batch's calls are spread over the healthy processes of all tokens that hold the key, a few at a
time, so that whoever is quick makes more of them. A call whose process dies, hangs or errs is made
again elsewhere: calls change nothing on a token, and a signature that nobody got harms nobody.
"""

import select
import time
from collections.abc import Sequence
from dataclasses import dataclass

from hsm_drivers.errors import TokenUnavailableError, UnsupportedError
from hsm_drivers.pool import frames
from hsm_drivers.pool.health import Described, Expected, Health
from hsm_drivers.pool.link import Link
from hsm_drivers.pool.remote import RemoteDriver
from hsm_drivers.pool.round import Round
from hsm_drivers.ports import TokenStatus
from hsm_drivers.tokens import SLICE_SECONDS, Job, Performing

GRACE_S = 3.0
"""How long calls wait for a token that was well a moment ago, or whose processes just start."""
_LONGEST_SLEEP_S = 0.02


@dataclass(frozen=True, slots=True)
class Place:
    """A token of the configuration and the ends of its processes."""

    name: str
    label: str
    links: tuple[Link, ...]


class PoolOfTokens:
    """All tokens of an estate; one thread uses it."""

    def __init__(self, places: Sequence[Place], expected: Expected) -> None:
        """Connect to nothing yet.

        Args:
            places: The service's own token first.
            expected: Public keys that each token must hold; asked anew for every probe.
        """
        self._places = {place.name: place for place in places}
        self._all = [link for place in places for link in place.links]
        self.health = Health(self._all, expected)
        self._drivers = {
            place.name: RemoteDriver(self, place.name, place.label) for place in places
        }

    @property
    def names(self) -> tuple[str, ...]:
        """As `Tokens.names`."""
        return tuple(self._places)

    def driver(self, token: str) -> RemoteDriver:
        """As `Tokens.driver`; each call goes to one healthy process of the token."""
        try:
            return self._drivers[token]
        except KeyError:
            raise UnsupportedError(f"this service has no token called {token!r}") from None

    def perform(self, jobs: Sequence[Job]) -> Performing:
        """As `Tokens.perform`."""
        work = Round(jobs, self)
        pause = time.monotonic() + SLICE_SECONDS
        while not work.step():
            self.sleep(_LONGEST_SLEEP_S)
            if time.monotonic() >= pause:
                yield
                self.sleep(0)  # nobody was silent while this side was busy with something else
                pause = time.monotonic() + SLICE_SECONDS
        return work.outcomes()

    def tend(self) -> float:
        """As `Tokens.tend`."""
        self.sleep(0)
        return self.health.tend()

    def statuses(self) -> list[TokenStatus]:
        """As `Tokens.statuses`."""
        return [self._status(place) for place in self._places.values()]

    def links(self, token: str) -> tuple[Link, ...]:
        """All of a token's; none for a token that the configuration has no more."""
        place = self._places.get(token)
        return place.links if place is not None else ()

    def well(self, token: str) -> list[Link]:
        """Those that get calls."""
        return [link for link in self.links(token) if link.well]

    def described(self, token: str) -> Described:
        """What the token said of itself when it was last there.

        Raises:
            TokenUnavailableError: It never was, since this process began.
        """
        while token not in self.health.described:
            self._healthy(token)
            self.sleep(_LONGEST_SLEEP_S)
        return self.health.described[token]

    def may_come(self, token: str) -> bool:
        """Whether it is worth waiting for the token: it was well lately, or starts just now."""
        last = self.health.last_well.get(token)
        return last is not None and time.monotonic() - last < GRACE_S

    def away(self, tokens: Sequence[str]) -> TokenUnavailableError:
        """Why a call finds no place."""
        said = []
        for token in tokens:
            place = self._places.get(token)
            if place is None:
                said.append(f"no token is called {token!r} in the settings")
            else:
                said.append(f"token {place.label!r}: {_reason(place.links)}")
        return TokenUnavailableError("; ".join(said))

    def ask(self, token: str, request: frames.Request, patience: float) -> frames.Answer:
        """One request to one healthy process of the token.

        Raises:
            TokenUnavailableError: There is none, or it did not answer within `patience` seconds.
            HsmError: What the token said.
        """
        link = self._healthy(token)
        exchange = link.send(request)
        until = time.monotonic() + patience
        while not exchange.over:
            self.sleep(_LONGEST_SLEEP_S)
            if time.monotonic() > until:
                link.drop(f"it did not answer within {patience:.0f} s")
        if exchange.error is not None:
            raise exchange.error
        if isinstance(exchange.answer, frames.Failed):
            raise exchange.answer.fault.raised()
        assert exchange.answer is not None  # noqa: S101 - over, and no error
        return exchange.answer

    def sleep(self, seconds: float) -> None:
        """Until a process has something to say; what it said is taken in."""
        poller = select.poll()
        connected = {link.sock.fileno(): link for link in self._all if link.sock is not None}
        for number, link in connected.items():
            poller.register(number, select.POLLIN | (select.POLLOUT if link.writing else 0))
        for number, event in poller.poll(seconds * 1000):
            if event & select.POLLOUT:
                connected[number].flush()
            if event & ~select.POLLOUT:
                connected[number].receive()

    def close(self) -> None:
        """As `Tokens.close`."""
        for link in self._all:
            link.drop("this side closed it")

    def _healthy(self, token: str) -> Link:
        while True:
            self.tend()
            found = self.well(token)
            if found:
                return min(found, key=lambda link: len(link.waiting))
            if not self.may_come(token):
                raise self.away([token])
            self.sleep(_LONGEST_SLEEP_S)

    def _status(self, place: Place) -> TokenStatus:
        """Healthy once it has said what it can.

        Until then it would seem to lack everything, and keys be made that it only wraps.
        """
        found = self.well(place.name)
        said = self.health.described.get(place.name)
        detail = _detail(place.links, len(found))
        if found and said is None:
            detail = "it has not said yet which keys it can hold"
        return TokenStatus(
            name=place.name,
            label=place.label,
            healthy=bool(found) and said is not None,
            detail=detail,
            capabilities=said.capabilities if said is not None else frozenset(),
            algorithms=said.algorithms if said is not None else (),
            processes=len(found),
        )


def _detail(links: Sequence[Link], well: int) -> str:
    if well == len(links):
        return "the token answers"
    if well:
        return f"{well} of {len(links)} processes answer; of another: {_reason(links)}"
    return _reason(links)


def _reason(links: Sequence[Link]) -> str:
    """What is said of the first process that is not well: others of a token say the same."""
    for link in links:
        if link.late:
            return f"it has been silent for more than {link.call_seconds:g} s"
        if not link.well:
            return link.detail
    return "the token answers"
