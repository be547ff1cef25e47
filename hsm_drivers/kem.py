"""The arithmetic around a KEM once its tokens have spoken: combiners, HPKE, CMS. Pure.

Sources: RFC 9180 (HPKE), draft-ietf-hpke-pq and draft-ietf-lamps-pq-composite-kem (hybrids, whose
combiner is X-Wing's), RFC 9629 (KEMs in CMS). What does not fit together is a `BadCiphertextError`
that says nothing of the secrets; ML-KEM's implicit rejection shows at the AEAD or the key wrap.
"""

import hashlib
import hmac
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from hsm_drivers.errors import BadCiphertextError, TokenFailureError
from policies.algorithms import Algorithm, Scheme, algorithm

_XWING_LABEL = bytes.fromhex("5c2e2f2f5e5c")
_HKDF_SHA256, _AES_256_GCM = 0x0001, 0x0002
"""RFC 9180, 7.2 and 7.3."""
_KEY_SIZE, _NONCE_SIZE = 32, 12
_LARGEST_WRAPPED = 72
"""Bytes of a wrapped content-encryption key: 64 at most, and the wrap's eight."""
_SHA256 = "sha256"
_CURVES: dict[str | None, type[ec.EllipticCurve]] = {
    "1.2.840.10045.3.1.7": ec.SECP256R1,
    "1.3.132.0.34": ec.SECP384R1,
}
_SECRET_SIZES: dict[str | None, int] = {"1.3.132.0.34": 48}
"""Bytes of a coordinate, by curve; all others' secrets have 32."""
_DHKEM_HASHES = {0x0010: "sha256", 0x0011: "sha384", 0x0020: "sha256"}
"""By HPKE KEM id (RFC 9180, 7.1); the secret is as long as the hash."""


def parts(row: Algorithm) -> tuple[Algorithm, ...]:
    """The components of a hybrid, post-quantum first; of others the algorithm itself."""
    return tuple(algorithm(name) for name in row.components) or (row,)


def split(row: Algorithm, ciphertext: bytes) -> tuple[bytes, ...]:
    """What each component's token is to be given.

    Points are looked at here, too: a token that does not would leak its key to points of another
    curve.

    Raises:
        BadCiphertextError: Not the algorithm's size, or a part is no point of its curve.
    """
    if len(ciphertext) != row.ciphertext_size:
        raise BadCiphertextError(
            f"a ciphertext of {row.name} has {row.ciphertext_size} bytes, not {len(ciphertext)}"
        )
    found, begin = [], 0
    for part in parts(row):
        end = begin + (part.ciphertext_size or 0)
        found.append(ciphertext[begin:end])
        _refuse_bad_point(part, found[-1])
        begin = end
    return tuple(found)


def shared_secret(
    row: Algorithm,
    secrets: Sequence[bytes],
    ciphertexts: Sequence[bytes],
    public_keys: Sequence[bytes],
) -> bytes:
    """The KEM's shared secret, from what each component gave.

    Args:
        row: The whole KEM: ML-KEM as it is, DHKEM (RFC 9180, 4.1), or a hybrid's combiner.
        secrets: Per component; of a Diffie-Hellman the bare result.
        ciphertexts: As `split` gave them.
        public_keys: The key's own, raw, per component.

    Raises:
        BadCiphertextError: The sender's point is of small order.
        TokenFailureError: A secret has not its algorithm's size.
    """
    for part, secret in zip(parts(row), secrets, strict=True):
        _check_secret(part, secret)
    if row.scheme is Scheme.COMPOSITE_KEM:
        label = _XWING_LABEL if parts(row)[1].scheme is Scheme.DHKEM_X else row.name.encode()
        whole = secrets[0] + secrets[1] + ciphertexts[1] + public_keys[1] + label
        return hashlib.sha3_256(whole).digest()
    if row.scheme is Scheme.ML_KEM:
        return secrets[0]
    return _dhkem(row, secrets[0], ciphertexts[0], public_keys[0])


def open_hpke(
    row: Algorithm, secret: bytes, info: bytes, associated: bytes, ciphertext: bytes
) -> bytes:
    """The first message of an HPKE context: base mode, HKDF-SHA256, AES-256-GCM.

    Raises:
        BadCiphertextError: It was not sealed so, for this key.
    """
    key, nonce = hpke_key(row, secret, info)
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, associated)
    except (InvalidTag, ValueError):
        raise BadCiphertextError(
            "the HPKE message does not open: it was changed, or sealed to another key, for other"
            " info or with other associated data"
        ) from None


def hpke_key(row: Algorithm, secret: bytes, info: bytes) -> tuple[bytes, bytes]:
    """AEAD key and base nonce (RFC 9180, 5.1)."""
    suite = b"HPKE" + _two_bytes(row.hpke_kem_id, _HKDF_SHA256, _AES_256_GCM)
    context = (
        b"\x00"
        + _labelled_extract(_SHA256, suite, b"", b"psk_id_hash", b"")
        + _labelled_extract(_SHA256, suite, b"", b"info_hash", info)
    )
    key = _labelled_extract(_SHA256, suite, secret, b"secret", b"")
    return (
        _labelled_expand(_SHA256, suite, key, b"key", context, _KEY_SIZE),
        _labelled_expand(_SHA256, suite, key, b"base_nonce", context, _NONCE_SIZE),
    )


def unwrap_content_key(secret: bytes, info: bytes, wrapped: bytes) -> bytes:
    """A CMS content-encryption key (RFC 9629, 5): HKDF-SHA256 without salt, AES-256 key wrap.

    Args:
        secret: The KEM's.
        info: CMSORIforKEMOtherInfo, DER.
        wrapped: RFC 3394.

    Raises:
        BadCiphertextError: It was not wrapped so, for this key.
    """
    if len(wrapped) > _LARGEST_WRAPPED:
        raise BadCiphertextError(f"{len(wrapped)} bytes are no wrapped content-encryption key")
    try:
        key = expand(_SHA256, extract(_SHA256, b"", secret), info, _KEY_SIZE)
        return aes_key_unwrap(key, wrapped)
    except InvalidUnwrap:
        raise BadCiphertextError(
            "the content-encryption key does not unwrap: it was changed, or is for another key"
        ) from None


def extract(digest: str, salt: bytes, secret: bytes) -> bytes:
    """HKDF-Extract (RFC 5869, 2.2)."""
    return hmac.digest(salt, secret, digest)


def expand(digest: str, key: bytes, info: bytes, size: int) -> bytes:
    """HKDF-Expand (RFC 5869, 2.3)."""
    made, block = b"", b""
    for counter in range(1, -(-size // hashlib.new(digest).digest_size) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), digest)
        made += block
    return made[:size]


def _refuse_bad_point(part: Algorithm, sent: bytes) -> None:
    if part.scheme is not Scheme.DHKEM_EC:
        return
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[part.curve](), sent)
    except ValueError:
        raise BadCiphertextError(
            f"the ciphertext's {part.name} part is no uncompressed point of its curve"
        ) from None


def _check_secret(part: Algorithm, secret: bytes) -> None:
    if len(secret) != _SECRET_SIZES.get(part.curve, 32):
        raise TokenFailureError(f"the token's secret for {part.name} has a wrong size")
    if part.scheme is Scheme.DHKEM_X and not any(secret):
        raise BadCiphertextError(f"the ciphertext's {part.name} part is of small order")


def _dhkem(row: Algorithm, result: bytes, sent: bytes, public_key: bytes) -> bytes:
    """ExtractAndExpand (RFC 9180, 4.1)."""
    digest = _DHKEM_HASHES[row.hpke_kem_id or 0]
    suite = b"KEM" + _two_bytes(row.hpke_kem_id)
    key = _labelled_extract(digest, suite, b"", b"eae_prk", result)
    size = hashlib.new(digest).digest_size
    return _labelled_expand(digest, suite, key, b"shared_secret", sent + public_key, size)


def _labelled_extract(digest: str, suite: bytes, salt: bytes, label: bytes, key: bytes) -> bytes:
    return extract(digest, salt, b"HPKE-v1" + suite + label + key)


def _labelled_expand(
    digest: str, suite: bytes, key: bytes, label: bytes, info: bytes, size: int
) -> bytes:
    return expand(digest, key, _two_bytes(size) + b"HPKE-v1" + suite + label + info, size)


def _two_bytes(*numbers: int | None) -> bytes:
    return b"".join((number or 0).to_bytes(2, "big") for number in numbers)
