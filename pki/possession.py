"""Proof that a private key is held: signatures, and secrets sealed to keys that cannot sign.

Sources: RFC 3279 2.2.3 (ECDSA-Sig-Value), RFC 8032, RFC 9881, RFC 8017 8.1 (PSS), RFC 9180 and
draft-ietf-hpke-pq (HPKE).
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PublicKey,
    MLKEM1024P384PublicKey,
    Suite,
)

from pki.errors import DerError, ProofError
from pki.keys import PublicKey
from policies.algorithms import Algorithm, Scheme

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_ECDSA = {name: ec.ECDSA(digest) for name, digest in _HASHES.items()}
_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)

_KEMS: dict[int, Any] = {
    0x0010: KEM.P256,
    0x0011: KEM.P384,
    0x0020: KEM.X25519,
    0x0041: KEM.MLKEM768,
    0x0042: KEM.MLKEM1024,
    0x0051: KEM.MLKEM1024_P384,
    0x647A: KEM.MLKEM768_X25519,
}
_HYBRID_KEYS: dict[int, Any] = {
    0x0051: MLKEM1024P384PublicKey,
    0x647A: MLKEM768X25519PublicKey,
}
_SUITES = {number: Suite(kem, KDF.HKDF_SHA256, AEAD.AES_256_GCM) for number, kem in _KEMS.items()}


@dataclass(frozen=True, slots=True)
class Challenge:
    """A sealed secret (`enc ‖ ct`) and the hash of the MAC that only its opener can make."""

    sealed: bytes = field(repr=False)
    mac_sha256: str


def check_signature_form(algorithm: Algorithm, signature: bytes) -> None:
    """Refuse a signature that does not have the algorithm's only encoding.

    Raises:
        ProofError: Another size, or for ECDSA not the DER of two positive numbers.
    """
    limit = algorithm.signature_size
    if limit is None:
        raise ProofError(f"{algorithm.name} keys do not sign", field="signature")
    if algorithm.scheme is not Scheme.ECDSA:
        if len(signature) != limit:
            raise ProofError(
                f"an {algorithm.name} signature has {limit} bytes, not {len(signature)}",
                field="signature",
            )
        return
    try:
        _read_ecdsa(signature, limit)
    except DerError as error:
        raise ProofError(f"not an ECDSA signature in DER: {error}", field="signature") from error


def _read_ecdsa(signature: bytes, limit: int) -> None:
    if len(signature) > limit:
        raise DerError(f"more than {limit} bytes")
    try:
        r, s = decode_dss_signature(signature)
    except ValueError as error:
        raise DerError("not two numbers, each in as few bytes as it needs") from error
    if r <= 0 or s <= 0:
        raise DerError("a number is not positive")


def verify_signature(key: PublicKey, message: bytes, signature: bytes) -> None:
    """Accept a signature over the message by the key, or raise.

    ECDSA hashes with the algorithm's own digest; ML-DSA is pure with an empty context; RSA is PSS
    with SHA-256 and 32 bytes of salt.

    Raises:
        ProofError: The key cannot sign, or the signature is malformed or not of this key.
    """
    algorithm = key.algorithm
    check_signature_form(algorithm, signature)
    try:
        match algorithm.scheme:
            case Scheme.ECDSA:
                key.handle.verify(signature, message, _ECDSA[algorithm.digest or ""])
            case Scheme.RSA_PSS:
                key.handle.verify(signature, message, _PSS, _HASHES[algorithm.digest or ""])
            case _:
                key.handle.verify(signature, message)
    except InvalidSignature:
        raise ProofError(
            "the signature is not of this key and message", field="signature"
        ) from None


def sealable(algorithm: Algorithm) -> bool:
    """Whether a secret can be sealed to keys of the algorithm, so that they can be proven."""
    return algorithm.hpke_kem_id in _SUITES


def seal(key: PublicKey, info: bytes, secret: bytes) -> bytes:
    """HPKE base mode, HKDF-SHA256, AES-256-GCM, no associated data: `enc ‖ ct`.

    Raises:
        ProofError: Nothing can be sealed to such a key.
    """
    number = key.algorithm.hpke_kem_id
    if number not in _SUITES:
        raise ProofError(f"nothing can be sealed to {key.algorithm.name} keys", field="algorithm")
    hybrid = _HYBRID_KEYS.get(number)
    handle = hybrid(*key.handles) if hybrid is not None else key.handle
    try:
        return _SUITES[number].encrypt(secret, handle, info)
    except ValueError as error:
        # An X25519 point of low order gives no shared secret (RFC 9180 7.1.4).
        raise ProofError("nothing can be sealed to this key", field="spki") from error


def verify_mac(expected_sha256: str, mac: bytes) -> None:
    """Accept a MAC whose SHA-256 (hex) is the expected one, or raise; constant time.

    Raises:
        ProofError: It is another.
    """
    found = hashlib.sha256(mac).digest()
    if not hmac.compare_digest(found, bytes.fromhex(expected_sha256)):
        raise ProofError("the MAC does not prove that the secret was opened", field="mac")
