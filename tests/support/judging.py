"""What stands outside of a token judges what it made: `cryptography`, with public keys alone."""

from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, utils, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from policies.algorithms import Scheme, algorithm

_DIGESTS = {"sha256": hashes.SHA256, "sha384": hashes.SHA384, "sha512": hashes.SHA512}


def verify(spki: bytes, name: str, signature: bytes, message: bytes) -> None:
    """Return for a sound signature; else InvalidSignature."""
    key: Any = load_der_public_key(spki)
    row = algorithm(name)
    if row.scheme is Scheme.ECDSA:
        key.verify(signature, message, ec.ECDSA(_DIGESTS[row.digest or ""]()))
    else:
        key.verify(signature, message)


def verify_digest(spki: bytes, name: str, signature: bytes, digest: bytes) -> None:
    """The same of an ECDSA signature over a digest."""
    key = load_der_public_key(spki)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    how = _DIGESTS[algorithm(name).digest or ""]()
    key.verify(signature, digest, ec.ECDSA(utils.Prehashed(how)))


def can_encapsulate(name: str) -> bool:
    """`cryptography` has no ML-KEM-512."""
    row = algorithm(name)
    return row.scheme is not Scheme.ML_KEM or row.public_key_size != 800


def encapsulate(spki: bytes) -> tuple[bytes, bytes]:
    """What a sender makes for a KEM key: ciphertext and shared secret."""
    public = load_der_public_key(spki)
    if isinstance(public, mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey):
        secret, ciphertext = public.encapsulate()
        return ciphertext, secret
    if isinstance(public, x25519.X25519PublicKey):
        ephemeral = x25519.X25519PrivateKey.generate()
        return ephemeral.public_key().public_bytes_raw(), ephemeral.exchange(public)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    sender = ec.generate_private_key(public.curve)
    point = sender.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return point, sender.exchange(ec.ECDH(), public)
