"""Limits of a key: how far back and ahead, and that they are worked out once for each record."""

from dataclasses import fields, replace
from datetime import timedelta

import pytest

from hsm_drivers.ports import KeyRecord, Purpose
from pki import limits
from pki.certificates import MAX_BACKDATE
from pki.limits import MAX_AGE, MAX_AHEAD, Limits, limits_of
from tests.support import pki

PEOPLE = pki.world().people.record


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, Purpose], Limits]:
    known: dict[tuple[int, Purpose], Limits] = {}
    monkeypatch.setattr(limits, "_LIMITS", known)
    return known


def of(record: KeyRecord) -> Limits:
    return limits_of(record, Purpose.CERTIFICATE)


def test_a_certificate_begins_within_a_day_and_a_clocks_error():
    assert timedelta(hours=24) + MAX_BACKDATE == MAX_AGE
    assert timedelta(minutes=5) == MAX_AHEAD


def test_limits_are_worked_out_once_for_a_record_and_purpose():
    first = of(PEOPLE)
    assert first.record is PEOPLE
    assert of(PEOPLE) is first
    assert limits_of(PEOPLE, Purpose.CRL) is not first
    twin = replace(PEOPLE)
    assert of(twin) is not first
    assert of(twin).record is twin
    assert of(PEOPLE) is first


def test_a_place_that_another_record_had_in_memory_means_nothing(
    nothing_known: dict[tuple[int, Purpose], Limits],
):
    stranger = of(replace(PEOPLE))
    nothing_known[id(PEOPLE), Purpose.CERTIFICATE] = stranger
    assert of(PEOPLE).record is PEOPLE


def test_only_so_many_are_kept(
    monkeypatch: pytest.MonkeyPatch, nothing_known: dict[tuple[int, Purpose], Limits]
):
    assert limits._MAX_LIMITS == 256
    monkeypatch.setattr(limits, "_MAX_LIMITS", 2)
    sizes = []
    records = [replace(PEOPLE) for _ in range(4)]
    for record in records:
        of(record)
        sizes.append(len(nothing_known))
    assert sizes == [1, 2, 1, 2]
    assert (id(records[-1]), Purpose.CERTIFICATE) in nothing_known


def test_what_stands_before_the_subject_is_never_given():
    assert [field.name for field in fields(Limits) if not field.init] == ["head"]
    made = of(PEOPLE)
    assert made.head == made.identifier + made.issuer
