"""What each return code of a token means to an operator: the one table.

A code is known here by python-pkcs11's exception for it; exceptions that are the binding's own have
no code. What is to be done about a code is the vendor profile's to say (`vendor.remedy`).
"""

import re
from dataclasses import dataclass

import pkcs11

from hsm_drivers.errors import (
    HsmError,
    KeyNotFoundError,
    PinRefusedError,
    TokenFailureError,
    TokenUnavailableError,
    UnsupportedError,
)
from hsm_drivers.pkcs11.returns import ERRORS, UNCLASSED, error_of


@dataclass(frozen=True, slots=True)
class Meaning:
    """One row: our error, the code's name in the PKCS#11 standard, the sentence."""

    error: type[HsmError]
    code: str
    sentence: str


def _failure(code: str, sentence: str) -> Meaning:
    return Meaning(TokenFailureError, code, sentence)


def _unsupported(code: str, sentence: str) -> Meaning:
    return Meaning(UnsupportedError, code, sentence)


def _pin(code: str, sentence: str) -> Meaning:
    return Meaning(PinRefusedError, code, sentence)


def _away(code: str, sentence: str) -> Meaning:
    return Meaning(TokenUnavailableError, code, sentence)


def _bug(code: str) -> Meaning:
    return _failure(code, "the token refused a request that this service should not have made")


_P = pkcs11.exceptions
MEANINGS: dict[type[pkcs11.PKCS11Error], Meaning] = {
    # The PIN. Never tried again by itself.
    _P.PinIncorrect: _pin("CKR_PIN_INCORRECT", "the PIN is wrong; it was tried once"),
    _P.PinInvalid: _pin("CKR_PIN_INVALID", "the PIN has characters that the token does not take"),
    _P.PinLenRange: _pin("CKR_PIN_LEN_RANGE", "the PIN is too short or too long for the token"),
    _P.PinExpired: _pin("CKR_PIN_EXPIRED", "the PIN has expired; set a new one"),
    _P.PinLocked: _pin("CKR_PIN_LOCKED", "the PIN is locked; the security officer must reset it"),
    _P.PinTooWeak: _pin("CKR_PIN_TOO_WEAK", "the token finds the PIN too weak"),
    _P.UserPinNotInitialized: _pin(
        "CKR_USER_PIN_NOT_INITIALIZED", "the token has no user PIN yet; initialise it first"
    ),
    # Session, handles or token gone.
    _P.SessionHandleInvalid: _away("CKR_SESSION_HANDLE_INVALID", "the token ended the session"),
    _P.SessionClosed: _away("CKR_SESSION_CLOSED", "the token closed the session"),
    _P.UserNotLoggedIn: _away("CKR_USER_NOT_LOGGED_IN", "the token ended the login"),
    _P.ObjectHandleInvalid: _away("CKR_OBJECT_HANDLE_INVALID", "the token forgot a key handle"),
    _P.KeyHandleInvalid: _away("CKR_KEY_HANDLE_INVALID", "the token forgot a key handle"),
    _P.WrappingKeyHandleInvalid: _away(
        "CKR_WRAPPING_KEY_HANDLE_INVALID", "the token forgot a wrapping key's handle"
    ),
    _P.UnwrappingKeyHandleInvalid: _away(
        "CKR_UNWRAPPING_KEY_HANDLE_INVALID", "the token forgot a wrapping key's handle"
    ),
    _P.DeviceRemoved: _away("CKR_DEVICE_REMOVED", "the token was taken away"),
    _P.DeviceError: _away("CKR_DEVICE_ERROR", "the token or the link to it failed"),
    _P.TokenNotPresent: _away("CKR_TOKEN_NOT_PRESENT", "no token is in the slot"),
    _P.TokenNotRecognised: _away(
        "CKR_TOKEN_NOT_RECOGNIZED", "the module does not recognise the token"
    ),
    _P.SlotIDInvalid: _away("CKR_SLOT_ID_INVALID", "the token's slot is gone"),
    _P.OperationActive: _away("CKR_OPERATION_ACTIVE", "the token was left amid an operation"),
    _P.OperationNotInitialized: _away(
        "CKR_OPERATION_NOT_INITIALIZED", "the token lost the operation it was in"
    ),
    _P.FunctionCancelled: _away("CKR_FUNCTION_CANCELED", "the token cancelled the operation"),
    _P.NoSuchToken: _away("", "the module sees no such token"),
    _P.SessionCount: Meaning(
        TokenUnavailableError, "CKR_SESSION_COUNT", "the token has no session left; close others"
    ),
    # What the token is not able or not set up to do.
    _P.MechanismInvalid: _unsupported("CKR_MECHANISM_INVALID", "the token lacks the mechanism"),
    _P.MechanismParamInvalid: _unsupported(
        "CKR_MECHANISM_PARAM_INVALID", "the token does not take the mechanism's parameter"
    ),
    _P.FunctionNotSupported: _unsupported(
        "CKR_FUNCTION_NOT_SUPPORTED", "the token does not offer the function"
    ),
    _P.DomainParamsInvalid: _unsupported(
        "CKR_DOMAIN_PARAMS_INVALID", "the token does not know the curve"
    ),
    _P.KeySizeRange: _unsupported("CKR_KEY_SIZE_RANGE", "the token takes no key of that size"),
    _P.WrappingKeySizeRange: _unsupported(
        "CKR_WRAPPING_KEY_SIZE_RANGE", "the token takes no wrapping key of that size"
    ),
    _P.UnwrappingKeySizeRange: _unsupported(
        "CKR_UNWRAPPING_KEY_SIZE_RANGE", "the token takes no wrapping key of that size"
    ),
    _P.RandomNoRNG: _unsupported("CKR_RANDOM_NO_RNG", "the token makes no random numbers"),
    _P.RandomSeedNotSupported: _unsupported(
        "CKR_RANDOM_SEED_NOT_SUPPORTED", "the token's random numbers take no seed"
    ),
    _P.KeyNotWrappable: _unsupported("CKR_KEY_NOT_WRAPPABLE", "the token does not wrap such a key"),
    _P.KeyIndigestible: _unsupported("CKR_KEY_INDIGESTIBLE", "the token does not hash such a key"),
    # Keys.
    _P.NoSuchKey: Meaning(KeyNotFoundError, "", "it holds no such key"),
    _P.MultipleObjectsReturned: _failure("", "it holds several keys of one label; rename them"),
    _P.MultipleTokensReturned: Meaning(
        TokenUnavailableError, "", "several tokens carry one label; rename them"
    ),
    _P.KeyTypeInconsistent: _unsupported(
        "CKR_KEY_TYPE_INCONSISTENT", "the key is of a kind that does not do this"
    ),
    _P.WrappingKeyTypeInconsistent: _unsupported(
        "CKR_WRAPPING_KEY_TYPE_INCONSISTENT", "the key is of a kind that does not wrap"
    ),
    _P.UnwrappingKeyTypeInconsistent: _unsupported(
        "CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT", "the key is of a kind that does not unwrap"
    ),
    _P.KeyUnextractable: _failure("CKR_KEY_UNEXTRACTABLE", "the key may not leave the token"),
    _P.PublicKeyInvalid: _failure("CKR_PUBLIC_KEY_INVALID", "the public key is not valid"),
    # Bytes that are not what they claim to be.
    _P.WrappedKeyInvalid: _failure(
        "CKR_WRAPPED_KEY_INVALID", "these bytes were not wrapped under this key"
    ),
    _P.WrappedKeyLenRange: _failure(
        "CKR_WRAPPED_KEY_LEN_RANGE", "these bytes are too few, too many or cut off to be wrapped"
    ),
    _P.EncryptedDataInvalid: _failure("CKR_ENCRYPTED_DATA_INVALID", "the ciphertext is damaged"),
    _P.EncryptedDataLenRange: _failure(
        "CKR_ENCRYPTED_DATA_LEN_RANGE", "the ciphertext has a wrong size"
    ),
    _P.SignatureInvalid: _failure("CKR_SIGNATURE_INVALID", "the signature does not verify"),
    _P.SignatureLenRange: _failure("CKR_SIGNATURE_LEN_RANGE", "the signature has a wrong size"),
    # The token in trouble.
    _P.GeneralError: Meaning(
        TokenFailureError,
        "CKR_GENERAL_ERROR",
        "the token failed without saying why; see its own log",
    ),
    _P.FunctionFailed: Meaning(
        TokenFailureError,
        "CKR_FUNCTION_FAILED",
        "the token failed; see its own log",
    ),
    _P.FunctionRejected: _failure(
        "CKR_FUNCTION_REJECTED", "the token or its operator rejected the operation"
    ),
    _P.DeviceMemory: _failure("CKR_DEVICE_MEMORY", "the token is full; remove objects from it"),
    _P.HostMemory: _failure("CKR_HOST_MEMORY", "the module ran out of memory"),
    _P.TokenWriteProtected: _failure(
        "CKR_TOKEN_WRITE_PROTECTED", "the token is write-protected; keys cannot be made on it"
    ),
    _P.SessionReadOnly: _failure(
        "CKR_SESSION_READ_ONLY", "the token gave a read-only session; keys cannot be made in it"
    ),
    _P.UserAlreadyLoggedIn: _failure(
        "CKR_USER_ALREADY_LOGGED_IN", "this process is logged in already"
    ),
    _P.AnotherUserAlreadyLoggedIn: _failure(
        "CKR_USER_ANOTHER_ALREADY_LOGGED_IN", "the security officer is logged in; log out first"
    ),
    _P.UserTooManyTypes: _failure(
        "CKR_USER_TOO_MANY_TYPES", "the token lets no further kind of user log in"
    ),
    _P.SessionExists: _failure("CKR_SESSION_EXISTS", "another session is open; close it first"),
    _P.SessionReadOnlyExists: _failure(
        "CKR_SESSION_READ_ONLY_EXISTS", "a read-only session is open; close it first"
    ),
    _P.SessionReadWriteSOExists: _failure(
        "CKR_SESSION_READ_WRITE_SO_EXISTS", "the security officer has a session; close it first"
    ),
    _P.ExceededMaxIterations: _failure(
        "CKR_EXCEEDED_MAX_ITERATIONS", "the token gave up making the key; try again"
    ),
    _P.NoEvent: _failure("CKR_NO_EVENT", "nothing happened at the slots"),
    # Requests that the driver must never make.
    _P.ArgumentsBad: _bug("CKR_ARGUMENTS_BAD"),
    _P.AttributeTypeInvalid: _bug("CKR_ATTRIBUTE_TYPE_INVALID"),
    _P.AttributeValueInvalid: _bug("CKR_ATTRIBUTE_VALUE_INVALID"),
    _P.AttributeReadOnly: _bug("CKR_ATTRIBUTE_READ_ONLY"),
    _P.AttributeSensitive: _bug("CKR_ATTRIBUTE_SENSITIVE"),
    _P.DataInvalid: _bug("CKR_DATA_INVALID"),
    _P.DataLenRange: _bug("CKR_DATA_LEN_RANGE"),
    _P.KeyNeeded: _bug("CKR_KEY_NEEDED"),
    _P.KeyNotNeeded: _bug("CKR_KEY_NOT_NEEDED"),
    _P.TemplateIncomplete: _bug("CKR_TEMPLATE_INCOMPLETE"),
    _P.TemplateInconsistent: _bug("CKR_TEMPLATE_INCONSISTENT"),
}


_NO_SUCH_USE = _unsupported(
    "CKR_KEY_FUNCTION_NOT_PERMITTED", "the key is of a kind that does not do this"
)
UNCLASSED_MEANINGS: dict[str, Meaning] = {
    row.code: row
    for row in (
        _NO_SUCH_USE,
        _unsupported("CKR_ACTION_PROHIBITED", "the token or the key's attributes forbid this"),
        _bug("CKR_USER_TYPE_INVALID"),
        _bug("CKR_BUFFER_TOO_SMALL"),
        _away("CKR_CRYPTOKI_NOT_INITIALIZED", "the module has lost its state"),
        _failure("CKR_FIPS_SELF_TEST_FAILED", "the token failed its own test; have it repaired"),
        _failure("CKR_LIBRARY_LOAD_FAILED", "the module could not load a library of its own"),
        Meaning(
            TokenUnavailableError,
            "CKR_TOKEN_RESOURCE_EXCEEDED",
            "the token has more to do than it can; ask again later",
        ),
    )
}
"""The same by name, for codes that python-pkcs11 has no class for."""
_TEXTS = {
    "Buffer was too small. Should never see this.": "CKR_BUFFER_TOO_SMALL",
    "Initialisation error (not initialized). Should never see this.": (
        "CKR_CRYPTOKI_NOT_INITIALIZED"
    ),
    "User type invalid. Should never see this.": "CKR_USER_TYPE_INVALID",
}
"""What python-pkcs11 makes of some of them."""
_NUMBER = re.compile(r"Unmapped error code (0x[0-9a-f]+)", re.ASCII)


def meaning(error: pkcs11.PKCS11Error) -> Meaning:
    """The row of an exception; a code that nobody documented is told as its number.

    python-pkcs11 raises its bare base class for the codes that it has no class for and puts the
    code into the text; where it does not even do that, the text is all there is.
    """
    known = MEANINGS.get(type(error))
    return known or _unclassed(error)


def _unclassed(error: pkcs11.PKCS11Error) -> Meaning:
    text = str(error)
    number = _NUMBER.fullmatch(text)
    if number is None:
        row = UNCLASSED_MEANINGS.get(_TEXTS.get(text, ""))
        return row or _failure("", f"the token failed ({text or type(error).__name__})")
    name = UNCLASSED.get(int(number[1], 16))
    if name is not None:
        return UNCLASSED_MEANINGS[name]
    return _failure(number[1], "the token failed with a code that the standard does not name")


def code_name(code: int) -> str:
    """A return code by its name, or as `0x…`."""
    return meaning(error_of(code)).code


def told(error: pkcs11.PKCS11Error, token: str) -> HsmError:
    """The exception as ours: a sentence that names the token, the code in brackets at its end."""
    row = meaning(error)
    subject = f" ({error})" if type(error) in MEANINGS and str(error) else ""
    code = f" [{row.code}]" if row.code else ""
    return row.error(f"token {token!r}: {row.sentence}{subject}{code}")


_NUMBERS = {code_name(code): code for code in (*ERRORS, *UNCLASSED)}


def code_number(name: str) -> int:
    """The number of a code that is named, or written as `0x…`, in a profile."""
    return int(name, 16) if name.startswith("0x") else _NUMBERS[name]
