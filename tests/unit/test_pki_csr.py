"""Certification requests: read strictly, proven, and stripped to key and names."""

import base64
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from pki import der
from pki.csr import MAX_CSR, parse_csr
from pki.errors import InvalidCsrError
from policies.algorithms import Kind, Scheme, algorithm, algorithms
from tests.support import pki

SIGNERS = [row.name for row in algorithms(Kind.SIGNATURE)]
DIGESTS = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


def builder(name: str = "server") -> x509.CertificateSigningRequestBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return x509.CertificateSigningRequestBuilder().subject_name(subject)


def request(key_name: str = "ECDSA-P256", base: Any = None, digest: Any = None) -> bytes:
    row = algorithm(key_name)
    if digest is None and row.scheme in {Scheme.ECDSA, Scheme.RSA_PSS}:
        digest = DIGESTS[row.digest or ""]
    made = (base or builder()).sign(pki.private(key_name), digest)
    return made.public_bytes(Encoding.DER)


def signed(info: bytes, key_name: str = "ECDSA-P256") -> bytes:
    """A request around any CertificationRequestInfo, signed by the key as it stands."""
    row = algorithm(key_name)
    signature = pki.sign(pki.private(key_name), row, info)
    identifier = der.sequence(der.oid(row.signature_oid or ""))
    return der.sequence(info, identifier, der.bit_string(signature))


def info(*attributes: bytes, version: int = 0, subject: bytes | None = None) -> bytes:
    spki = pki.spki_of(pki.private("ECDSA-P256"))
    name = pki.Subject("server").encode() if subject is None else subject
    return der.sequence(der.integer(version), name, spki, der.context(0, b"".join(attributes)))


def pem(data: bytes, label: str = "CERTIFICATE REQUEST") -> bytes:
    text = base64.encodebytes(data).decode()
    return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n".encode()


GOOD = request()


@pytest.mark.parametrize("name", SIGNERS)
def test_every_signature_algorithm_can_ask(name: str):
    csr = parse_csr(request(name))
    assert csr.key.algorithm == algorithm(name)
    assert csr.key.spki == pki.spki_of(pki.private(name))
    assert (csr.subject_common_name, csr.dns, csr.uris) == ("server", (), ())


@pytest.mark.parametrize("digest", DIGESTS.values(), ids=DIGESTS)
@pytest.mark.parametrize("name", ["ECDSA-P256", "ECDSA-P384", "RSA-3072"])
def test_any_sha2_digest_will_do(name: str, digest: hashes.HashAlgorithm):
    parse_csr(request(name, digest=digest))


def test_rsa_may_sign_with_pss():
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    made = builder().sign(pki.private("RSA-2048"), hashes.SHA256(), rsa_padding=pss)
    parse_csr(made.public_bytes(Encoding.DER))
    long = padding.PSS(padding.MGF1(hashes.SHA256()), 64)
    made = builder().sign(pki.private("RSA-2048"), hashes.SHA256(), rsa_padding=long)
    with pytest.raises(InvalidCsrError):
        parse_csr(made.public_bytes(Encoding.DER))


def test_only_names_are_taken_from_what_is_asked():
    names = [
        x509.DNSName("a.example.org"),
        x509.UniformResourceIdentifier("https://a.example/principals/x"),
    ]
    base = builder()
    for extension, critical in (
        (x509.SubjectAlternativeName(names), False),
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
    ):
        base = base.add_extension(extension, critical)
    base = base.add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"a password nobody may see")
    csr = parse_csr(request(base=base))
    assert csr.dns == ("a.example.org",)
    assert csr.uris == ("https://a.example/principals/x",)
    assert "password" not in repr(csr)
    assert set(csr.__slots__) == {"key", "subject_common_name", "dns", "uris"}


@pytest.mark.parametrize(
    "data",
    [
        pem(GOOD),
        pem(GOOD, "NEW CERTIFICATE REQUEST"),
        pem(GOOD).replace(b"\n", b"\r\n"),
        b"Certificate Request:\n  what OpenSSL prints before it\n" + pem(GOOD),
        pem(GOOD) + b"\n\n",
    ],
)
def test_pem_is_read(data: bytes):
    assert parse_csr(data) == parse_csr(GOOD)


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("nothing", b""),
        ("text", b"hello"),
        ("two blocks", pem(GOOD) * 2),
        (
            "a key before it",
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n" + pem(GOOD),
        ),
        ("text behind it", pem(GOOD) + b"more"),
        ("another label", pem(GOOD, "CERTIFICATE")),
        ("labels that differ", pem(GOOD).replace(b"-----BEGIN CERT", b"-----BEGIN NEW CERT")),
        ("broken base64", pem(GOOD).replace(b"M", b"=", 1)),
        ("an empty line", pem(GOOD).replace(b"-----END", b"\n-----END")),
        ("bytes behind it", GOOD + b"\x00"),
        ("a certificate", pki.issue("officer", "ECDSA-P256").der),
        ("too much", GOOD + bytes(MAX_CSR)),
        ("version 2", signed(info(version=1))),
        (
            "no attributes",
            signed(der.sequence(*[c.encode() for c in der.parse(info()).children[:3]])),
        ),
        (
            "an attribute without value",
            signed(info(der.sequence(der.oid("1.2.840.113549.1.9.7"), der.set_of([])))),
        ),
        (
            "an attribute twice",
            signed(info(*[der.sequence(der.oid("1.2.3"), der.set_of([der.null()]))] * 2)),
        ),
        (
            "an empty extension request",
            signed(
                info(der.sequence(der.oid("1.2.840.113549.1.9.14"), der.set_of([der.sequence()])))
            ),
        ),
        (
            "a common name in no alphabet",
            signed(
                info(
                    subject=der.sequence(
                        der.set_of([der.sequence(der.oid("2.5.4.3"), der.tlv(0x0C, b"\xff"))])
                    )
                )
            ),
        ),
    ],
)
def test_other_requests_are_refused(what: str, data: bytes):
    with pytest.raises(InvalidCsrError) as caught:
        parse_csr(data)
    assert caught.value.field == "csr"


def test_the_forgeries_above_are_so_only_by_what_they_change():
    assert parse_csr(signed(info())).subject_common_name == "server"


@pytest.mark.parametrize(
    "digest",
    [hashes.SHA1(), hashes.SHA224(), hashes.SHA3_256()],  # noqa: S303 - must be refused
)
def test_other_digests_are_refused(digest: Any):
    row_info = info()
    key = pki.private("ECDSA-P256")
    oids = {"sha1": "1.2.840.10045.4.1", "sha224": "1.2.840.10045.4.3.1"}
    oid = oids.get(digest.name, "2.16.840.1.101.3.4.3.10")
    signature = key.sign(row_info, ec.ECDSA(digest))
    data = der.sequence(row_info, der.sequence(der.oid(oid)), der.bit_string(signature))
    with pytest.raises(InvalidCsrError, match="not accepted"):
        parse_csr(data)


def test_a_request_is_signed_by_its_own_key():
    other = pki.new_private("ECDSA-P256")
    signature = pki.sign(other, algorithm("ECDSA-P256"), info())
    identifier = der.sequence(der.oid("1.2.840.10045.4.3.2"))
    with pytest.raises(InvalidCsrError, match="own key"):
        parse_csr(der.sequence(info(), identifier, der.bit_string(signature)))


def test_kem_keys_cannot_ask():
    spki = pki.public("X25519").spki
    with pytest.raises(InvalidCsrError):
        parse_csr(
            signed(
                der.sequence(der.integer(0), pki.Subject("x").encode(), spki, der.context(0, b""))
            )
        )


def test_the_caller_may_narrow_the_algorithms():
    parse_csr(GOOD, [algorithm("ECDSA-P256")])
    with pytest.raises(InvalidCsrError, match="not accepted"):
        parse_csr(GOOD, [algorithm("ECDSA-P384")])


@settings(deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 7))
def test_no_flipped_bit_is_accepted(position: int, bit: int):
    flipped = bytearray(GOOD)
    flipped[position] ^= 1 << bit
    with pytest.raises(InvalidCsrError):
        parse_csr(bytes(flipped))


@settings(deadline=None)
@given(st.integers(0, len(GOOD) - 1))
def test_no_truncation_is_accepted(size: int):
    with pytest.raises(InvalidCsrError):
        parse_csr(GOOD[:size])


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_the_same_error(data: bytes):
    for value in (data, b"\x30" + data, pem(data)):
        with pytest.raises(InvalidCsrError):
            parse_csr(value)
