"""Which token processes get calls: connected, proven, quarantined, taken back. All by itself.

A process is proven by random bytes of its token and by the public halves of the recorded keys, read
from the token at that moment: one that holds another key under a known label never gets a call.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from hsm_drivers.errors import KeyNotFoundError, TokenUnavailableError
from hsm_drivers.pool import frames
from hsm_drivers.pool.link import Exchange, Link, LinkState, next_number
from hsm_drivers.ports import Capability, KeyLabel
from policies.algorithms import algorithms

Expected = Callable[[str], Mapping[KeyLabel, bytes]]
"""How the public keys (SPKI) end that a token must hold, by its name; empty for secret keys."""

ROUTINE_S = 5.0
"""Distance between proofs of a process that is well."""
ROUTINE_KEYS = 256
"""Keys in each of them; the next goes on with the next ones."""
START_S = 60.0
"""How long a new process may take to its first answer: some HSMs log in slowly."""
HARD_S = 10.0
"""How long a process may be silent with work, at least, before its connection is given up."""
_RECONNECT_S = 0.02
_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 10.0
TEND_S = 0.25
"""How often somebody should look while all is well."""
_SOON_S = 0.02

_log = logging.getLogger(__name__)


def hard_limit(link: Link) -> float:
    """Seconds that the process may be silent with work before its connection is given up."""
    return max(HARD_S, 4 * link.call_seconds)


@dataclass(frozen=True, slots=True)
class Described:
    """What a token said of itself."""

    capabilities: frozenset[Capability]
    algorithms: tuple[str, ...]
    lacking: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Probe:
    exchange: Exchange
    keys: Sequence[tuple[KeyLabel, bytes]]
    until: float


class Health:
    """Looks after links; `tend` is called again and again and never waits."""

    def __init__(self, links: Iterable[Link], expected: Expected) -> None:
        self._links = list(links)
        self._expected = expected
        self._probes: dict[Link, _Probe] = {}
        self._turn: dict[Link, int] = {}
        self._questions: dict[Link, Exchange] = {}
        self._names = [row.name for row in algorithms()]
        began = time.monotonic()
        self.described: dict[str, Described] = {}
        """By token; what was said once holds while it is away."""
        self.last_well: dict[str, float] = {link.token: began for link in self._links}
        """By token: `monotonic()` of when it last had a healthy process; at first the start."""

    def tend(self) -> float:
        """Do what is due after what was received; answers in how many seconds to look again."""
        now = time.monotonic()
        for link in self._links:
            self._tend(link, now)
            if link.state is LinkState.HEALTHY:
                self.last_well[link.token] = now
        busy = any(link.state is not LinkState.HEALTHY for link in self._links)
        return _SOON_S if busy else TEND_S

    def quarantine(self, link: Link, reason: str) -> None:
        """Give it no calls until a probe went well; of several reasons the first counts."""
        if link.state is LinkState.HEALTHY:
            self._keep_out(link, reason)

    def _keep_out(self, link: Link, reason: str) -> None:
        if link.state is LinkState.HEALTHY:
            _log.warning("token process %s is quarantined: %s", link.path.stem, reason)
        self._probes.pop(link, None)
        link.state, link.detail = LinkState.QUARANTINED, reason
        self._wait(link)

    def _tend(self, link: Link, now: float) -> None:
        if link.sock is None:
            self._revive(link, now)
        elif link in self._probes:
            self._look(link, now)
        elif link.waiting and now - link.heard > hard_limit(link):
            link.drop(f"it was silent for {now - link.heard:.0f} s")
        elif link.state is LinkState.QUARANTINED and now >= link.due:
            self._probe(link, now, whole=True)
        elif link.state is LinkState.HEALTHY:
            if now >= link.due and not link.waiting:
                self._probe(link, now, whole=False)
            self._hear_description(link)

    def _revive(self, link: Link, now: float) -> None:
        """Connect anew, soon: how often processes start is the supervisor's to bound."""
        if link.state is not LinkState.AWAY:
            if link.state is LinkState.HEALTHY:
                _log.warning("token process %s is lost: %s", link.path.stem, link.detail)
            self._probes.pop(link, None)
            self._questions.pop(link, None)
            link.state, link.due = LinkState.AWAY, now + _RECONNECT_S
        if now < link.due:
            return
        link.due = now + TEND_S
        try:
            link.connect()
        except TokenUnavailableError as error:
            link.detail = str(error)
        except OSError:
            link.detail = "no process serves it"
        else:
            link.state = LinkState.PROBED
            self._probe(link, now, whole=True)

    def _wait(self, link: Link) -> None:
        """Longer each time, until it has been well for a while."""
        pause = min(_FIRST_WAIT_S * 2**link.failures, _LONGEST_WAIT_S)
        link.failures = min(link.failures + 1, 16)
        link.due = time.monotonic() + pause

    def _probe(self, link: Link, now: float, *, whole: bool) -> None:
        keys = sorted(self._expected(link.token).items())
        if not whole and len(keys) > ROUTINE_KEYS:
            start = self._turn.get(link, 0) % len(keys)
            self._turn[link] = start + ROUTINE_KEYS
            keys = keys[start : start + ROUTINE_KEYS]
        request = frames.Prove(next_number(), [label for label, _ in keys])
        patience = hard_limit(link) if link.state is LinkState.HEALTHY else START_S
        self._probes[link] = _Probe(link.send(request), keys, now + patience)

    def _look(self, link: Link, now: float) -> None:
        probe = self._probes[link]
        answer = probe.exchange.answer
        if answer is None:
            if now > probe.until:
                link.drop("it did not prove itself in time")
            return
        del self._probes[link]
        wrong = self._wrong(link, probe.keys, answer)
        if wrong:
            self._keep_out(link, wrong)
        else:
            self._take_in(link, now)

    def _take_in(self, link: Link, now: float) -> None:
        if link.state is LinkState.HEALTHY:
            link.failures = 0  # it was well for as long as from one routine probe to the next
        else:
            _log.info("token process %s is well", link.path.stem)
        link.state, link.detail = LinkState.HEALTHY, ""
        link.due = now + ROUTINE_S
        if link.token not in self.described and link not in self._questions:
            self._questions[link] = link.send(frames.Describe(next_number(), self._names))

    def _wrong(
        self, link: Link, keys: Sequence[tuple[KeyLabel, bytes]], answer: frames.Answer
    ) -> str:
        """What is wrong with a proof, as a sentence; empty for nothing."""
        if isinstance(answer, frames.Failed):
            return answer.fault.message
        if not isinstance(answer, frames.Proved) or len(answer.public_keys) != len(keys):
            return "it answered another question"
        current = self._expected(link.token)
        for (label, spki), found in zip(keys, answer.public_keys, strict=True):
            if label not in current or (isinstance(found, bytes) and found.endswith(spki)):
                continue  # destroyed since it was asked for, or as it should be
            if isinstance(found, bytes):
                return (
                    f"its key {label!r} is not the recorded one; it stays out until the right"
                    " token is connected"
                )
            if found.code == KeyNotFoundError.code:
                return f"it lacks key {label!r}, which the records say it holds"
            return found.message
        return ""

    def _hear_description(self, link: Link) -> None:
        question = self._questions.get(link)
        if question is None or not question.over:
            return
        del self._questions[link]
        if isinstance(question.answer, frames.Described):
            said = question.answer
            lacking = {
                name: tuple(lacks) for name, lacks in zip(self._names, said.lacking, strict=False)
            }
            self.described[link.token] = Described(
                frozenset(said.capabilities), tuple(said.algorithms), lacking
            )
