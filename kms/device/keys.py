"""Slot keys: generated here, used here, never handed out (promise P1).

A `SlotKey` answers one question, "prove that you are held", and shows nothing but its public
half. It cannot be copied or pickled, and its repr names the algorithm only.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import (
    ec,
    ed25519,
    mldsa,
    mlkem,
    padding,
    rsa,
    x25519,
)
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kms import wire
from kms.device import der
from kms.device.errors import ChallengeError, UsageError

SECRET_SIZE = 32
"""Bytes that the server seals to a KEM slot."""

_Sign = Callable[[bytes], bytes]
_Open = Callable[[bytes, bytes], bytes]


class SlotKey(ABC):
    """One key of a device.

    Attributes:
        algorithm: Name as in the registry, `ECDSA-P256` for example.
        public_key: SubjectPublicKeyInfo, DER.
    """

    __slots__ = ("algorithm", "public_key")

    takes_challenge: bool

    def __init__(self, algorithm: str, public_key: bytes) -> None:
        self.algorithm = algorithm
        self.public_key = public_key

    @staticmethod
    def generate(algorithm: str) -> "SlotKey":
        """A fresh key.

        Raises:
            UsageError: This client does not know the algorithm.
        """
        if algorithm in _SIGNATURE:
            public_key, sign = _SIGNATURE[algorithm]()
            return SigningKey(algorithm, public_key, sign)
        if algorithm in _KEM:
            public_key, unseal = _KEM[algorithm]()
            return KemKey(algorithm, public_key, unseal)
        known = ", ".join((*_SIGNATURE, *_KEM))
        raise UsageError(f"cannot generate a key for {algorithm!r}; known: {known}")

    @abstractmethod
    def prove(self, slot: str, transcript: bytes, challenge: bytes) -> bytes:
        """Proof of possession over a transcript that the caller built itself.

        Args:
            slot: Name of the slot.
            transcript: Exact transcript bytes.
            challenge: `enc ‖ ct` for a KEM key; empty for a signature key.

        Raises:
            ChallengeError: The challenge does not open with this key and transcript.
        """

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.algorithm}, private half hidden>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("slot keys stay where they were made: no copying, no pickling")


class SigningKey(SlotKey):
    """Proves itself by a signature (ECDSA in DER, PSS with MGF1 and salt as long as the hash)."""

    __slots__ = ("__sign",)

    takes_challenge = False

    def __init__(self, algorithm: str, public_key: bytes, sign: _Sign) -> None:
        super().__init__(algorithm, public_key)
        self.__sign = sign

    def prove(self, slot: str, transcript: bytes, challenge: bytes) -> bytes:
        """See `SlotKey.prove`."""
        if challenge:
            raise ChallengeError(f"slot {slot!r} signs; it takes no challenge")
        return self.__sign(wire.sign_message(transcript))


class KemKey(SlotKey):
    """Proves itself by opening an HPKE challenge and answering with a MAC under its secret."""

    __slots__ = ("__open",)

    takes_challenge = True

    def __init__(self, algorithm: str, public_key: bytes, unseal: _Open) -> None:
        super().__init__(algorithm, public_key)
        self.__open = unseal

    def prove(self, slot: str, transcript: bytes, challenge: bytes) -> bytes:
        """See `SlotKey.prove`."""
        try:
            secret = self.__open(challenge, wire.hpke_info(transcript))
        except InvalidTag as error:
            raise ChallengeError(f"the challenge of slot {slot!r} does not open") from error
        if len(secret) != SECRET_SIZE:
            raise ChallengeError(
                f"the challenge of slot {slot!r} holds {len(secret)} bytes, not {SECRET_SIZE}"
            )
        return wire.kem_mac(secret, slot, transcript, challenge)


def _spki(public_key: PublicKeyTypes) -> bytes:
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _ecdsa(curve: ec.EllipticCurve, digest: hashes.HashAlgorithm) -> tuple[bytes, _Sign]:
    private = ec.generate_private_key(curve)
    return _spki(private.public_key()), lambda data: private.sign(data, ec.ECDSA(digest))


def _ed25519() -> tuple[bytes, _Sign]:
    private = ed25519.Ed25519PrivateKey.generate()
    return _spki(private.public_key()), private.sign


def _ml_dsa(
    private: mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey,
) -> tuple[bytes, _Sign]:
    return _spki(private.public_key()), private.sign  # empty context


def _rsa(bits: int) -> tuple[bytes, _Sign]:
    private = rsa.generate_private_key(65537, bits)
    digest = hashes.SHA256()
    pss = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
    return _spki(private.public_key()), lambda data: private.sign(data, pss, digest)


def _suite(kem: hpke.KEM) -> hpke.Suite:
    return hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def _x25519() -> tuple[bytes, _Open]:
    private, suite = x25519.X25519PrivateKey.generate(), _suite(hpke.KEM.X25519)
    return _spki(private.public_key()), lambda data, info: suite.decrypt(data, private, info)


def _ecdh_p256() -> tuple[bytes, _Open]:
    private, suite = ec.generate_private_key(ec.SECP256R1()), _suite(hpke.KEM.P256)
    return _spki(private.public_key()), lambda data, info: suite.decrypt(data, private, info)


def _ml_kem_768() -> tuple[bytes, _Open]:
    private, suite = mlkem.MLKEM768PrivateKey.generate(), _suite(hpke.KEM.MLKEM768)
    return _spki(private.public_key()), lambda data, info: suite.decrypt(data, private, info)


def _ml_kem_1024() -> tuple[bytes, _Open]:
    private, suite = mlkem.MLKEM1024PrivateKey.generate(), _suite(hpke.KEM.MLKEM1024)
    return _spki(private.public_key()), lambda data, info: suite.decrypt(data, private, info)


# Composite ML-KEM (draft-ietf-lamps-pq-composite-kem): the public key is the ML-KEM key followed
# by the traditional one, X25519 raw and P-384 as an uncompressed point.
_OID_MLKEM768_X25519 = bytes.fromhex("06082b0601050507063a")  # 1.3.6.1.5.5.7.6.58
_OID_MLKEM1024_P384 = bytes.fromhex("06082b0601050507063f")  # 1.3.6.1.5.5.7.6.63


def _mlkem768_x25519() -> tuple[bytes, _Open]:
    post_quantum = mlkem.MLKEM768PrivateKey.generate()
    traditional = x25519.X25519PrivateKey.generate()
    public = post_quantum.public_key().public_bytes_raw()
    public += traditional.public_key().public_bytes_raw()
    private = hpke.MLKEM768X25519PrivateKey(post_quantum, traditional)
    suite = _suite(hpke.KEM.MLKEM768_X25519)
    spki = der.spki(_OID_MLKEM768_X25519, public)
    return spki, lambda data, info: suite.decrypt(data, private, info)


def _mlkem1024_p384() -> tuple[bytes, _Open]:
    post_quantum = mlkem.MLKEM1024PrivateKey.generate()
    traditional = ec.generate_private_key(ec.SECP384R1())
    public = post_quantum.public_key().public_bytes_raw()
    public += traditional.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    private = hpke.MLKEM1024P384PrivateKey(post_quantum, traditional)
    suite = _suite(hpke.KEM.MLKEM1024_P384)
    spki = der.spki(_OID_MLKEM1024_P384, public)
    return spki, lambda data, info: suite.decrypt(data, private, info)


_SIGNATURE: Mapping[str, Callable[[], tuple[bytes, _Sign]]] = {
    "ECDSA-P256": lambda: _ecdsa(ec.SECP256R1(), hashes.SHA256()),
    "ECDSA-P384": lambda: _ecdsa(ec.SECP384R1(), hashes.SHA384()),
    "Ed25519": _ed25519,
    "ML-DSA-65": lambda: _ml_dsa(mldsa.MLDSA65PrivateKey.generate()),
    "ML-DSA-87": lambda: _ml_dsa(mldsa.MLDSA87PrivateKey.generate()),
    "RSA-3072": lambda: _rsa(3072),
}

_KEM: Mapping[str, Callable[[], tuple[bytes, _Open]]] = {
    "X25519": _x25519,
    "ECDH-P256": _ecdh_p256,
    "ML-KEM-768": _ml_kem_768,
    "ML-KEM-1024": _ml_kem_1024,
    "MLKEM768-X25519": _mlkem768_x25519,
    "MLKEM1024-P384": _mlkem1024_p384,
}

ALGORITHMS = (*_SIGNATURE, *_KEM)
"""Every algorithm this client can generate, signature algorithms first."""
