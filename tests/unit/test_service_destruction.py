"""Destruction at the signer: nothing is touched unseen, schedules lapse, what is whole stays."""

from datetime import timedelta
from pathlib import Path

import pytest
from msgspec import structs

from hsm_drivers.core import SignerCore
from hsm_drivers.errors import (
    DestructionBegunError,
    HsmError,
    StatementRefusedError,
    TokenFailureError,
    TokenUnavailableError,
)
from hsm_drivers.frames import raised, refusal
from hsm_drivers.operations import Encrypt, SignMessage
from hsm_drivers.ports import KeyLabel
from hsm_drivers.service.keyring import ServiceLimits
from hsm_drivers.software import SoftwareDriver
from hsm_drivers.state import SignerState
from policies.decisions import Protection
from tests.support.service_keys import DELAY, START, Clock, a_core, answers, label, spec, use

GCM = spec(1, "AES-256-GCM")
HYBRID = spec(3, "MLKEM768-X25519", Protection.WRAPPED, Protection.TOKEN)
AWAY = TokenUnavailableError("unplugged")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


class Leaving(SoftwareDriver):
    """A token that goes away just before its nth destruction."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 10**9

    def destroy(self, label: KeyLabel) -> None:
        self.left -= 1
        if self.left < 0:
            self.outage = AWAY
        super().destroy(label)


def due(core: SignerCore, clock: Clock, wanted: KeyLabel) -> None:
    core.service.schedule_destruction(wanted, clock.now + DELAY)
    clock.now += DELAY


def destroying(state: Path, wanted: KeyLabel) -> None:
    """As a crash leaves it that comes after the mark and before the token is asked."""
    with SignerState(state) as opened:
        opened.service.put(structs.replace(opened.service.held(wanted), destroying=True))


def test_a_token_that_is_away_begins_nothing(state: Path) -> None:
    driver, clock = SoftwareDriver(), Clock()
    with a_core(state, driver, now=clock) as core:
        core.generate(GCM)
        due(core, clock, GCM.label)
        driver.outage = AWAY
        with pytest.raises(TokenUnavailableError):
            core.service.destroy(GCM.label)
        core.service.cancel_destruction(GCM.label)
        driver.outage = None
        answers(use(core, Encrypt(GCM.label, b"x", b"")))
        with pytest.raises(StatementRefusedError, match="not scheduled"):
            core.service.destroy(GCM.label)


@pytest.mark.parametrize("gone", [0, 1])
def test_no_destruction_is_believed_of_a_token_without_the_key(state: Path, gone: int) -> None:
    """Another token behind the right label: the key itself would live on somewhere else."""
    driver, clock = SoftwareDriver(), Clock()
    with a_core(state, driver, now=clock) as core:
        parts = [part.label for part in core.generate(HYBRID).components]
        due(core, clock, HYBRID.label)
        taken = driver._keys.pop(parts[gone])
        with pytest.raises(TokenFailureError, match=f"does not hold {parts[gone]}"):
            core.service.destroy(HYBRID.label)
        assert driver.labels() == [parts[1 - gone]], "nothing was touched"
        driver._keys[parts[gone]] = taken
        assert core.service.destroy(HYBRID.label) == ("",)
        assert not driver.labels()


def test_absence_is_no_riddle_once_it_has_begun(state: Path) -> None:
    driver, clock = SoftwareDriver(), Clock()
    with a_core(state, driver, now=clock) as core:
        core.generate(GCM)
        due(core, clock, GCM.label)
    destroying(state, GCM.label)
    driver.destroy(GCM.label)
    with a_core(state, driver, now=clock) as core:
        assert core.service.destroy(GCM.label) == ("",)


def test_what_was_marked_and_is_whole_can_stay(state: Path) -> None:
    driver, clock = SoftwareDriver(), Clock()
    with a_core(state, driver, now=clock) as core:
        core.generate(HYBRID)
        core.service.schedule_destruction(HYBRID.label, START + DELAY)
    destroying(state, HYBRID.label)
    with a_core(state, driver, now=clock) as core:
        assert core.keys() == []
        driver.outage = AWAY
        with pytest.raises(TokenUnavailableError):
            core.service.cancel_destruction(HYBRID.label)
        assert core.keys() == [], "nobody could look"
        driver.outage = None
        core.service.cancel_destruction(HYBRID.label)
        assert [record.destroys for record in core.service.records()] == [""]


def test_what_has_begun_is_not_cancelled(state: Path) -> None:
    driver, clock = Leaving(), Clock()
    with a_core(state, driver, now=clock) as core:
        core.generate(HYBRID)
        due(core, clock, HYBRID.label)
        driver.left = 1
        with pytest.raises(TokenUnavailableError):
            core.service.destroy(HYBRID.label)
        driver.outage, driver.left = None, 10**9
        assert len(driver.labels()) == 1
        with pytest.raises(DestructionBegunError, match="has begun"):
            core.service.cancel_destruction(HYBRID.label)
        core.service.destroy(HYBRID.label)
        with pytest.raises(DestructionBegunError, match="was destroyed"):
            core.service.cancel_destruction(HYBRID.label)


def test_that_it_has_begun_is_told_through_the_socket() -> None:
    error = raised(refusal(DestructionBegunError("too late")))
    assert type(error) is DestructionBegunError
    assert isinstance(error, StatementRefusedError)


@pytest.mark.parametrize("days", [7, 60])
def test_schedules_lapse(state: Path, days: int) -> None:
    """An intruder's, left for a second visit, is worth nothing after a while."""
    clock, delay = Clock(), timedelta(days=days)
    end = START + delay + max(delay, timedelta(days=30))
    with a_core(state, SoftwareDriver(), now=clock, limits=ServiceLimits(delay)) as core:
        for number in (1, 2):
            core.generate(spec(number, "AES-256-GCM"))
            core.service.schedule_destruction(label(number), START + delay)
        clock.now = end + timedelta(seconds=1)
        with pytest.raises(StatementRefusedError, match="too long ago"):
            core.service.destroy(label(1))
        answers(use(core, Encrypt(label(1), b"x", b"")))
        clock.now = end
        assert core.service.destroy(label(2)) == ("",)
        core.service.schedule_destruction(label(1), clock.now + delay)
        clock.now += delay
        assert core.service.destroy(label(1)) == ("",)


def test_what_has_begun_does_not_lapse(state: Path) -> None:
    driver, clock = Leaving(), Clock()
    with a_core(state, driver, now=clock) as core:
        core.generate(HYBRID)
        due(core, clock, HYBRID.label)
        driver.left = 1
        with pytest.raises(HsmError):
            core.service.destroy(HYBRID.label)
        driver.outage, driver.left = None, 10**9
        clock.now += timedelta(days=365)
        assert core.service.destroy(HYBRID.label) == ("",)


def test_schedules_are_seen(state: Path) -> None:
    driver = SoftwareDriver()
    with a_core(state, driver) as core:
        core.generate(GCM)
        core.generate(HYBRID)
        core.service.schedule_destruction(GCM.label, START + DELAY)
    with a_core(state, driver) as core:
        told = {record.label: record.destroys for record in core.service.records()}
        assert told == {GCM.label: "2026-11-29T12:00:00Z", HYBRID.label: ""}
        assert core.health().service.scheduled == 1
        core.service.cancel_destruction(GCM.label)
        assert {record.destroys for record in core.service.records()} == {""}
        assert core.health().service.scheduled == 0


@pytest.mark.parametrize("begun", [False, True])
def test_a_signature_key_serves_on_after_a_cancellation(state: Path, *, begun: bool) -> None:
    wanted = spec(5, "ECDSA-P256")
    driver = SoftwareDriver()
    with a_core(state, driver) as core:
        core.generate(wanted)
        core.service.schedule_destruction(wanted.label, START + DELAY)
    if begun:
        destroying(state, wanted.label)
    with a_core(state, driver) as core:
        core.service.cancel_destruction(wanted.label)
        answers(use(core, SignMessage(wanted.label, b"x")))
