"""Return codes as exceptions: those of python-pkcs11, whoever made the call."""

import pkcs11

_E = pkcs11.exceptions
ERRORS: dict[int, type[pkcs11.PKCS11Error]] = {
    0x002: _E.HostMemory,
    0x003: _E.SlotIDInvalid,
    0x005: _E.GeneralError,
    0x006: _E.FunctionFailed,
    0x007: _E.ArgumentsBad,
    0x008: _E.NoEvent,
    0x010: _E.AttributeReadOnly,
    0x011: _E.AttributeSensitive,
    0x012: _E.AttributeTypeInvalid,
    0x013: _E.AttributeValueInvalid,
    0x020: _E.DataInvalid,
    0x021: _E.DataLenRange,
    0x030: _E.DeviceError,
    0x031: _E.DeviceMemory,
    0x032: _E.DeviceRemoved,
    0x040: _E.EncryptedDataInvalid,
    0x041: _E.EncryptedDataLenRange,
    0x050: _E.FunctionCancelled,
    0x054: _E.FunctionNotSupported,
    0x060: _E.KeyHandleInvalid,
    0x062: _E.KeySizeRange,
    0x063: _E.KeyTypeInconsistent,
    0x064: _E.KeyNotNeeded,
    0x066: _E.KeyNeeded,
    0x067: _E.KeyIndigestible,
    0x069: _E.KeyNotWrappable,
    0x06A: _E.KeyUnextractable,
    0x070: _E.MechanismInvalid,
    0x071: _E.MechanismParamInvalid,
    0x082: _E.ObjectHandleInvalid,
    0x090: _E.OperationActive,
    0x091: _E.OperationNotInitialized,
    0x0A0: _E.PinIncorrect,
    0x0A1: _E.PinInvalid,
    0x0A2: _E.PinLenRange,
    0x0A3: _E.PinExpired,
    0x0A4: _E.PinLocked,
    0x0B0: _E.SessionClosed,
    0x0B1: _E.SessionCount,
    0x0B3: _E.SessionHandleInvalid,
    0x0B5: _E.SessionReadOnly,
    0x0B6: _E.SessionExists,
    0x0B7: _E.SessionReadOnlyExists,
    0x0B8: _E.SessionReadWriteSOExists,
    0x0C0: _E.SignatureInvalid,
    0x0C1: _E.SignatureLenRange,
    0x0D0: _E.TemplateIncomplete,
    0x0D1: _E.TemplateInconsistent,
    0x0E0: _E.TokenNotPresent,
    0x0E1: _E.TokenNotRecognised,
    0x0E2: _E.TokenWriteProtected,
    0x0F0: _E.UnwrappingKeyHandleInvalid,
    0x0F1: _E.UnwrappingKeySizeRange,
    0x0F2: _E.UnwrappingKeyTypeInconsistent,
    0x100: _E.UserAlreadyLoggedIn,
    0x101: _E.UserNotLoggedIn,
    0x102: _E.UserPinNotInitialized,
    0x104: _E.AnotherUserAlreadyLoggedIn,
    0x105: _E.UserTooManyTypes,
    0x110: _E.WrappedKeyInvalid,
    0x112: _E.WrappedKeyLenRange,
    0x113: _E.WrappingKeyHandleInvalid,
    0x114: _E.WrappingKeySizeRange,
    0x115: _E.WrappingKeyTypeInconsistent,
    0x120: _E.RandomSeedNotSupported,
    0x121: _E.RandomNoRNG,
    0x130: _E.DomainParamsInvalid,
    0x1B5: _E.ExceededMaxIterations,
    0x1B8: _E.PinTooWeak,
    0x1B9: _E.PublicKeyInvalid,
    0x200: _E.FunctionRejected,
}
"""CKR_… of PKCS#11 3.2 (pkcs11t.h) that python-pkcs11 has a class for."""

UNCLASSED: dict[int, str] = {
    0x01B: "CKR_ACTION_PROHIBITED",
    0x068: "CKR_KEY_FUNCTION_NOT_PERMITTED",
    0x103: "CKR_USER_TYPE_INVALID",
    0x150: "CKR_BUFFER_TOO_SMALL",
    0x190: "CKR_CRYPTOKI_NOT_INITIALIZED",
    0x1B6: "CKR_FIPS_SELF_TEST_FAILED",
    0x1B7: "CKR_LIBRARY_LOAD_FAILED",
    0x201: "CKR_TOKEN_RESOURCE_EXCEEDED",
}
"""Codes that it has none for, and that say something all the same."""


class RefusedBytesError(Exception):
    """The token's answer to foreign bytes that are not what they should be; nothing is broken.

    Attributes:
        code: The return code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"{code:#x}")
        self.code = code


def error_of(code: int) -> pkcs11.PKCS11Error:
    """The exception of a return code."""
    known = ERRORS.get(code)
    # The binding says it in these words.
    return known() if known else pkcs11.PKCS11Error(f"Unmapped error code {code:#x}")


def raise_for(code: int, refused: frozenset[int] = frozenset()) -> None:
    """Let CKR_OK pass.

    Args:
        code: CK_RV.
        refused: Codes by which this call refuses foreign bytes.

    Raises:
        RefusedBytesError: For one of these.
        pkcs11.PKCS11Error: For any other.
    """
    if code in refused:
        raise RefusedBytesError(code)
    if code:
        raise error_of(code)
