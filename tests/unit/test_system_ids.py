"""Ids sort by the time they were made at, and cannot be guessed."""

import time

import pytest

from kms.services.system import SystemIds


def test_what_is_made_later_sorts_later(monkeypatch: pytest.MonkeyPatch):
    ids = SystemIds()
    made = []
    for moment in (1_795_000_000_000, 1_795_000_000_001, 1_795_000_060_000, 2**47):
        monkeypatch.setattr(time, "time_ns", lambda now=moment: now * 1_000_000 + 999_999)
        made.append(ids.identifier())
        assert made[-1][:6] == moment.to_bytes(6, "big")
    assert made == sorted(made)
    assert {len(item) for item in made} == {16}


def test_ids_of_one_moment_share_nothing_but_the_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time, "time_ns", lambda: 1_795_000_000_000_000_000)
    made = [SystemIds().identifier()[6:] for _ in range(200)]
    assert len(set(made)) == 200
    for at in range(10):
        assert len({item[at] for item in made}) > 50


def test_a_serial_is_positive_and_keeps_its_length():
    serial = int.from_bytes(SystemIds().identifier(), "big")
    assert 0 < serial < 1 << 127
    assert serial >> 120, "no leading zero byte is lost"
