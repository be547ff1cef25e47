"""What is recognised at the edge: whatever a new certificate of a known kind may say is quick."""

from dataclasses import replace
from datetime import timedelta

import pytest

from hsm_drivers.ports import KeyRecord, Purpose
from pki import der, extensions, familiar, names
from pki.certificate_checker import judge_certificate
from pki.familiar import recognised
from pki.limits import Limits, limits_of
from tests.support import pki

VALIDITY, SUBJECT, EXTENSIONS = 4, 5, 7
PEOPLE = pki.world().people
START = pki.NOW - timedelta(minutes=5)


def tbs(profile: str = "device-identity", **changes: object) -> bytes:
    request = pki.request(profile, pki.public("ECDSA-P256"), **changes)
    return pki.world().of(pki.issuer_of(request.profile)).factory.prepare(request).statement.message


GOOD = tbs()


def accustomed(message: bytes = GOOD, record: KeyRecord = PEOPLE.record) -> Limits:
    """Limits of a record for which this message was accepted."""
    new = replace(record)
    judge_certificate(new, message, pki.NOW)
    return limits_of(new, Purpose.CERTIFICATE)


def with_part(message: bytes, place: int, part: bytes) -> bytes:
    parts = [child.encode() for child in der.parse(message).children]
    parts[place] = part
    return der.sequence(*parts)


def name_of(*parts: tuple[str, str]) -> bytes:
    attributes = (
        der.sequence(der.oid(kind), der.tlv(der.UTF8_STRING, text.encode())) for kind, text in parts
    )
    return der.sequence(*(der.tlv(der.SET, attribute) for attribute in attributes))


def test_bounds():
    assert familiar.MAX_FORMS == 64
    assert (familiar._MAX_SERIAL, familiar._MAX_SUBJECT) == (20, 1024)


@pytest.mark.parametrize("first", [0x01, 0x20, 0x58, 0x7F])
def test_serials_that_begin_with_any_byte_are_recognised(first: int):
    serial = int.from_bytes(bytes((first, *range(1, 16))), "big")
    assert recognised(accustomed(), tbs(serial=serial), pki.NOW) == f"{serial:032x}"


def test_every_lifetime_of_a_profile_is_recognised():
    limits = accustomed()
    longest = max(shape.longest for form in limits.forms.values() for shape in form.shapes)
    second = timedelta(seconds=1)
    for lifetime, known in ((second, True), (longest, True), (longest + second, False)):
        validity = der.sequence(der.time(START), der.time(START + lifetime))
        message = with_part(GOOD, VALIDITY, validity)
        assert (recognised(limits, message, pki.NOW) is not None) is known


def test_names_of_all_three_parts_are_recognised():
    kinds = (names.ORGANIZATION, names.ORGANIZATIONAL_UNIT, names.COMMON_NAME)
    limits = accustomed()
    for parts in (kinds, kinds[1:], kinds[2:], (kinds[0], kinds[2])):
        subject = name_of(*((kind, "x") for kind in parts))
        assert recognised(limits, with_part(GOOD, SUBJECT, subject), pki.NOW)


def test_a_name_of_exactly_the_longest_size_is_recognised():
    def message(size: int) -> bytes:
        subject = name_of((names.ORGANIZATION, "o" * size), (names.COMMON_NAME, "c"))
        return with_part(GOOD, SUBJECT, subject)

    sizes = {len(der.parse(message(n)).children[SUBJECT].encode()): n for n in range(900, 1024)}
    assert recognised(accustomed(), message(sizes[1024]), pki.NOW)
    assert not recognised(accustomed(), message(sizes[1025]), pki.NOW)


def test_a_path_that_names_a_scheme_is_recognised():
    uri = f"https://{pki.DOMAIN}/users/http/devices/https"
    assert recognised(accustomed(), tbs(uris=(uri,)), pki.NOW)


def test_forms_that_cannot_be_recognised_are_not_kept():
    server = tbs("tls-server")
    assert not accustomed(server, pki.world().infrastructure.record).forms
    items = [child.encode() for child in der.parse(GOOD).children[EXTENSIONS].children[0].children]
    last = extensions.read(items[-1]).oid
    assert last == extensions.SUBJECT_ALT_NAME
    for turned in ([*items[:-2], items[-1], items[-2]], [items[-1], *items[:-1]]):
        wrapped = der.context(3, der.sequence(*turned))
        assert not accustomed(with_part(GOOD, EXTENSIONS, wrapped)).forms
    moved = [*items[:-3], items[-1], items[-2], items[-3]]
    assert not accustomed(with_part(GOOD, EXTENSIONS, der.context(3, der.sequence(*moved)))).forms
