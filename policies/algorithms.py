"""The typed algorithm registry.

One row per algorithm: identifiers, sizes, strength, components. The rest of the system
dispatches on the row's fields (`kind`, `scheme`, `curve`), never on its name (promise P4).

Sources: RFC 5480, RFC 8410, RFC 8017, RFC 9881 (ML-DSA), RFC 9935 (ML-KEM),
draft-ietf-lamps-pq-composite-kem (composites), draft-ietf-hpke-pq and RFC 9180 (HPKE ids),
RFC 3394/5649 (key wrap), FIPS 180-4 and 202 (hashes), RFC 8018 (HMAC), RFC 5084 (AES-GCM).
"""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What an algorithm does."""

    SIGNATURE = "signature"
    KEM = "kem"
    HASH = "hash"
    WRAP = "wrap"
    MAC = "mac"
    CIPHER = "cipher"


class Scheme(StrEnum):
    """How keys and operations are encoded; the value that code dispatches on."""

    ECDSA = "ecdsa"
    EDDSA = "eddsa"
    RSA_PSS = "rsa-pss"
    ML_DSA = "ml-dsa"
    DHKEM_EC = "dhkem-ec"
    DHKEM_X = "dhkem-x"
    ML_KEM = "ml-kem"
    COMPOSITE_KEM = "composite-kem"
    SHA2 = "sha2"
    SHA3 = "sha3"
    AES_KW = "aes-kw"
    AES_KWP = "aes-kwp"
    HMAC = "hmac"
    AES_GCM = "aes-gcm"


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One row of the registry.

    Attributes:
        name: The name the outside uses (DESIGN section 6).
        oid: For keys, the SubjectPublicKeyInfo algorithm; for hashes and wraps, their own OID.
        curve: Named-curve OID of an EC key (RFC 5480), else None.
        signature_oid: AlgorithmIdentifier of a certificate signed with it, else None.
        digest: Hash used with the signature or MAC (`hashlib` name), else None.
        public_key_size: Bytes in the SPKI's BIT STRING; None where it varies (RSA).
        modulus_bits: Exact RSA modulus size in bits, else None.
        signature_size: Largest signature in bytes as it stands in a certificate, else None.
        ciphertext_size: Encapsulation in bytes, else None.
        classical_bits: Strength against a classical attacker.
        quantum_category: NIST category 1-5 against a quantum attacker, 0 for none.
        components: Names of a hybrid's parts, post-quantum first; empty for others.
        hpke_kem_id: IANA HPKE KEM identifier, else None.
    """

    name: str
    kind: Kind
    scheme: Scheme
    oid: str
    classical_bits: int
    quantum_category: int = 0
    curve: str | None = None
    signature_oid: str | None = None
    digest: str | None = None
    public_key_size: int | None = None
    modulus_bits: int | None = None
    signature_size: int | None = None
    ciphertext_size: int | None = None
    components: tuple[str, ...] = ()
    hpke_kem_id: int | None = None

    @property
    def hybrid(self) -> bool:
        """Whether it combines several algorithms so that one may break."""
        return bool(self.components)


class UnknownAlgorithmError(LookupError):
    """The registry has no algorithm of that name."""


_EC = "1.2.840.10045.2.1"
_RSA = "1.2.840.113549.1.1.1"
_PSS = "1.2.840.113549.1.1.10"
_P256, _P384, _P521 = "1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"
_NIST = "2.16.840.1.101.3.4"


def _ecdsa(name: str, curve: str, size: int, hash_arc: int, digest: str, bits: int) -> Algorithm:
    return Algorithm(
        name,
        Kind.SIGNATURE,
        Scheme.ECDSA,
        _EC,
        bits,
        curve=curve,
        signature_oid=f"1.2.840.10045.4.3.{hash_arc}",
        digest=digest,
        public_key_size=2 * size + 1,
        signature_size=2 * size + 8 if size < 64 else 2 * size + 7,
    )


def _rsa(bits: int, strength: int) -> Algorithm:
    return Algorithm(
        f"RSA-{bits}",
        Kind.SIGNATURE,
        Scheme.RSA_PSS,
        _RSA,
        strength,
        signature_oid=_PSS,
        digest="sha256",
        modulus_bits=bits,
        signature_size=bits // 8,
    )


def _ml_dsa(number: int, arc: int, key: int, signature: int, bits: int, cat: int) -> Algorithm:
    oid = f"{_NIST}.3.{arc}"
    return Algorithm(
        f"ML-DSA-{number}",
        Kind.SIGNATURE,
        Scheme.ML_DSA,
        oid,
        bits,
        cat,
        signature_oid=oid,
        public_key_size=key,
        signature_size=signature,
    )


def _ml_kem(number: int, arc: int, key: int, ct: int, bits: int, cat: int, hpke: int) -> Algorithm:
    return Algorithm(
        f"ML-KEM-{number}",
        Kind.KEM,
        Scheme.ML_KEM,
        f"{_NIST}.4.{arc}",
        bits,
        cat,
        public_key_size=key,
        ciphertext_size=ct,
        hpke_kem_id=hpke,
    )


def _composite(
    name: str, arc: int, size: int, ct: int, bits: int, cat: int, parts: tuple[str, str], hpke: int
) -> Algorithm:
    return Algorithm(
        name,
        Kind.KEM,
        Scheme.COMPOSITE_KEM,
        f"1.3.6.1.5.5.7.6.{arc}",
        bits,
        cat,
        public_key_size=size,
        ciphertext_size=ct,
        components=parts,
        hpke_kem_id=hpke,
    )


def _hash(name: str, scheme: Scheme, arc: int, bits: int, category: int) -> Algorithm:
    return Algorithm(name, Kind.HASH, scheme, f"{_NIST}.2.{arc}", bits, category)


def _wrap(name: str, scheme: Scheme, arc: int, bits: int, category: int) -> Algorithm:
    return Algorithm(name, Kind.WRAP, scheme, f"{_NIST}.1.{arc}", bits, category)


def _hmac(name: str, arc: int, digest: str, bits: int, category: int) -> Algorithm:
    oid = f"1.2.840.113549.2.{arc}"
    return Algorithm(name, Kind.MAC, Scheme.HMAC, oid, bits, category, digest=digest)


_ALGORITHMS: tuple[Algorithm, ...] = (
    _ecdsa("ECDSA-P256", _P256, 32, 2, "sha256", 128),
    _ecdsa("ECDSA-P384", _P384, 48, 3, "sha384", 192),
    _ecdsa("ECDSA-P521", _P521, 66, 4, "sha512", 256),
    Algorithm(
        "Ed25519",
        Kind.SIGNATURE,
        Scheme.EDDSA,
        "1.3.101.112",
        128,
        signature_oid="1.3.101.112",
        public_key_size=32,
        signature_size=64,
    ),
    _rsa(2048, 112),
    _rsa(3072, 128),
    _rsa(4096, 140),
    _ml_dsa(44, 17, 1312, 2420, 128, 2),
    _ml_dsa(65, 18, 1952, 3309, 192, 3),
    _ml_dsa(87, 19, 2592, 4627, 256, 5),
    Algorithm(
        "X25519",
        Kind.KEM,
        Scheme.DHKEM_X,
        "1.3.101.110",
        128,
        public_key_size=32,
        ciphertext_size=32,
        hpke_kem_id=0x0020,
    ),
    Algorithm(
        "ECDH-P256",
        Kind.KEM,
        Scheme.DHKEM_EC,
        _EC,
        128,
        curve=_P256,
        public_key_size=65,
        ciphertext_size=65,
        hpke_kem_id=0x0010,
    ),
    Algorithm(
        "ECDH-P384",
        Kind.KEM,
        Scheme.DHKEM_EC,
        _EC,
        192,
        curve=_P384,
        public_key_size=97,
        ciphertext_size=97,
        hpke_kem_id=0x0011,
    ),
    _ml_kem(512, 1, 800, 768, 128, 1, 0x0040),
    _ml_kem(768, 2, 1184, 1088, 192, 3, 0x0041),
    _ml_kem(1024, 3, 1568, 1568, 256, 5, 0x0042),
    _composite("MLKEM768-X25519", 58, 1216, 1120, 192, 3, ("ML-KEM-768", "X25519"), 0x647A),
    _composite("MLKEM768-P256", 59, 1249, 1153, 192, 3, ("ML-KEM-768", "ECDH-P256"), 0x0050),
    _composite("MLKEM1024-P384", 63, 1665, 1665, 256, 5, ("ML-KEM-1024", "ECDH-P384"), 0x0051),
    _hash("SHA-256", Scheme.SHA2, 1, 128, 2),
    _hash("SHA-384", Scheme.SHA2, 2, 192, 4),
    _hash("SHA-512", Scheme.SHA2, 3, 256, 5),
    _hash("SHA3-256", Scheme.SHA3, 8, 128, 2),
    _wrap("AES-256-KW", Scheme.AES_KW, 45, 256, 5),
    _wrap("AES-256-KWP", Scheme.AES_KWP, 48, 256, 5),
    _hmac("HMAC-SHA-256", 9, "sha256", 256, 5),
    _hmac("HMAC-SHA-512", 11, "sha512", 256, 5),
    Algorithm("AES-256-GCM", Kind.CIPHER, Scheme.AES_GCM, f"{_NIST}.1.46", 256, 5),
)

_BY_NAME: dict[str, Algorithm] = {row.name: row for row in _ALGORITHMS}


def algorithm(name: str) -> Algorithm:
    """The row of that name.

    Raises:
        UnknownAlgorithmError: The registry has none.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnknownAlgorithmError(f"no algorithm is called {name!r}") from None


def algorithms(kind: Kind | None = None) -> tuple[Algorithm, ...]:
    """All rows, or those of one kind, in registry order."""
    return tuple(row for row in _ALGORITHMS if kind is None or row.kind is kind)


def of_key(kind: Kind, oid: str, curve: str | None, modulus_bits: int | None) -> Algorithm | None:
    """The algorithm of that kind whose public keys carry these identifiers, if there is one.

    An EC key on P-256 fits `ECDSA-P256` and `ECDH-P256`; the kind decides.
    """
    for row in _ALGORITHMS:
        if (row.kind, row.oid, row.curve, row.modulus_bits) == (kind, oid, curve, modulus_bits):
            return row
    return None
