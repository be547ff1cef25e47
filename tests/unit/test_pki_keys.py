"""Public keys: one encoding each, what does not fit is refused with a reason."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pki import der
from pki.errors import InvalidKeyError
from pki.keys import encode_spki, fingerprints, infer_algorithm, parse_public_key, spki_header
from policies.algorithms import Algorithm, Kind, algorithm, algorithms
from tests.support import pki

KEYED = [row for row in algorithms() if row.kind in {Kind.SIGNATURE, Kind.KEM}]
NAMES = [row.name for row in KEYED]
FOREIGN = {"ML-KEM-512"}  # no class in cryptography
P256 = pki.public("ECDSA-P256").spki


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_of_the_registry_is_read(name: str):
    spki, row = pki.new_spki(name), algorithm(name)
    key = parse_public_key(spki, row)
    assert (key.spki, key.algorithm) == (spki, row)
    assert encode_spki(row, key.raw) == spki
    assert infer_algorithm(spki, row.kind) == row
    assert (key.modulus is not None) == (row.modulus_bits is not None)


@pytest.mark.parametrize(
    "name", [row.name for row in KEYED if not row.hybrid and row.name not in FOREIGN]
)
def test_encoding_agrees_with_the_library(name: str):
    spki = pki.new_spki(name)
    library = load_der_public_key(spki)
    again = library.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert again == spki


@pytest.mark.parametrize("name", NAMES)
def test_a_key_of_another_algorithm_is_refused(name: str):
    spki = pki.public(name).spki
    for row in KEYED:
        known = algorithm(name)
        if (row.oid, row.curve, row.modulus_bits) == (known.oid, known.curve, known.modulus_bits):
            continue
        with pytest.raises(InvalidKeyError):
            parse_public_key(spki, row)


@pytest.mark.parametrize("name", NAMES)
def test_truncated_and_extended_keys_are_refused(name: str):
    spki, row = pki.public(name).spki, algorithm(name)
    for data in (b"", spki[:1], spki[:-1], spki + b"\x00", spki[: len(spki) // 2]):
        with pytest.raises(InvalidKeyError):
            parse_public_key(data, row)


@pytest.mark.parametrize("name", ["ECDSA-P256", "Ed25519", "RSA-2048", "X25519"])
def test_no_flipped_header_bit_is_accepted(name: str):
    spki, row = pki.public(name).spki, algorithm(name)
    size = len(spki) - len(pki.public(name).raw)
    for position in range(size):
        for bit in range(8):
            flipped = bytearray(spki)
            flipped[position] ^= 1 << bit
            with pytest.raises(InvalidKeyError):
                parse_public_key(bytes(flipped), row)


@settings(deadline=None)
@given(st.sampled_from(NAMES), st.data())
def test_any_changed_byte_is_refused_or_another_key(name: str, draw: st.DataObject):
    spki, row = pki.public(name).spki, algorithm(name)
    position = draw.draw(st.integers(0, len(spki) - 1))
    value = draw.draw(st.integers(0, 255))
    changed = spki[:position] + bytes((value,)) + spki[position + 1 :]
    try:
        key = parse_public_key(changed, row)
    except InvalidKeyError:
        return
    assert encode_spki(row, key.raw) == changed


def test_compressed_and_hybrid_points_are_refused():
    key = pki.private("ECDSA-P256").public_key()
    compressed = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    row = algorithm("ECDSA-P256")
    identifier = der.sequence(der.oid(row.oid), der.oid(row.curve or ""))
    spki = der.sequence(identifier, der.bit_string(compressed))
    with pytest.raises(InvalidKeyError, match="compressed"):
        parse_public_key(spki, row)
    full = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    for lead in (0x00, 0x06, 0x07):
        with pytest.raises(InvalidKeyError):
            parse_public_key(encode_spki(row, bytes((lead,)) + full[1:]), row)


@pytest.mark.parametrize("name", ["ECDSA-P256", "ECDH-P384", "ECDSA-P521", "MLKEM1024-P384"])
def test_points_off_the_curve_and_at_infinity_are_refused(name: str):
    key, row = pki.public(name), algorithm(name)
    off = bytearray(key.raw)
    off[-1] ^= 1
    with pytest.raises(InvalidKeyError):
        parse_public_key(encode_spki(row, bytes(off)), row)
    size = 97 if row.hybrid else len(key.raw)
    zero = key.raw[:-size] + b"\x04" + bytes(size - 1)
    with pytest.raises(InvalidKeyError):
        parse_public_key(encode_spki(row, zero), row)
    infinity = der.sequence(
        der.sequence(der.oid(row.oid), der.oid(row.curve) if row.curve else b""),
        der.bit_string(b"\x00"),
    )
    with pytest.raises(InvalidKeyError):
        parse_public_key(infinity, row)


def test_ed25519_bytes_that_are_no_point_are_refused():
    row = algorithm("Ed25519")
    refused = 0
    for y in range(2, 40):
        try:
            parse_public_key(encode_spki(row, y.to_bytes(32, "little")), row)
        except InvalidKeyError:
            refused += 1
    assert 10 < refused < 30  # about every second value is the y of a point


@pytest.mark.parametrize("name", ["ML-KEM-512", "ML-KEM-768", "ML-KEM-1024", "MLKEM768-X25519"])
def test_unreduced_ml_kem_coefficients_are_refused(name: str):
    """FIPS 203 7.2: 3329 and above have no place in an encapsulation key."""
    key, row = pki.public(name), algorithm(name)
    for position in (0, 3, 300):
        raw = bytearray(key.raw)
        raw[position : position + 2] = (3329).to_bytes(2, "little")
        with pytest.raises(InvalidKeyError):
            parse_public_key(encode_spki(row, bytes(raw)), row)


def test_parameters_must_be_those_of_the_algorithm():
    row, key = algorithm("Ed25519"), pki.public("Ed25519")
    with_null = der.sequence(der.sequence(der.oid(row.oid), der.null()), der.bit_string(key.raw))
    with pytest.raises(InvalidKeyError):
        parse_public_key(with_null, row)
    rsa = algorithm("RSA-2048")
    without_null = der.sequence(
        der.sequence(der.oid(rsa.oid)), der.bit_string(pki.public("RSA-2048").raw)
    )
    with pytest.raises(InvalidKeyError, match="NULL"):
        parse_public_key(without_null, rsa)


def test_explicit_curve_parameters_are_refused():
    row = algorithm("ECDSA-P256")
    explicit = der.sequence(der.integer(1), der.sequence(der.oid("1.2.840.10045.1.1")))
    spki = der.sequence(
        der.sequence(der.oid(row.oid), explicit), der.bit_string(pki.public("ECDSA-P256").raw)
    )
    with pytest.raises(InvalidKeyError):
        parse_public_key(spki, row)
    with pytest.raises(InvalidKeyError):
        infer_algorithm(spki, Kind.SIGNATURE)


@pytest.mark.parametrize("modulus", [-(1 << 2047) - 1, (1 << 2046) + 1, (1 << 2048) + 1, 0])
def test_rsa_moduli_of_another_size_are_refused(modulus: int):
    row = algorithm("RSA-2048")
    raw = der.sequence(der.integer(modulus), der.integer(65537))
    identifier = der.sequence(der.oid(row.oid), der.null())
    with pytest.raises(InvalidKeyError):
        parse_public_key(der.sequence(identifier, der.bit_string(raw)), row)


def test_hashes_have_no_keys():
    with pytest.raises(InvalidKeyError):
        parse_public_key(P256, algorithm("SHA-256"))
    with pytest.raises(InvalidKeyError):
        spki_header(algorithm("RSA-2048"))


def test_unknown_algorithms_are_not_inferred():
    spki = der.sequence(der.sequence(der.oid("1.2.3.4")), der.bit_string(b"\x00" * 32))
    for kind in (Kind.SIGNATURE, Kind.KEM):
        with pytest.raises(InvalidKeyError):
            infer_algorithm(spki, kind)
    with pytest.raises(InvalidKeyError):
        infer_algorithm(pki.public("X25519").spki, Kind.SIGNATURE)


def test_a_p256_key_has_one_fingerprint_whatever_it_is_used_for():
    private = ec.generate_private_key(ec.SECP256R1())
    spki = pki.spki_of(private)
    signing = parse_public_key(spki, algorithm("ECDSA-P256"))
    agreeing = parse_public_key(spki, algorithm("ECDH-P256"))
    hybrid = algorithm("MLKEM768-P256")
    composite = parse_public_key(
        encode_spki(hybrid, pki.public("ML-KEM-768").raw + agreeing.raw), hybrid
    )
    assert fingerprints(signing) == fingerprints(agreeing)
    assert fingerprints(composite) == (
        *fingerprints(pki.public("ML-KEM-768")),
        *fingerprints(signing),
    )


@pytest.mark.parametrize("name", [row.name for row in KEYED if row.hybrid])
def test_components_of_hybrids_are_keys_of_their_own(name: str):
    key = pki.public(name)
    rows: list[Algorithm] = [row for row, _ in key.parts()]
    assert [row.name for row in rows] == list(key.algorithm.components)
    for row, spki in zip(rows, key.components, strict=True):
        assert parse_public_key(spki, row).spki == spki
