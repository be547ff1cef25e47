"""Encapsulation to a public key: the one step that both envelope forms begin with.

Sources: FIPS 203, RFC 9935 (ML-KEM keys), draft-ietf-lamps-pq-composite-kem (hybrids: post-quantum
part first, SHA3-256 combiner; X-Wing is the one with X25519).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kms.device import der
from kms.device.errors import UsageError

_Share = Callable[[bytes], tuple[bytes, bytes]]
"""A fresh share for a raw public key: the share and the secret agreed on."""


@dataclass(frozen=True, slots=True)
class Encapsulated:
    """What is sent, and what both sides then know."""

    ciphertext: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"<Encapsulated, {len(self.ciphertext)} bytes, secret hidden>"


@dataclass(frozen=True, slots=True)
class Traditional:
    """The classical part of a hybrid.

    Attributes:
        size: Bytes of its public key.
        share: Agrees with such a key.
        label: Ends the combiner's input and names the pair.
    """

    size: int
    share: _Share
    label: bytes


@dataclass(frozen=True, slots=True)
class KemAlgorithm:
    """A KEM that this client encapsulates to.

    Attributes:
        name: As in the registry.
        oid: Encoded OBJECT IDENTIFIER, tag and length included; it has no parameters.
        hpke_id: IANA HPKE KEM identifier.
        module: ML-KEM public key class.
        module_size: Bytes of its ML-KEM key.
        traditional: Of a hybrid.
    """

    name: str
    oid: bytes
    hpke_id: int
    module: Any
    module_size: int
    traditional: Traditional | None = None

    @property
    def size(self) -> int:
        """Bytes of a public key."""
        return self.module_size + (self.traditional.size if self.traditional else 0)

    def encapsulate(self, public_key: bytes) -> Encapsulated:
        """A fresh secret for a raw public key of the right size.

        Raises:
            UsageError: It is no key of this algorithm.
        """
        try:
            module = self.module.from_public_bytes(public_key[: self.module_size])
            secret, ciphertext = module.encapsulate()
            if self.traditional is None:
                return Encapsulated(ciphertext, secret)
            own = public_key[self.module_size :]
            share, agreed = self.traditional.share(own)
        except ValueError as error:
            raise UsageError(f"not a public key of {self.name}") from error
        known = secret + agreed + share + own + self.traditional.label
        return Encapsulated(ciphertext + share, hashlib.sha3_256(known).digest())


def _x25519(public_key: bytes) -> tuple[bytes, bytes]:
    peer = x25519.X25519PublicKey.from_public_bytes(public_key)
    ephemeral = x25519.X25519PrivateKey.generate()
    return ephemeral.public_key().public_bytes_raw(), ephemeral.exchange(peer)


def _ecdh(curve: ec.EllipticCurve) -> _Share:
    def share(public_key: bytes) -> tuple[bytes, bytes]:
        peer = ec.EllipticCurvePublicKey.from_encoded_point(curve, public_key)
        ephemeral = ec.generate_private_key(curve)
        point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return point, ephemeral.exchange(ec.ECDH(), peer)

    return share


def _oid(text: str) -> bytes:
    return der.tlv(0x06, bytes.fromhex(text))


_X25519 = Traditional(32, _x25519, bytes.fromhex("5c2e2f2f5e5c"))  # X-Wing's label, a picture
_P256 = Traditional(65, _ecdh(ec.SECP256R1()), b"MLKEM768-P256")
_P384 = Traditional(97, _ecdh(ec.SECP384R1()), b"MLKEM1024-P384")
_768, _1024 = (mlkem.MLKEM768PublicKey, 1184), (mlkem.MLKEM1024PublicKey, 1568)

KEMS: tuple[KemAlgorithm, ...] = (
    KemAlgorithm("MLKEM768-X25519", _oid("2b0601050507063a"), 0x647A, *_768, _X25519),
    KemAlgorithm("MLKEM768-P256", _oid("2b0601050507063b"), 0x0050, *_768, _P256),
    KemAlgorithm("MLKEM1024-P384", _oid("2b0601050507063f"), 0x0051, *_1024, _P384),
    KemAlgorithm("ML-KEM-768", _oid("608648016503040402"), 0x0041, *_768),
    KemAlgorithm("ML-KEM-1024", _oid("608648016503040403"), 0x0042, *_1024),
)
"""Every KEM that a slot of the organisation may have."""


def parse_slot_key(spki: bytes) -> tuple[KemAlgorithm, bytes]:
    """The algorithm of a SubjectPublicKeyInfo, of which only one form is taken, and its raw key.

    Raises:
        UsageError: Not a key that this client encapsulates to.
    """
    for kem in KEMS:
        raw = spki[-kem.size :]
        if der.spki(kem.oid, raw) == spki:
            return kem, raw
    raise UsageError("not a public key of a KEM that this client knows")
