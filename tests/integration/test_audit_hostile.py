"""Whoever makes a record chooses all of its bytes: whatever it says, the auditor has an answer."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kms.audit.assessment import Assessment, Given, assess
from kms.audit.details import DETAIL
from kms.audit.findings import Failure, event
from kms.audit.layout import Record
from kms.wire import EventType, timestamp
from policies.policy import shipped
from tests.integration.test_audit_keys import KEY, Told
from tests.support.ministry import START, TENANT, Ministry

GIVEN = Given(policies={shipped().hash: shipped()})
numbers = st.integers(-(2**53) + 1, 2**53 - 1)
scalars = (
    st.none()
    | st.booleans()
    | numbers
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
plausible: st.SearchStrategy[Any] = st.sampled_from(
    [
        KEY,
        f"s-{KEY}-1",
        "encryption",
        "kem",
        "encrypt",
        "token",
        "main",
        "cosignature",
        "root",
        "AES-256-GCM",
        timestamp(START),
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "log.interior.example/1",
        1,
        2,
        2**53 - 1,
        ["main"],
        ["encryption"],
        ["cosignature"],
        ["encrypt", "manage"],
        {"1": 1},
        {"sensitive": True},
        {"originator_days": 36_500, "recipient_days": 0},
        {"origin": "log.interior.example/1", "size": 1, "root": ""},
    ]
)


unhashable: st.SearchStrategy[Any] = st.sampled_from([[], {}, [{}], [[]], {"1": {}}])
value = plausible | unhashable | anything
FITTING: dict[str, Any] = {
    "activates": timestamp(START),
    "algorithm": "AES-256-GCM",
    "at": timestamp(START),
    "attributes": {"sensitive": True, "extractable": False},
    "delay_seconds": 0,
    "key": KEY,
    "label": f"s-{KEY}-3",
    "operation": "encrypt",
    "operations": ["decrypt"],
    "originator_end": None,
    "previous": {"origin": "log.interior.example/1", "size": 1, "root": ""},
    "protection": "token",
    "public_key_sha256": "00" * 32,
    "purpose": "encryption",
    "purposes": ["encryption"],
    "quorum": 2,
    "recipient_end": None,
    "recover_until": None,
    "settings": {"originator_days": 730, "recipient_days": 1825},
    "shares": 3,
    "since": timestamp(START),
    "size": 1,
    "tokens": ["main"],
    "until": timestamp(START),
    "uses": {"1": 1},
    "version": 1,
}
"""What is told of a life that is; other members fit as any text does."""
FURTHER = ("identity_domain", "role", "kept", "tbs_sha256")


def details(kind: EventType) -> st.SearchStrategy[dict[str, Any]]:
    """One that fits but for two members; or any."""
    names = sorted({*DETAIL.get(kind, ()), *FURTHER})
    fits = {name: FITTING.get(name, "root") for name in DETAIL.get(kind, ())}
    wrong = st.dictionaries(st.sampled_from(names), value, min_size=1, max_size=2)
    return wrong.map(lambda told: fits | told) | st.dictionaries(
        st.text(max_size=8), anything, max_size=3
    )


BIRTH = {name: FITTING[name] for name in DETAIL[EventType.KEY_GENERATED] if name in FITTING}
read = [*DETAIL, EventType.TENANT_REGISTERED, EventType.PRINCIPAL_REGISTERED]
"""Types whose details anybody looks at."""
events = (st.sampled_from(read) | st.sampled_from(EventType)).flatmap(
    lambda kind: st.tuples(st.just(kind), details(kind))
)


@cache
def living() -> Ministry:
    """A ministry with a key that is active, and one version scheduled for destruction."""
    ministry = Ministry()
    ministry.ceremony()
    told = Told(ministry)
    told.live()
    told.bear(2)
    told.schedule(2)
    return ministry


def audited(*told: tuple[EventType, Mapping[str, Any]], policy: bool = False) -> Assessment:
    """The record of a log that ends with these events."""
    ministry = living()
    log, size, now = ministry.log, len(ministry.log.leaves), ministry.now
    rules = {"hash": ministry.policy, "rules": {}} if policy else None
    try:
        for kind, detail in told:
            ministry.event(kind, TENANT, {}, detail=detail, policy=rules)
        leaves = dict(enumerate(log.leaves))
        return assess(Record(log.checkpoint(), log.vkey, events=leaves), GIVEN)
    finally:
        del log.leaves[size:]
        ministry.now = now


@example([(EventType.KEY_PERMITTED, {"key": KEY, "operations": [{}]})], False)
@example([(EventType.LOG_OPENED, {"vkey": "", "public_key_sha256": []})], False)
@example([(EventType.KEY_GENERATED, BIRTH | {"tokens": 5})], False)
@example([(EventType.KEY_GENERATED, BIRTH | {"key": {}})], True)
@example([(EventType.KEY_GENERATED, BIRTH | {"activates": "soon"})], True)
@given(st.lists(events, min_size=1, max_size=4), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_detail_of_any_event_has_findings_and_no_exception(
    told: list[tuple[EventType, dict[str, Any]]], policy: bool
) -> None:
    result = audited(*told, policy=policy)
    assert result.size == len(living().log.leaves) + len(told)


@pytest.mark.parametrize("kind", DETAIL)
def test_what_is_of_another_kind_is_found(kind: EventType) -> None:
    """A list of objects is what no member is: nor can it be put in a set."""
    begin = len(living().log.leaves)
    result = audited(*((kind, {name: [{}]}) for name in DETAIL[kind]))
    told = {failure for check in result.checks for failure in check.failures}
    for index, name in enumerate(DETAIL[kind], begin):
        message = f"{kind}: detail {name!r} is missing or malformed"
        assert Failure(event(index), message) in told


def test_a_true_is_no_number_and_a_null_no_text() -> None:
    step = {"key": KEY, "version": True}
    result = audited((EventType.KEY_SUSPENDED, step), (EventType.KEY_HELD, {"key": None}))
    told = [failure.message for check in result.checks for failure in check.failures]
    assert "key.suspended: detail 'version' is missing or malformed" in told
    assert "key.held: detail 'key' is missing or malformed" in told


@pytest.mark.parametrize("year", [1, 1999, 3000, 9999])
def test_a_time_that_nothing_can_be_added_to_is_found(year: int) -> None:
    ministry = living()
    before, ministry.now = ministry.now, datetime(year, 6, 1, tzinfo=UTC)
    try:
        result = audited((EventType.KEY_ACTIVATED, {"key": KEY, "version": 2}))
    finally:
        ministry.now = before
    told = [failure.message for check in result.checks for failure in check.failures]
    assert any("is of no year of a log" in message for message in told)
