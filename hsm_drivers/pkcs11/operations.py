"""What a key on a token does, prepared once per key and called as long as its handle holds."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from pkcs11 import Attribute, ObjectClass

from hsm_drivers import der
from hsm_drivers.curves import CURVES
from hsm_drivers.errors import TokenFailureError, UnsupportedError
from hsm_drivers.pkcs11.cryptoki import (
    Attributes,
    Cryptoki,
    EcdhParameters,
    GcmParameters,
    Template,
    mechanism,
)
from hsm_drivers.pkcs11.meanings import code_number
from hsm_drivers.pkcs11.returns import RefusedBytesError
from hsm_drivers.vendor import Spelling, Wraps
from hsm_drivers.wrapping import MAX_WRAPPED, refuse_unwrappable
from policies.algorithms import Algorithm, Scheme

Operation = Callable[[bytes], bytes]
Sealing = Callable[[bytes, bytes, bytes], bytes]
"""Takes nonce, text and associated data."""

_GENERIC_SECRET = 0x10
_CKD_NULL = 1
_NONCE, _TAG = 12, 16
_REFUSED = frozenset({0x20, 0x21, 0x40, 0x41, 0x110, 0x112})
"""CKR_DATA_…, CKR_ENCRYPTED_DATA_… and CKR_WRAPPED_KEY_…: it is the bytes, says the standard."""
_REFUSED_POINT = _REFUSED | {0x71, 0x130, 0x1B9}
"""Also CKR_MECHANISM_PARAM_INVALID, CKR_DOMAIN_PARAMS_INVALID and CKR_PUBLIC_KEY_INVALID: the
sender's point is a parameter of the mechanism."""
CARRIER: Template = {
    Attribute.CLASS: ObjectClass.SECRET_KEY,
    Attribute.KEY_TYPE: _GENERIC_SECRET,
    Attribute.TOKEN: False,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: False,
    Attribute.EXTRACTABLE: True,
}
"""A session object that carries bytes into or out of the token and is destroyed at once."""


@dataclass(frozen=True, slots=True)
class KeyOperations:
    """A key as what it can do; None is what it cannot."""

    sign: Operation | None = None
    sign_digest: Operation | None = None
    mac: Operation | None = None
    encrypt: Sealing | None = None
    decrypt: Sealing | None = None
    wrap: Operation | None = None
    unwrap: Operation | None = None
    decapsulate: Operation | None = None


def prepared(token: Cryptoki, handle: int, row: Algorithm, spelling: Spelling) -> KeyOperations:
    """What a key of that row does by that spelling.

    The operations raise `returns.RefusedBytesError` for foreign bytes that are not this key's, and
    python-pkcs11's exceptions for all else that a token answers.
    """
    return _MAKERS[row.scheme](token, handle, row, spelling)


def raw_signature_size(row: Algorithm) -> int:
    """Bytes of a signature as tokens make it: of ECDSA r and s, each as long as a coordinate."""
    if row.scheme is Scheme.ECDSA:
        return (row.public_key_size or 0) - 1
    return row.signature_size or 0


def refused_by(spelling: Spelling, standard: frozenset[int] = _REFUSED) -> frozenset[int]:
    """Codes by which an operation refuses foreign bytes: the standard's, and the token's own."""
    return standard | {code_number(name) for name in spelling.refused}


def _ecdsa(token: Cryptoki, handle: int, row: Algorithm, spelling: Spelling) -> KeyOperations:
    sign = token.signer(mechanism(spelling.use), handle, raw_signature_size(row))
    digest = getattr(hashlib, row.digest or "")
    size = digest().digest_size
    encoded = der.ecdsa_signature

    def sign_digest(given: bytes) -> bytes:
        if len(given) != size:
            raise UnsupportedError(f"a digest for {row.name} has {size} bytes, not {len(given)}")
        return encoded(sign(given))

    return KeyOperations(
        sign=lambda message: encoded(sign(digest(message).digest())), sign_digest=sign_digest
    )


def _whole_message(
    token: Cryptoki, handle: int, row: Algorithm, spelling: Spelling
) -> KeyOperations:
    size = raw_signature_size(row)
    return KeyOperations(sign=token.signer(mechanism(spelling.use), handle, size))


def _hmac(token: Cryptoki, handle: int, row: Algorithm, spelling: Spelling) -> KeyOperations:
    size = hashlib.new(row.digest or "").digest_size
    return KeyOperations(mac=token.signer(mechanism(spelling.use), handle, size))


def _aes_gcm(token: Cryptoki, handle: int, _row: Algorithm, spelling: Spelling) -> KeyOperations:
    parameters = GcmParameters(nonce_length=_NONCE, nonce_bits=8 * _NONCE, tag_bits=8 * _TAG)
    how = mechanism(spelling.use, parameters)
    encrypt = token.encrypter(how, handle, longer=_TAG)
    decrypt = token.decrypter(how, handle, refused_by(spelling))

    def set_up(nonce: bytes, associated: bytes) -> None:
        if len(nonce) != _NONCE:
            raise UnsupportedError(f"a nonce has {_NONCE} bytes, not {len(nonce)}")
        parameters.nonce = nonce
        parameters.associated = associated
        parameters.associated_length = len(associated)

    def seal(nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
        set_up(nonce, associated)
        return encrypt(plaintext)

    def unseal(nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
        set_up(nonce, associated)
        if len(ciphertext) < _TAG:
            raise RefusedBytesError(0x41)
        return decrypt(ciphertext)

    return KeyOperations(encrypt=seal, decrypt=unseal)


def _aes_kwp(token: Cryptoki, handle: int, _row: Algorithm, spelling: Spelling) -> KeyOperations:
    how = mechanism(spelling.use)
    refused = refused_by(spelling)
    if spelling.wraps is Wraps.AS_CIPHER:
        return _wrapping(
            token.encrypter(how, handle, longer=8), token.decrypter(how, handle, refused)
        )

    def wrap(plaintext: bytes) -> bytes:
        carrier = token.create({**CARRIER, Attribute.VALUE: plaintext})
        try:
            return token.wrap(how, handle, carrier)
        finally:
            token.destroy(carrier)

    def unwrap(ciphertext: bytes) -> bytes:
        carrier = token.unwrap(how, handle, ciphertext, CARRIER, refused)
        return token.value_once(carrier, len(ciphertext))

    return _wrapping(wrap, unwrap)


def _wrapping(wrap: Operation, unwrap: Operation) -> KeyOperations:
    """The two, for sizes that there are."""

    def checked_wrap(plaintext: bytes) -> bytes:
        refuse_unwrappable(plaintext)
        return wrap(plaintext)

    def checked_unwrap(ciphertext: bytes) -> bytes:
        if not 16 <= len(ciphertext) <= MAX_WRAPPED + 8 or len(ciphertext) % 8:
            raise RefusedBytesError(0x112)
        return unwrap(ciphertext)

    return KeyOperations(wrap=checked_wrap, unwrap=checked_unwrap)


def _ml_kem(token: Cryptoki, handle: int, row: Algorithm, spelling: Spelling) -> KeyOperations:
    how = mechanism(spelling.use)
    refused = refused_by(spelling)
    template = Attributes({**CARRIER, Attribute.VALUE_LEN: 32})

    def decapsulate(ciphertext: bytes) -> bytes:
        if len(ciphertext) != row.ciphertext_size:
            raise RefusedBytesError(0x41)
        return _secret(token, token.decapsulate(how, handle, ciphertext, template, refused), 32)

    return KeyOperations(decapsulate=decapsulate)


def _ecdh(token: Cryptoki, handle: int, row: Algorithm, spelling: Spelling) -> KeyOperations:
    """ECDH without a KDF (SP 800-56A 5.7.1.2, RFC 7748 6.1).

    What the sender's point may be is looked at here (`hsm_drivers.curves`). Of X25519, points of
    small order give zeros, a secret that everyone knows; of P-256, zeros are one x among others.
    """
    curve = CURVES[row.curve] if row.curve else None
    size = curve.size if curve else row.public_key_size or 0
    parameters = EcdhParameters(kdf=_CKD_NULL)
    how = mechanism(spelling.use, parameters)
    refused = refused_by(spelling, _REFUSED_POINT)
    template = Attributes({**CARRIER, Attribute.VALUE_LEN: size})

    def agree(sent: bytes) -> bytes:
        if len(sent) != row.ciphertext_size:
            raise RefusedBytesError(0x41)
        if curve is not None and not curve.holds(sent):
            raise RefusedBytesError(0x1B9)
        parameters.public = sent
        parameters.public_length = len(sent)
        secret = _secret(token, token.derive(how, handle, template, refused), size)
        if curve is None and not any(secret):
            raise RefusedBytesError(0x41)
        return secret

    return KeyOperations(decapsulate=agree)


def _secret(token: Cryptoki, handle: int, size: int) -> bytes:
    """A shared secret, whole: who strips zeros from its beginning makes others of some."""
    secret = token.value_once(handle, size)
    if len(secret) != size:
        raise TokenFailureError(f"the token made a secret of {len(secret)} bytes, not {size}")
    return secret


_MAKERS: dict[Scheme, Callable[[Cryptoki, int, Algorithm, Spelling], KeyOperations]] = {
    Scheme.ECDSA: _ecdsa,
    Scheme.EDDSA: _whole_message,
    Scheme.ML_DSA: _whole_message,
    Scheme.DHKEM_EC: _ecdh,
    Scheme.DHKEM_X: _ecdh,
    Scheme.ML_KEM: _ml_kem,
    Scheme.AES_KWP: _aes_kwp,
    Scheme.AES_GCM: _aes_gcm,
    Scheme.HMAC: _hmac,
}
