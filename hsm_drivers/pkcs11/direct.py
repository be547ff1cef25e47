"""Two functions of a module called without python-pkcs11, for the signatures that come in batches.

For each signature the binding first asks for its length, by a call of the module, and makes an
operation object. Both are left out here: some 4 of 60 µs of a P-256 signature. Module, session,
handles and thread are the binding's own; layout and order are those of PKCS#11 2.40 on Unix, where
structures are aligned naturally and CK_ULONG is an unsigned long.
"""

import ctypes
from collections.abc import Callable

import pkcs11

_ULONG = ctypes.c_ulong
_SIGN_INIT, _SIGN = 42, 43
"""Places in CK_FUNCTION_LIST (pkcs11f.h)."""
_MAX_SIGNATURE = 256
"""Bytes, above the 132 of P-521."""


class _FunctionList(ctypes.Structure):
    """CK_FUNCTION_LIST, as far as it is needed."""

    _fields_ = (("version", ctypes.c_ubyte * 2), ("functions", ctypes.c_void_p * (_SIGN + 1)))


class _Mechanism(ctypes.Structure):
    """CK_MECHANISM."""

    _fields_ = (("mechanism", _ULONG), ("parameter", ctypes.c_void_p), ("length", _ULONG))


# The interpreter stays locked during these calls: the signer has no other thread to let run.
_SignInit = ctypes.PYFUNCTYPE(_ULONG, _ULONG, ctypes.POINTER(_Mechanism), _ULONG)
_Sign = ctypes.PYFUNCTYPE(_ULONG, _ULONG, ctypes.c_char_p, _ULONG, ctypes.c_void_p, ctypes.c_void_p)

_E = pkcs11.exceptions
ERRORS: dict[int, type[pkcs11.PKCS11Error]] = {
    0x002: _E.HostMemory,
    0x005: _E.GeneralError,
    0x006: _E.FunctionFailed,
    0x007: _E.ArgumentsBad,
    0x020: _E.DataInvalid,
    0x021: _E.DataLenRange,
    0x030: _E.DeviceError,
    0x031: _E.DeviceMemory,
    0x032: _E.DeviceRemoved,
    0x050: _E.FunctionCancelled,
    0x054: _E.FunctionNotSupported,
    0x060: _E.KeyHandleInvalid,
    0x062: _E.KeySizeRange,
    0x063: _E.KeyTypeInconsistent,
    0x070: _E.MechanismInvalid,
    0x071: _E.MechanismParamInvalid,
    0x082: _E.ObjectHandleInvalid,
    0x090: _E.OperationActive,
    0x091: _E.OperationNotInitialized,
    0x0A3: _E.PinExpired,
    0x0B0: _E.SessionClosed,
    0x0B3: _E.SessionHandleInvalid,
    0x0E0: _E.TokenNotPresent,
    0x0E1: _E.TokenNotRecognised,
    0x101: _E.UserNotLoggedIn,
    0x200: _E.FunctionRejected,
}
"""What C_SignInit and C_Sign may answer (PKCS#11 2.40, 5.11), as the binding raises it."""


def signer(
    module: str, session: int, key: int, mechanism: pkcs11.Mechanism
) -> Callable[[bytes], bytes]:
    """What signs with this key, by a mechanism without parameters, as long as the handles hold.

    Args:
        module: Path of the module, which the binding has loaded and initialised.
        session: CK_SESSION_HANDLE, logged in.
        key: CK_OBJECT_HANDLE of the private key.
        mechanism: For which the module answers at most 256 bytes.
    """
    sign_init = _SignInit(_function(module, _SIGN_INIT))
    sign = _Sign(_function(module, _SIGN))
    how, size = ctypes.pointer(_Mechanism(mechanism)), _ULONG()
    buffer = ctypes.create_string_buffer(_MAX_SIGNATURE)
    size_at, buffer_at = ctypes.addressof(size), ctypes.addressof(buffer)

    def signed(data: bytes) -> bytes:
        if code := sign_init(session, how, key):
            raise _error(code)
        size.value = _MAX_SIGNATURE
        if code := sign(session, data, len(data), buffer_at, size_at):
            raise _error(code)
        return buffer.raw[: size.value]

    return signed


def _function(module: str, place: int) -> int:
    """Where a function of a module is; the module is loaded already, so no second copy is made."""
    listed = ctypes.POINTER(_FunctionList)()
    if code := ctypes.CDLL(module).C_GetFunctionList(ctypes.byref(listed)):
        raise _error(code)
    address: int | None = listed.contents.functions[place]
    if address is None:
        raise pkcs11.FunctionNotSupported
    return address


def _error(code: int) -> pkcs11.PKCS11Error:
    error = ERRORS.get(code)
    return pkcs11.PKCS11Error(f"Unmapped error code {code:#x}") if error is None else error()
