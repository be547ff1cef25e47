"""Verifying signatures of clients' keys: with the public key alone, here, without a token."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_public_key

from kms.domain.key_records import KeyVersion
from kms.services.keys.verbs import Item
from kms.services.verifying import SignatureCheck, refusal
from policies.algorithms import algorithm

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


def signature_is_right(version: KeyVersion, item: Item) -> bytes:
    """One byte for a right signature and none for any other, as the signer answers for MACs."""
    if item.digest is None:
        check = SignatureCheck(
            version.algorithm, version.public_key, item.message or b"", item.signature
        )
        return b"\x01" if refusal(check) is None else b""
    return b"\x01" if _fits_digest(version, item.digest, item.signature) else b""


def _fits_digest(version: KeyVersion, digest: bytes, signature: bytes) -> bool:
    key = load_der_public_key(version.public_key)
    name = algorithm(version.algorithm).digest
    if not isinstance(key, ec.EllipticCurvePublicKey) or name is None:
        return False
    try:
        key.verify(signature, digest, ec.ECDSA(Prehashed(_HASHES[name])))
    except InvalidSignature:
        return False
    return True
