"""Every return code of a token has a sentence."""

import inspect

import pkcs11
import pytest

from hsm_drivers.errors import BY_CODE, HsmError, TokenFailureError
from hsm_drivers.pkcs11.meanings import MEANINGS, UNCLASSED_MEANINGS, code_name, code_number, told
from hsm_drivers.pkcs11.returns import ERRORS, UNCLASSED, error_of, raise_for
from hsm_drivers.vendor import standard

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
        "token 'alpha': the token failed with a code that the standard does not name [0x80000001]"
    )
    error = pkcs11.PKCS11Error("what the binding thought")
    assert str(told(error, "alpha")) == "token 'alpha': the token failed (what the binding thought)"


def test_numbers_and_names_go_both_ways() -> None:
    """Every class that stands for a code has its number, and every number a name and a class."""
    of_the_binding_itself = {"", None}
    coded = {kind for kind, row in MEANINGS.items() if row.code not in of_the_binding_itself}
    assert set(ERRORS.values()) == coded
    assert len(ERRORS) == len(coded)
    for code in (*ERRORS, *UNCLASSED, 0x80000001):
        assert code_number(code_name(code)) == code
        with pytest.raises(pkcs11.PKCS11Error) as raised:
            raise_for(code)
        assert type(raised.value) is type(error_of(code))
    assert set(UNCLASSED.values()) == set(UNCLASSED_MEANINGS)


def test_every_named_code_has_a_remedy() -> None:
    named = {row.code for row in (*MEANINGS.values(), *UNCLASSED_MEANINGS.values()) if row.code}
    assert named == set(standard().remedies)


def test_what_the_binding_says_of_codes_without_a_class_is_understood() -> None:
    said = {
        "Buffer was too small. Should never see this.": "CKR_BUFFER_TOO_SMALL",
        "Initialisation error (not initialized). Should never see this.": (
            "CKR_CRYPTOKI_NOT_INITIALIZED"
        ),
        "Unmapped error code 0x68": "CKR_KEY_FUNCTION_NOT_PERMITTED",
    }
    for text, code in said.items():
        assert str(told(pkcs11.PKCS11Error(text), "alpha")).endswith(f"[{code}]")
