"""The drivers' DER against cryptography's."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st

from hsm_drivers import der
from policies.algorithms import algorithm


@given(st.sampled_from([32, 48, 66]), st.data())
def test_signatures(size: int, data: st.DataObject) -> None:
    r, s = (data.draw(st.integers(0, 256**size - 1)) for _ in range(2))
    raw = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    assert der.ecdsa_signature(raw) == encode_dss_signature(r, s)


@pytest.mark.parametrize("size", [32, 48, 66])
def test_signatures_at_their_edges(size: int) -> None:
    edges = [0, 1, 0x7F, 0x80, 0xFF, 256 ** (size - 1), 256**size // 2, 256**size - 1]
    for r in edges:
        for s in edges:
            raw = r.to_bytes(size, "big") + s.to_bytes(size, "big")
            assert der.ecdsa_signature(raw) == encode_dss_signature(r, s)


@pytest.mark.parametrize(
    ("dotted", "encoded"),
    [
        ("1.2.840.10045.3.1.7", "06082a8648ce3d030107"),
        ("1.3.132.0.34", "06052b81040022"),
        ("1.3.101.112", "06032b6570"),
        ("2.16.840.1.101.3.4.2.1", "0609608648016503040201"),
    ],
)
def test_object_identifiers(dotted: str, encoded: str) -> None:
    assert der.oid(dotted).hex() == encoded


@given(st.binary(max_size=400))
@example(bytes(127))
@example(bytes(128))
@example(bytes(255))
@example(bytes(256))
def test_lengths_are_minimal(body: bytes) -> None:
    encoded = der.tlv(0x04, body)
    assert encoded.endswith(body)
    header = encoded[: len(encoded) - len(body)]
    expected = 2 if len(body) < 128 else 3 if len(body) < 256 else 4
    assert len(header) == expected
    tail = header[2:] if expected > 2 else header[1:2]
    assert int.from_bytes(tail, "big") == len(body)


def test_public_keys() -> None:
    point, spki = PublicFormat.UncompressedPoint, PublicFormat.SubjectPublicKeyInfo
    curves = {"ECDSA-P256": ec.SECP256R1, "ECDSA-P384": ec.SECP384R1, "ECDSA-P521": ec.SECP521R1}
    for name, curve in curves.items():
        key = ec.generate_private_key(curve()).public_key()
        built = der.public_key(algorithm(name), key.public_bytes(Encoding.X962, point))
        assert built == key.public_bytes(Encoding.DER, spki)
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    built = der.public_key(algorithm("Ed25519"), edwards.public_bytes_raw())
    assert built == edwards.public_bytes(Encoding.DER, spki)
