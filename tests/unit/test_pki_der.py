"""The DER reader: one encoding per value, everything else refused."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pki import der
from pki.errors import DerError
from tests.support import pki

OIDS = ("2.5.29.15", "1.2.840.113549.1.1.11", "1.3.6.1.5.5.7.6.58", "2.16.840.1.101.3.4.3.18")
INSTANTS = st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1)).map(  # noqa: DTZ001 - made UTC below
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)
LEAVES = st.one_of(
    st.integers(-(1 << 200), 1 << 200).map(der.integer),
    st.booleans().map(der.boolean),
    st.binary(max_size=300).map(der.octet_string),
    st.binary(max_size=20).map(der.bit_string),
    st.text(max_size=40).map(der.utf8),
    st.sampled_from(OIDS).map(der.oid),
    INSTANTS.map(der.time),
    st.just(der.null()),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5).map(lambda parts: der.sequence(*parts)),
        st.lists(inner, max_size=5).map(der.set_of),
        st.tuples(st.integers(0, 30), inner).map(lambda pair: der.context(*pair)),
    ),
    max_leaves=12,
)
SAMPLE = pki.issue("device-identity", "ECDSA-P256").der


@settings(deadline=None)
@given(TREES)
def test_what_is_written_is_read_and_written_again_alike(data: bytes):
    assert der.parse(data).encode() == data


@settings(deadline=None)
@given(TREES, st.data())
def test_every_truncation_is_refused(data: bytes, draw: st.DataObject):
    size = draw.draw(st.integers(0, len(data) - 1))
    with pytest.raises(DerError):
        der.parse(data[:size])


@settings(deadline=None)
@given(TREES, st.binary(min_size=1, max_size=4))
def test_bytes_after_the_element_are_refused(data: bytes, more: bytes):
    with pytest.raises(DerError):
        der.parse(data + more)


def test_every_flipped_bit_of_a_certificate_is_refused_or_reencodes_alike():
    for position in range(len(SAMPLE)):
        for bit in range(8):
            flipped = bytearray(SAMPLE)
            flipped[position] ^= 1 << bit
            data = bytes(flipped)
            try:
                element = der.parse(data)
            except DerError:
                continue
            assert element.encode() == data


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_are_refused_or_reencode_alike(data: bytes):
    try:
        element = der.parse(data)
    except DerError:
        return
    assert element.encode() == data


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("indefinite length", "3080020101 0000"),
        ("long form below 128", "30810302 0101"),
        ("leading zero in a length", "3082000302 0101"),
        ("length above three octets", "308400000003020101"),
        ("INTEGER with a leading zero", "02020001"),
        ("INTEGER with a leading FF", "0202ff80"),
        ("empty INTEGER", "0200"),
        ("BOOLEAN 01", "010101"),
        ("NULL with content", "050100"),
        ("empty OBJECT IDENTIFIER", "0600"),
        ("OBJECT IDENTIFIER with a padded arc", "060380 01 01"),
        ("OBJECT IDENTIFIER cut off", "06022a86"),
        ("BIT STRING with eight unused bits", "03020800"),
        ("BIT STRING with unused bits set", "03020701"),
        ("empty BIT STRING with unused bits", "030101"),
        ("constructed OCTET STRING", "2403040101"),
        ("SET out of order", "3106020102020101"),
        ("multi-byte tag", "1f0100"),
        ("primitive SEQUENCE", "1000"),
        ("UTF8String that is none", "0c01ff"),
        ("PrintableString with @", "130140"),
        ("UTCTime without seconds", "170b323630313031303030305a"),
        ("UTCTime with an offset", "1711323630313031303030303030 2b30313030"),
        ("13th month", "170d3236313330313030303030305a"),
        ("GeneralizedTime before 2050", "180f32303236303130313030303030305a"),
        ("GeneralizedTime with fractions", "181132303530303130313030303030302e315a"),
    ],
)
def test_other_encodings_are_refused(what: str, data: str):
    with pytest.raises(DerError):
        der.parse(bytes.fromhex(data))


def test_object_identifiers_are_bounded():
    """A long arc would take quadratic time, and Python refuses to write it in decimal."""
    for size in (der.MAX_OID + 1, 20_000):
        with pytest.raises(DerError, match="more than"):
            der.parse(der.tlv(der.OBJECT_IDENTIFIER, b"\xff" * (size - 1) + b"\x01"))
    der.parse(der.tlv(der.OBJECT_IDENTIFIER, b"\xff" * (der.MAX_OID - 1) + b"\x01"))


def test_depth_is_bounded():
    data = b"\x02\x01\x01"
    for _ in range(der.MAX_DEPTH - 1):
        data = der.sequence(data)
    der.parse(data)
    with pytest.raises(DerError, match="deep"):
        der.parse(der.sequence(data))


@settings(deadline=None)
@given(INSTANTS)
def test_times_round_trip_and_change_form_in_2050(moment: datetime):
    data = der.time(moment)
    assert der.Reader(data).time() == moment
    assert data[0] == (der.UTC_TIME if moment.year < 2050 else der.GENERALIZED_TIME)


def test_times_outside_certificates_are_refused():
    for moment in (datetime(1949, 12, 31, tzinfo=UTC), pki.NOW.replace(microsecond=1)):
        with pytest.raises(DerError):
            der.time(moment)


@pytest.mark.parametrize("text", OIDS)
def test_object_identifiers_round_trip(text: str):
    assert der.Reader(der.oid(text)).oid() == text


@pytest.mark.parametrize("text", ["", "1", "3.1", "1.40", "1.2.x", "1.2.-3"])
def test_what_is_no_object_identifier_is_refused(text: str):
    with pytest.raises(DerError):
        der.oid(text)


@settings(deadline=None)
@given(st.sets(st.integers(0, 20)))
def test_named_bits_have_no_trailing_zeros(bits: set[int]):
    content = der.Reader(der.named_bits(bits)).content(der.BIT_STRING)
    der.check_bits(content)
    value = int.from_bytes(content[1:], "big") >> content[0]
    assert value.bit_count() == len(bits)
    assert not bits or value & 1


def test_a_length_beyond_the_limit_is_refused():
    with pytest.raises(DerError):
        der.header(der.SEQUENCE, der.MAX_SIZE + 1)
