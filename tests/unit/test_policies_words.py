"""The words of policies and decisions: they stand in files and events, and must not drift."""

from datetime import UTC, datetime, timedelta

import pytest

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

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def question(**other: object) -> Question:
    parts: dict[str, object] = {
        "use": Use.SLOT,
        "slot": "identity",
        "algorithm": "Ed25519",
        "protection": Protection.DEVICE,
        "at": NOW,
        "not_after": NOW,
    }
    return Question(**(parts | other))  # type: ignore[arg-type]  # fields by name


def test_words():
    assert [item.value for item in Verdict] == ["allowed", "deprecated", "refused"]
    assert [item.value for item in Use] == [
        "slot",
        "infrastructure",
        "authority",
        "log",
        "backup",
        "key",
        "kem-slot",
    ]
    assert [item.value for item in Protection] == [
        "token",
        "transferable",
        "wrapped",
        "software",
        "device",
    ]
    assert DEFAULT_RULE == "default"


def test_what_is_refused_is_not_allowed():
    assert {verdict: Decision(verdict, "rule", "why", "hash").allowed for verdict in Verdict} == {
        Verdict.ALLOWED: True,
        Verdict.DEPRECATED: True,
        Verdict.REFUSED: False,
    }


@pytest.mark.parametrize("part", ["at", "not_after"])
def test_each_time_needs_its_zone(part: str):
    with pytest.raises(ValueError, match="time zone"):
        question(**{part: NOW.replace(tzinfo=None)})


def rule(name: str, **other: object) -> Rule:
    parts: dict[str, object] = {
        "id": name,
        "use": Use.SLOT,
        "slot": "identity",
        "algorithms": frozenset({"Ed25519"}),
        "protections": frozenset({Protection.DEVICE}),
        "refuses": False,
        "starts": None,
        "deprecated_from": None,
        "until": None,
        "reason": f"because of {name}",
    }
    return Rule(**(parts | other))  # type: ignore[arg-type]  # fields by name


def decided(*rules: Rule, **other: object) -> Decision:
    return decide(Policy("test", 1, "hash", b"", rules), question(**other))


def test_reasons_tell_what_happened():
    today, yesterday = NOW.date(), (NOW - timedelta(days=1)).date()
    ended = decided(rule("a", until=yesterday))
    assert ended.reason == (f"Ed25519 may be used and relied on until {yesterday}: because of a")
    late = decided(rule("a", deprecated_from=today))
    assert late.reason == "Ed25519 is on its way out: because of a"
    assert decided(rule("a", refuses=True, until=yesterday)).reason == "because of a"
    assert decided(rule("a", refuses=True)).reason == "because of a"
    assert decided(rule("a")).reason == "because of a"


def test_the_refusal_without_a_rule_names_what_was_asked():
    assert decided().reason == "no rule allows Ed25519 with protection device for slot 'identity'"
    log = decided(use=Use.LOG, slot=None)
    assert log.reason == "no rule allows Ed25519 with protection device for log"
    unknown = decided(algorithm="x" * 65)
    assert unknown.reason == f"no algorithm is called {'x' * 64!r}"
    long = decided(slot="y" * 65)
    assert long.reason.endswith(f" for slot {'y' * 64!r}")


def test_ties_go_to_the_smaller_id_and_favour_to_the_mildest():
    later = rule("a", deprecated_from=NOW.date())
    for rules in ((rule("b"), rule("c"), later), (later, rule("c"), rule("b"))):
        assert decided(*rules).rule == "b"
    refusing = rule("z", refuses=True)
    assert decided(rule("b"), refusing).rule == "z"
    ended = rule("a", until=(NOW - timedelta(days=1)).date())
    assert decided(ended, later).verdict is Verdict.DEPRECATED
    assert decided(ended, refusing).rule == "z"
