"""Possession: what proves, and what only looks like it."""

import hashlib
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM1024P384PrivateKey,
    Suite,
)

from pki import der
from pki.errors import ProofError
from pki.keys import encode_spki, parse_public_key
from pki.possession import seal, sealable, verify_mac, verify_signature
from policies.algorithms import Kind, Scheme, algorithm, algorithms
from tests.support import pki

SIGNERS = [row.name for row in algorithms(Kind.SIGNATURE)]
MESSAGE = b"sovereign-kms/enrol/sign/v1\x00{}"
HYBRIDS: dict[str, tuple[Any, str]] = {
    "MLKEM768-X25519": (MLKEM768X25519PrivateKey, "X25519"),
    "MLKEM1024-P384": (MLKEM1024P384PrivateKey, "ECDH-P384"),
}
SEALED = {
    "X25519": KEM.X25519,
    "ECDH-P256": KEM.P256,
    "ECDH-P384": KEM.P384,
    "ML-KEM-768": KEM.MLKEM768,
    "ML-KEM-1024": KEM.MLKEM1024,
    "MLKEM768-X25519": KEM.MLKEM768_X25519,
    "MLKEM1024-P384": KEM.MLKEM1024_P384,
}


def key_of(name: str, private: Any) -> Any:
    return parse_public_key(pki.spki_of(private), algorithm(name))


@pytest.mark.parametrize("name", SIGNERS)
def test_a_signature_by_the_key_over_the_message_proves(name: str):
    private, row = pki.private(name), algorithm(name)
    key, other = key_of(name, private), key_of(name, pki.new_private(name))
    signature = pki.sign(private, row, MESSAGE)
    verify_signature(key, MESSAGE, signature)
    with pytest.raises(ProofError):
        verify_signature(key, MESSAGE + b"x", signature)
    with pytest.raises(ProofError):
        verify_signature(other, MESSAGE, signature)
    for wrong in (b"", signature[:-1], signature + b"\x00", bytes(len(signature))):
        with pytest.raises(ProofError):
            verify_signature(key, MESSAGE, wrong)


@pytest.mark.parametrize("name", SIGNERS)
def test_no_flipped_bit_of_a_signature_proves(name: str):
    private, row = pki.private(name), algorithm(name)
    signature = pki.sign(private, row, MESSAGE)
    for position in range(0, len(signature), max(1, len(signature) // 64)):
        flipped = bytearray(signature)
        flipped[position] ^= 1
        with pytest.raises(ProofError):
            verify_signature(key_of(name, private), MESSAGE, bytes(flipped))


def test_ecdsa_must_use_the_digest_of_its_algorithm():
    private = pki.private("ECDSA-P384")
    signature = private.sign(MESSAGE, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(ProofError):
        verify_signature(key_of("ECDSA-P384", private), MESSAGE, signature)


def test_ecdsa_signatures_have_one_encoding():
    private = pki.private("ECDSA-P256")
    signature = pki.sign(private, algorithm("ECDSA-P256"), MESSAGE)
    r, s = (child.content for child in der.parse(signature).children)
    key = key_of("ECDSA-P256", private)
    padded = der.sequence(der.tlv(der.INTEGER, b"\x00" + r), der.tlv(der.INTEGER, s))
    long_form = b"\x30\x81" + signature[1:]
    more = der.sequence(der.tlv(der.INTEGER, r), der.tlv(der.INTEGER, s), der.null())
    raw = r[-32:].rjust(32, b"\0") + s[-32:].rjust(32, b"\0")
    negative = der.sequence(der.integer(-int.from_bytes(r, "big")), der.tlv(der.INTEGER, s))
    zero = der.sequence(der.integer(0), der.integer(0))
    for wrong in (padded, long_form, more, raw, negative, zero):
        with pytest.raises(ProofError):
            verify_signature(key, MESSAGE, wrong)


@pytest.mark.parametrize("salt", [0, 20, 64])
def test_rsa_pss_has_32_bytes_of_salt(salt: int):
    private = pki.private("RSA-2048")
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
    with pytest.raises(ProofError):
        verify_signature(
            key_of("RSA-2048", private), MESSAGE, private.sign(MESSAGE, pss, hashes.SHA256())
        )


def test_rsa_pkcs1_does_not_prove():
    private = pki.private("RSA-2048")
    signature = private.sign(MESSAGE, padding.PKCS1v15(), hashes.SHA256())
    with pytest.raises(ProofError):
        verify_signature(key_of("RSA-2048", private), MESSAGE, signature)


def test_ml_dsa_is_pure_with_an_empty_context():
    private = pki.private("ML-DSA-65")
    with pytest.raises(ProofError):
        verify_signature(
            key_of("ML-DSA-65", private), MESSAGE, private.sign(MESSAGE, b"some context")
        )


def test_kem_keys_do_not_sign():
    with pytest.raises(ProofError):
        verify_signature(pki.public("X25519"), MESSAGE, bytes(64))


@pytest.mark.parametrize("name", list(SEALED))
def test_what_is_sealed_only_the_holder_opens(name: str):
    suite = Suite(SEALED[name], KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    pairs = []
    for _ in range(2):
        if name in HYBRIDS:
            cls, classical = HYBRIDS[name]
            post_quantum = algorithm(name).components[0]
            parts = (pki.new_private(post_quantum), pki.new_private(classical))
            raw = b"".join(
                pki.raw_of(part, pki.spki_of(private))
                for part, private in zip(algorithm(name).components, parts, strict=True)
            )
            pairs.append(
                (cls(*parts), parse_public_key(encode_spki(algorithm(name), raw), algorithm(name)))
            )
        else:
            private = pki.new_private(name)
            pairs.append((private, key_of(name, private)))
    (private, key), (other, _) = pairs
    assert sealable(key.algorithm)
    sealed = seal(key, b"info", bytes(range(32)))
    assert len(sealed) == (key.algorithm.ciphertext_size or 0) + 32 + 16
    assert suite.decrypt(sealed, private, b"info") == bytes(range(32))
    with pytest.raises(InvalidTag):
        suite.decrypt(sealed, other, b"info")
    with pytest.raises(InvalidTag):
        suite.decrypt(sealed, private, b"other info")
    assert seal(key, b"info", bytes(range(32))) != sealed


@pytest.mark.parametrize(
    "name", [row.name for row in algorithms() if row.kind is Kind.KEM and row.name not in SEALED]
)
def test_keys_that_cannot_be_proven_say_so(name: str):
    assert not sealable(algorithm(name))
    with pytest.raises(ProofError):
        seal(pki.public(name), b"info", bytes(32))


def test_nothing_is_sealed_to_a_signing_key():
    assert not any(sealable(row) for row in algorithms() if row.scheme is Scheme.ECDSA)
    with pytest.raises(ProofError):
        seal(pki.public("ECDSA-P256"), b"info", bytes(32))


@pytest.mark.parametrize("u", [0, 1, 2**255 - 20])
def test_low_order_points_get_no_secret(u: int):
    row = algorithm("X25519")
    key = parse_public_key(encode_spki(row, u.to_bytes(32, "little")), row)
    with pytest.raises(ProofError):
        seal(key, b"info", bytes(32))


def test_only_the_expected_mac_proves():
    mac = bytes(range(32))
    expected = hashlib.sha256(mac).hexdigest()
    verify_mac(expected, mac)
    for wrong in (b"", mac[:-1], mac + b"\x00", bytes(32)):
        with pytest.raises(ProofError):
            verify_mac(expected, wrong)
