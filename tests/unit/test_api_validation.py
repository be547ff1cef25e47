"""What is wrong with an input is said by place and rule, never by repeating it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms.api import schemas
from kms.api.validation import validated
from kms.services.errors import InputError

SLOT: dict[str, Any] = {"name": "identity", "algorithm": "Ed25519", "public_key": "AAAA"}
ORDER: dict[str, Any] = {"user": "ada", "device": "p1", "bundle": "device", "slots": [SLOT]}
HUGE = "A" * 20_000


def with_slot(**change: Any) -> dict[str, Any]:
    return {**ORDER, "slots": [SLOT, {**SLOT, **change}]}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("text", None),
        (None, None),
        ([], None),
        ({}, "user"),
        ({**ORDER, "user": 7}, "user"),
        ({**ORDER, "user": ""}, "user"),
        ({**ORDER, "user": "a b"}, "user"),
        ({**ORDER, "user": "ada\n"}, "user"),
        ({**ORDER, "user": "a" * 129}, "user"),
        ({**ORDER, "device": "p/1"}, "device"),
        ({**ORDER, "device": "d\u00e9"}, "device"),
        ({**ORDER, "purpose": "steal"}, "purpose"),
        ({**ORDER, "slots": []}, "slots"),
        ({**ORDER, "slots": [SLOT] * 9}, "slots"),
        ({**ORDER, "slots": {"0": SLOT}}, "slots"),
        ({**ORDER, "tenant": "x"}, "tenant"),
        ({**ORDER, "a b\n": "x"}, "*"),
        (with_slot(public_key="AAA"), "slots[1].public_key"),
        (with_slot(public_key="AAAA\n"), "slots[1].public_key"),
        (with_slot(public_key="AA=="), None),
        (with_slot(public_key="AB=="), "slots[1].public_key"),
        (with_slot(public_key="A-_A"), "slots[1].public_key"),
        (with_slot(public_key="\u0661AAA"), "slots[1].public_key"),
        (with_slot(public_key=""), "slots[1].public_key"),
        (with_slot(public_key=HUGE), "slots[1].public_key"),
        (with_slot(public_key=["AAAA"]), "slots[1].public_key"),
        (with_slot(public_key=None), "slots[1].public_key"),
        (with_slot(algorithm="x" * 65), "slots[1].algorithm"),
        (with_slot(name="../x"), "slots[1].name"),
        (with_slot(extra={"deep": 1}), "slots[1].extra"),
    ],
)
def test_the_field_is_a_path(value: Any, field: str | None):
    if value == with_slot(public_key="AA=="):
        assert validated(schemas.EnrolmentBody, value).slots[1].public_key == b"\x00"
        return
    with pytest.raises(InputError) as refused:
        validated(schemas.EnrolmentBody, value)
    assert refused.value.field == field


def test_a_place_in_a_batch_comes_first():
    with pytest.raises(InputError) as refused:
        validated(schemas.EnrolmentBody, with_slot(public_key="?"))
    assert refused.value.field == "slots[1].public_key"


@pytest.mark.parametrize("name", ["", "IDENTITY", "a" * 33, "id entity"])
def test_proofs_are_named_by_slots(name: str):
    with pytest.raises(InputError) as refused:
        validated(schemas.ProofsBody, {"proofs": {name: "AAAA"}})
    assert (refused.value.field or "").startswith("proofs")


@given(st.text(min_size=8, max_size=60))
def test_nothing_of_the_value_is_repeated(secret: str):
    marked = f"zq{secret}-qz"
    for value in (
        {**ORDER, "user": marked + " "},
        {**ORDER, "purpose": marked},
        {**ORDER, marked + " ": 1},
        with_slot(public_key=marked),
    ):
        with pytest.raises(InputError) as refused:
            validated(schemas.EnrolmentBody, value)
        assert marked not in refused.value.detail
        assert marked not in (refused.value.field or "")
        assert refused.value.__cause__ is None


def test_a_reason_must_be_one_of_ours():
    assert validated(schemas.RevocationBody, {}).reason.value == "unspecified"
    with pytest.raises(InputError):
        validated(schemas.RevocationBody, {"reason": "hold"})
