"""The life of a key: legal transitions only, and what may be done in each state at each time."""

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_drivers import ports
from policies.key_life import (
    CRYPTOPERIODS,
    MAX_DAYS,
    OPERATIONS,
    TRANSITIONS,
    Cryptoperiods,
    IllegalStepError,
    KeyPurpose,
    KeyState,
    Life,
    Operation,
    Refusal,
    Step,
    follow,
    remaining,
)

START = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
TIMES = st.integers(0, 4000).map(lambda days: START + days * DAY)
LEGAL = {
    "pre-activation": {"activate": "active", "compromise": "compromised", "destroy": "destroyed"},
    "active": {
        "suspend": "suspended",
        "deactivate": "deactivated",
        "compromise": "compromised",
    },
    "suspended": {
        "resume": "active",
        "deactivate": "deactivated",
        "compromise": "compromised",
    },
    "deactivated": {"compromise": "compromised", "destroy": "destroyed"},
    "compromised": {"destroy": "destroyed-compromised"},
    "destroyed": {"compromise": "destroyed-compromised"},
    "destroyed-compromised": {},
}
"""Written out once more: a transition that is added or lost is noticed here."""


@pytest.mark.parametrize(("state", "step"), list(product(KeyState, Step)))
def test_these_transitions_and_no_others(state: KeyState, step: Step):
    after = LEGAL[state].get(step)
    if after is None:
        with pytest.raises(IllegalStepError, match=f"{state} cannot take the step '{step}'"):
            follow(state, step)
    else:
        assert follow(state, step) == after


@given(st.lists(st.sampled_from(list(Step)), max_size=30))
def test_no_way_leads_back_from_an_end(steps: list[Step]):
    """What is once deactivated, compromised or destroyed never protects again."""
    state, ended = KeyState.PRE_ACTIVATION, False
    for step in steps:
        if (state, step) in TRANSITIONS:
            state = follow(state, step)
        ended = ended or state in {
            KeyState.DEACTIVATED,
            KeyState.COMPROMISED,
            KeyState.DESTROYED,
            KeyState.DESTROYED_COMPROMISED,
        }
        life = Life(state, START)
        for operation in Operation:
            allowed = life.refusal(operation, START) is None
            assert not (ended and operation.originates and allowed)


@given(
    st.sampled_from(list(KeyState)),
    st.none() | TIMES,
    st.none() | TIMES,
    st.none() | TIMES,
    st.none() | TIMES,
    st.sampled_from(list(Operation)),
    TIMES,
)
def test_what_is_allowed_when(
    state: KeyState,
    activates: datetime | None,
    originator_end: datetime | None,
    recipient_end: datetime | None,
    recover_until: datetime | None,
    operation: Operation,
    at: datetime,
):
    """The rules once more, as one condition each."""
    life = Life(state, activates, originator_end, recipient_end, recover_until)
    begun = activates is not None and activates <= at
    if operation.originates:
        expected = (
            state is KeyState.ACTIVE and begun and (originator_end is None or at < originator_end)
        )
    else:
        serving = state in {KeyState.ACTIVE, KeyState.DEACTIVATED} and begun
        recovering = (
            state is KeyState.COMPROMISED and recover_until is not None and at < recover_until
        )
        expected = recovering or (serving and (recipient_end is None or at < recipient_end))
    assert (life.refusal(operation, at) is None) is expected


@pytest.mark.parametrize(
    ("state", "refusal"),
    [
        (KeyState.PRE_ACTIVATION, Refusal.NOT_YET_ACTIVE),
        (KeyState.SUSPENDED, Refusal.SUSPENDED),
        (KeyState.COMPROMISED, Refusal.COMPROMISED),
        (KeyState.DESTROYED, Refusal.DESTROYED),
        (KeyState.DESTROYED_COMPROMISED, Refusal.DESTROYED),
    ],
)
def test_every_refusal_says_why(state: KeyState, refusal: Refusal):
    life = Life(state, START)
    assert {life.refusal(operation, START) for operation in Operation} == {refusal}


def test_deactivated_keys_undo_and_check():
    life = Life(KeyState.DEACTIVATED, START)
    assert life.refusal(Operation.ENCRYPT, START) is Refusal.DEACTIVATED
    assert life.refusal(Operation.DECRYPT, START) is None


def test_periods_end_at_their_moment():
    life = Life(KeyState.ACTIVE, START, START + DAY, START + 2 * DAY)
    second = timedelta(seconds=1)
    assert life.refusal(Operation.SIGN, START - second) is Refusal.NOT_YET_ACTIVE
    assert life.refusal(Operation.SIGN, START + DAY - second) is None
    assert life.refusal(Operation.SIGN, START + DAY) is Refusal.EXPIRED
    assert life.refusal(Operation.VERIFY, START + 2 * DAY - second) is None
    assert life.refusal(Operation.VERIFY, START + 2 * DAY) is Refusal.EXPIRED


@given(st.integers(-2, MAX_DAYS + 2), st.integers(-2, MAX_DAYS + 2))
def test_recipients_outlast_originators(originator: int, recipient: int):
    sound = 0 <= originator <= MAX_DAYS and 0 <= recipient <= MAX_DAYS
    sound = sound and (recipient == 0 or 0 < originator <= recipient)
    if not sound:
        with pytest.raises(ValueError, match=r"usage period|recipient_days"):
            Cryptoperiods(originator, recipient)
        return
    periods = Cryptoperiods(originator, recipient)
    ends = periods.originator_end(START), periods.recipient_end(START)
    assert (ends[0] is None) is (originator == 0)
    assert (ends[1] is None) is (recipient == 0)
    if ends[0] is not None and ends[1] is not None:
        assert START < ends[0] <= ends[1]


@pytest.mark.parametrize("purpose", KeyPurpose)
def test_every_purpose_has_operations_and_periods(purpose: KeyPurpose):
    operations = OPERATIONS[purpose]
    assert operations
    assert any(not item.originates for item in operations)
    assert CRYPTOPERIODS[purpose].recipient_days > CRYPTOPERIODS[purpose].originator_days > 0


def test_no_operation_serves_two_purposes():
    everything = [item for operations in OPERATIONS.values() for item in operations]
    assert len(everything) == len(set(everything)) == len(Operation)


@given(st.sampled_from(list(KeyPurpose)), st.sampled_from(list(KeyState)))
def test_a_signer_is_left_what_the_state_leaves(purpose: KeyPurpose, state: KeyState):
    """Whatever the state may still allow some day, now or after legal steps, is left."""
    left = set(remaining(OPERATIONS[purpose], state))
    reachable, todo = {state}, [state]
    while todo:
        for (before, _), after in TRANSITIONS.items():
            if before is todo[-1] and after not in reachable:
                reachable.add(after)
                todo.insert(0, after)
        todo.pop()
    useful = {
        operation
        for operation in OPERATIONS[purpose]
        for later in reachable
        if Life(later, START, recover_until=START + DAY).refusal(operation, START) is None
    }
    assert left == useful


def test_the_drivers_mean_the_same_operations():
    assert ports.Operation is Operation
