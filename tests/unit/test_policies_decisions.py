"""The decision: boundary days, default deny, totality, and time that only takes away."""

import random
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.algorithms import Kind, algorithms
from policies.decisions import (
    DEFAULT_RULE,
    Decision,
    Policy,
    Protection,
    Question,
    Rule,
    Use,
    Verdict,
    decide,
)

NAMES = [row.name for row in algorithms()]
SIGNATURES = [row.name for row in algorithms(Kind.SIGNATURE)]
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)

RULE = Rule(
    id="rule",
    use=Use.AUTHORITY,
    slot=None,
    algorithms=frozenset({"ECDSA-P256"}),
    protections=frozenset({Protection.TOKEN}),
    refuses=False,
    starts=None,
    deprecated_from=None,
    until=None,
    reason="because",
)
QUESTION = Question(Use.AUTHORITY, None, "ECDSA-P256", Protection.TOKEN, NOW, NOW)


def policy(*rules: Rule) -> Policy:
    return Policy("test", 1, "ab" * 32, b"", rules)


def ask(
    *rules: Rule, at: datetime = NOW, not_after: datetime | None = None, **other: object
) -> Decision:
    question = replace(QUESTION, at=at, not_after=not_after or at, **other)  # type: ignore[arg-type]  # fields by name
    return decide(policy(*rules), question)


def test_an_answer_names_rule_reason_and_policy():
    assert ask(RULE) == Decision(Verdict.ALLOWED, "rule", "because", "ab" * 32)


@pytest.mark.parametrize(
    "other",
    [
        {"use": Use.INFRASTRUCTURE},
        {"use": Use.LOG},
        {"use": Use.SLOT},
        {"slot": "identity"},
        {"slot": ""},
        {"algorithm": "ECDSA-P384"},
        {"algorithm": "ECDH-P256"},
        {"protection": Protection.TRANSFERABLE},
        {"protection": Protection.SOFTWARE},
    ],
)
def test_what_no_rule_speaks_of_is_refused(other: dict[str, object]):
    decision = ask(RULE, **other)
    assert (decision.verdict, decision.rule) == (Verdict.REFUSED, DEFAULT_RULE)
    assert not decision.allowed


def test_an_unknown_algorithm_is_refused_by_name():
    for name in ("", "ecdsa-p256", "ECDSA-P256 ", "ROT13", "x" * 10_000):
        decision = ask(RULE, algorithm=name)
        assert (decision.verdict, decision.rule) == (Verdict.REFUSED, DEFAULT_RULE)
        assert "no algorithm is called" in decision.reason
        assert len(decision.reason) < 200


def test_no_rules_allow_nothing():
    assert not ask().allowed


@pytest.mark.parametrize(
    ("at", "verdict"),
    [
        (datetime(2029, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), Verdict.ALLOWED),
        (datetime(2030, 1, 1, tzinfo=UTC), Verdict.DEPRECATED),
        (datetime(2035, 12, 31, tzinfo=UTC), Verdict.DEPRECATED),
        (datetime(2035, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), Verdict.DEPRECATED),
        (datetime(2036, 1, 1, tzinfo=UTC), Verdict.REFUSED),
    ],
)
def test_boundary_days(at: datetime, verdict: Verdict):
    rule = replace(RULE, deprecated_from=date(2030, 1, 1), until=date(2035, 12, 31))
    decision = ask(rule, at=at)
    assert decision.verdict is verdict
    assert decision.rule == "rule"
    assert decision.allowed is (verdict is not Verdict.REFUSED)


def test_the_last_day_binds_use_and_reliance_alike():
    rule = replace(RULE, until=date(2035, 12, 31))
    last = datetime(2035, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    assert ask(rule, at=NOW, not_after=last).allowed
    refused = ask(rule, at=NOW, not_after=last + TICK)
    assert not refused.allowed
    assert "until 2035-12-31" in refused.reason
    assert not ask(rule, at=last + TICK, not_after=NOW).allowed


def test_reliance_does_not_deprecate():
    rule = replace(RULE, deprecated_from=date(2030, 1, 1))
    late = datetime(2031, 1, 1, tzinfo=UTC)
    assert ask(rule, at=NOW, not_after=late).verdict is Verdict.ALLOWED


def test_days_are_days_in_utc():
    rule = replace(RULE, until=date(2035, 12, 31))
    east, west = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))
    assert ask(rule, at=datetime(2036, 1, 1, 13, 59, tzinfo=east)).allowed
    assert not ask(rule, at=datetime(2036, 1, 1, 14, 0, tzinfo=east)).allowed
    assert not ask(rule, at=datetime(2035, 12, 31, 12, 0, tzinfo=west)).allowed


def test_first_day_in_force():
    rule = replace(RULE, starts=date(2027, 1, 1))
    first = datetime(2027, 1, 1, tzinfo=UTC)
    assert ask(rule, at=first - TICK).rule == DEFAULT_RULE
    assert ask(rule, at=first).allowed


def test_a_refusing_rule_beats_all_others():
    forbids = replace(RULE, id="forbids", refuses=True, reason="no")
    for rules in [(RULE, forbids), (forbids, RULE)]:
        decision = ask(*rules)
        assert (decision.verdict, decision.rule) == (Verdict.REFUSED, "forbids")
        assert decision.reason == "no"
    later = replace(forbids, starts=date(2027, 1, 1))
    assert ask(RULE, later).allowed
    assert not ask(RULE, later, at=datetime(2027, 1, 1, tzinfo=UTC)).allowed


def test_the_most_favourable_rule_decides():
    ended = replace(RULE, id="ended", until=date(2020, 1, 1))
    ending = replace(RULE, id="ending", deprecated_from=date(2020, 1, 1))
    for rules in [(ended, ending, RULE), (RULE, ending, ended), (ending, RULE, ended)]:
        assert ask(*rules).rule == "rule"
    for rules in [(ended, ending), (ending, ended)]:
        decision = ask(*rules)
        assert (decision.verdict, decision.rule) == (Verdict.DEPRECATED, "ending")
        assert decision.allowed


def test_times_without_zone_are_no_question():
    naive = NOW.replace(tzinfo=None)
    for at, not_after in [(naive, NOW), (NOW, naive)]:
        with pytest.raises(ValueError, match="time zone"):
            replace(QUESTION, at=at, not_after=not_after)


DAYS = st.dates(date(2020, 1, 1), date(2040, 12, 31))
MOMENTS = st.datetimes(
    datetime(1, 1, 2),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(9999, 12, 30),  # noqa: DTZ001 - as above
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))]),
)
NEAR = st.datetimes(datetime(2019, 6, 1), datetime(2041, 6, 1), timezones=st.just(UTC))  # noqa: DTZ001 - as above


@st.composite
def rules(draw: st.DrawFn, *, starts: bool = True) -> Rule:
    days = sorted(draw(st.tuples(DAYS, DAYS, DAYS)))
    present = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    refuses = draw(st.booleans())
    use = draw(st.sampled_from(Use))
    return Rule(
        id=draw(st.from_regex(r"[a-z]{1,3}", fullmatch=True)),
        use=use,
        slot=draw(st.sampled_from(["identity", "kem"])) if use is Use.SLOT else None,
        algorithms=frozenset(draw(st.sets(st.sampled_from(SIGNATURES), min_size=1))),
        protections=frozenset(draw(st.sets(st.sampled_from(Protection), min_size=1))),
        refuses=refuses,
        starts=days[0] if present[0] and starts else None,
        deprecated_from=days[1] if present[1] and not refuses else None,
        until=days[2] if present[2] and not refuses else None,
        reason="because",
    )


RULES = st.lists(rules(), max_size=12, unique_by=lambda rule: rule.id)
QUESTIONS = st.builds(
    Question,
    st.sampled_from(Use),
    st.none() | st.sampled_from(["identity", "kem"]) | st.text(max_size=5),
    st.sampled_from(NAMES) | st.text(max_size=20),
    st.sampled_from(Protection),
    MOMENTS,
    MOMENTS,
)


@given(RULES, QUESTIONS)
def test_total_and_default_deny(some: list[Rule], question: Question):
    decision = decide(policy(*some), question)
    assert decision.policy == "ab" * 32
    assert decision.reason
    if decision.rule == DEFAULT_RULE:
        assert decision.verdict is Verdict.REFUSED
        assert not any(rule.speaks_of(question) for rule in some)
    else:
        (rule,) = [rule for rule in some if rule.id == decision.rule]
        assert rule.speaks_of(question)
        assert rule.verdict(question) is decision.verdict
    if decision.allowed:
        assert question.algorithm in NAMES


@given(RULES, QUESTIONS, st.randoms(use_true_random=False))
def test_order_of_rules_means_nothing(some: list[Rule], question: Question, rng: random.Random):
    shuffled = list(some)
    rng.shuffle(shuffled)
    assert decide(policy(*some), question) == decide(policy(*shuffled), question)


RANK = {Verdict.ALLOWED: 0, Verdict.DEPRECATED: 1, Verdict.REFUSED: 2}


@given(
    st.lists(rules(starts=False), min_size=1, max_size=6, unique_by=lambda rule: rule.id),
    NEAR,
    NEAR,
    st.timedeltas(timedelta(0), timedelta(days=4000)),
    st.data(),
)
def test_time_only_takes_away(
    some: list[Rule], first: datetime, second: datetime, life: timedelta, data: st.DataObject
):
    """Without rules that start later, what was refused by date stays refused."""
    rule = data.draw(st.sampled_from(some))
    earlier, later = sorted((first, second))
    question = Question(
        rule.use,
        rule.slot,
        data.draw(st.sampled_from(sorted(rule.algorithms))),
        data.draw(st.sampled_from(sorted(rule.protections))),
        earlier,
        earlier + life,
    )
    before = decide(policy(*some), question)
    after = decide(policy(*some), replace(question, at=later, not_after=later + life))
    longer = decide(policy(*some), replace(question, not_after=earlier + life + DAY))
    assert RANK[after.verdict] >= RANK[before.verdict]
    assert RANK[longer.verdict] >= RANK[before.verdict]


@given(RULES, rules(), QUESTIONS)
def test_a_refusing_rule_only_takes_away(some: list[Rule], more: Rule, question: Question):
    forbids = replace(more, id="zzzz", refuses=True, deprecated_from=None, until=None)
    if not decide(policy(*some), question).allowed:
        assert not decide(policy(*some, forbids), question).allowed
