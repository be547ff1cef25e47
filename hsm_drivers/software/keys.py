"""Keys of the software twin: one maker a scheme, each giving what such a key can do."""

import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, x25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm_drivers.curves import CURVES
from hsm_drivers.errors import BadCiphertextError, UnsupportedError
from policies.algorithms import Algorithm, Scheme

Operation = Callable[[bytes], bytes]
Sealing = Callable[[bytes, bytes, bytes], bytes]
"""Takes nonce, text and associated data."""

_CURVES: dict[str | None, type[ec.EllipticCurve]] = {
    "1.2.840.10045.3.1.7": ec.SECP256R1,
    "1.3.132.0.34": ec.SECP384R1,
    "1.3.132.0.35": ec.SECP521R1,
}
_DIGESTS: dict[str | None, type[hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
_ML_DSA: dict[
    int | None,
    Callable[[], mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey],
] = {
    1312: mldsa.MLDSA44PrivateKey.generate,
    1952: mldsa.MLDSA65PrivateKey.generate,
    2592: mldsa.MLDSA87PrivateKey.generate,
}
"""By the size of the public key."""
_ML_KEM: dict[int | None, Callable[[], mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey]] = {
    1184: mlkem.MLKEM768PrivateKey.generate,
    1568: mlkem.MLKEM1024PrivateKey.generate,
}
"""By the size of the public key; `cryptography` has no ML-KEM-512."""


@dataclass(frozen=True, slots=True)
class SoftwareKey:
    """A key as what it can do; None is what it cannot.

    Attributes:
        spki: SubjectPublicKeyInfo DER; empty for a secret key.
    """

    spki: bytes = b""
    sign: Operation | None = None
    sign_digest: Operation | None = None
    mac: Operation | None = None
    encrypt: Sealing | None = None
    decrypt: Sealing | None = None
    wrap: Operation | None = None
    unwrap: Operation | None = None
    decapsulate: Operation | None = None


class _Public(Protocol):
    def public_bytes(self, encoding: Encoding, format: PublicFormat) -> bytes: ...  # noqa: A002 - cryptography's name


def _spki(key: _Public) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _ecdsa(row: Algorithm) -> SoftwareKey:
    key = ec.generate_private_key(_CURVES[row.curve]())
    scheme = ec.ECDSA(_DIGESTS[row.digest]())
    digest = _DIGESTS[row.digest]()

    def sign_digest(given: bytes) -> bytes:
        if len(given) != digest.digest_size:
            raise UnsupportedError(f"a digest for {row.name} has {digest.digest_size} bytes")
        return key.sign(given, ec.ECDSA(Prehashed(digest)))

    return SoftwareKey(
        _spki(key.public_key()),
        sign=lambda message: key.sign(message, scheme),
        sign_digest=sign_digest,
    )


def _eddsa(_row: Algorithm) -> SoftwareKey:
    key = ed25519.Ed25519PrivateKey.generate()
    return SoftwareKey(_spki(key.public_key()), sign=key.sign)


def _ml_kem(row: Algorithm) -> SoftwareKey:
    key = _ML_KEM[row.public_key_size]()
    return SoftwareKey(_spki(key.public_key()), decapsulate=_guarded(key.decapsulate))


def _dhkem_x(_row: Algorithm) -> SoftwareKey:
    key = x25519.X25519PrivateKey.generate()

    def agree(sent: bytes) -> bytes:
        return key.exchange(x25519.X25519PublicKey.from_public_bytes(sent))

    return SoftwareKey(_spki(key.public_key()), decapsulate=_guarded(agree))


def _dhkem_ec(row: Algorithm) -> SoftwareKey:
    curve, point = _CURVES[row.curve](), CURVES[row.curve or ""]
    key = ec.generate_private_key(curve)

    def agree(sent: bytes) -> bytes:
        if not point.holds(sent):
            raise ValueError("no point of the curve")
        return key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(curve, sent))

    return SoftwareKey(_spki(key.public_key()), decapsulate=_guarded(agree))


def _aes_kwp(row: Algorithm) -> SoftwareKey:
    key = os.urandom(row.classical_bits // 8)

    def unwrap(ciphertext: bytes) -> bytes:
        try:
            return aes_key_unwrap_with_padding(key, ciphertext)
        except InvalidUnwrap:
            raise BadCiphertextError("these bytes were not wrapped under this key") from None

    return SoftwareKey(
        wrap=lambda plaintext: aes_key_wrap_with_padding(key, plaintext), unwrap=unwrap
    )


def _ml_dsa(row: Algorithm) -> SoftwareKey:
    key = _ML_DSA[row.public_key_size]()
    return SoftwareKey(_spki(key.public_key()), sign=key.sign)


def _hmac(row: Algorithm) -> SoftwareKey:
    key = os.urandom(row.classical_bits // 8)
    return SoftwareKey(mac=lambda message: hmac.digest(key, message, row.digest or ""))


def _aes_gcm(row: Algorithm) -> SoftwareKey:
    cipher = AESGCM(os.urandom(row.classical_bits // 8))

    def encrypt(nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
        _check_nonce(nonce)
        return cipher.encrypt(nonce, plaintext, associated)

    def decrypt(nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
        _check_nonce(nonce)
        try:
            return cipher.decrypt(nonce, ciphertext, associated)
        except InvalidTag:
            raise BadCiphertextError("the ciphertext is damaged, or of another key") from None

    return SoftwareKey(encrypt=encrypt, decrypt=decrypt)


def _check_nonce(nonce: bytes) -> None:
    if len(nonce) != 12:
        raise UnsupportedError(f"a nonce has 12 bytes, not {len(nonce)}")


def _guarded(decapsulate: Operation) -> Operation:
    """A wrong size or a point outside the group is the sender's fault, told as a token would."""

    def guarded(ciphertext: bytes) -> bytes:
        try:
            return decapsulate(ciphertext)
        except ValueError:
            raise BadCiphertextError("the ciphertext is not one of this algorithm") from None

    return guarded


_MAKERS: dict[Scheme, Callable[[Algorithm], SoftwareKey]] = {
    Scheme.ECDSA: _ecdsa,
    Scheme.EDDSA: _eddsa,
    Scheme.ML_KEM: _ml_kem,
    Scheme.DHKEM_X: _dhkem_x,
    Scheme.DHKEM_EC: _dhkem_ec,
    Scheme.ML_DSA: _ml_dsa,
    Scheme.AES_KWP: _aes_kwp,
    Scheme.AES_GCM: _aes_gcm,
    Scheme.HMAC: _hmac,
}


def makes(row: Algorithm) -> bool:
    """Whether the twin makes such keys."""
    if row.scheme is Scheme.ML_KEM:
        return row.public_key_size in _ML_KEM
    return row.scheme in _MAKERS


def new_key(row: Algorithm) -> SoftwareKey:
    """A fresh key of that algorithm.

    Raises:
        UnsupportedError: `cryptography` makes none, or the twin has no use for them.
    """
    if not makes(row):
        raise UnsupportedError(f"the software twin makes no {row.name} keys")
    return _MAKERS[row.scheme](row)
