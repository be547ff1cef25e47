"""The registry against keys, signatures and encodings as the library really makes them."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from asn1crypto import core, keys
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import (
    ec,
    ed25519,
    mldsa,
    mlkem,
    padding,
    rsa,
    x25519,
)
from cryptography.hazmat.primitives.keywrap import aes_key_wrap, aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from policies.algorithms import (
    Algorithm,
    Kind,
    Scheme,
    UnknownAlgorithmError,
    algorithm,
    algorithms,
    of_key,
)

CURVES = {"P256": ec.SECP256R1(), "P384": ec.SECP384R1(), "P521": ec.SECP521R1()}
HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
MAKE: dict[str, Callable[[], Any]] = {
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "X25519": x25519.X25519PrivateKey.generate,
    "ML-DSA-44": mldsa.MLDSA44PrivateKey.generate,
    "ML-DSA-65": mldsa.MLDSA65PrivateKey.generate,
    "ML-DSA-87": mldsa.MLDSA87PrivateKey.generate,
    "ML-KEM-768": mlkem.MLKEM768PrivateKey.generate,
    "ML-KEM-1024": mlkem.MLKEM1024PrivateKey.generate,
}
NOT_IN_LIBRARY = {"ML-KEM-512"}
PLAIN = [row for row in algorithms() if row.kind in {Kind.SIGNATURE, Kind.KEM} and not row.hybrid]


def make(row: Algorithm) -> Any:
    if row.curve:
        return ec.generate_private_key(CURVES[row.name.rpartition("-")[2]])
    if row.modulus_bits:
        return rsa.generate_private_key(65537, row.modulus_bits)
    return MAKE[row.name]()


class AlgorithmIdentifier(core.Sequence):  # type: ignore[misc]  # asn1crypto publishes no types
    _fields = [  # noqa: RUF012 - its own convention
        ("algorithm", core.ObjectIdentifier),
        ("parameters", core.Any, {"optional": True}),
    ]


class PublicKeyInfo(core.Sequence):  # type: ignore[misc]  # as above
    _fields = [("algorithm", AlgorithmIdentifier), ("key", core.OctetBitString)]  # noqa: RUF012 - as above


def spki(key: Any) -> PublicKeyInfo:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PublicKeyInfo.load(der, strict=True)


@pytest.mark.parametrize("row", PLAIN, ids=lambda row: row.name)
def test_public_keys(row: Algorithm):
    if row.name in NOT_IN_LIBRARY:
        assert row.name == "ML-KEM-512"  # its sizes are checked against RFC 9935's examples
        return
    info = spki(make(row))
    assert info["algorithm"]["algorithm"].dotted == row.oid
    content = info["key"].native
    parameters = info["algorithm"]["parameters"]
    if row.modulus_bits:
        assert row.public_key_size is None
        assert keys.RSAPublicKey.load(content)["modulus"].native.bit_length() == row.modulus_bits
    else:
        assert len(content) == row.public_key_size
    if row.curve:
        assert parameters.parsed.dotted == row.curve
    elif not row.modulus_bits:
        assert isinstance(parameters, core.Void)


def largest_ecdsa(size: int) -> int:
    """DER size of a signature whose two integers fill the field and need a sign byte."""

    class Signature(core.Sequence):  # type: ignore[misc]  # asn1crypto publishes no types
        _fields = [("r", core.Integer), ("s", core.Integer)]  # noqa: RUF012 - its own convention

    order = {32: 256, 48: 384, 66: 521}[size]
    return len(Signature({"r": 2**order - 1, "s": 2**order - 1}).dump())


@pytest.mark.parametrize("row", algorithms(Kind.SIGNATURE), ids=lambda row: row.name)
def test_signatures(row: Algorithm):
    key = make(row)
    digest = HASHES[row.digest] if row.digest else None
    if row.scheme is Scheme.ECDSA:
        assert digest
        signature = key.sign(b"m", ec.ECDSA(digest))
        assert len(signature) <= row.signature_size == largest_ecdsa((key.key_size + 7) // 8)
        assert digest.digest_size * 8 == min(key.key_size, 512)
    elif row.scheme is Scheme.RSA_PSS:
        assert digest
        pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
        assert len(key.sign(b"m", pss, digest)) == row.signature_size
    else:
        assert len(key.sign(b"m")) == row.signature_size
    assert row.signature_oid


@pytest.mark.parametrize(
    ("name", "oid"),
    [
        ("ECDSA-P256", "1.2.840.10045.4.3.2"),
        ("ECDSA-P384", "1.2.840.10045.4.3.3"),
        ("ECDSA-P521", "1.2.840.10045.4.3.4"),
        ("Ed25519", "1.3.101.112"),
        ("RSA-3072", "1.2.840.113549.1.1.10"),
        ("ML-DSA-44", "2.16.840.1.101.3.4.3.17"),
        ("ML-DSA-65", "2.16.840.1.101.3.4.3.18"),
        ("ML-DSA-87", "2.16.840.1.101.3.4.3.19"),
    ],
)
def test_signature_identifiers(name: str, oid: str):
    """RFC 5758 3.2, RFC 8410 3, RFC 8017 A.2.3, RFC 9881 2."""
    assert algorithm(name).signature_oid == oid


@pytest.mark.parametrize("row", algorithms(Kind.KEM), ids=lambda row: row.name)
def test_ciphertexts(row: Algorithm):
    if row.scheme is Scheme.ML_KEM and row.name not in NOT_IN_LIBRARY:
        secret, ciphertext = make(row).public_key().encapsulate()
        assert (len(secret), len(ciphertext)) == (32, row.ciphertext_size)
    elif row.hybrid:
        parts = [algorithm(name) for name in row.components]
        assert [part.scheme is Scheme.ML_KEM for part in parts] == [True, False]
        assert row.public_key_size == sum(part.public_key_size or 0 for part in parts)
        assert row.ciphertext_size == sum(part.ciphertext_size or 0 for part in parts)
        assert row.quantum_category == parts[0].quantum_category
        assert row.classical_bits >= max(part.classical_bits for part in parts[:1])
    elif row.scheme in {Scheme.DHKEM_EC, Scheme.DHKEM_X}:
        # A DHKEM's ciphertext is an ephemeral public key (RFC 9180 4.1).
        assert row.ciphertext_size == row.public_key_size


@pytest.mark.parametrize(
    ("name", "oid", "hpke"),
    [
        ("X25519", "1.3.101.110", 0x0020),
        ("ECDH-P256", "1.2.840.10045.2.1", 0x0010),
        ("ECDH-P384", "1.2.840.10045.2.1", 0x0011),
        ("ML-KEM-512", "2.16.840.1.101.3.4.4.1", 0x0040),
        ("ML-KEM-768", "2.16.840.1.101.3.4.4.2", 0x0041),
        ("ML-KEM-1024", "2.16.840.1.101.3.4.4.3", 0x0042),
        ("MLKEM768-X25519", "1.3.6.1.5.5.7.6.58", 0x647A),
        ("MLKEM768-P256", "1.3.6.1.5.5.7.6.59", 0x0050),
        ("MLKEM1024-P384", "1.3.6.1.5.5.7.6.63", 0x0051),
    ],
)
def test_kem_identifiers(name: str, oid: str, hpke: int):
    row = algorithm(name)
    assert (row.oid, row.hpke_kem_id) == (oid, hpke)


@pytest.mark.parametrize(
    ("name", "size", "oid"),
    [
        ("SHA-256", 32, "2.16.840.1.101.3.4.2.1"),
        ("SHA-384", 48, "2.16.840.1.101.3.4.2.2"),
        ("SHA-512", 64, "2.16.840.1.101.3.4.2.3"),
        ("SHA3-256", 32, "2.16.840.1.101.3.4.2.8"),
    ],
)
def test_hashes(name: str, size: int, oid: str):
    row = algorithm(name)
    library = "sha3_256" if row.scheme is Scheme.SHA3 else name.replace("-", "").lower()
    assert hashlib.new(library).digest_size == size
    # Collision strength is half the output.
    assert (row.kind, row.oid, row.classical_bits) == (Kind.HASH, oid, size * 4)


def test_wraps():
    kek, secret = b"k" * 32, b"s" * 32
    assert len(aes_key_wrap(kek, secret)) == len(aes_key_wrap_with_padding(kek, secret)) == 40
    assert algorithm("AES-256-KW").oid == "2.16.840.1.101.3.4.1.45"
    assert algorithm("AES-256-KWP").oid == "2.16.840.1.101.3.4.1.48"


def test_names_and_keys_are_unambiguous():
    rows = algorithms()
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert algorithm(row.name) is row
        assert of_key(row.kind, row.oid, row.curve, row.modulus_bits) is row
    assert sorted(rows, key=lambda row: row.name) == sorted(
        (row for kind in Kind for row in algorithms(kind)), key=lambda row: row.name
    )
    hpke = [row.hpke_kem_id for row in algorithms(Kind.KEM)]
    assert len(set(hpke)) == len(hpke)


def test_the_kind_tells_what_an_ec_key_is_for():
    p256 = algorithm("ECDSA-P256")
    assert of_key(Kind.KEM, p256.oid, p256.curve, None) is algorithm("ECDH-P256")
    assert of_key(Kind.HASH, p256.oid, p256.curve, None) is None
    assert of_key(Kind.SIGNATURE, "1.2.840.113549.1.1.1", None, 2047) is None


@pytest.mark.parametrize("name", ["", "ecdsa-p256", "ECDSA-P256 ", "RSA"])
def test_unknown_names(name: str):
    with pytest.raises(UnknownAlgorithmError):
        algorithm(name)
