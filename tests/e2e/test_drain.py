"""SIGTERM under load: what was begun is finished, nothing acknowledged is lost, nobody gets in.

After an end in order the books are at rest already: nothing is left for a restart to mend.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.acknowledged import Call
from tests.support.books import Books, books_of
from tests.support.crowd import PAUSE, Crowd
from tests.support.running import Home, running, wait_for
from tests.support.stranger import Verifier

pytestmark = pytest.mark.timeout(300)

ROUNDS = 6
"""Enrolments before the end is asked for; all other kinds of work go on meanwhile."""


class Knocking:
    """Somebody who goes on opening connections, and keeps them, until nobody opens any more."""

    def __init__(self, home: Home) -> None:
        self._port = home.port("api")
        self._thread = threading.Thread(target=self._run)
        self._stopped = threading.Event()
        self.refused = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with contextlib.ExitStack() as kept:
            while not self._stopped.wait(PAUSE):
                try:
                    opened = socket.create_connection(("127.0.0.1", self._port), timeout=5)
                except OSError:
                    self.refused = True
                    return
                kept.enter_context(opened)


def check(books: Books, vkey: str, calls: Sequence[Call], seen: Mapping[int, bytes]) -> None:
    """Everything acknowledged is there, all is signed, and every signature has its event."""
    books.check()
    books.check_head_is_signed()
    books.check_seen(seen)
    assert books.orphans == 0
    verifier = Verifier.parse(vkey)
    for call in calls:
        call.check(books, verifier)


def test_an_end_in_order_leaves_nothing_to_mend(new_home: Callable[..., Home], tmp_path: Path):
    home = new_home()
    vkey = (home.root / "log.vkey").read_text()
    with running(home) as service:
        crowd = Crowd(service)
        crowd.start()
        try:
            wait_for(lambda: crowd.rounds["enrol"] >= ROUNDS, 120, "too few enrolments")
            knocking = Knocking(home)
            knocking.start()
            assert service.stop() == 0
            knocking.stop()
            assert knocking.refused
            calls, seen = list(crowd.acknowledged.calls), dict(crowd.seen)
            with books_of(home, tmp_path / "first") as books:
                service.start()  # the clients wait; the books are copies
                check(books, vkey, calls, seen)
                events = len(books.events)
        finally:
            crowd.stop()
        crowd.repeat_rest()
        assert service.stop() == 0
        with books_of(home, tmp_path / "last") as books:
            check(books, vkey, crowd.acknowledged.calls, crowd.seen)
            assert len(books.events) > events > 0
