"""Names and URIs: deterministic, bounded, reversible."""

import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pki import der, names
from pki.errors import DerError, ProfileError
from tests.support import pki

USERS = st.from_regex(re.compile(r"[A-Za-z0-9._@:+=-]{1,128}"), fullmatch=True).filter(
    lambda user: user not in {".", ".."}
)
DEVICES = st.from_regex(re.compile(r"[A-Za-z0-9._-]{1,64}"), fullmatch=True).filter(
    lambda device: device not in {".", ".."}
)
PRINTABLE = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=200)


@settings(deadline=None)
@given(USERS, DEVICES)
def test_uris_of_users_and_devices_are_reversible(user: str, device: str):
    uri = names.device_uri(pki.DOMAIN, user, device)
    assert names.is_web_uri(uri)
    assert names.parse_uri(uri) == names.Named(pki.DOMAIN, user=user, device=device)
    assert names.parse_uri(names.user_uri(pki.DOMAIN, user)) == names.Named(pki.DOMAIN, user=user)


@settings(deadline=None)
@given(st.text(min_size=1, max_size=60))
def test_any_principal_name_is_encoded_reversibly(name: str):
    try:
        uri = names.principal_uri(pki.DOMAIN, name)
    except ProfileError:
        assert name in {".", ".."} or not name.isprintable()  # lone surrogates are no text
        return
    assert names.is_web_uri(uri)
    assert names.parse_uri(uri) == names.Named(pki.DOMAIN, principal=name)


@pytest.mark.parametrize("segment", ["", ".", ".."])
def test_dot_segments_are_refused(segment: str):
    with pytest.raises(ProfileError):
        names.user_uri(pki.DOMAIN, segment)
    with pytest.raises(ProfileError):
        names.device_uri(pki.DOMAIN, "alice", segment)


@pytest.mark.parametrize(
    "domain", ["", "localhost", "UPPER.example", "a..b", "-a.b", "a.b-", "1.2.3.4", "a.b/c", "ä.de"]
)
def test_domains_are_fully_qualified_dns_names(domain: str):
    with pytest.raises(ProfileError):
        names.user_uri(domain, "alice")


@pytest.mark.parametrize(
    "uri",
    [
        "https://user@a.example/x",
        "https://a.example/x?y",
        "https://a.example/x#y",
        "https://a.example/users/../x",
        "https://a.example/users/%2E%2E/x",
        "https://a.example/%zz",
        "https://a.example/%2e",
        "https://a.example /",
        "https://A.example/",
        "ftp://a.example/",
        "https:///x",
        "https://a.example/ä",
        "https://a.example/\n",
        "https://a.example/" + "x" * 2048,
    ],
)
def test_other_uris_are_not_certified(uri: str):
    assert not names.is_web_uri(uri)
    assert names.parse_uri(uri) is None


@pytest.mark.parametrize(
    ("uri", "good"),
    [
        ("http://pki.example.org:8080/pki/a.crl", True),
        ("http://127.0.0.1:8080/pki/a.crl", True),
        ("http://127.0.0.01/pki/a.crl", False),
        ("http://localhost/pki/a.crl", False),
        ("http://[::1]/pki/a.crl", False),
        ("http://256.1.1.1/pki/a.crl", False),
    ],
)
def test_locations_are_domains_or_addresses(uri: str, *, good: bool):
    assert names.is_location(uri) == good


@settings(deadline=None)
@given(PRINTABLE, st.none() | PRINTABLE, st.none() | PRINTABLE)
def test_names_are_read_as_they_were_written(common: str, organization: str, unit: str):
    data = names.Subject(common, organization, unit).encode()
    der.parse(data)
    reader = der.Reader(data)
    values = dict(names.read_name(reader))
    assert values[names.COMMON_NAME] == names.bounded(common)
    assert values.get(names.ORGANIZATION) == (organization and names.bounded(organization))
    assert all(len(value) <= names.UPPER_BOUND for value in values.values())
    assert names.common_name(data) == names.bounded(common)


@settings(deadline=None)
@given(st.text("ab", min_size=65, max_size=128), st.text("ab", min_size=65, max_size=128))
def test_long_names_are_cut_alike_and_apart(first: str, second: str):
    assert (names.bounded(first) == names.bounded(second)) == (first == second)


@pytest.mark.parametrize("value", ["", "  ", "a\x00b", "a\nb", "\u202eabc"])
def test_invisible_names_are_refused(value: str):
    with pytest.raises(ProfileError):
        names.Subject(value).encode()


@pytest.mark.parametrize(
    "data",
    [
        der.sequence(der.tlv(der.SET, b"")),
        der.sequence(der.set_of([der.sequence(der.oid(names.COMMON_NAME), der.tlv(0x16, b"x"))])),
        der.sequence(der.set_of([der.sequence(der.oid(names.COMMON_NAME), der.utf8(""))])),
        der.sequence(
            der.set_of([der.sequence(der.oid(names.COMMON_NAME), der.utf8(c)) for c in "ab"])
        ),
    ],
)
def test_other_forms_of_name_are_refused(data: bytes):
    with pytest.raises(DerError):
        names.read_name(der.Reader(data))


def is_plain(path: str) -> bool:
    """RFC 3986 3.3 read character by character: segments of pchars, none of them dots alone."""
    if path and not path.startswith("/"):
        return False
    decoded = re.sub("%[0-9A-F]{2}", "_", path.replace("%2E", "."))
    plain = string.ascii_letters + string.digits + "._~!$&'()*+,;=:@-/"
    return set(decoded) <= set(plain) and not {".", ".."} & set(decoded.split("/"))


@given(st.text("a/.%2E4Fg:@?#- é\n", max_size=12))
def test_paths_are_plain_as_the_standard_says(path: str):
    assert names.is_web_uri(f"https://a.example/{path}") == is_plain(f"/{path}")
