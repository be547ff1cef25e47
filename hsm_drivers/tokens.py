"""The signer's tokens: which there are, and calls spread over those that hold the key.

`SingleToken` is the service with one token, opened in the signer itself.
"""

import math
import time
from collections.abc import Generator, Sequence
from typing import NamedTuple, Protocol

from hsm_drivers.calls import SignCall, TokenCall, perform
from hsm_drivers.errors import (
    HsmError,
    TokenFailureError,
    TokenUnavailableError,
    UnsupportedError,
)
from hsm_drivers.ports import Driver, KeyLabel, TokenStatus

SLICE_SECONDS = 0.1
"""How long calls are made before something else may happen."""

Performing = Generator[None, None, list[bytes | HsmError]]
"""Calls being made, slice by slice; its value is the outcome of each, in order."""


class Job(NamedTuple):
    """A call, and the names of the tokens that can make it: any of them will do."""

    places: tuple[str, ...]
    call: TokenCall


class Tokens(Protocol):
    """The tokens by their names in the configuration; the service's own is called ""."""

    @property
    def names(self) -> tuple[str, ...]:
        """All names, the service's own first."""
        ...

    def driver(self, token: str) -> Driver:
        """One token, for what concerns it alone: making, reading and destroying keys.

        Raises:
            UnsupportedError: The configuration has no such token.
        """
        ...

    def perform(self, jobs: Sequence[Job]) -> Performing:
        """Make the calls; a failed one never sinks the others."""
        ...

    def statuses(self) -> list[TokenStatus]:
        """How each of them is, in the order of `names`; in process by a round trip."""
        ...

    def tend(self) -> float:
        """Look after them without waiting; answers in how many seconds to do so again."""
        ...

    def close(self) -> None:
        """Let all tokens go."""
        ...


def drained(work: Performing) -> list[bytes | HsmError]:
    """The calls' outcomes, for those who have nothing else to do meanwhile."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            outcomes: list[bytes | HsmError] = done.value
            return outcomes


class SingleToken:
    """One driver in this process, one call after the other."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    @property
    def names(self) -> tuple[str, ...]:
        """As `Tokens.names`."""
        return ("",)

    def driver(self, token: str) -> Driver:
        """As `Tokens.driver`."""
        if token:
            raise UnsupportedError(f"this service has no token called {token!r}")
        return self._driver

    def perform(self, jobs: Sequence[Job]) -> Performing:
        """As `Tokens.perform`; what token or key fail at is not tried again for the rest."""
        gone: TokenUnavailableError | None = None
        broken: dict[KeyLabel, TokenFailureError] = {}
        outcomes: list[bytes | HsmError] = []
        pause = time.monotonic() + SLICE_SECONDS
        for job in jobs:
            failed = gone or broken.get(job.call.label)
            if failed is not None:
                outcomes.append(failed)
                continue
            if time.monotonic() >= pause:
                yield
                pause = time.monotonic() + SLICE_SECONDS
            try:
                outcomes.append(perform(self.driver(job.places[0]), job.call))
            except TokenUnavailableError as error:
                gone = error
                outcomes.append(error)
            except TokenFailureError as error:
                if isinstance(job.call, SignCall):  # else the caller's bytes may be at fault
                    broken[job.call.label] = error
                outcomes.append(error)
            except HsmError as error:
                outcomes.append(error)
        return outcomes

    def statuses(self) -> list[TokenStatus]:
        """As `Tokens.statuses`."""
        driver = self._driver
        try:
            driver.random(16)
            said, made = driver.capabilities, driver.algorithms
        except HsmError as error:
            return [TokenStatus("", driver.name, False, str(error), frozenset(), ())]
        return [TokenStatus("", driver.name, True, "the token answers", said, made)]

    def tend(self) -> float:
        """As `Tokens.tend`: a token without processes needs nothing."""
        return math.inf

    def close(self) -> None:
        """As `Tokens.close`."""
        self._driver.close()
