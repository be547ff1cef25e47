"""What a token answered, judged by `cryptography`: signatures and shared secrets."""

from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from hsm_drivers.compat.bench import DisagreementError
from hsm_drivers.verification import verifier
from policies.algorithms import Algorithm, Scheme

Encapsulated = tuple[bytes, bytes]
"""Shared secret and ciphertext."""


def verifies(row: Algorithm, spki: bytes, signature: bytes, message: bytes) -> bool:
    """Whether it is a signature of that message under that key.

    Raises:
        DisagreementError: The public key is none.
    """
    _public(spki)
    try:
        verifier(row, spki)(signature, message)
    except InvalidSignature:
        return False
    return True


def encapsulate(row: Algorithm, spki: bytes) -> Encapsulated:
    """A fresh secret for that key; for ECDH the ciphertext is an ephemeral public key.

    Raises:
        DisagreementError: The public key is none.
    """
    return _SENDERS[row.scheme](_public(spki))


def judges(row: Algorithm) -> bool:
    """Whether secrets of that KEM can be judged: `cryptography` has no ML-KEM-512."""
    return row.scheme in _SENDERS and row.quantum_category != 1


def _public(spki: bytes) -> Any:
    try:
        return load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DisagreementError(f"its public key cannot be read: {error}") from error


def _ml_kem(public: Any) -> Encapsulated:
    secret, ciphertext = public.encapsulate()
    return secret, ciphertext


def _x25519(public: Any) -> Encapsulated:
    own = x25519.X25519PrivateKey.generate()
    return own.exchange(public), own.public_key().public_bytes_raw()


def _ecdh(public: Any) -> Encapsulated:
    own = ec.generate_private_key(public.curve)
    point = own.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return own.exchange(ec.ECDH(), public), point


_SENDERS: dict[Scheme, Callable[[Any], Encapsulated]] = {
    Scheme.ML_KEM: _ml_kem,
    Scheme.DHKEM_X: _x25519,
    Scheme.DHKEM_EC: _ecdh,
}
