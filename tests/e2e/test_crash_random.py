"""kill -9 of worker, signer and supervisor at random instants, under clients that never stop."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.crashing import QUICK_COMMAND
from tests.support.killing import Killer, Plan
from tests.support.running import Home, running

pytestmark = pytest.mark.timeout(600)

PLAN = Plan(seed=1, kills=20, check_every=6)
"""`make soak` has 1,000 kills (scripts/soak.py)."""


def test_killed_at_random(new_home: Callable[..., Home], tmp_path: Path):
    with running(new_home(), QUICK_COMMAND) as service:
        outcome = Killer(service, PLAN, tmp_path).run()
    assert outcome.killed.total() == PLAN.kills
    assert set(outcome.killed) == {"worker", "signer", "supervisor"}
    assert outcome.checks > 1, "books were checked where a crash had left them, too"
    kinds = {"enrol", "batch", "renew", "revoke", "crl", "certify", "read", "repeat"}
    assert kinds <= set(outcome.rounds), "clients of all kinds were served"
