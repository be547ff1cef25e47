"""Every return code of a token has a sentence."""

import inspect

import pkcs11
import pytest

from hsm_drivers.errors import BY_CODE, HsmError, TokenFailureError
from hsm_drivers.pkcs11.meanings import MEANINGS, Lost, meaning, told

ALL = [
    kind
    for _, kind in inspect.getmembers(pkcs11.exceptions, inspect.isclass)
    if issubclass(kind, pkcs11.PKCS11Error) and kind is not pkcs11.PKCS11Error
]


def test_the_table_is_complete() -> None:
    assert set(MEANINGS) == set(ALL)


@pytest.mark.parametrize("kind", ALL)
def test_each_code_is_told_in_a_sentence(kind: type[pkcs11.PKCS11Error]) -> None:
    row = MEANINGS[kind]
    assert row.error in BY_CODE.values()
    assert row.error is not HsmError
    assert len(row.sentence.split()) >= 3
    assert "CKR_" not in row.sentence
    text = str(told(kind(), "alpha"))
    assert text.startswith("token 'alpha': ")
    if row.code:
        assert row.code.startswith("CKR_")
        assert text.endswith(f" [{row.code}]")


def test_codes_are_distinct() -> None:
    codes = [row.code for row in MEANINGS.values() if row.code]
    assert len(codes) == len(set(codes))


def test_a_code_without_a_class_is_told_with_what_there_is() -> None:
    error = pkcs11.PKCS11Error("Unmapped error code 0x80000001")
    assert isinstance(told(error, "alpha"), TokenFailureError)
    assert str(told(error, "alpha")) == (
        "token 'alpha': the token failed [Unmapped error code 0x80000001]"
    )
    assert meaning(error).lost is Lost.NO
