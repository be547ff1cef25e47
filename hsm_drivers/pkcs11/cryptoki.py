"""The module's functions, called past python-pkcs11, within the session that it opened.

python-pkcs11 0.10.1 loads and initialises the module, finds the token and logs in. Making and using
keys it leaves to here, for three reasons that were measured: it asks for every length first, which
NSS answers as an error and which costs a second call everywhere; it makes an object with several
reads of attributes for each derived secret; and it knows neither CKK_EC_MONTGOMERY nor mechanisms
of a maker's own.

Layout and order are those of PKCS#11 3.2 on Unix, where structures are aligned naturally and
CK_ULONG is an unsigned long. All errors are python-pkcs11's exceptions.
"""

import ctypes
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pkcs11
from pkcs11 import Attribute

from hsm_drivers.pkcs11.returns import raise_for

Template = Mapping[int, int | bytes | str]
"""Attributes by CKA number: CK_BBOOL of a bool, CK_ULONG of another int, bytes, or UTF-8."""

_ULONG = ctypes.c_ulong
_POINTER = ctypes.c_void_p
_UNAVAILABLE = _ULONG(-1).value
"""CK_UNAVAILABLE_INFORMATION: the token does not have or does not give the attribute."""
_MAX_VALUE = 8192
"""Bytes of an attribute, above the 2592 of an ML-DSA-87 public key."""
_NUMBERS = frozenset(
    {
        Attribute.CLASS,
        Attribute.KEY_TYPE,
        Attribute.KEY_GEN_MECHANISM,
        Attribute.VALUE_LEN,
        Attribute.PARAMETER_SET,
    }
)
"""Attributes of kind CK_ULONG: NSS softoken gives them to buffers of that very size alone."""
_MAX_FOUND = 256
"""Objects asked for at once."""
_KEPT_BUFFER = 68 * 1024
"""Bytes of the buffer that most answers fit in; larger ones get their own."""
_WRONG_SIGNATURE = {0xC0, 0xC1}
"""CKR_SIGNATURE_INVALID and CKR_SIGNATURE_LEN_RANGE."""
_NOT_GIVEN = {0x11, 0x12, 0x150}
"""CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID and CKR_BUFFER_TOO_SMALL: of some attribute;
the others were read (PKCS#11 3.1, 5.7.5)."""


class _FunctionList(ctypes.Structure):
    """CK_FUNCTION_LIST_3_2; older ones are its beginning."""

    _fields_ = (("version", ctypes.c_ubyte * 2), ("functions", _POINTER * 94))


class _Interface(ctypes.Structure):
    """CK_INTERFACE."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("functions", ctypes.POINTER(_FunctionList)),
        ("flags", _ULONG),
    )


class Mechanism(ctypes.Structure):
    """CK_MECHANISM."""

    _fields_ = (("mechanism", _ULONG), ("parameter", _POINTER), ("length", _ULONG))


class _Attribute(ctypes.Structure):
    """CK_ATTRIBUTE."""

    _fields_ = (("type", _ULONG), ("value", _POINTER), ("length", _ULONG))


class GcmParameters(ctypes.Structure):
    """CK_GCM_PARAMS."""

    _fields_ = (
        ("nonce", ctypes.c_char_p),
        ("nonce_length", _ULONG),
        ("nonce_bits", _ULONG),
        ("associated", ctypes.c_char_p),
        ("associated_length", _ULONG),
        ("tag_bits", _ULONG),
    )


class EcdhParameters(ctypes.Structure):
    """CK_ECDH1_DERIVE_PARAMS."""

    _fields_ = (
        ("kdf", _ULONG),
        ("shared_length", _ULONG),
        ("shared", ctypes.c_char_p),
        ("public_length", _ULONG),
        ("public", ctypes.c_char_p),
    )


def mechanism(number: int, parameters: ctypes.Structure | None = None) -> Mechanism:
    """A mechanism; its parameters have to live as long as it is used."""
    if parameters is None:
        return Mechanism(number, None, 0)
    return Mechanism(number, ctypes.addressof(parameters), ctypes.sizeof(parameters))


# The interpreter stays locked during these calls: a token has one thread, and no other is to run.
def _function(*arguments: type) -> Callable[[int], Callable[..., int]]:
    return ctypes.PYFUNCTYPE(_ULONG, *arguments)


_NOT_INITIALIZED, _ALREADY_LOGGED_IN = 0x190, 0x100
_READ_WRITE, _USER = 0x6, 1
"""CKF_RW_SESSION | CKF_SERIAL_SESSION, and CKU_USER."""
_START = 0, _function(_POINTER)
_FINISH = 1, _function(_POINTER)
_OPEN = 12, _function(_ULONG, _ULONG, _POINTER, _POINTER, _POINTER)
_SESSION_INFO = 15, _function(_ULONG, _POINTER)
_LOG_IN = 18, _function(_ULONG, _ULONG, ctypes.c_char_p, _ULONG)
_TEMPLATE = (_POINTER, _ULONG)
_BYTES = (ctypes.c_char_p, _ULONG)
_ANSWER = (_POINTER, _POINTER)
_MECHANISM = ctypes.POINTER(Mechanism)
_CREATE = 20, _function(_ULONG, *_TEMPLATE, _POINTER)
_DESTROY = 22, _function(_ULONG, _ULONG)
_READ = 24, _function(_ULONG, _ULONG, *_TEMPLATE)
_FIND_INIT = 26, _function(_ULONG, *_TEMPLATE)
_FIND = 27, _function(_ULONG, _POINTER, _ULONG, _POINTER)
_FIND_FINAL = 28, _function(_ULONG)
_ENCRYPT, _DECRYPT, _SIGN, _VERIFY = 29, 33, 42, 48
"""Places of C_…Init in CK_FUNCTION_LIST (pkcs11f.h); the operation itself comes next."""
_INIT = _function(_ULONG, _MECHANISM, _ULONG)
_OPERATE = _function(_ULONG, *_BYTES, *_ANSWER)
_COMPARE = _function(_ULONG, *_BYTES, *_BYTES)
_GENERATE = 58, _function(_ULONG, _MECHANISM, *_TEMPLATE, _POINTER)
_GENERATE_PAIR = 59, _function(_ULONG, _MECHANISM, *_TEMPLATE, *_TEMPLATE, _POINTER, _POINTER)
_WRAP = 60, _function(_ULONG, _MECHANISM, _ULONG, _ULONG, *_ANSWER)
_UNWRAP = 61, _function(_ULONG, _MECHANISM, _ULONG, *_BYTES, *_TEMPLATE, _POINTER)
_DERIVE = 62, _function(_ULONG, _MECHANISM, _ULONG, *_TEMPLATE, _POINTER)
_ENCAPSULATE = 92, _function(_ULONG, _MECHANISM, _ULONG, *_TEMPLATE, *_ANSWER, _POINTER)
_DECAPSULATE = 93, _function(_ULONG, _MECHANISM, _ULONG, *_TEMPLATE, *_BYTES, _POINTER)


class Attributes:
    """A template as the module takes it.

    Attributes:
        given: Address and number of CK_ATTRIBUTE; good for as long as this object lives.
    """

    def __init__(self, template: Template) -> None:
        values = [_packed(value) for value in template.values()]
        self._kept = [ctypes.create_string_buffer(value, len(value) or 1) for value in values]
        self._listed = (_Attribute * len(values))(
            *(
                _Attribute(kind, ctypes.addressof(buffer), len(value))
                for kind, buffer, value in zip(template, self._kept, values, strict=True)
            )
        )
        self.given = ctypes.addressof(self._listed), len(values)


def _packed(value: int | bytes | str) -> bytes:
    if isinstance(value, bool):
        return bytes((value,))
    if isinstance(value, int):
        return value.to_bytes(ctypes.sizeof(_ULONG), sys.byteorder)
    return value.encode() if isinstance(value, str) else value


def number(value: bytes) -> int:
    """A CK_ULONG as it was read."""
    return int.from_bytes(value, sys.byteorder)


def _copied(at: int, size: int, room: int) -> bytes:
    """An answer; a module that claims to have written more than there was room for has failed."""
    if size > room:
        raise pkcs11.FunctionFailed
    return ctypes.string_at(at, size)


class Cryptoki:
    """One session's functions; for the thread that opened it, as long as the session lives."""

    def __init__(self, module: str, session: int) -> None:
        """Find the functions; the binding has loaded the module, so no second copy is made.

        Args:
            module: Path of the module.
            session: CK_SESSION_HANDLE, logged in.
        """
        self._library = ctypes.CDLL(module)
        self._session = session
        self._list = ctypes.POINTER(_FunctionList)()
        get_list = self._library.C_GetFunctionList
        get_list.restype = _ULONG
        raise_for(get_list(ctypes.byref(self._list)))
        self._found: dict[int, Callable[..., int]] = {}
        self._size, self._handle, self._other = _ULONG(), _ULONG(), _ULONG()
        self._at_size = ctypes.addressof(self._size)
        self._at_handle = ctypes.addressof(self._handle)
        self._buffer = ctypes.create_string_buffer(_KEPT_BUFFER)

    def shares_session(self) -> bool:
        """Whether these functions know the binding's session.

        Bridges (p11-kit's client and proxy) give every caller functions of an instance of its own.
        """
        info = ctypes.create_string_buffer(8 * ctypes.sizeof(_ULONG))
        code = self._call(_SESSION_INFO)(self._session, info)
        if code != _NOT_INITIALIZED:
            raise_for(code)
        return code == 0

    def log_in(self, slot: int, pin: str) -> None:
        """Start this instance, open a session of its own and log in; ended by `finish`."""
        raise_for(self._call(_START)(None))
        raise_for(self._call(_OPEN)(slot, _READ_WRITE, None, None, self._at_handle))
        self._session = self._handle.value
        given = pin.encode()
        code = self._call(_LOG_IN)(self._session, _USER, given, len(given))
        if code != _ALREADY_LOGGED_IN:
            raise_for(code)

    def finish(self) -> None:
        """Let an instance of its own go."""
        self._call(_FINISH)(None)

    def create(self, template: Template) -> int:
        """C_CreateObject; answers the handle."""
        attributes = Attributes(template)
        raise_for(self._call(_CREATE)(self._session, *attributes.given, self._at_handle))
        return self._handle.value

    def destroy(self, handle: int) -> None:
        """C_DestroyObject."""
        raise_for(self._call(_DESTROY)(self._session, handle))

    def find(self, template: Template) -> list[int]:
        """Handles of all objects that have these attributes."""
        attributes = Attributes(template)
        raise_for(self._call(_FIND_INIT)(self._session, *attributes.given))
        found: list[int] = []
        page = (_ULONG * _MAX_FOUND)()
        try:
            while True:
                code = self._call(_FIND)(self._session, page, _MAX_FOUND, self._at_size)
                raise_for(code)
                found.extend(page[: self._size.value])
                if not self._size.value:
                    return found
        finally:
            self._call(_FIND_FINAL)(self._session)

    def read(self, handle: int, wanted: Sequence[int]) -> dict[int, bytes]:
        """Attributes of an object, without those that the token lacks or keeps to itself."""
        sizes = [ctypes.sizeof(_ULONG) if kind in _NUMBERS else _MAX_VALUE for kind in wanted]
        buffers = [ctypes.create_string_buffer(size) for size in sizes]
        listed = (_Attribute * len(wanted))(
            *(
                _Attribute(kind, ctypes.addressof(buffer), size)
                for kind, buffer, size in zip(wanted, buffers, sizes, strict=True)
            )
        )
        code = self._call(_READ)(self._session, handle, listed, len(wanted))
        if code not in _NOT_GIVEN:
            raise_for(code)
        return {
            kind: buffer.raw[: entry.length]
            for kind, buffer, entry in zip(wanted, buffers, listed, strict=True)
            if entry.length != _UNAVAILABLE
        }

    def generate(self, how: Mechanism, template: Template) -> int:
        """C_GenerateKey; answers the handle."""
        attributes = Attributes(template)
        code = self._call(_GENERATE)(self._session, how, *attributes.given, self._at_handle)
        raise_for(code)
        return self._handle.value

    def generate_pair(self, how: Mechanism, public: Template, private: Template) -> tuple[int, int]:
        """C_GenerateKeyPair; answers the handles of public and private key."""
        halves = Attributes(public), Attributes(private)
        raise_for(
            self._call(_GENERATE_PAIR)(
                self._session,
                how,
                *halves[0].given,
                *halves[1].given,
                self._at_handle,
                ctypes.addressof(self._other),
            )
        )
        return self._handle.value, self._other.value

    def wrap(self, how: Mechanism, under: int, key: int) -> bytes:
        """C_WrapKey."""
        self._size.value = _KEPT_BUFFER
        buffer = ctypes.addressof(self._buffer)
        raise_for(self._call(_WRAP)(self._session, how, under, key, buffer, self._at_size))
        return _copied(buffer, self._size.value, _KEPT_BUFFER)

    def unwrap(
        self,
        how: Mechanism,
        under: int,
        wrapped: bytes,
        template: Template,
        refused: frozenset[int],
    ) -> int:
        """C_UnwrapKey; answers the handle."""
        attributes = Attributes(template)
        given = wrapped, len(wrapped), *attributes.given
        code = self._call(_UNWRAP)(self._session, how, under, *given, self._at_handle)
        raise_for(code, refused)
        return self._handle.value

    def derive(
        self, how: Mechanism, key: int, template: "Attributes", refused: frozenset[int]
    ) -> int:
        """C_DeriveKey; answers the handle."""
        code = self._call(_DERIVE)(self._session, how, key, *template.given, self._at_handle)
        raise_for(code, refused)
        return self._handle.value

    def decapsulate(
        self,
        how: Mechanism,
        key: int,
        ciphertext: bytes,
        template: "Attributes",
        refused: frozenset[int],
    ) -> int:
        """C_DecapsulateKey (PKCS#11 3.2); answers the handle."""
        given = *template.given, ciphertext, len(ciphertext)
        code = self._call(_DECAPSULATE)(self._session, how, key, *given, self._at_handle)
        raise_for(code, refused)
        return self._handle.value

    def encapsulate(
        self, how: Mechanism, public: int, size: int, template: "Attributes"
    ) -> tuple[bytes, int]:
        """C_EncapsulateKey (PKCS#11 3.2); answers ciphertext, of that size, and handle."""
        self._size.value = size
        answer = ctypes.addressof(self._buffer), self._at_size, self._at_handle
        code = self._call(_ENCAPSULATE)(self._session, how, public, *template.given, *answer)
        raise_for(code)
        return _copied(ctypes.addressof(self._buffer), self._size.value, size), self._handle.value

    def verifies(self, how: Mechanism, public: int, data: bytes, signature: bytes) -> bool:
        """C_Verify."""
        raise_for(self._call((_VERIFY, _INIT))(self._session, how, public))
        given = data, len(data), signature, len(signature)
        code = self._call((_VERIFY + 1, _COMPARE))(self._session, *given)
        if code in _WRONG_SIGNATURE:
            return False
        raise_for(code)
        return True

    def value_once(self, handle: int, size: int) -> bytes:
        """CKA_VALUE, of that size at most, of a session object, which ends with this call."""
        try:
            at = ctypes.addressof(self._buffer)
            read = _Attribute(Attribute.VALUE, at, size)
            raise_for(self._call(_READ)(self._session, handle, ctypes.addressof(read), 1))
            return _copied(at, read.length, size)
        finally:
            self.destroy(handle)

    def signer(self, how: Mechanism, key: int, size: int) -> Callable[[bytes], bytes]:
        """What signs or makes MACs with a key.

        Args:
            how: The mechanism.
            key: Handle.
            size: Bytes of the answer, exactly: NSS softoken makes EdDSA signatures for no others.
        """
        return self._operation(_SIGN, how, key, lambda _: size)

    def encrypter(self, how: Mechanism, key: int, *, longer: int) -> Callable[[bytes], bytes]:
        """What encrypts under a key; `longer` is what is added to the size."""
        return self._operation(_ENCRYPT, how, key, lambda size: size + longer)

    def decrypter(
        self, how: Mechanism, key: int, refused: frozenset[int]
    ) -> Callable[[bytes], bytes]:
        """What undoes it; answers in `refused` are about the ciphertext."""
        return self._operation(_DECRYPT, how, key, lambda size: size, refused)

    def _operation(
        self,
        place: int,
        how: Mechanism,
        key: int,
        room: Callable[[int], int],
        refused: frozenset[int] = frozenset(),
    ) -> Callable[[bytes], bytes]:
        """C_…Init and the operation, with a buffer that its answer fits in."""
        begin = self._call((place, _INIT))
        operate = self._call((place + 1, _OPERATE))
        session, size, at_size = self._session, self._size, self._at_size
        at_kept, pointer = ctypes.addressof(self._buffer), ctypes.pointer(how)

        def operation(data: bytes) -> bytes:
            if code := begin(session, pointer, key):
                raise_for(code)
            length = len(data)
            needed = room(length)
            size.value = needed
            at = at_kept
            if needed > _KEPT_BUFFER:
                own = ctypes.create_string_buffer(needed)
                at = ctypes.addressof(own)
            if code := operate(session, data, length, at, at_size):
                raise_for(code, refused)
            return _copied(at, size.value, needed)

        return operation

    def _call(
        self, function: tuple[int, Callable[[int], Callable[..., int]]]
    ) -> Callable[..., int]:
        place, prototype = function
        if place not in self._found:
            listed = self._newest() if place > 67 else self._list
            address: int | None = listed.contents.functions[place] if listed else None
            if address is None:
                raise pkcs11.FunctionNotSupported
            self._found[place] = prototype(address)
        return self._found[place]

    def _newest(self) -> Any:
        """The list of PKCS#11 3.2; None where the module has none."""
        found = ctypes.POINTER(_Interface)()
        version = (ctypes.c_ubyte * 2)(3, 2)
        ask = getattr(self._library, "C_GetInterface", None)
        if ask is None or ask(b"PKCS 11", version, ctypes.byref(found), _ULONG(0)):
            return None
        return found.contents.functions
