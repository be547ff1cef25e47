"""Private keys that a token wraps because it cannot use them: made, opened and used in the signer.

A key is the seed that all of it follows from, random bytes of the token. It exists in the clear
while it is made and while a batch needs it; what is kept is wrapped under a key of the token.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import mldsa, mlkem, x25519

from hsm_drivers.errors import BadCiphertextError, UnsupportedError
from policies.algorithms import Algorithm, Scheme

Operation = Callable[[bytes], bytes]

_ML_KEM: dict[
    int | None, Callable[[bytes], mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey]
] = {
    1184: mlkem.MLKEM768PrivateKey.from_seed_bytes,
    1568: mlkem.MLKEM1024PrivateKey.from_seed_bytes,
}
"""By the size of the public key; `cryptography` has no ML-KEM-512."""
_ML_DSA: dict[
    int | None,
    Callable[[bytes], mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey],
] = {
    1312: mldsa.MLDSA44PrivateKey.from_seed_bytes,
    1952: mldsa.MLDSA65PrivateKey.from_seed_bytes,
    2592: mldsa.MLDSA87PrivateKey.from_seed_bytes,
}
"""By the size of the public key."""


@dataclass(frozen=True, slots=True, repr=False)
class Unwrapped:
    """A private key in the clear.

    Attributes:
        public_key: Raw bytes.
        operate: Signs a message, or decapsulates a ciphertext.
    """

    public_key: bytes
    operate: Operation


def seed_size(row: Algorithm) -> int:
    """Bytes that a key of the algorithm follows from, a multiple of 8.

    Raises:
        UnsupportedError: Keys of this algorithm are not wrapped.
    """
    try:
        if row.public_key_size in _SIZES[row.scheme]:
            return _SEED_SIZES[row.scheme]
    except KeyError:
        pass
    raise UnsupportedError(
        f"{row.name} keys are not wrapped here; hold it on a token that has the algorithm"
    )


def open_seed(row: Algorithm, seed: bytes) -> Unwrapped:
    """The key of a seed of `seed_size`.

    Raises:
        UnsupportedError: As `seed_size`.
    """
    if len(seed) != seed_size(row):
        raise UnsupportedError(f"a seed of {row.name} has {seed_size(row)} bytes")
    return _OPENERS[row.scheme](row, seed)


def _ml_kem(row: Algorithm, seed: bytes) -> Unwrapped:
    key = _ML_KEM[row.public_key_size](seed)
    return Unwrapped(key.public_key().public_bytes_raw(), _guarded(key.decapsulate))


def _ml_dsa(row: Algorithm, seed: bytes) -> Unwrapped:
    key = _ML_DSA[row.public_key_size](seed)
    return Unwrapped(key.public_key().public_bytes_raw(), key.sign)


def _x25519(_row: Algorithm, seed: bytes) -> Unwrapped:
    key = x25519.X25519PrivateKey.from_private_bytes(seed)

    def agree(sent: bytes) -> bytes:
        return key.exchange(x25519.X25519PublicKey.from_public_bytes(sent))

    return Unwrapped(key.public_key().public_bytes_raw(), _guarded(agree))


def _guarded(decapsulate: Operation) -> Operation:
    def guarded(ciphertext: bytes) -> bytes:
        try:
            return decapsulate(ciphertext)
        except ValueError:
            raise BadCiphertextError("the ciphertext is not one of this algorithm") from None

    return guarded


_OPENERS: dict[Scheme, Callable[[Algorithm, bytes], Unwrapped]] = {
    Scheme.ML_KEM: _ml_kem,
    Scheme.ML_DSA: _ml_dsa,
    Scheme.DHKEM_X: _x25519,
}
_SEED_SIZES = {Scheme.ML_KEM: 64, Scheme.ML_DSA: 32, Scheme.DHKEM_X: 32}
"""FIPS 203, 7.1 (d ‖ z); FIPS 204, 5.1; RFC 7748, 5."""
_SIZES: dict[Scheme, set[int | None]] = {
    Scheme.ML_KEM: set(_ML_KEM),
    Scheme.ML_DSA: set(_ML_DSA),
    Scheme.DHKEM_X: {32},
}
