"""Statements at the edge of what a key may sign: the last accepted, the first that is not.

Every record here is new to the checker, so nothing is recognised: each statement is read whole.
"""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from hsm_drivers.ports import KeyRecord, Purpose
from pki import der, extensions, names
from pki.certificate_checker import MAX_STATEMENT, judge_certificate
from pki.errors import PkiError
from pki.limits import RefusalError, limits_of
from tests.support import pki

SERIAL, VALIDITY, SUBJECT, EXTENSIONS = 1, 4, 5, 7
WORLD = pki.world()
PEOPLE, ROOT = WORLD.people.record, WORLD.root.record
START = pki.NOW - timedelta(minutes=5)
LEAF = WORLD.people.factory.prepare(
    pki.request("device-identity", pki.public("ECDSA-P256"))
).statement.message
BELOW = pki.tbs_of(WORLD.people.issuer.certificate)
OWN = pki.tbs_of(WORLD.root.issuer.certificate)
AKI, SKI = extensions.AUTHORITY_KEY_IDENTIFIER, extensions.SUBJECT_KEY_IDENTIFIER
CDP, AIA = extensions.CRL_DISTRIBUTION_POINTS, extensions.AUTHORITY_INFO_ACCESS


def judge(record: KeyRecord, message: bytes) -> str:
    return judge_certificate(replace(record), message, pki.NOW)


def refused(record: KeyRecord, message: bytes, why: str) -> None:
    with pytest.raises(RefusalError, match=why):
        judge(record, message)


def with_part(message: bytes, place: int, part: bytes) -> bytes:
    parts = [child.encode() for child in der.parse(message).children]
    parts[place] = part
    return der.sequence(*parts)


def with_extension(message: bytes, oid: str, raw: bytes | None) -> bytes:
    """One extension replaced, or for None left out."""
    items = [item.encode() for item in der.parse(message).children[EXTENSIONS].children[0].children]
    kept = [raw if extensions.read(item).oid == oid else item for item in items]
    found = [item for item in kept if item is not None]
    return with_part(message, EXTENSIONS, der.context(3, der.sequence(*found)))


def lasting(message: bytes, lifetime: timedelta, begin: datetime = START) -> bytes:
    validity = der.sequence(der.time(begin), der.time(begin + lifetime))
    return with_part(message, VALIDITY, validity)


@pytest.mark.parametrize(
    ("serial", "reference"),
    [(1, "01"), (255, "ff"), (256, "0100"), (2**159 - 1, "7f" + "ff" * 19)],
)
def test_serials_have_up_to_twenty_octets(serial: int, reference: str):
    assert judge(PEOPLE, with_part(LEAF, SERIAL, der.integer(serial))) == reference


@pytest.mark.parametrize("serial", [2**159, 0, -1])
def test_other_serials_are_refused(serial: int):
    refused(PEOPLE, with_part(LEAF, SERIAL, der.integer(serial)), "serial")


def test_a_leaf_lives_from_a_second_to_its_profiles_time():
    longest = max(
        shape.longest
        for shape in limits_of(PEOPLE, Purpose.CERTIFICATE).shapes
        if shape.profile == "device-identity"
    )
    second = timedelta(seconds=1)
    for lifetime in (second, longest):
        judge(PEOPLE, lasting(LEAF, lifetime))
    for lifetime in (timedelta(0), -second, longest + second):
        refused(PEOPLE, lasting(LEAF, lifetime), "validity")


@pytest.mark.parametrize(
    ("message", "limit"), [(OWN, "max_validity"), (BELOW, "subordinate_max_validity")]
)
def test_an_authority_lives_from_a_second_to_its_profiles_time(message: bytes, limit: str):
    longest = timedelta(seconds=limits_of(ROOT, Purpose.CERTIFICATE).source[limit])
    second = timedelta(seconds=1)
    for lifetime in (second, longest):
        judge(ROOT, lasting(message, lifetime))
    for lifetime in (timedelta(0), -second, longest + second):
        refused(ROOT, lasting(message, lifetime), "validity")


@pytest.mark.parametrize(
    ("oid", "raw", "why"),
    [
        (AKI, extensions.authority_key_identifier(bytes(20)), "authority key identifier"),
        (AKI, None, "authority key identifier"),
        (SKI, extensions.subject_key_identifier(bytes(20)), "key identifier"),
        (SKI, None, "missing"),
        (CDP, extensions.crl_distribution_point("ldap://pki.example.org/crl"), "http"),
        (CDP, None, "missing"),
        (AIA, extensions.authority_info_access("ftp://pki.example.org/ca"), "http"),
        (AIA, None, "missing"),
    ],
)
@pytest.mark.parametrize(("record", "message"), [(ROOT, BELOW), (PEOPLE, LEAF)])
def test_keys_and_places_are_named_rightly(
    record: KeyRecord, message: bytes, oid: str, raw: bytes | None, why: str
):
    judge(record, message)
    refused(record, with_extension(message, oid, raw), why)


def test_a_subject_may_have_an_organisation_a_unit_and_a_common_name():
    kinds = (names.ORGANIZATION, names.ORGANIZATIONAL_UNIT, names.COMMON_NAME)
    for parts in (kinds, kinds[1:], kinds[2:], (kinds[0], kinds[2])):
        judge(PEOPLE, with_part(LEAF, SUBJECT, name_of(*parts)))
    for parts in (kinds[:2], (*kinds, names.COMMON_NAME), (*kinds, "2.5.4.6"), ()):
        refused(PEOPLE, with_part(LEAF, SUBJECT, name_of(*parts)), "subject")


def name_of(*kinds: str) -> bytes:
    value = der.tlv(der.UTF8_STRING, b"x")
    return der.sequence(*(der.tlv(der.SET, der.sequence(der.oid(kind), value)) for kind in kinds))


def test_a_statement_beyond_its_size_is_not_read():
    assert MAX_STATEMENT == 65_536
    refused(PEOPLE, bytes(MAX_STATEMENT + 1), "more than 65536 bytes")
    with pytest.raises(PkiError) as error:
        judge(PEOPLE, bytes(MAX_STATEMENT))
    assert "65536" not in str(error.value)


def test_a_kind_that_was_accepted_is_remembered():
    record = replace(PEOPLE)
    assert not limits_of(record, Purpose.CERTIFICATE).forms
    judge_certificate(record, LEAF, pki.NOW)
    assert limits_of(record, Purpose.CERTIFICATE).forms
