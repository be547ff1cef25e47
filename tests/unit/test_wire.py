"""The wire format's own rules: one encoding for each value, and none for what is not one."""

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms import wire

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.binary(max_size=100))
def test_base64_round_trip(data: bytes) -> None:
    assert wire.unb64(wire.b64(data)) == data


@pytest.mark.parametrize(
    "text", ["A", "AA", "AA=", "AAA", "AB==", "AAB=", "AA==\n", " AA==", "A-_A", "AA==AA==", "é"]
)
def test_base64_has_one_form(text: str) -> None:
    with pytest.raises(wire.WireError):
        wire.unb64(text)


@given(st.text(alphabet="ABCab01+/=\n", max_size=12))
def test_whatever_base64_is_taken_was_written_so(text: str) -> None:
    try:
        data = wire.unb64(text)
    except wire.WireError:
        return
    assert base64.b64encode(data).decode() == text


@given(st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001 - hypothesis adds the zone
def test_time_round_trip(moment: datetime) -> None:
    assert wire.parse_timestamp(wire.timestamp(moment)) == moment.replace(microsecond=0)


def test_times_are_told_in_utc() -> None:
    paris = timezone(timedelta(hours=1))
    assert wire.timestamp(NOW.astimezone(paris)) == "2026-01-31T12:00:00Z"


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T12:00:00",
        "2026-01-31T12:00:00+00:00",
        "2026-01-31 12:00:00Z",
        "2026-01-31T12:00:00.0Z",
        "2026-1-31T12:00:00Z",
        "2026-02-30T12:00:00Z",
        "2026-01-31T24:00:00Z",
        "2026-01-31T12:00:00Z\n",
        "\u0662026-01-31T12:00:00Z",
        "",
    ],
)
def test_other_forms_of_time(text: str) -> None:
    with pytest.raises(wire.WireError):
        wire.parse_timestamp(text)


@given(st.integers(0, 2**160 - 1))
def test_serials(serial: int) -> None:
    text = wire.serial_hex(serial)
    assert int(text, 16) == serial
    assert len(text) % 2 == 0
    assert text == text.lower()


@given(texts, texts, texts, texts)
def test_no_two_values_share_a_commitment(one: str, two: str, three: str, four: str) -> None:
    opening = bytes(32)
    first = wire.commitment(opening, wire.Committed.USER, one, two)
    second = wire.commitment(opening, wire.Committed.USER, three, four)
    assert (first == second) == ((one, two) == (three, four))


def test_commitments_differ_by_field_and_opening() -> None:
    made = {
        wire.commitment(bytes([number]) * 32, kind, "t", "v")
        for number in range(3)
        for kind in wire.Committed
    }
    assert len(made) == 3 * len(wire.Committed)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_openings_have_one_size(size: int) -> None:
    with pytest.raises(wire.WireError, match="32 bytes"):
        wire.commitment(bytes(size), wire.Committed.USER, "t", "v")


def test_openings_open_their_own_field_only() -> None:
    opening = wire.Opening(wire.Committed.USER, "t", "v", bytes(32))
    assert wire.opened({"user": opening.commitment()}, [opening])
    assert not wire.opened({"device": opening.commitment()}, [opening])
    assert not wire.opened({}, [opening])
    assert wire.opened({}, [])


def test_messages_differ_by_purpose_slot_and_transcript() -> None:
    secret = bytes(32)
    made = [
        wire.sign_message(b"t"),
        wire.hpke_info(b"t"),
        *(
            wire.kem_mac(secret, slot, transcript, sealed)
            for slot in ("a", "b")
            for transcript in (b"t", b"u")
            for sealed in (b"s", b"r")
        ),
        wire.kem_mac(b"\x01" * 32, "a", b"t", b"s"),
    ]
    assert len(set(made)) == len(made)


def leaf(**change: Any) -> wire.Leaf:
    values: dict[str, Any] = {
        "event": "e",
        "type": wire.EventType.LOG_OPENED,
        "time": NOW,
        "origin": "log.example/1",
        "commitments": {},
    }
    return wire.Leaf(**(values | change))


def test_a_leaf_fits_an_entry_bundle() -> None:
    room = wire.MAX_LEAF - len(leaf(detail={"x": ""}).encode())
    assert len(leaf(detail={"x": "a" * room}).encode()) == wire.MAX_LEAF
    with pytest.raises(wire.WireError, match="log a hash instead"):
        leaf(detail={"x": "a" * (room + 1)}).encode()


@pytest.mark.parametrize("value", [float("nan"), 2**60, "\ud800", {1: 2}, object()])
def test_what_has_no_canonical_form(value: object) -> None:
    with pytest.raises(wire.WireError):
        leaf(detail={"x": value}).encode()


@given(st.dictionaries(texts, texts | st.integers(-(2**53) + 1, 2**53 - 1) | st.none()))
def test_canonical_json_reads_back_and_is_stable(document: dict[str, Any]) -> None:
    data = wire.canonical(document)
    assert json.loads(data) == document
    assert wire.canonical(json.loads(data)) == data


@pytest.mark.parametrize("text", ["", "a b", "a/b", "a" * 129, "a\n", "é"])
def test_what_is_no_user(text: str) -> None:
    assert not wire.is_user(text)


@pytest.mark.parametrize("text", ["", "a b", "a@b", "a" * 65, "a\n", "é"])
def test_what_is_no_device(text: str) -> None:
    assert not wire.is_device(text)


def test_what_is_one() -> None:
    assert wire.is_user("@ada:interior.example")
    assert wire.is_device("phone-1_A.b")
