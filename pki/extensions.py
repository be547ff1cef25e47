"""Certificate and CRL extensions, written and read (RFC 5280 4.2 and 5.2)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from pki import der
from pki.errors import DerError
from pki.profiles import KEY_USAGE_BIT, KeyUsage

SUBJECT_KEY_IDENTIFIER, KEY_USAGE, SUBJECT_ALT_NAME = "2.5.29.14", "2.5.29.15", "2.5.29.17"
BASIC_CONSTRAINTS, CRL_NUMBER, CRL_REASON = "2.5.29.19", "2.5.29.20", "2.5.29.21"
NAME_CONSTRAINTS, CRL_DISTRIBUTION_POINTS = "2.5.29.30", "2.5.29.31"
AUTHORITY_KEY_IDENTIFIER, EXTENDED_KEY_USAGE = "2.5.29.35", "2.5.29.37"
AUTHORITY_INFO_ACCESS, CA_ISSUERS = "1.3.6.1.5.5.7.1.1", "1.3.6.1.5.5.7.48.2"

_DNS, _URI, _IP = 0x82, 0x86, 0x87  # GeneralName choices, implicitly tagged
_FULL_NAME = 0xA0  # DistributionPoint.distributionPoint.fullName: [0] inside [0]

IpAddress = str | IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension as it stands; `value` is the content of its OCTET STRING."""

    oid: str
    critical: bool
    value: bytes


def encode(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    """One Extension; `critical` is left out when false, as DER wants of defaults."""
    flag = der.boolean(True) if critical else b""
    return der.sequence(der.oid(oid), flag, der.octet_string(value))


@lru_cache(maxsize=512)
def read(raw: bytes) -> Extension:
    """Undo `encode`.

    Raises:
        DerError: Not an Extension in DER.
    """
    outer = der.Reader(raw)
    reader = outer.enter()
    outer.finish()
    oid = reader.oid()
    critical = reader.peek() == der.BOOLEAN
    if critical and not reader.boolean():
        raise DerError("a default value (critical FALSE) is written out")
    value = reader.content(der.OCTET_STRING)
    reader.finish()
    return Extension(oid, critical, value)


def read_all(reader: der.Reader) -> dict[str, Extension]:
    """A SEQUENCE of at least one Extension, by OID, in order.

    Raises:
        DerError: Not that, or an extension stands twice.
    """
    found: dict[str, Extension] = {}
    items = reader.enter()
    while not items.done():
        item = read(items.raw())
        if item.oid in found:
            raise DerError(f"extension {item.oid} stands twice")
        found[item.oid] = item
    if not found:
        raise DerError("the list of extensions is empty")
    return found


# --- writing ---------------------------------------------------------------------------------


def key_usage(usages: Iterable[KeyUsage]) -> bytes:
    """Key usage, critical."""
    bits = der.named_bits(KEY_USAGE_BIT[usage] for usage in usages)
    return encode(KEY_USAGE, bits, critical=True)


def basic_constraints(*, ca: bool, path_length: int | None = None) -> bytes:
    """Basic constraints, critical."""
    content = b"" if not ca else der.boolean(True)
    if path_length is not None:
        content += der.integer(path_length)
    return encode(BASIC_CONSTRAINTS, der.sequence(content), critical=True)


def extended_key_usage(purposes: Sequence[str]) -> bytes:
    """Extended key usage."""
    return encode(EXTENDED_KEY_USAGE, der.sequence(*map(der.oid, purposes)))


def authority_key_identifier(key_id: bytes) -> bytes:
    """Authority key identifier by key id alone."""
    return encode(AUTHORITY_KEY_IDENTIFIER, der.sequence(der.context(0, key_id, constructed=False)))


def subject_key_identifier(key_id: bytes) -> bytes:
    """Subject key identifier."""
    return encode(SUBJECT_KEY_IDENTIFIER, der.octet_string(key_id))


def crl_distribution_point(url: str) -> bytes:
    """One distribution point with one URL."""
    name = der.tlv(_FULL_NAME, der.tlv(_URI, url.encode("ascii")))
    point = der.sequence(der.context(0, name))
    return encode(CRL_DISTRIBUTION_POINTS, der.sequence(point))


def authority_info_access(url: str) -> bytes:
    """Where the issuer's certificate can be had."""
    access = der.sequence(der.oid(CA_ISSUERS), der.tlv(_URI, url.encode("ascii")))
    return encode(AUTHORITY_INFO_ACCESS, der.sequence(access))


def subject_alt_name(
    uris: Sequence[str] = (), dns: Sequence[str] = (), ips: Sequence[IpAddress] = ()
) -> bytes:
    """Subject alternative name, not critical since the subject is never empty."""
    if len(uris) == 1 and not (dns or ips):
        uri = uris[0].encode("ascii")
        return uri_opening(len(uri)) + uri
    return _subject_alt_name(uris, dns, ips)


@lru_cache(maxsize=1024)
def uri_opening(size: int) -> bytes:
    """What stands before a URI of so many bytes that is the whole subject alternative name."""
    opening = _subject_alt_name(("x" * size,), (), ())
    return opening[: len(opening) - size]


def _subject_alt_name(uris: Sequence[str], dns: Sequence[str], ips: Sequence[IpAddress]) -> bytes:
    names = [der.tlv(_URI, uri.encode("ascii")) for uri in uris]
    names += [der.tlv(_DNS, name.encode("ascii")) for name in dns]
    names += [der.tlv(_IP, ip_address(ip).packed) for ip in ips]
    return encode(SUBJECT_ALT_NAME, der.sequence(*names))


def name_constraints(uri_hosts: Iterable[str], dns: Iterable[str]) -> bytes:
    """Permitted URI hosts and DNS names, critical; a leading dot means subdomains (4.2.1.10)."""
    trees = [der.sequence(der.tlv(_URI, host.encode("ascii"))) for host in uri_hosts]
    trees += [der.sequence(der.tlv(_DNS, name.encode("ascii"))) for name in dns]
    return encode(NAME_CONSTRAINTS, der.sequence(der.context(0, b"".join(trees))), critical=True)


def crl_number(number: int) -> bytes:
    """CRL number."""
    return encode(CRL_NUMBER, der.integer(number))


# --- reading; each raises DerError when the value is not what RFC 5280 wants -------------------


@lru_cache(maxsize=64)
def read_key_usage(value: bytes) -> frozenset[KeyUsage]:
    """Usages, which must all be ones that this service gives."""
    outer = der.Reader(value)
    content = outer.content(der.BIT_STRING)
    outer.finish()
    der.check_bits(content)
    bits = {
        8 * index + position
        for index, octet in enumerate(content[1:])
        for position in range(8)
        if octet & 0x80 >> position
    }
    usages = frozenset(usage for usage, bit in KEY_USAGE_BIT.items() if bit in bits)
    if der.named_bits(bits) != value or len(usages) != len(bits) or not bits:
        raise DerError("the key usage is empty, unknown or has trailing zeros")
    return usages


@lru_cache(maxsize=64)
def read_basic_constraints(value: bytes) -> tuple[bool, int | None]:
    """CA flag and path length."""
    outer = der.Reader(value)
    reader = outer.enter()
    outer.finish()
    if reader.done():
        return False, None
    if not reader.boolean():
        raise DerError("a default value (cA FALSE) is written out")
    length = None if reader.done() else reader.integer()
    reader.finish()
    if length is not None and length < 0:
        raise DerError("a path length is negative")
    return True, length


@lru_cache(maxsize=64)
def read_extended_key_usage(value: bytes) -> tuple[str, ...]:
    """Purposes, at least one, none twice."""
    outer = der.Reader(value)
    reader = outer.enter()
    outer.finish()
    purposes: list[str] = []
    while not reader.done():
        purposes.append(reader.oid())
    if not purposes or len(set(purposes)) != len(purposes):
        raise DerError("the extended key usage is empty or names a purpose twice")
    return tuple(purposes)


@lru_cache(maxsize=64)
def read_authority_key_identifier(value: bytes) -> bytes:
    """Key identifier; issuer and serial have no place beside it."""
    outer = der.Reader(value)
    reader = outer.enter()
    outer.finish()
    key_id = reader.content(0x80)
    reader.finish()
    return key_id


def read_subject_key_identifier(value: bytes) -> bytes:
    """Key identifier."""
    reader = der.Reader(value)
    key_id = reader.content(der.OCTET_STRING)
    reader.finish()
    return key_id


@dataclass(frozen=True, slots=True)
class AltNames:
    """Names of a subject alternative name extension; addresses packed."""

    uris: tuple[str, ...]
    dns: tuple[str, ...]
    ips: tuple[bytes, ...]


def read_subject_alt_name(value: bytes) -> AltNames:
    """URIs, DNS names and addresses, at least one; no other type of name."""
    outer = der.Reader(value)
    reader = outer.enter()
    outer.finish()
    if reader.done():
        raise DerError("the subject alternative name is empty")
    uris: list[bytes] = []
    dns: list[bytes] = []
    ips: list[bytes] = []
    while not reader.done():
        tag = reader.peek()
        content = reader.content(tag)
        if tag == _URI:
            uris.append(content)
        elif tag == _DNS:
            dns.append(content)
        elif tag == _IP and len(content) in {4, 16}:
            ips.append(content)
        else:
            raise DerError(f"an alternative name of type 0x{tag:02x} or its size has no place here")
    return AltNames(_ascii(uris), _ascii(dns), tuple(ips))


@lru_cache(maxsize=64)
def read_crl_distribution_point(value: bytes) -> str:
    """URL of exactly one distribution point with exactly one name."""
    outer = der.Reader(value)
    points = outer.enter()
    outer.finish()
    point = points.enter()
    points.finish()
    name = point.enter(0xA0)
    point.finish()
    full = name.enter(_FULL_NAME)
    name.finish()
    url = full.content(_URI)
    full.finish()
    return _ascii([url])[0]


@lru_cache(maxsize=64)
def read_authority_info_access(value: bytes) -> str:
    """URL of the issuer's certificate, the one access description."""
    outer = der.Reader(value)
    descriptions = outer.enter()
    outer.finish()
    description = descriptions.enter()
    descriptions.finish()
    if description.oid() != CA_ISSUERS:
        raise DerError("only the issuer's certificate is named in authority information access")
    url = description.content(_URI)
    description.finish()
    return _ascii([url])[0]


def read_name_constraints(value: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Permitted URI hosts and DNS names; excluded subtrees and other types are refused."""
    outer = der.Reader(value)
    reader = outer.enter()
    outer.finish()
    trees = reader.enter(0xA0)
    reader.finish()
    names: dict[int, list[bytes]] = {_URI: [], _DNS: []}
    if trees.done():
        raise DerError("name constraints permit nothing and exclude nothing")
    while not trees.done():
        tree = trees.enter()
        tag = tree.peek()
        if tag not in names:
            raise DerError(f"a name constraint of type 0x{tag:02x} has no place here")
        names[tag].append(tree.content(tag))
        tree.finish()
    return _ascii(names[_URI]), _ascii(names[_DNS])


def read_integer(value: bytes) -> int:
    """An extension whose value is one INTEGER, like the CRL number."""
    reader = der.Reader(value)
    number = reader.integer()
    reader.finish()
    return number


def _ascii(values: Iterable[bytes]) -> tuple[str, ...]:
    try:
        return tuple([value.decode("ascii") for value in values])
    except UnicodeDecodeError:
        raise DerError("a name holds characters outside ASCII") from None
