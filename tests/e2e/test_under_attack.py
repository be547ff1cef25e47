"""Attacks from outside on a running worker: bounded memory, and honest clients still served."""

import pytest

from tests.support.attacks import ATTACKS
from tests.support.besieged import QUIET, besiege, memory
from tests.support.running import Service

QUICK = ["half-open connections", "slow-loris, headers", "pipelining", "wide JSON"]
"""Those that every run tries; the long one tries all, twice."""
GROWTH_MB = 150.0
"""How much more memory the worker may need under an attack."""


def withstand(service: Service, attack: str, seconds: float, limit: float) -> None:
    siege = besiege(service, attack, seconds)
    assert siege.rounds >= siege.attackers, "nobody attacked"
    assert siege.lost == 0, f"{attack}: {siege.honest}"
    assert siege.peak < limit, f"{attack}: {siege.before:.0f} MB became {siege.peak:.0f} MB"


@pytest.fixture(scope="module")
def limit(service: Service) -> float:
    return besiege(service, QUIET, 0.5).peak + GROWTH_MB


@pytest.mark.parametrize("attack", QUICK)
def test_honest_clients_are_served_beside_it(service: Service, limit: float, attack: str):
    withstand(service, attack, 1.0, limit)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_attack_grows_the_worker(service: Service, limit: float):
    for attack in ATTACKS:  # one after the other: each leaves the allocator something
        withstand(service, attack, 8.0, limit + 2 * GROWTH_MB)
    used = memory(service.pid("worker"), "VmRSS")
    for attack in ATTACKS:  # and the next finds it
        withstand(service, attack, 8.0, used + GROWTH_MB)
