"""Extensions: what is written is read again, and no other bytes are read as the same."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki import der, extensions, structure
from pki.errors import DerError
from pki.profiles import KeyUsage

HOSTS = st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8}){0,2}", fullmatch=True)
URLS = HOSTS.map(lambda host: f"https://{host}/x")
KEY_IDS = st.binary(min_size=1, max_size=40)
PURPOSES = st.lists(st.integers(0, 10**6).map(lambda n: f"1.3.6.1.5.5.7.3.{n}"), min_size=1)

READERS: dict[str, Callable[[bytes], Any]] = {
    name: getattr(extensions, name)
    for name in (
        "read_key_usage",
        "read_basic_constraints",
        "read_extended_key_usage",
        "read_authority_key_identifier",
        "read_subject_key_identifier",
        "read_subject_alt_name",
        "read_crl_distribution_point",
        "read_authority_info_access",
        "read_name_constraints",
        "read_integer",
    )
}


def value_of(raw: bytes) -> bytes:
    return extensions.read(raw).value


@given(st.sets(st.sampled_from(KeyUsage), min_size=1))
def test_key_usage(usages: set[KeyUsage]):
    assert extensions.read_key_usage(value_of(extensions.key_usage(usages))) == usages


@given(st.none() | st.integers(0, 2**20))
def test_basic_constraints(length: int | None):
    raw = extensions.basic_constraints(ca=True, path_length=length)
    assert extensions.read_basic_constraints(value_of(raw)) == (True, length)
    assert extensions.read(raw).critical


@given(PURPOSES)
def test_extended_key_usage(purposes: list[str]):
    value = value_of(extensions.extended_key_usage(purposes))
    if len(set(purposes)) == len(purposes):
        assert extensions.read_extended_key_usage(value) == tuple(purposes)
    else:
        with pytest.raises(DerError):
            extensions.read_extended_key_usage(value)


@given(KEY_IDS)
def test_key_identifiers(key_id: bytes):
    authority = value_of(extensions.authority_key_identifier(key_id))
    subject = value_of(extensions.subject_key_identifier(key_id))
    assert extensions.read_authority_key_identifier(authority) == key_id
    assert extensions.read_subject_key_identifier(subject) == key_id


@given(URLS)
def test_places(url: str):
    crl = value_of(extensions.crl_distribution_point(url))
    issuer = value_of(extensions.authority_info_access(url))
    assert extensions.read_crl_distribution_point(crl) == url
    assert extensions.read_authority_info_access(issuer) == url


@given(st.lists(URLS), st.lists(HOSTS), st.lists(st.ip_addresses()))
def test_alternative_names(uris: list[str], dns: list[str], ips: list[Any]):
    value = value_of(extensions.subject_alt_name(uris, dns, ips))
    if not (uris or dns or ips):
        with pytest.raises(DerError):
            extensions.read_subject_alt_name(value)
        return
    found = extensions.read_subject_alt_name(value)
    assert (found.uris, found.dns) == (tuple(uris), tuple(dns))


@given(st.integers(0, 2**160))
def test_numbers(number: int):
    assert extensions.read_integer(value_of(extensions.crl_number(number))) == number


@given(st.sampled_from(sorted(READERS)), st.binary(max_size=60), st.data())
def test_other_bytes_are_refused(name: str, noise: bytes, data: st.DataObject):
    """Noise, and what another extension holds: taken only if it is strict DER to its end."""
    sample = value_of(extensions.subject_alt_name(["https://a.example/x"], ["b.example"]))
    for value in (noise, sample, sample[: data.draw(st.integers(0, len(sample)))]):
        try:
            READERS[name](value)
        except DerError:
            continue
        assert der.parse(value).encode() == value
        with pytest.raises(DerError):
            READERS[name](value + b"\0")


@given(st.lists(st.sampled_from(["2.5.29.15", "2.5.29.19", "2.5.29.37"]), max_size=4))
def test_a_list_names_each_once(oids: list[str]):
    raw = der.sequence(*(extensions.encode(oid, b"\5\0") for oid in oids))
    if oids and len(set(oids)) == len(oids):
        assert list(extensions.read_all(der.Reader(raw))) == oids
    else:
        with pytest.raises(DerError):
            extensions.read_all(der.Reader(raw))


@given(st.binary(max_size=80))
def test_structures_take_no_noise(noise: bytes):
    for read in (structure.split, structure.read_tbs, structure.read_certificate):
        with pytest.raises(DerError):
            read(noise)


@given(st.binary(max_size=60))
def test_a_signed_structure_is_split_as_it_was_put_together(signature: bytes):
    content, algorithm = der.sequence(der.null()), der.sequence(der.oid("1.2.840.10045.4.3.2"))
    raw = der.sequence(content, algorithm, der.bit_string(signature))
    assert structure.split(raw) == structure.Signed(content, algorithm, signature)
