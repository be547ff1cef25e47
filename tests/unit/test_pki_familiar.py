"""Recognising a certificate never widens what the strict reader accepts."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_drivers.ports import KeyRecord, Purpose
from pki import der, extensions, familiar
from pki.certificate_checker import judge_certificate
from pki.certificates import CertificateFactory, CertificateRequest
from pki.errors import DerError, PkiError
from pki.limits import MAX_AGE, MAX_AHEAD, limits_of
from pki.names import Subject
from pki.profiles import certificate_profile
from tests.support import pki

PEOPLE = pki.world().people.record
SHORT_URL = "http://a.bc"
SECOND = timedelta(seconds=1)


def fresh(record: KeyRecord) -> KeyRecord:
    """The same record for which nothing was accepted yet."""
    return replace(record, created=record.created)


def tbs(profile: str, key: str, base_url: str = pki.BASE_URL, **changes: object) -> bytes:
    request: CertificateRequest = pki.request(profile, pki.public(key), **changes)
    issuer = pki.world().of(pki.issuer_of(request.profile)).issuer
    return CertificateFactory(issuer, base_url).prepare(request).statement.message


def verdict(record: KeyRecord, message: bytes, now: datetime = pki.NOW) -> str:
    try:
        return judge_certificate(record, message, now)
    except PkiError as error:
        return f"refused: {error}"


def accustomed(message: bytes) -> KeyRecord:
    """A record for which this message was accepted."""
    record = fresh(PEOPLE)
    judge_certificate(record, message, pki.NOW)
    return record


def is_recognised(record: KeyRecord, message: bytes, now: datetime = pki.NOW) -> bool:
    limits = limits_of(record, Purpose.CERTIFICATE)
    return familiar.recognised(limits, message, now) is not None


GOOD = tbs("device-identity", "ECDSA-P256")
KEM = tbs("device-kem", "MLKEM768-X25519")
SHORT = [
    tbs(
        "device-identity",
        "ECDSA-P256",
        base_url=SHORT_URL,
        uris=("https://a.bc/" + "x" * size,),
        subject=Subject("c" * 40, "o" * (1 + size)),
    )
    for size in range(60)
]
"""Their names and lists of extensions lie on both sides of 128 and 256 bytes."""


# --- the usual certificate is served ---------------------------------------------------------


@pytest.mark.parametrize(("profile", "key"), pki.certifiable())
def test_the_second_of_a_kind_is_recognised(profile: str, key: str):
    authority = pki.world().of(pki.issuer_of(certificate_profile(profile)))
    record = fresh(authority.record)
    first, second = tbs(profile, key), tbs(profile, key, serial=77, subject=Subject("bob", "Sea"))
    assert not is_recognised(record, first)
    judge_certificate(record, first, pki.NOW)
    by_one_uri = profile != "tls-server"
    assert is_recognised(record, first) == is_recognised(record, second) == by_one_uri
    assert judge_certificate(record, second, pki.NOW) == "4d"


@pytest.mark.parametrize("size", [0, 10, 59])
def test_short_and_long_ones_are_recognised(size: int):
    assert is_recognised(accustomed(SHORT[size]), SHORT[size])


@pytest.mark.parametrize("serial", [1, 127, 128, 255, 256, (1 << 159) - 1, 1 << 150])
def test_every_serial_is_recognised(serial: int):
    record = accustomed(GOOD)
    message = tbs("device-identity", "ECDSA-P256", serial=serial)
    assert is_recognised(record, message)
    assert judge_certificate(record, message, pki.NOW) == verdict(fresh(PEOPLE), message)


def test_a_key_forgets_forms_before_they_become_too_many():
    record = fresh(PEOPLE)
    for number in range(2 * familiar.MAX_FORMS):
        message = tbs("device-identity", "ECDSA-P256", base_url=f"http://pki-{number}.example")
        judge_certificate(record, message, pki.NOW)
        assert is_recognised(record, message)
        assert len(limits_of(record, Purpose.CERTIFICATE).forms) <= familiar.MAX_FORMS


def test_what_was_refused_teaches_nothing():
    record = fresh(PEOPLE)
    late = pki.NOW + timedelta(days=9)
    assert verdict(record, GOOD, late).startswith("refused")
    assert not limits_of(record, Purpose.CERTIFICATE).forms


# --- and nothing else ------------------------------------------------------------------------

SAMPLES = [GOOD, KEM, *SHORT]
USED = fresh(PEOPLE)


def held(message: bytes, now: datetime = pki.NOW) -> bool:
    """Whether a message is recognised, which the strict reader then accepts as well."""
    for sample in (GOOD, KEM, SHORT[0]):
        judge_certificate(USED, sample, pki.NOW)
    limits = limits_of(USED, Purpose.CERTIFICATE)
    found = familiar.recognised(limits, message, now)
    if found is None:
        return False
    limits.forms.clear()
    assert judge_certificate(USED, message, now) == found
    return True


@pytest.mark.parametrize("sample", [GOOD, SHORT[5], SHORT[14], SHORT[15], SHORT[40]])
def test_any_changed_byte_is_recognised_only_if_strictly_right(sample: bytes):
    recognised = 0
    for position in range(len(sample)):
        for change in (1, 2, 4, 8, 16, 32, 64, 128, 0xFF):
            changed = bytearray(sample)
            changed[position] ^= change
            recognised += held(bytes(changed))
    assert recognised > 100  # serial and names may vary


Path = tuple[int, ...]


def paths(element: der.Element, path: Path = ()) -> list[Path]:
    found = [path]
    for place, child in enumerate(element.children):
        found += paths(child, (*path, place))
    return found


def at(element: der.Element, path: Path) -> der.Element:
    for place in path:
        element = element.children[place]
    return element


def rebuilt(element: der.Element, path: Path, raw: bytes) -> bytes:
    """The whole with other bytes at a place, and the lengths of what is around them put right."""
    if not path:
        return raw
    children = [child.encode() for child in element.children]
    children[path[0]] = rebuilt(element.children[path[0]], path[1:], raw)
    return der.tlv(element.tag, b"".join(children))


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A sample with one element broken, its surroundings whole."""
    tree = der.parse(draw(st.sampled_from(SAMPLES)))
    path = draw(st.sampled_from(paths(tree)))
    raw = at(tree, path).encode()
    begin = draw(st.integers(0, len(raw)))
    match draw(st.integers(0, 4)):
        case 0:
            raw = raw[:begin] + draw(st.binary(max_size=3)) + raw[begin + draw(st.integers(0, 3)) :]
        case 1:
            raw = der.tlv(raw[0], at(tree, path).encode()[2:][:begin])
        case 2:
            raw = raw * draw(st.integers(0, 2))
        case 3:
            raw = bytes((raw[0], 0x82)) + len(raw).to_bytes(2, "big") + raw[2:]
        case _:
            raw = bytes((draw(st.integers(0, 255)),)) + raw[1:]
    return rebuilt(tree, path, raw)


@settings(max_examples=500, deadline=None)
@given(mutants())
def test_broken_elements_are_recognised_only_if_strictly_right(message: bytes):
    held(message)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SAMPLES), st.integers(0, 700), st.binary(max_size=4), st.integers(0, 4))
def test_inserted_and_removed_bytes_are_not_recognised(
    sample: bytes, position: int, inserted: bytes, removed: int
):
    message = sample[:position] + inserted + sample[position + removed :]
    assert held(message) == (message == sample) or len(message) == len(sample)


@given(
    st.sampled_from(["https://chat.interior.example", "http://chat.interior.example", "https://a"]),
    st.text("a/.%2Eé#?@", max_size=12),
)
def test_uris_are_recognised_as_the_strict_reader_takes_them(host: str, path: str):
    items = list(der.parse(GOOD).children[7].children[0].children)
    san = der.parse(extensions.subject_alt_name(["x"]))
    value = der.sequence(der.tlv(0x86, f"{host}/{path}".encode()))
    names = der.Element(san.tag, b"", (san.children[0], der.Element(0x04, value)))
    listed = der.sequence(*(item.encode() for item in items[:-1]), names.encode())
    message = rebuilt(der.parse(GOOD), (7,), der.context(3, listed))
    accepted = not verdict(fresh(PEOPLE), message).startswith("refused")
    assert held(message) == accepted


@given(st.text(max_size=70), st.text(max_size=70))
def test_subjects_are_recognised_as_the_strict_reader_takes_them(unit: str, name: str):
    rdns = [
        der.tlv(der.SET, der.sequence(der.oid(kind), der.tlv(der.UTF8_STRING, value)))
        for kind, value in (
            ("2.5.4.11", unit.encode(errors="ignore")),
            ("2.5.4.3", name.encode(errors="ignore")),
        )
    ]
    message = rebuilt(der.parse(GOOD), (5,), der.sequence(*rdns))
    accepted = not verdict(fresh(PEOPLE), message).startswith("refused")
    assert held(message) == (accepted and len(name.encode(errors="ignore")) < 128)


@pytest.mark.parametrize("kinds", [("2.5.4.10", "2.5.4.10"), ("2.5.4.11", "2.5.4.3"), ("2.5.4.6",)])
def test_other_parts_of_a_name_are_not_recognised(kinds: tuple[str, ...]):
    rdns = [
        der.set_of([der.sequence(der.oid(kind), der.utf8("x"))]) for kind in (*kinds, "2.5.4.3")
    ]
    message = rebuilt(der.parse(GOOD), (5,), der.sequence(*rdns))
    assert not held(message)
    assert verdict(fresh(PEOPLE), message).startswith("refused")


def test_long_names_are_left_to_the_strict_reader():
    """What is compared is kept: a worker that was taken over must not fill the signer's memory."""
    unit = der.set_of([der.sequence(der.oid("2.5.4.11"), der.utf8("u" * 1024))])
    name = der.set_of([der.sequence(der.oid("2.5.4.3"), der.utf8("n"))])
    message = rebuilt(der.parse(GOOD), (5,), der.sequence(unit, name))
    assert not held(message)
    assert judge_certificate(fresh(PEOPLE), message, pki.NOW)


@pytest.mark.parametrize("begin", [-MAX_AGE, -MAX_AGE - SECOND, MAX_AHEAD, MAX_AHEAD + SECOND])
def test_the_clock_decides_for_known_forms_too(begin: timedelta):
    now = pki.NOW - timedelta(minutes=5) - begin
    assert held(GOOD, now) == (-MAX_AGE <= begin <= MAX_AHEAD)


@pytest.mark.parametrize("days", [-1, 0, 90, 91])
def test_a_longer_validity_is_not_recognised(days: int):
    start = pki.NOW - timedelta(minutes=5)
    validity = der.sequence(der.time(start), der.time(start + timedelta(days=days)))
    assert held(rebuilt(der.parse(GOOD), (4,), validity)) == (0 < days <= 90)


def test_a_key_of_another_kind_is_not_recognised_under_these_usages():
    spki, identifier = pki.public("MLKEM768-X25519").spki, pki.public("MLKEM768-X25519").key_id()
    mine = pki.public("ECDSA-P256")
    message = rebuilt(der.parse(GOOD), (6,), spki).replace(mine.key_id(), identifier)
    assert not held(message)
    assert verdict(fresh(PEOPLE), message).startswith("refused")


def test_another_key_knows_nothing_of_it():
    judge_certificate(PEOPLE, GOOD, pki.NOW)
    other = replace(PEOPLE, public_key=pki.new_spki("ECDSA-P256"))
    assert not is_recognised(other, GOOD)
    assert verdict(other, GOOD).startswith("refused")


@pytest.mark.parametrize("tag", [der.SEQUENCE, 0xA3])
def test_headers_are_those_of_an_element_of_that_size(tag: int):
    around = [*range(600), *range(65_000, 66_000)]
    sizes = {len(der.tlv(tag, bytes(size))) for size in around}
    for size in [*range(500), *range(65_100, 65_900)]:
        if size in sizes:
            header = familiar._header(tag, size)
            assert header == der.header(tag, size - len(header))
        else:
            with pytest.raises(DerError):
                familiar._header(tag, size)
