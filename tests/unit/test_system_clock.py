"""The service's clock follows the machine's, but not over a jump."""

from datetime import UTC, datetime

import pytest

from kms.services.system import CLOCK_TOLERANCE, SystemClock, clock_base

YEAR = 365 * 86_400.0


class Machine:
    """Uptime and wall clock of a machine, set by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.uptime, self.wall = 1_000.0, 1_800_000_000.0
        monkeypatch.setattr("time.time", lambda: self.wall)
        monkeypatch.setattr("time.clock_gettime", lambda _clock: self.uptime)

    def run(self, seconds: float) -> None:
        self.uptime += seconds
        self.wall += seconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def shown(clock: SystemClock) -> float:
    return clock.now().timestamp()


def test_it_shows_what_the_machine_shows(machine: Machine) -> None:
    clock = SystemClock()
    machine.run(86_400.7)
    assert clock.now() == datetime.fromtimestamp(1_800_086_400, UTC)
    assert clock.step == pytest.approx(0)


@pytest.mark.parametrize("seconds", [-299.0, -1.0, 0.5, 299.0])
def test_small_corrections_are_followed(machine: Machine, seconds: float) -> None:
    clock = SystemClock()
    machine.wall += seconds
    assert shown(clock) == int(machine.wall)


@pytest.mark.parametrize("seconds", [YEAR, -YEAR, 301.0, -301.0])
def test_a_jump_is_not_followed_far(machine: Machine, seconds: float) -> None:
    clock = SystemClock()
    before = shown(clock)
    machine.wall += seconds
    bound = CLOCK_TOLERANCE if seconds > 0 else -CLOCK_TOLERANCE
    assert shown(clock) - before == bound
    assert clock.step == seconds
    machine.run(3_600)
    assert shown(clock) - before == bound + 3_600, "it goes on at the pace of the uptime"
    machine.wall -= seconds
    assert shown(clock) - before == 3_600, "set right again, nothing of it is left"


def test_many_small_steps_are_one_jump(machine: Machine) -> None:
    clock = SystemClock()
    before = shown(clock)
    for _ in range(100):
        machine.wall += 60
        shown(clock)
    assert shown(clock) - before == CLOCK_TOLERANCE


def test_a_process_that_is_started_again_goes_on_with_the_service_s_time(machine: Machine) -> None:
    base = clock_base()
    machine.run(50)
    machine.wall += YEAR
    assert shown(SystemClock(base)) == 1_800_000_050 + CLOCK_TOLERANCE
    assert shown(SystemClock()) == int(machine.wall), "a new service believes the machine"
