"""RFC 9881 and RFC 9935 by their refusals: parameters, pre-hashed variants, usages, sizes."""

from typing import Any

import pytest

from hsm_drivers.errors import StatementRefusedError
from hsm_drivers.ports import CheckContext, Purpose, Statement
from pki import der, extensions
from pki.authorities import prepare_subordinate
from pki.chains import verify_issued
from pki.checkers import check_certificate, check_crl
from pki.crl import CrlFactory
from pki.errors import InvalidKeyError, LintError, PkiError, ProofError
from pki.keys import infer_algorithm, key_id, parse_public_key, signature_identifier
from pki.possession import check_signature_form, verify_signature
from pki.profiles import KeyUsage, authority_profile
from pki.structure import split
from policies.algorithms import Kind, algorithm
from tests.support import pki

HASH_ML_DSA = ["2.16.840.1.101.3.4.3.32", "2.16.840.1.101.3.4.3.33", "2.16.840.1.101.3.4.3.34"]
"""HashML-DSA-44, -65 and -87 with SHA-512 (RFC 9881 section 2: not to be used)."""
LEAVES = {"ML-DSA-65": "device-identity", "ML-KEM-768": "device-kem", "ML-KEM-1024": "device-kem"}
SIGNING = KeyUsage.DIGITAL_SIGNATURE
NOW = CheckContext(pki.NOW)


def tbs(ca: str, key: str) -> bytes:
    request = pki.request(LEAVES[key], pki.public(key))
    return pki.world(ca).people.factory.prepare(request).statement.message


def judge(ca: str, message: bytes) -> None:
    record = pki.world(ca).people.record
    check_certificate(record, Statement(record.label, Purpose.CERTIFICATE, message), NOW)


def refused(ca: str, message: bytes, why: str) -> None:
    with pytest.raises(StatementRefusedError, match=why):
        judge(ca, message)


def with_usage(message: bytes, *usages: KeyUsage) -> bytes:
    """The statement with other key usages."""
    parts = [child.encode() for child in der.parse(message).children]
    items = {
        extensions.read(item.encode()).oid: item.encode()
        for item in der.parse(message).children[7].children[0].children
    }
    items[extensions.KEY_USAGE] = extensions.key_usage(usages)
    parts[7] = der.context(3, der.sequence(*items.values()))
    return der.sequence(*parts)


def with_spki(message: bytes, spki: bytes, raw: bytes) -> bytes:
    """The statement for another key, which its identifier is of."""
    parts = [child.encode() for child in der.parse(message).children]
    parts[6] = spki
    old, new = pki.public("ML-DSA-65").raw, raw
    return der.sequence(*parts).replace(key_id(old), key_id(new))


@pytest.mark.parametrize("ca", ["ML-DSA-65", "ML-DSA-87"])
@pytest.mark.parametrize("key", LEAVES)
def test_each_key_has_the_one_usage_that_it_can_have(ca: str, key: str):
    judge(ca, tbs(ca, key))
    own = SIGNING if key.startswith("ML-DSA") else KeyUsage.KEY_ENCIPHERMENT
    for usage in KeyUsage:
        if usage is not own:
            refused(ca, with_usage(tbs(ca, key), usage), "usage")
            refused(ca, with_usage(tbs(ca, key), usage, own), "usage")


@pytest.mark.parametrize("parameters", [der.null(), der.oid("1.2.3"), der.sequence()])
@pytest.mark.parametrize("name", ["ML-DSA-65", "ML-KEM-768"])
def test_identifiers_have_no_parameters(name: str, parameters: bytes):
    """RFC 9881 section 2, RFC 9935 section 3."""
    row, key = algorithm(name), pki.public(name)
    identifier = der.sequence(der.oid(row.oid), parameters)
    spki = der.sequence(identifier, der.bit_string(key.raw))
    with pytest.raises(InvalidKeyError):
        parse_public_key(spki, row)
    with pytest.raises(StatementRefusedError):
        judge("ML-DSA-65", with_spki(tbs("ML-DSA-65", "ML-DSA-65"), spki, key.raw))
    if row.signature_oid:
        message = tbs("ML-DSA-65", "ML-DSA-65")
        parts = [child.encode() for child in der.parse(message).children]
        parts[2] = identifier
        refused("ML-DSA-65", der.sequence(*parts), "another signature algorithm")


@pytest.mark.parametrize("oid", HASH_ML_DSA)
def test_pre_hashed_ml_dsa_is_unknown_everywhere(oid: str):
    """As a key, as the signature of a certificate, and of a list."""
    key, identifier = pki.public("ML-DSA-65"), der.sequence(der.oid(oid))
    spki = der.sequence(identifier, der.bit_string(key.raw))
    with pytest.raises(InvalidKeyError, match="no signature algorithm"):
        infer_algorithm(spki, Kind.SIGNATURE)
    message = tbs("ML-DSA-65", "ML-DSA-65")
    with pytest.raises(StatementRefusedError):
        judge("ML-DSA-65", with_spki(message, spki, key.raw))
    parts = [child.encode() for child in der.parse(message).children]
    parts[2] = identifier
    refused("ML-DSA-65", der.sequence(*parts), "another signature algorithm")
    people = pki.world("ML-DSA-65").people
    interval = authority_profile("people").crl_validity
    made = CrlFactory(people.issuer).prepare(1, pki.NOW, pki.NOW + interval, [])
    listed = [child.encode() for child in der.parse(made.statement.message).children]
    listed[1] = identifier
    statement = Statement(people.record.label, Purpose.CRL, der.sequence(*listed))
    with pytest.raises(StatementRefusedError, match="another signature algorithm"):
        check_crl(people.record, statement, NOW)


@pytest.mark.parametrize("name", ["ML-DSA-65", "ML-DSA-87"])
def test_signatures_have_one_length_and_an_empty_context(name: str):
    key, private, row = pki.public(name), pki.private(name), algorithm(name)
    good = private.sign(b"statement")
    check_signature_form(row, good)
    for wrong in (good[:-1], good + b"\0", b"", private.sign(b"statement")[:2420]):
        with pytest.raises(ProofError, match="bytes"):
            check_signature_form(row, wrong)
    if pki.raw_of(name, pki.spki_of(private)) == key.raw:
        verify_signature(key, b"statement", good)
    own = parse_public_key(pki.spki_of(private), row)
    with pytest.raises(ProofError, match="not of this key"):
        verify_signature(own, b"statement", private.sign(b"statement", b"a context"))


def test_a_certificate_under_another_parameter_set_is_not_its_issuers():
    """Neither the identifier nor the signature of ML-DSA-87 passes for ML-DSA-65."""
    world, other = pki.world("ML-DSA-65"), pki.world("ML-DSA-87")
    request = pki.request("device-identity", pki.public("ML-DSA-65"))
    issued = world.people.finish(world.people.factory.prepare(request)).der
    verify_issued(issued, world.people.issuer)
    parts = split(issued)
    relabelled = der.sequence(
        parts.content,
        signature_identifier(algorithm("ML-DSA-87")),
        der.bit_string(parts.signature),
    )
    for data, issuer in ((relabelled, world.people.issuer), (issued, other.people.issuer)):
        with pytest.raises(PkiError):
            verify_issued(data, issuer)


CASES: list[tuple[str, str, Any]] = [
    ("people-pq-3", "ECDSA-P384", "category 3"),
    ("people-pq-3", "ML-DSA-44", "category 3"),
    ("people-pq-5", "ML-DSA-65", "category 5"),
    ("people-pq-3", "ML-KEM-768", "cannot sign"),
]


@pytest.mark.parametrize(("authority", "key", "why"), CASES)
def test_an_authority_below_its_category_is_not_prepared(authority: str, key: str, why: str):
    with pytest.raises(LintError, match=why):
        prepare(authority, key)
    assert prepare("people", "ECDSA-P384")
    assert prepare("people-pq-3", "ML-DSA-65")
    assert prepare("people-pq-3", "ML-DSA-87")


def prepare(authority: str, key: str) -> Any:
    return prepare_subordinate(
        pki.world().root.issuer,
        authority,
        pki.NAMES["people"],
        pki.public(key),
        serial=7,
        not_before=pki.NOW,
        not_after=pki.NOW + authority_profile(authority).validity,
        base_url=pki.BASE_URL,
    )
