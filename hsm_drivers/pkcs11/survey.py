"""Ask a module what it is and which tokens it sees; nobody logs in.

    python -m hsm_drivers.pkcs11.survey MODULE      prints `surveys.Survey` as JSON

A process of its own: what the module does to it, no other process suffers. Layout is that of
PKCS#11 2.40 on Unix, the part that all later versions share.
"""

import ctypes
import sys
from collections.abc import Callable

from pkcs11 import Mechanism, PKCS11Error

from hsm_drivers.pkcs11.meanings import meaning
from hsm_drivers.pkcs11.returns import raise_for
from hsm_drivers.surveys import MechanismFacts, PinState, Survey, TokenFacts, encode

_ULONG = ctypes.c_ulong
_UNAVAILABLE = _ULONG(-1).value
_INITIALISED, _LOGIN_REQUIRED, _WRITE_PROTECTED = 0x400, 0x004, 0x002
_PIN_SET = 0x008
_PIN_STATES = (
    (0x40000, PinState.LOCKED),
    (0x20000, PinState.FINAL_TRY),
    (0x10000, PinState.COUNT_LOW),
    (0x80000, PinState.TO_BE_CHANGED),
)
"""CKF_USER_PIN_…, the worst first."""
_MAX_SLOTS = 64
_MAX_MECHANISMS = 2048


class _FunctionList(ctypes.Structure):
    """CK_FUNCTION_LIST, as far as it is needed."""

    _fields_ = (("version", ctypes.c_ubyte * 2), ("functions", ctypes.c_void_p * 9))


class _Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_ubyte), ("minor", ctypes.c_ubyte))


class _Info(ctypes.Structure):
    """CK_INFO."""

    _fields_ = (
        ("cryptoki", _Version),
        ("manufacturer", ctypes.c_char * 32),
        ("flags", _ULONG),
        ("description", ctypes.c_char * 32),
        ("version", _Version),
    )


class _TokenInfo(ctypes.Structure):
    """CK_TOKEN_INFO."""

    _fields_ = (
        ("label", ctypes.c_char * 32),
        ("manufacturer", ctypes.c_char * 32),
        ("model", ctypes.c_char * 16),
        ("serial", ctypes.c_char * 16),
        ("flags", _ULONG),
        ("max_sessions", _ULONG),
        ("sessions", _ULONG),
        ("max_rw_sessions", _ULONG),
        ("rw_sessions", _ULONG),
        ("longest_pin", _ULONG),
        ("shortest_pin", _ULONG),
        ("total_public", _ULONG),
        ("free_public", _ULONG),
        ("total_private", _ULONG),
        ("free_private", _ULONG),
        ("hardware", _Version),
        ("firmware", _Version),
        ("time", ctypes.c_char * 16),
    )


class _MechanismInfo(ctypes.Structure):
    """CK_MECHANISM_INFO."""

    _fields_ = (("smallest", _ULONG), ("largest", _ULONG), ("flags", _ULONG))


_Call = ctypes.CFUNCTYPE(_ULONG, *[ctypes.c_void_p] * 3)
"""Enough for all: what does not take three arguments does not look at the rest (System V ABI)."""


class _Module:
    """The functions, by CK_FUNCTION_LIST: not every module exports them by name (NSS)."""

    def __init__(self, path: str) -> None:
        listed = ctypes.POINTER(_FunctionList)()
        raise_for(ctypes.CDLL(path).C_GetFunctionList(ctypes.byref(listed)))
        functions = [_Call(address) for address in listed.contents.functions]
        self.initialize, self.finalize, self.get_info = functions[:3]
        self.slots, self.token_info, self.mechanisms, self.mechanism_info = (
            functions[place] for place in (4, 6, 7, 8)
        )


def survey(path: str) -> Survey:
    """Load the module into this process, ask, and finalise it.

    Raises:
        OSError: It cannot be loaded.
        PKCS11Error: As it answers.
    """
    module = _Module(path)
    raise_for(module.initialize(None, None, None))
    try:
        info = _Info()
        raise_for(module.get_info(ctypes.addressof(info), None, None))
        found = (_token(module, slot) for slot in _listed(module.slots, 1, _MAX_SLOTS))
        return Survey(
            module=path,
            manufacturer=_text(info.manufacturer),
            description=_text(info.description),
            version=_number(info.version),
            cryptoki=_number(info.cryptoki),
            tokens=tuple(token for token in found if token is not None),
        )
    finally:
        module.finalize(None, None, None)


def _token(module: _Module, slot: int) -> TokenFacts | None:
    """The token in a slot; None for one that nobody has initialised."""
    info = _TokenInfo()
    raise_for(module.token_info(slot, ctypes.addressof(info), None))
    if not info.flags & _INITIALISED:
        return None
    numbers = _listed(module.mechanisms, slot, _MAX_MECHANISMS)
    return TokenFacts(
        slot=slot,
        label=_text(info.label),
        manufacturer=_text(info.manufacturer),
        model=_text(info.model),
        serial=_text(info.serial),
        hardware=_number(info.hardware),
        firmware=_number(info.firmware),
        pin=_pin(info.flags),
        login_required=bool(info.flags & _LOGIN_REQUIRED),
        write_protected=bool(info.flags & _WRITE_PROTECTED),
        sessions=_known(info.max_sessions) or None,  # 0 is CK_EFFECTIVELY_INFINITE
        open_sessions=_known(info.sessions),
        free_private=_known(info.free_private),
        shortest_pin=info.shortest_pin,
        longest_pin=info.longest_pin,
        mechanisms=tuple(_mechanism(module, slot, number) for number in sorted(numbers)),
    )


def _mechanism(module: _Module, slot: int, number: int) -> MechanismFacts:
    info = _MechanismInfo()
    raise_for(module.mechanism_info(slot, number, ctypes.addressof(info)))
    try:
        name = Mechanism(number).name.lstrip("_")
    except ValueError:
        name = f"{number:#x}"
    return MechanismFacts(number, name, info.smallest, info.largest)


def _listed(function: Callable[..., int], first: int, most: int) -> list[int]:
    """C_GetSlotList or C_GetMechanismList with room for all, so that none is asked for twice."""
    room, count = (_ULONG * most)(), _ULONG(most)
    raise_for(function(first, ctypes.addressof(room), ctypes.addressof(count)))
    return list(room[: count.value])


def _pin(flags: int) -> PinState:
    if not flags & _PIN_SET:
        return PinState.NOT_SET
    return next((state for bit, state in _PIN_STATES if flags & bit), PinState.SOUND)


def _known(number: int) -> int | None:
    return None if number == _UNAVAILABLE else number


def _text(padded: bytes) -> str:
    """Blank-padded UTF-8 (PKCS#11 3.1, 3.1); foreign bytes cannot steer a terminal."""
    text = padded.decode("utf-8", "replace").rstrip(" \x00")
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def _number(version: _Version) -> str:
    return f"{version.major}.{version.minor}"


def main() -> int:
    """Print the survey of the module that is named; a sentence and 1 where there is none."""
    (module,) = sys.argv[1:]
    try:
        found = survey(module)
    except PKCS11Error as error:
        row = meaning(error)
        code = f" [{row.code}]" if row.code else ""
        sys.stderr.write(f"the PKCS#11 module {module} does not answer: {row.sentence}{code}\n")
        return 1
    except (OSError, AttributeError) as error:
        sys.stderr.write(f"cannot use the PKCS#11 module {module}: {error}\n")
        return 1
    sys.stdout.buffer.write(encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
