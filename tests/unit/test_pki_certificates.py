"""Templates: what is spliced together is what was asked for, and nothing else is built."""

from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtensionOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_drivers.ports import Purpose
from pki import der
from pki.certificates import MAX_SERIAL, CertificateFactory, Issuer
from pki.errors import DerError, LintError, PkiError, ProfileError, ProofError
from pki.names import Subject, bounded, device_uri
from pki.profiles import KeyUsage, certificate_profile
from policies.algorithms import algorithm
from tests.support import pki

UNREADABLE = {"ML-KEM-512"}  # and composites: cryptography has no class for these keys
USAGES = {
    KeyUsage.DIGITAL_SIGNATURE: "digital_signature",
    KeyUsage.KEY_ENCIPHERMENT: "key_encipherment",
    KeyUsage.KEY_AGREEMENT: "key_agreement",
}


def parsed(profile: str, key: str, **changes: Any) -> tuple[x509.Certificate, Any]:
    request = pki.request(profile, pki.public(key), **changes)
    authority = pki.world().of(pki.issuer_of(request.profile))
    issued = authority.finish(authority.factory.prepare(request))
    return x509.load_der_x509_certificate(issued.der), request


def value(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> Any:
    return certificate.extensions.get_extension_for_oid(oid).value


@pytest.mark.parametrize(("profile", "key"), pki.certifiable())
def test_a_foreign_parser_reads_every_field_as_asked(profile: str, key: str):
    certificate, request = parsed(profile, key)
    issuer = pki.world().of(pki.issuer_of(request.profile)).issuer
    ca = x509.load_der_x509_certificate(issuer.certificate)
    assert certificate.version is x509.Version.v3
    assert certificate.serial_number == request.serial
    assert certificate.issuer == ca.subject
    assert certificate.not_valid_before_utc == request.not_before
    assert certificate.not_valid_after_utc == request.not_after
    values = {item.oid: item.value for item in certificate.subject}
    assert values == {NameOID.COMMON_NAME: "alice", NameOID.ORGANIZATION_NAME: "Interior"}
    certificate.verify_directly_issued_by(ca)
    if key not in UNREADABLE and not algorithm(key).hybrid:
        spki = certificate.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        assert spki == request.key.spki


@pytest.mark.parametrize(("profile", "key"), pki.certifiable())
def test_a_foreign_parser_reads_every_extension_as_its_profile_says(profile: str, key: str):
    certificate, request = parsed(profile, key)
    issuer, row = pki.world().of(pki.issuer_of(request.profile)).issuer, request.profile
    usage = value(certificate, ExtensionOID.KEY_USAGE)
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment"]
    names += ["key_agreement", "key_cert_sign", "crl_sign"]
    expected = {USAGES[item] for item in row.key_usage(request.key.algorithm)}
    assert {name for name in names if getattr(usage, name)} == expected
    aki = value(certificate, ExtensionOID.AUTHORITY_KEY_IDENTIFIER)
    assert (aki.key_identifier, aki.authority_cert_issuer) == (issuer.key_id, None)
    ski = value(certificate, ExtensionOID.SUBJECT_KEY_IDENTIFIER)
    assert ski.digest == request.key.key_id()
    assert value(certificate, ExtensionOID.BASIC_CONSTRAINTS).ca is False
    purposes: list[str] = []
    if row.extended_key_usages:
        found = value(certificate, ExtensionOID.EXTENDED_KEY_USAGE)
        purposes = [item.dotted_string for item in found]
    assert purposes == list(row.extended_key_usages)
    san = value(certificate, ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    uris = san.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == list(request.uris)
    assert san.get_values_for_type(x509.DNSName) == list(request.dns)
    assert san.get_values_for_type(x509.IPAddress) == [ip_address(ip) for ip in request.ips]
    (point,) = value(certificate, ExtensionOID.CRL_DISTRIBUTION_POINTS)
    assert point.full_name[0].value == f"{pki.BASE_URL}/pki/{issuer.name}.crl"
    (access,) = value(certificate, ExtensionOID.AUTHORITY_INFORMATION_ACCESS)
    assert access.access_method == AuthorityInformationAccessOID.CA_ISSUERS
    assert access.access_location.value == f"{pki.BASE_URL}/pki/{issuer.name}.cer"
    critical = {item.oid for item in certificate.extensions if item.critical}
    assert critical == {ExtensionOID.KEY_USAGE, ExtensionOID.BASIC_CONSTRAINTS}
    assert len(certificate.extensions) == (8 if purposes else 7)


# The library counts bytes where RFC 5280 (appendix A, ub-common-name) counts characters.
@pytest.mark.filterwarnings("ignore:Attribute's length must be:UserWarning")
@settings(deadline=None)
@given(
    serial=st.integers(1, MAX_SERIAL),
    minutes=st.integers(0, 60),
    days=st.integers(1, 90),
    user=st.from_regex(r"\A[A-Za-z0-9._@:+=-]{3,128}\Z"),
    name=st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=200),
    key=st.sampled_from(["ECDSA-P256", "Ed25519", "ML-DSA-65"]),
)
def test_any_variable_part_is_spliced_right(
    serial: int, minutes: int, days: int, user: str, name: str, key: str
):
    start = pki.NOW - timedelta(minutes=minutes)
    certificate, request = parsed(
        "device-identity",
        key,
        serial=serial,
        not_before=start,
        not_after=start + timedelta(days=days),
        subject=Subject(name),
        uris=(device_uri(pki.DOMAIN, user, "phone"),),
    )
    assert certificate.serial_number == serial
    assert certificate.not_valid_before_utc == start
    assert certificate.not_valid_after_utc == request.not_after
    (common_name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert common_name.value == bounded(name)
    der.parse(certificate.public_bytes(Encoding.DER))


def test_the_same_request_gives_the_same_bytes():
    people = pki.world().people
    request = pki.request("device-identity", pki.public("ECDSA-P256"))
    first, second = people.factory.prepare(request), people.factory.prepare(request)
    assert first.statement == second.statement
    assert first.tbs_sha256 == second.tbs_sha256
    assert first.statement.purpose is Purpose.CERTIFICATE
    assert first.statement.key == people.issuer.key


def test_a_prepared_certificate_is_good_once():
    people = pki.world().people
    prepared = people.factory.prepare(pki.request("device-identity", pki.public("Ed25519")))
    signature = people.sign(prepared.statement.message)
    with pytest.raises(ProofError):
        prepared.complete(signature[:-1])
    issued = prepared.complete(signature)
    assert issued.serial == prepared.serial
    assert der.parse(issued.der).encode() == issued.der
    with pytest.raises(PkiError, match="already"):
        prepared.complete(signature)


NOT_BEFORE = pki.NOW - timedelta(minutes=5)
FORGED: list[tuple[str, dict[str, Any], str]] = [
    ("device-identity", {"serial": 0}, "serial"),
    ("device-identity", {"serial": -1}, "serial"),
    ("device-identity", {"serial": MAX_SERIAL + 1}, "serial"),
    ("device-identity", {"not_after": NOT_BEFORE}, "not_after"),
    ("device-identity", {"not_after": NOT_BEFORE + timedelta(days=92)}, "not_after"),
    ("device-identity", {"not_after": NOT_BEFORE.replace(tzinfo=None)}, "not_before"),
    ("device-identity", {"not_before": NOT_BEFORE.replace(microsecond=1)}, "not_before"),
    ("tls-server", {"not_after": NOT_BEFORE + timedelta(days=8)}, "not_after"),
    ("device-identity", {"uris": ()}, "san"),
    ("device-identity", {"uris": ("https://a.example/x",) * 2}, "san"),
    ("device-identity", {"dns": ("a.example",)}, "san"),
    ("device-identity", {"uris": ("matrix:u/alice",)}, "uris"),
    ("tls-server", {"uris": ("https://a.example/x",)}, "san"),
    ("tls-server", {"dns": (), "ips": ()}, "san"),
    ("tls-server", {"dns": ("*.example.org",)}, "dns"),
    ("tls-server", {"dns": ("A.example.org",)}, "dns"),
    ("device-identity", {"subject": pki.NAMES["people"]}, "subject"),
]


@pytest.mark.parametrize(("profile", "changes", "field"), FORGED)
def test_what_would_break_its_profile_is_not_prepared(
    profile: str, changes: dict[str, Any], field: str
):
    factory = pki.world().of(pki.issuer_of(certificate_profile(profile))).factory
    request = pki.request(profile, pki.public("ECDSA-P256"), **changes)
    with pytest.raises(LintError) as caught:
        factory.prepare(request)
    assert caught.value.field == field


def test_an_authority_issues_only_its_own_profiles():
    request = pki.request("officer", pki.public("ECDSA-P256"))
    with pytest.raises(LintError) as caught:
        pki.world().people.factory.prepare(request)
    assert caught.value.field == "profile"


@pytest.mark.parametrize(
    ("profile", "key"),
    [("device-identity", "X25519"), ("device-kem", "Ed25519"), ("officer", "ML-KEM-768")],
)
def test_a_profile_certifies_only_its_kind_of_key(profile: str, key: str):
    factory = pki.world().of(pki.issuer_of(certificate_profile(profile))).factory
    with pytest.raises(ProfileError):
        factory.prepare(pki.request(profile, pki.public(key)))


def test_nothing_outlives_its_issuer():
    root = pki.world().root
    prepared = pki.prepare_subordinate(
        root.issuer,
        "people",
        pki.NAMES["people"],
        pki.public("ECDSA-P256"),
        serial=5,
        not_before=pki.NOW - timedelta(days=2) + timedelta(days=1),
        not_after=pki.NOW + timedelta(days=30),
        base_url=pki.BASE_URL,
    )
    short = Issuer("people", 1, root.issuer.key, algorithm("ECDSA-P256"), root.finish(prepared).der)
    factory = CertificateFactory(short, pki.BASE_URL)
    with pytest.raises(LintError, match="issuer"):
        factory.prepare(pki.request("device-identity", pki.public("ECDSA-P256")))


@pytest.mark.parametrize(
    "base_url",
    ["", "pki.example.org", "http://pki.example.org/", "ftp://a.example", "http://localhost"],
)
def test_base_urls_can_stand_in_certificates(base_url: str):
    with pytest.raises(ProfileError) as caught:
        CertificateFactory(pki.world().people.issuer, base_url)
    assert caught.value.field == "base_url"


def test_an_issuer_needs_a_certificate():
    row = algorithm("ECDSA-P256")
    with pytest.raises(DerError):
        Issuer("people", 1, pki.world().people.issuer.key, row, b"\x30\x00")
