"""A worker that lies to its signer: every statement beyond the key's record is refused."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_drivers.errors import StatementRefusedError
from hsm_drivers.ports import CheckContext, Head, KeyRecord, Purpose, Statement
from pki import der, extensions
from pki.certificates import MAX_BACKDATE
from pki.checkers import check_certificate, check_crl
from pki.constraints import authority_constraints
from pki.crl import CrlFactory, RevokedEntry
from pki.crl_checker import MAX_SKEW
from pki.errors import ProfileError
from pki.keys import key_id
from pki.limits import MAX_AGE, MAX_AHEAD
from pki.names import Subject
from pki.profiles import KeyUsage, authority_profile
from policies.algorithms import algorithm
from tests.support import pki

WEEK = timedelta(days=7)
NOW = CheckContext(pki.NOW)
SERIAL, ALGORITHM, ISSUER, VALIDITY, SUBJECT, SPKI, EXTENSIONS = 1, 2, 3, 4, 5, 6, 7


def accepted(record: KeyRecord, message: bytes) -> str:
    statement = Statement(record.label, Purpose.CERTIFICATE, message)
    return check_certificate(record, statement, NOW).reference


def refused(record: KeyRecord, message: bytes, why: str = "") -> None:
    statement = Statement(record.label, Purpose.CERTIFICATE, message)
    with pytest.raises(StatementRefusedError, match=why or None):
        check_certificate(record, statement, NOW)


def tbs(profile: str, key: str = "ECDSA-P256", **changes: Any) -> bytes:
    request = pki.request(profile, pki.public(key), **changes)
    authority = pki.world().of(pki.issuer_of(request.profile))
    return authority.factory.prepare(request).statement.message


GOOD = tbs("device-identity")
PEOPLE = pki.world().people.record
INFRASTRUCTURE = pki.world().infrastructure.record
ROOT = pki.world().root.record


def elements(message: bytes) -> list[bytes]:
    return [child.encode() for child in der.parse(message).children]


def with_part(message: bytes, place: int, part: bytes) -> bytes:
    parts = elements(message)
    parts[place] = part
    return der.sequence(*parts)


def listed(message: bytes) -> dict[str, bytes]:
    items = der.parse(message).children[EXTENSIONS].children[0].children
    return {extensions.read(item.encode()).oid: item.encode() for item in items}


def with_extensions(message: bytes, items: list[bytes]) -> bytes:
    return with_part(message, EXTENSIONS, der.context(3, der.sequence(*items)))


def with_extension(message: bytes, oid: str, raw: bytes | None) -> bytes:
    """The TBS with one extension replaced, added or, for None, left out."""
    items = listed(message)
    items.pop(oid, None)
    return with_extensions(message, [*items.values(), *([] if raw is None else [raw])])


def validity(start: Any, end: Any) -> bytes:
    return der.sequence(der.time(start), der.time(end))


# --- what is accepted ------------------------------------------------------------------------


@pytest.mark.parametrize("ca", ["ECDSA-P256", "ECDSA-P384", "Ed25519", "RSA-3072", "ML-DSA-65"])
def test_everything_the_factories_make_is_accepted(ca: str):
    world = pki.world(ca)
    for authority in (world.people, world.infrastructure, world.root):
        message = pki.tbs_of(authority.issuer.certificate)
        accepted(world.root.record, message)
    for profile, key in pki.certifiable():
        request = pki.request(profile, pki.public(key))
        authority = world.of(pki.issuer_of(request.profile))
        message = authority.factory.prepare(request).statement.message
        assert accepted(authority.record, message) == f"{request.serial:032x}"


@pytest.mark.parametrize(("serial", "reference"), [(1, "01"), (255, "ff"), (256, "0100")])
def test_the_reference_is_the_serial_as_the_outside_writes_it(serial: int, reference: str):
    assert accepted(PEOPLE, tbs("device-identity", serial=serial)) == reference


def test_a_record_is_not_mistaken_for_another_with_the_same_constraints():
    """Limits are cached per record: the same constraints under another key mean another key."""
    other = pki.new_spki("ECDSA-P256")
    accepted(PEOPLE, GOOD)
    refused(replace(PEOPLE, public_key=other), GOOD, "authority key identifier")
    accepted(PEOPLE, GOOD)


# --- lies about certificates -----------------------------------------------------------------

START = pki.NOW - timedelta(minutes=5)
AKI = extensions.AUTHORITY_KEY_IDENTIFIER
SKI = extensions.SUBJECT_KEY_IDENTIFIER
KU, EKU, SAN = extensions.KEY_USAGE, extensions.EXTENDED_KEY_USAGE, extensions.SUBJECT_ALT_NAME
BC, CRLDP = extensions.BASIC_CONSTRAINTS, extensions.CRL_DISTRIBUTION_POINTS
CLIENT_AUTH, ANY_PURPOSE = "1.3.6.1.5.5.7.3.2", "2.5.29.37.0"

LIES: dict[str, tuple[bytes, str]] = {
    "a sub-CA": (with_extension(GOOD, BC, extensions.basic_constraints(ca=True)), "authority"),
    "a sub-CA with a path length": (
        with_extension(GOOD, BC, extensions.basic_constraints(ca=True, path_length=0)),
        "authority",
    ),
    "no basic constraints": (with_extension(GOOD, BC, None), "missing"),
    "certificate signing": (
        with_extension(GOOD, KU, extensions.key_usage([KeyUsage.KEY_CERT_SIGN])),
        "usage",
    ),
    "a usage beyond the profile": (
        with_extension(
            GOOD, KU, extensions.key_usage([KeyUsage.DIGITAL_SIGNATURE, KeyUsage.KEY_AGREEMENT])
        ),
        "usage",
    ),
    "no key usage": (with_extension(GOOD, KU, None), "missing"),
    "client authentication": (
        with_extension(GOOD, EKU, extensions.extended_key_usage([CLIENT_AUTH])),
        "no profile",
    ),
    "any purpose": (
        with_extension(GOOD, EKU, extensions.extended_key_usage([ANY_PURPOSE])),
        "no profile",
    ),
    "one purpose more": (
        with_extension(
            GOOD, EKU, extensions.extended_key_usage(["1.3.6.1.5.5.7.3.40", CLIENT_AUTH])
        ),
        "no profile",
    ),
    "no purpose": (with_extension(GOOD, EKU, None), "no profile"),
    "a foreign issuer": (with_part(GOOD, ISSUER, pki.NAMES["infrastructure"].encode()), "foreign"),
    "the issuer's own name": (with_part(GOOD, SUBJECT, pki.NAMES["people"].encode()), "issuer"),
    "no subject": (with_part(GOOD, SUBJECT, der.sequence()), "subject"),
    "a country in the subject": (
        with_part(
            GOOD,
            SUBJECT,
            der.sequence(der.set_of([der.sequence(der.oid("2.5.4.6"), der.utf8("XX"))])),
        ),
        "subject",
    ),
    "a day too long": (
        with_part(
            GOOD, VALIDITY, validity(START, START + timedelta(days=90, seconds=1) + MAX_BACKDATE)
        ),
        "validity",
    ),
    "twenty years": (
        with_part(GOOD, VALIDITY, validity(START, START + timedelta(days=7000))),
        "validity",
    ),
    "an inverted validity": (with_part(GOOD, VALIDITY, validity(START, START)), "validity"),
    "an unknown extension": (
        with_extension(GOOD, "1.2.3.4", extensions.encode("1.2.3.4", b"\x05\x00")),
        "no place",
    ),
    "an unknown critical extension": (
        with_extension(GOOD, "1.2.3.4", extensions.encode("1.2.3.4", b"\x05\x00", critical=True)),
        "criticality",
    ),
    "name constraints": (
        with_extension(
            GOOD,
            extensions.NAME_CONSTRAINTS,
            extensions.name_constraints(["a.example"], []),
        ),
        "no place",
    ),
    "an extension twice": (
        with_extensions(GOOD, [*listed(GOOD).values(), listed(GOOD)[KU]]),
        "twice",
    ),
    "no extensions": (der.sequence(*elements(GOOD)[:EXTENSIONS]), ""),
    "an empty list of extensions": (with_extensions(GOOD, []), "empty"),
    "key usage not critical": (
        with_extension(GOOD, KU, extensions.encode(KU, bytes.fromhex("03020780"))),
        "criticality",
    ),
    "critical alternative names": (
        with_extension(
            GOOD,
            SAN,
            extensions.encode(SAN, extensions.read(listed(GOOD)[SAN]).value, critical=True),
        ),
        "criticality",
    ),
    "another authority key": (
        with_extension(GOOD, AKI, extensions.authority_key_identifier(bytes(20))),
        "authority key",
    ),
    "no authority key": (with_extension(GOOD, AKI, None), "authority key"),
    "another subject key": (
        with_extension(GOOD, SKI, extensions.subject_key_identifier(bytes(20))),
        "key identifier",
    ),
    "no alternative names": (with_extension(GOOD, SAN, None), "missing"),
    "a DNS name": (
        with_extension(GOOD, SAN, extensions.subject_alt_name(dns=["kms.example.org"])),
        "alternative names",
    ),
    "two URIs": (
        with_extension(GOOD, SAN, extensions.subject_alt_name(["https://a.example/x"] * 2)),
        "alternative names",
    ),
    "a plain-text URI": (
        with_extension(GOOD, SAN, extensions.subject_alt_name(["http://a.example/users/x"])),
        "may certify",
    ),
    "a URI with user information": (
        with_extension(GOOD, SAN, extensions.subject_alt_name(["https://a.example@b.example/"])),
        "may certify",
    ),
    "an e-mail address": (
        with_extension(
            GOOD, SAN, extensions.encode(SAN, der.sequence(der.tlv(0x81, b"a@b.example")))
        ),
        "no place",
    ),
    "a CRL nowhere": (with_extension(GOOD, CRLDP, None), "missing"),
    "a CRL on a disk": (
        with_extension(GOOD, CRLDP, extensions.crl_distribution_point("file:///etc/passwd")),
        "URL",
    ),
    "version 1": (der.sequence(*elements(GOOD)[1:]), ""),
    "version 2": (with_part(GOOD, 0, der.context(0, der.integer(1))), "version 3"),
    "another signature algorithm": (
        with_part(GOOD, ALGORITHM, der.sequence(der.oid("1.2.840.10045.4.3.3"))),
        "algorithm",
    ),
    "algorithm parameters": (
        with_part(GOOD, ALGORITHM, der.sequence(der.oid("1.2.840.10045.4.3.2"), der.null())),
        "algorithm",
    ),
    "serial 0": (with_part(GOOD, SERIAL, der.integer(0)), "serial"),
    "a negative serial": (with_part(GOOD, SERIAL, der.integer(-5)), "serial"),
    "a serial of 21 octets": (with_part(GOOD, SERIAL, der.integer(1 << 159)), "serial"),
    "a key of an unknown algorithm": (
        with_part(
            GOOD, SPKI, der.sequence(der.sequence(der.oid("1.2.3.4")), der.bit_string(bytes(32)))
        ),
        "key",
    ),
    "a compressed point": (
        with_part(
            GOOD,
            SPKI,
            der.sequence(
                der.sequence(der.oid("1.2.840.10045.2.1"), der.oid("1.2.840.10045.3.1.7")),
                der.bit_string(b"\x02" + bytes(32)),
            ),
        ),
        "",
    ),
    "bytes behind it": (GOOD + b"\x00", "left over"),
    "another element behind it": (der.sequence(*elements(GOOD), der.null()), "left over"),
    "a padded length": (b"\x30\x83\x00" + GOOD[2:], "shortest"),
    "an indefinite length": (b"\x30\x80" + GOOD[4:] + b"\x00\x00", ""),
    "nothing": (b"", ""),
    "too much": (GOOD + bytes(65536), "bytes"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_about_leaves_are_refused(lie: str):
    message, why = LIES[lie]
    assert message != GOOD
    refused(PEOPLE, message, why)


def test_the_lies_above_are_lies_only_by_what_they_change():
    assert with_extensions(GOOD, list(listed(GOOD).values())) == GOOD
    assert der.sequence(*elements(GOOD)) == GOOD
    accepted(PEOPLE, GOOD)


def test_a_kem_key_cannot_be_certified_to_sign():
    message = with_part(GOOD, SPKI, pki.public("ML-KEM-768").spki)
    identifier = key_id(pki.public("ML-KEM-768").raw)
    message = with_extension(message, SKI, extensions.subject_key_identifier(identifier))
    refused(PEOPLE, message, "cannot serve")


def test_a_tls_server_lives_a_week_and_a_client_has_no_addresses():
    """Shapes are judged whole: no validity of one profile with the purpose of another."""
    server = tbs("tls-server")
    accepted(INFRASTRUCTURE, server)
    long = with_part(server, VALIDITY, validity(START, START + timedelta(days=365)))
    refused(INFRASTRUCTURE, long, "tls-server")
    client = tbs("officer")
    san = extensions.subject_alt_name(ips=["127.0.0.1"])
    refused(INFRASTRUCTURE, with_extension(client, SAN, san), "alternative names")


def test_authorities_cannot_sign_for_each_other():
    refused(PEOPLE, tbs("officer"), "foreign")
    refused(INFRASTRUCTURE, GOOD, "foreign")
    disguised = with_part(tbs("officer"), ISSUER, pki.NAMES["people"].encode())
    refused(PEOPLE, disguised)


@pytest.mark.parametrize(
    ("prefix", "uri", "good"),
    [
        ("https://chat.interior.example/", "https://chat.interior.example/users/a", True),
        ("https://chat.interior.example/", "https://chat.interior.example.evil.org/users/a", False),
        ("https://chat.interior.example/users/", "https://chat.interior.example/users/a", True),
        ("https://chat.interior.example/users/", "https://chat.interior.example/a", False),
        ("https://chat.interior.example/users/", "https://chat.interior.example/users/../a", False),
        ("https://other.example/", "https://chat.interior.example/users/a", False),
    ],
)
def test_names_outside_the_prefixes_are_refused(prefix: str, uri: str, *, good: bool):
    constraints = authority_constraints("people", pki.NAMES["people"], san_prefixes=[prefix])
    record = replace(PEOPLE, constraints=constraints)
    message = with_extension(GOOD, SAN, extensions.subject_alt_name([uri]))
    if good:
        accepted(record, message)
    else:
        refused(record, message, "may certify")


@pytest.mark.parametrize("prefix", ["", "https://", "https://a.example", "http://a.example/", "x"])
def test_prefixes_end_their_host(prefix: str):
    with pytest.raises(ProfileError):
        authority_constraints("people", pki.NAMES["people"], san_prefixes=[prefix])


# --- the signer's clock ----------------------------------------------------------------------

TICK = timedelta(seconds=1)


def moved(message: bytes, begin: timedelta) -> bytes:
    """The same with a validity of an hour that begins so long after now."""
    start = pki.NOW + begin
    return with_part(message, VALIDITY, validity(start, start + timedelta(hours=1)))


@pytest.mark.parametrize(
    "begin", [-timedelta(days=365), -MAX_AGE - TICK, MAX_AHEAD + TICK, timedelta(days=365 * 7)]
)
def test_no_certificate_begins_at_another_time(begin: timedelta):
    """A worker that was taken over for a minute keeps nothing that works later."""
    for authority, message in ((PEOPLE, GOOD), (INFRASTRUCTURE, tbs("officer")), (ROOT, BELOW)):
        refused(authority, moved(message, begin), "too long ago or in the future")
    refused(ROOT, moved(OWN, begin), "too long ago or in the future")


def test_a_reservation_may_be_a_day_old_and_clocks_may_differ():
    for begin in (-MAX_AGE, timedelta(0), MAX_AHEAD):
        accepted(PEOPLE, moved(GOOD, begin))
        accepted(ROOT, moved(BELOW, begin))


# --- the root --------------------------------------------------------------------------------

BELOW = pki.tbs_of(pki.world().people.issuer.certificate)
OWN = pki.tbs_of(pki.world().root.issuer.certificate)
ROOT_LIES: dict[str, tuple[bytes, str]] = {
    "an authority nobody planned": (
        with_part(BELOW, SUBJECT, Subject("Example Shadow", "Another State").encode()),
        "made for",
    ),
    "an authority of no organisation": (
        with_part(BELOW, SUBJECT, Subject("Example Shadow").encode()),
        "made for",
    ),
    "an authority of a unit": (
        with_part(BELOW, SUBJECT, Subject("Example Shadow", "Example State", "Unit").encode()),
        "made for",
    ),
    "a leaf": (with_part(GOOD, ISSUER, pki.NAMES["root"].encode()), ""),
    "a subordinate without path length": (
        with_extension(BELOW, BC, extensions.basic_constraints(ca=True)),
        "path length",
    ),
    "a subordinate of path length 1": (
        with_extension(BELOW, BC, extensions.basic_constraints(ca=True, path_length=1)),
        "path length",
    ),
    "a subordinate that is none": (
        with_extension(BELOW, BC, extensions.basic_constraints(ca=False)),
        "path length",
    ),
    "a subordinate that signs anything": (
        with_extension(BELOW, KU, extensions.key_usage([*KeyUsage])),
        "nothing else",
    ),
    "a subordinate with names": (
        with_extension(BELOW, SAN, extensions.subject_alt_name(["https://a.example/x"])),
        "no place",
    ),
    "a subordinate for thirty years": (
        with_part(BELOW, VALIDITY, validity(START, START + timedelta(days=10_000))),
        "validity",
    ),
    "the root's key under another name": (with_part(BELOW, SPKI, ROOT.public_key), "root's key"),
    "the root's name for another key": (
        with_part(OWN, SPKI, pki.world().people.record.public_key),
        "another key",
    ),
    "a root for thirty years": (
        with_part(OWN, VALIDITY, validity(START, START + timedelta(days=10_000))),
        "validity",
    ),
    "a root with a path length": (
        with_extension(OWN, BC, extensions.basic_constraints(ca=True, path_length=3)),
        "path length",
    ),
    "a root with purposes": (
        with_extension(OWN, EKU, extensions.extended_key_usage([CLIENT_AUTH])),
        "no place",
    ),
    "a root of another key identifier": (
        with_extension(OWN, SKI, extensions.subject_key_identifier(bytes(20))),
        "key identifier",
    ),
    "an authority with a KEM key": (with_part(BELOW, SPKI, pki.public("X25519").spki), ""),
}


@pytest.mark.parametrize("lie", ROOT_LIES)
def test_lies_about_authorities_are_refused(lie: str):
    message, why = ROOT_LIES[lie]
    refused(ROOT, message, why)


def test_a_later_ceremony_adds_an_authority_of_the_same_organisation():
    later = with_part(BELOW, SUBJECT, Subject("Example Later", "Example State").encode())
    accepted(ROOT, later)
    limits = ROOT.constraints[Purpose.CERTIFICATE]
    old = {key: value for key, value in limits.items() if key != "organization"}
    closed = replace(ROOT, constraints={**ROOT.constraints, Purpose.CERTIFICATE: old})
    accepted(closed, BELOW)
    for name in (later, with_part(BELOW, SUBJECT, Subject("Example Later").encode())):
        refused(closed, name, "made for")


def test_the_root_certifies_with_name_constraints_too():
    permitted = extensions.name_constraints([".interior.example"], ["interior.example"])
    accepted(ROOT, with_extension(BELOW, extensions.NAME_CONSTRAINTS, permitted))
    empty = extensions.encode(extensions.NAME_CONSTRAINTS, der.sequence(), critical=True)
    refused(ROOT, with_extension(BELOW, extensions.NAME_CONSTRAINTS, empty))


def test_only_the_root_signs_itself():
    own = with_part(GOOD, SUBJECT, pki.NAMES["people"].encode())
    refused(PEOPLE, with_part(own, SPKI, PEOPLE.public_key))
    refused(PEOPLE, BELOW)
    refused(PEOPLE, OWN)


# --- mutation --------------------------------------------------------------------------------

LONGEST = timedelta(days=90) + MAX_BACKDATE


def within_limits(message: bytes) -> None:
    """What was accepted is read again by a foreign parser and is still an ordinary device."""
    row = algorithm("ECDSA-P256")
    signature = pki.sign(pki.world().people.private, row, message)
    data = der.sequence(
        message, der.sequence(der.oid(row.signature_oid or "")), der.bit_string(signature)
    )
    certificate = x509.load_der_x509_certificate(data)
    issuer = x509.load_der_x509_certificate(pki.world().people.issuer.certificate)
    certificate.verify_directly_issued_by(issuer)
    found = {item.oid.dotted_string: item for item in certificate.extensions}
    assert found[BC].value.ca is False
    usage = found[KU].value
    assert usage.digital_signature
    assert not any((usage.key_cert_sign, usage.crl_sign, usage.key_agreement))
    assert [item.dotted_string for item in found[EKU].value] == ["1.3.6.1.5.5.7.3.40"]
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert timedelta(0) < lifetime <= LONGEST
    (uri,) = found[SAN].value.get_values_for_type(x509.UniformResourceIdentifier)
    assert uri.startswith("https://")
    assert len(found[SAN].value) == 1
    assert found[AKI].value.key_identifier == pki.world().people.issuer.key_id
    assert 0 < certificate.serial_number < 1 << 159
    assert set(found) == set(listed(GOOD))


@settings(deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_any_changed_byte_is_refused_or_within_the_constraints(position: int, value: int):
    message = GOOD[:position] + bytes((value,)) + GOOD[position + 1 :]
    try:
        accepted(PEOPLE, message)
    except StatementRefusedError:
        return
    assert der.parse(message).encode() == message
    within_limits(message)


def test_every_flipped_bit_outside_the_variable_parts_is_refused():
    """Serial, dates, subject, key and name may vary; a flip anywhere else is refused."""
    parts = elements(GOOD)
    starts = [len(GOOD) - sum(map(len, parts[place:])) for place in range(len(parts))]
    fixed = [
        *range(starts[SERIAL]),
        *range(starts[ALGORITHM], starts[VALIDITY]),
        *range(starts[EXTENSIONS], GOOD.index(listed(GOOD)[SAN])),
    ]
    where = GOOD.index(listed(GOOD)[CRLDP]) + 20, GOOD.index(b".crl") + 4
    elsewhere = GOOD.index(b"http", where[1]), GOOD.index(b".cer") + 4
    urls = {*range(*where), *range(*elsewhere)}
    for position in fixed:
        if position in urls:
            continue
        for bit in range(8):
            flipped = bytearray(GOOD)
            flipped[position] ^= 1 << bit
            refused(PEOPLE, bytes(flipped))


@settings(deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=3))
def test_inserted_and_removed_bytes_are_refused(position: int, inserted: bytes):
    if inserted:
        refused(PEOPLE, GOOD[:position] + inserted + GOOD[position:])
    refused(PEOPLE, GOOD[:position] + GOOD[position + 1 :])
    refused(PEOPLE, GOOD[:position])


# --- statements in general -------------------------------------------------------------------


def test_evidence_and_foreign_purposes_are_refused():
    statement = Statement(PEOPLE.label, Purpose.CERTIFICATE, GOOD, b"evidence")
    with pytest.raises(StatementRefusedError, match="evidence"):
        check_certificate(PEOPLE, statement, NOW)
    record = replace(PEOPLE, purposes=(Purpose.CRL,))
    refused(record, GOOD, "constraints")
    refused(replace(PEOPLE, constraints={}), GOOD, "constraints")


def test_a_head_means_nothing_to_a_certificate():
    statement = Statement(PEOPLE.label, Purpose.CERTIFICATE, GOOD)
    head = Head("log/1", 7, bytes(32))
    assert check_certificate(PEOPLE, statement, replace(NOW, head=head)).head is None


# --- CRLs ------------------------------------------------------------------------------------


def crl(*revoked: RevokedEntry, number: int = 7, days: int = 7) -> bytes:
    factory = CrlFactory(pki.world().people.issuer)
    update = pki.NOW + timedelta(days=days)
    return factory.prepare(number, pki.NOW, update, revoked).statement.message


def updated(begin: timedelta) -> bytes:
    """An ordinary list that was made so long after now."""
    start = pki.NOW + begin
    return with_part(with_part(FULL, UPDATES, der.time(start)), 4, der.time(start + WEEK))


def crl_accepted(message: bytes, record: KeyRecord = PEOPLE) -> str:
    return check_crl(record, Statement(record.label, Purpose.CRL, message), NOW).reference


def crl_refused(message: bytes, why: str = "", record: KeyRecord = PEOPLE) -> None:
    with pytest.raises(StatementRefusedError, match=why or None):
        crl_accepted(message, record)


ENTRY = RevokedEntry(5, pki.NOW, "key-compromise")
FULL = crl(ENTRY, RevokedEntry(900, pki.NOW, "unspecified"))
EMPTY = crl()
UPDATES, ENTRIES, CRL_EXTENSIONS = 3, 5, 6
NUMBER = extensions.CRL_NUMBER


def entry(*parts: bytes) -> bytes:
    return der.sequence(der.integer(5), der.time(pki.NOW), *parts)


def reason(code: int, *, critical: bool = False) -> bytes:
    value = der.tlv(der.ENUMERATED, bytes((code,)))
    return der.sequence(extensions.encode(extensions.CRL_REASON, value, critical=critical))


def with_crl_extensions(*items: bytes) -> bytes:
    return with_part(FULL, CRL_EXTENSIONS, der.context(0, der.sequence(*items)))


OWN_AKI = extensions.authority_key_identifier(pki.world().people.issuer.key_id)
CRL_LIES: dict[str, tuple[bytes, str]] = {
    "version 1": (der.sequence(*elements(FULL)[1:]), "version"),
    "another algorithm": (
        with_part(FULL, 1, der.sequence(der.oid("1.2.840.10045.4.3.3"))),
        "algorithm",
    ),
    "a foreign issuer": (with_part(FULL, 2, pki.NAMES["root"].encode()), "foreign"),
    "an update after eight days": (
        with_part(FULL, 4, der.time(pki.NOW + timedelta(days=8))),
        "next update",
    ),
    "an update in the past": (with_part(FULL, 4, der.time(pki.NOW - WEEK)), "next update"),
    "no next update": (der.sequence(*(p for i, p in enumerate(elements(FULL)) if i != 4)), ""),
    "an empty list": (with_part(FULL, ENTRIES, der.sequence()), "empty"),
    "no number": (with_crl_extensions(OWN_AKI), "extensions"),
    "no authority key": (with_crl_extensions(extensions.crl_number(7)), "extensions"),
    "another authority key": (
        with_crl_extensions(
            extensions.authority_key_identifier(bytes(20)), extensions.crl_number(7)
        ),
        "authority key",
    ),
    "number 0": (with_crl_extensions(OWN_AKI, extensions.crl_number(0)), "number"),
    "a negative number": (with_crl_extensions(OWN_AKI, extensions.crl_number(-1)), "number"),
    "a partial list": (
        with_crl_extensions(
            OWN_AKI,
            extensions.crl_number(7),
            extensions.encode("2.5.29.28", der.sequence(), critical=True),
        ),
        "extensions",
    ),
    "a critical number": (
        with_crl_extensions(OWN_AKI, extensions.encode(NUMBER, der.integer(7), critical=True)),
        "criticality",
    ),
    "an entry twice": (with_part(FULL, ENTRIES, der.sequence(entry(), entry())), "order"),
    "serial 0": (
        with_part(FULL, ENTRIES, der.sequence(der.sequence(der.integer(0), der.time(pki.NOW)))),
        "order",
    ),
    "a hold": (with_part(FULL, ENTRIES, der.sequence(entry(reason(6)))), "reason"),
    "unspecified written out": (with_part(FULL, ENTRIES, der.sequence(entry(reason(0)))), "reason"),
    "a critical reason": (
        with_part(FULL, ENTRIES, der.sequence(entry(reason(1, critical=True)))),
        "other than",
    ),
    "an entry of another issuer": (
        with_part(
            FULL,
            ENTRIES,
            der.sequence(
                entry(der.sequence(extensions.encode("2.5.29.29", der.sequence(), critical=True)))
            ),
        ),
        "other than",
    ),
    "bytes behind it": (FULL + b"\x00", "left over"),
    "nothing": (b"", ""),
    "a certificate": (GOOD, ""),
}


@pytest.mark.parametrize("lie", CRL_LIES)
def test_lies_about_crls_are_refused(lie: str):
    message, why = CRL_LIES[lie]
    crl_refused(message, why)


def test_the_crls_above_are_lies_only_by_what_they_change():
    assert crl_accepted(with_crl_extensions(OWN_AKI, extensions.crl_number(7))) == "7"
    assert crl_accepted(with_part(FULL, ENTRIES, der.sequence(entry(reason(1))))) == "7"
    assert crl_accepted(EMPTY) == "7"
    assert crl_accepted(crl(number=1 << 158)) == str(1 << 158)


def test_an_authority_signs_only_its_own_crls():
    crl_refused(FULL, "foreign", INFRASTRUCTURE)
    crl_refused(FULL, "foreign", ROOT)
    refused(PEOPLE, FULL)


def test_the_root_promises_its_crl_as_its_profile_says():
    longest = authority_profile("root").crl_validity
    prepared = CrlFactory(pki.world().root.issuer).prepare(1, pki.NOW, pki.NOW + longest, [])
    assert crl_accepted(prepared.statement.message, ROOT) == "1"


@pytest.mark.parametrize("hours", [-24 * 365, -2, 2, 24 * 365 * 8])
def test_no_crl_is_of_another_hour(hours: int):
    """One of 2034 would be believed over every honest one until then."""
    crl_refused(updated(timedelta(hours=hours)), "this hour")
    crl_refused(updated(MAX_SKEW + TICK), "this hour")
    crl_refused(updated(-MAX_SKEW - TICK), "this hour")


def test_a_crl_may_wait_for_its_signature():
    for begin in (-MAX_SKEW, MAX_SKEW):
        assert crl_accepted(updated(begin)) == "7"


@settings(deadline=None)
@given(st.integers(0, len(FULL) - 1), st.integers(0, 7))
def test_a_flipped_bit_of_a_crl_is_refused_or_reencodes_alike(position: int, bit: int):
    flipped = bytearray(FULL)
    flipped[position] ^= 1 << bit
    try:
        crl_accepted(bytes(flipped))
    except StatementRefusedError:
        return
    assert der.parse(bytes(flipped)).encode() == bytes(flipped)


def test_the_sample_is_an_ordinary_device():
    assert accepted(PEOPLE, GOOD) == f"{1 << 126:032x}"
    within_limits(GOOD)
