"""Public keys: strict SubjectPublicKeyInfo in, one parsed value out.

Sources: RFC 5480 (EC), RFC 8410 (X25519, Ed25519), RFC 8017 and RFC 3279 (RSA), RFC 9881 (ML-DSA),
RFC 9935 (ML-KEM), draft-ietf-lamps-pq-composite-kem (composites: post-quantum part first, raw).
"""

import hashlib
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, rsa, x25519

from pki import der
from pki.errors import DerError, InvalidKeyError
from policies.algorithms import Algorithm, Kind, Scheme, algorithm, algorithms, of_key

MAX_SPKI = 8192
"""No public key of the registry is larger, in bytes."""

_CURVES: dict[str, ec.EllipticCurve] = {
    "1.2.840.10045.3.1.7": ec.SECP256R1(),
    "1.3.132.0.34": ec.SECP384R1(),
    "1.3.132.0.35": ec.SECP521R1(),
}
_ML_DSA: dict[int, type[Any]] = {
    1312: mldsa.MLDSA44PublicKey,
    1952: mldsa.MLDSA65PublicKey,
    2592: mldsa.MLDSA87PublicKey,
}
_ML_KEM: dict[int, type[Any]] = {
    1184: mlkem.MLKEM768PublicKey,
    1568: mlkem.MLKEM1024PublicKey,
}
_ML_KEM_MODULUS = 3329
_ED25519_PRIME = 2**255 - 19
_ED25519_D = -121665 * pow(121666, -1, _ED25519_PRIME) % _ED25519_PRIME


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key that was parsed once.

    Attributes:
        spki: SubjectPublicKeyInfo, the exact DER that was given.
        algorithm: Its registry row.
        raw: Content of the BIT STRING.
        components: SPKI DER of every component of a hybrid, post-quantum first; of the key itself
            if it is none.
        modulus: Of an RSA key.
        exponent: Of an RSA key.
        handles: `cryptography` key objects, one per component; None where it has no class.
    """

    spki: bytes
    algorithm: Algorithm
    raw: bytes = field(repr=False)
    components: tuple[bytes, ...] = field(repr=False)
    modulus: int | None = field(default=None, repr=False)
    exponent: int | None = field(default=None, repr=False)
    handles: tuple[Any, ...] = field(default=(), repr=False, compare=False)

    @property
    def handle(self) -> Any:
        """The key object of a key that is no hybrid."""
        return self.handles[0]

    def key_id(self) -> bytes:
        """Subject key identifier of the key, see `key_id`."""
        return key_id(self.raw)

    def parts(self) -> tuple[tuple[Algorithm, bytes], ...]:
        """Registry row and raw key of every component, in the order of `components`."""
        if not self.algorithm.hybrid:
            return ((self.algorithm, self.raw),)
        return _split(self.algorithm, self.raw)


def key_id(raw: bytes) -> bytes:
    """Key identifier: first 160 bits of SHA-256 over the BIT STRING's bytes (RFC 7093 method 1)."""
    return hashlib.sha256(raw).digest()[:20]


@cache
def spki_header(key_algorithm: Algorithm) -> bytes:
    """What precedes the raw key in the SPKI of an algorithm whose keys have one size.

    Raises:
        InvalidKeyError: The algorithm has no keys of one size.
    """
    if key_algorithm.public_key_size is None:
        raise InvalidKeyError(f"{key_algorithm.name} has no public keys of one size")
    return _header(key_algorithm, key_algorithm.public_key_size)


def _header(key_algorithm: Algorithm, size: int) -> bytes:
    parameters = b"" if key_algorithm.curve is None else der.oid(key_algorithm.curve)
    if key_algorithm.scheme is Scheme.RSA_PSS:
        parameters = der.null()  # RFC 3279 2.3.1: rsaEncryption has NULL parameters
    identifier = der.sequence(der.oid(key_algorithm.oid), parameters)
    bits = der.header(der.BIT_STRING, size + 1) + b"\x00"
    return der.header(der.SEQUENCE, len(identifier) + len(bits) + size) + identifier + bits


def encode_spki(key_algorithm: Algorithm, raw: bytes) -> bytes:
    """SubjectPublicKeyInfo of a raw public key.

    Raises:
        InvalidKeyError: The key has another size than the algorithm's.
    """
    if key_algorithm.public_key_size not in {None, len(raw)}:
        raise InvalidKeyError(
            f"{key_algorithm.name} keys have {key_algorithm.public_key_size} bytes, not {len(raw)}"
        )
    return _header(key_algorithm, len(raw)) + raw


@lru_cache(maxsize=2048)  # a device's key is read in both its calls, and the point checked in each
def parse_public_key(spki: bytes, key_algorithm: Algorithm) -> PublicKey:
    """Read a key of a known algorithm.

    Args:
        spki: SubjectPublicKeyInfo, DER.
        key_algorithm: What it must be.

    Raises:
        InvalidKeyError: Other identifiers or parameters, another size, bytes that are not DER,
            trailing bytes, a point that is compressed or not on its curve, coefficients that are
            not reduced (FIPS 203 7.2).
    """
    if key_algorithm.kind not in {Kind.SIGNATURE, Kind.KEM}:
        raise InvalidKeyError(f"{key_algorithm.name} has no public keys")
    if key_algorithm.scheme is Scheme.RSA_PSS:
        return _parse_rsa(spki, key_algorithm)
    head = spki_header(key_algorithm)
    if not spki.startswith(head) or len(spki) != len(head) + (key_algorithm.public_key_size or 0):
        raise InvalidKeyError(_mismatch(spki, key_algorithm))
    raw = spki[len(head) :]
    if not key_algorithm.hybrid:
        return PublicKey(spki, key_algorithm, raw, (spki,), handles=(_load(key_algorithm, raw),))
    parts = _split(key_algorithm, raw)
    return PublicKey(
        spki,
        key_algorithm,
        raw,
        tuple(encode_spki(row, part) for row, part in parts),
        handles=tuple(_load(row, part) for row, part in parts),
    )


def _split(hybrid: Algorithm, raw: bytes) -> tuple[tuple[Algorithm, bytes], ...]:
    parts: list[tuple[Algorithm, bytes]] = []
    begin = 0
    for name in hybrid.components:
        row = algorithm(name)
        size = row.public_key_size or 0
        parts.append((row, raw[begin : begin + size]))
        begin += size
    return tuple(parts)


def _mismatch(spki: bytes, wanted: Algorithm) -> str:
    """Says what is wrong with an SPKI that does not have the algorithm's one form."""
    try:
        oid, curve, bits = _identify(spki)
    except DerError as error:
        return f"not a SubjectPublicKeyInfo in DER: {error}"
    if (oid, curve) != (wanted.oid, wanted.curve):
        found = oid if curve is None else f"{oid} with {curve}"
        return f"the key says it is {found}, which is not {wanted.name}"
    if wanted.scheme in {Scheme.ECDSA, Scheme.DHKEM_EC} and bits[:1] in {b"\x02", b"\x03"}:
        return "the point is compressed; it must be written in full (RFC 5480 2.2)"
    if len(bits) != wanted.public_key_size:
        return f"{wanted.name} keys have {wanted.public_key_size} bytes, not {len(bits)}"
    return f"the parameters are not those of {wanted.name}"


def _identify(spki: bytes) -> tuple[str, str | None, bytes]:
    """Key OID, curve OID if the parameters are one, and the BIT STRING's bytes."""
    if len(spki) > MAX_SPKI:
        raise DerError(f"more than {MAX_SPKI} bytes")
    reader = der.Reader(spki)
    outer = reader.enter()
    reader.finish()
    identifier = outer.enter()
    bits = outer.bit_string()
    outer.finish()
    oid = identifier.oid()
    curve = identifier.oid() if identifier.peek() == der.OBJECT_IDENTIFIER else None
    return oid, curve, bits


def infer_algorithm(spki: bytes, kind: Kind) -> Algorithm:
    """The registry row that a key of this kind belongs to, by its identifiers.

    Raises:
        InvalidKeyError: Not a SubjectPublicKeyInfo, or of no algorithm of the registry.
    """
    try:
        oid, curve, bits = _identify(spki)
        row = of_key(kind, oid, curve, None)
        if row is None and any(item.oid == oid and item.modulus_bits for item in algorithms(kind)):
            modulus, _ = _rsa_numbers(bits)
            row = of_key(kind, oid, None, modulus.bit_length())
    except DerError as error:
        raise InvalidKeyError(f"not a public key of a known algorithm: {error}") from error
    if row is None:
        raise InvalidKeyError(f"no {kind.value} algorithm of the registry has keys of type {oid}")
    return row


def _rsa_numbers(raw: bytes) -> tuple[int, int]:
    """RSAPublicKey (RFC 8017 A.1.1)."""
    reader = der.Reader(raw)
    numbers = reader.enter()
    reader.finish()
    modulus, exponent = numbers.integer(), numbers.integer()
    numbers.finish()
    return modulus, exponent


def _parse_rsa(spki: bytes, wanted: Algorithm) -> PublicKey:
    try:
        oid, _, raw = _identify(spki)
        modulus, exponent = _rsa_numbers(raw)
    except DerError as error:
        raise InvalidKeyError(f"not an RSA SubjectPublicKeyInfo in DER: {error}") from error
    if oid != wanted.oid or modulus.bit_length() != wanted.modulus_bits or modulus < 0:
        raise InvalidKeyError(f"not an {wanted.name} key: its modulus has another size")
    if _header(wanted, len(raw)) + raw != spki:
        raise InvalidKeyError("an RSA key has NULL parameters (RFC 3279 2.3.1)")
    try:
        handle = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except (ValueError, OverflowError) as error:
        raise InvalidKeyError(f"not an RSA key that can be used: {error}") from error
    return PublicKey(spki, wanted, raw, (spki,), modulus, exponent, (handle,))


def _load(row: Algorithm, raw: bytes) -> Any:
    """The key object, which checks what the bytes alone do not show."""
    try:
        match row.scheme:
            case Scheme.ECDSA | Scheme.DHKEM_EC:
                if raw[0] != 0x04:
                    raise InvalidKeyError("the point is not written in full (RFC 5480 2.2)")
                return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[row.curve or ""], raw)
            case Scheme.EDDSA:
                _check_ed25519_point(raw)
                return ed25519.Ed25519PublicKey.from_public_bytes(raw)
            case Scheme.DHKEM_X:
                return x25519.X25519PublicKey.from_public_bytes(raw)
            case Scheme.ML_DSA:
                return _ML_DSA[len(raw)].from_public_bytes(raw)
            case Scheme.ML_KEM:
                return _load_ml_kem(raw)
            case _:
                raise InvalidKeyError(f"{row.name} has no public keys")
    except ValueError as error:
        raise InvalidKeyError(f"not a valid {row.name} key") from error


def _load_ml_kem(raw: bytes) -> Any:
    cls = _ML_KEM.get(len(raw))
    if cls is not None:
        return cls.from_public_bytes(raw)  # checks the modulus itself
    # FIPS 203 7.2, for the parameter set that the library lacks: every coefficient is reduced.
    packed = int.from_bytes(raw[:-32], "little")
    while packed:
        if packed & 0xFFF >= _ML_KEM_MODULUS:
            raise InvalidKeyError("a coefficient of the ML-KEM key is not reduced (FIPS 203 7.2)")
        packed >>= 12
    return None


@lru_cache(maxsize=1024)  # a tenth of a millisecond, and a device's key is read in both its calls
def _check_ed25519_point(raw: bytes) -> None:
    """RFC 8032 5.1.3: x² = (y² - 1) / (d·y² + 1) has a root. The library finds out only later."""
    prime = _ED25519_PRIME
    y = int.from_bytes(raw, "little") & ((1 << 255) - 1)
    square = (y * y - 1) * (_ED25519_D * y * y + 1) % prime  # same residue class as the quotient
    if square and pow(square, (prime - 1) // 2, prime) != 1:
        raise InvalidKeyError("the Ed25519 key is not a point on its curve")


def fingerprints(key: PublicKey) -> tuple[str, ...]:
    """SHA-256 (hex) of every component's SPKI.

    A P-256 key has the same fingerprint whether it signs, agrees or is part of a hybrid.
    """
    return tuple(hashlib.sha256(component).hexdigest() for component in key.components)


@cache
def signature_identifier(signer: Algorithm) -> bytes:
    """AlgorithmIdentifier of certificates and CRLs that this algorithm signs.

    RSASSA-PSS has its parameters written out (RFC 4055): SHA-256, MGF1 with it, 32 bytes of salt.
    All others have none (RFC 5758, 8410, 9881).

    Raises:
        InvalidKeyError: The algorithm does not sign.
    """
    if signer.signature_oid is None:
        raise InvalidKeyError(f"{signer.name} does not sign")
    if signer.scheme is not Scheme.RSA_PSS:
        return der.sequence(der.oid(signer.signature_oid))
    digest = der.sequence(der.oid("2.16.840.1.101.3.4.2.1"), der.null())
    mgf1 = der.sequence(der.oid("1.2.840.113549.1.1.8"), digest)
    parameters = der.sequence(
        der.context(0, digest), der.context(1, mgf1), der.context(2, der.integer(32))
    )
    return der.sequence(der.oid(signer.signature_oid), parameters)
