"""Distinguished names and the URIs that stand for users, devices and principals.

Sources: RFC 5280 4.1.2.4, 4.2.1.6 and appendix A (upper bounds), RFC 3986.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address
from urllib.parse import quote, unquote

from pki import der
from pki.errors import DerError, ProfileError

COMMON_NAME, ORGANIZATION, ORGANIZATIONAL_UNIT = "2.5.4.3", "2.5.4.10", "2.5.4.11"
UPPER_BOUND = 64
"""ub-common-name, ub-organization-name, ub-organizational-unit-name: characters."""

MAX_URI = 2048

_LABELS = re.compile(
    r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*"
)
_SEGMENT_SAFE = "!$&'()*+,;=:@"  # RFC 3986 pchar beside the unreserved characters
_CHARACTERS = r"[A-Za-z0-9._~!$&'()*+,;=:@-]*"
_WEB_URI = re.compile(
    r"https?://(?P<host>[a-z0-9.-]{1,253})(?::[0-9]{1,5})?"
    rf"(?P<path>(?:/{_CHARACTERS}(?:%[0-9A-F]{{2}}{_CHARACTERS})*)*)"
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A distinguished name: organisation, unit, common name, in that order."""

    common_name: str
    organization: str | None = None
    organizational_unit: str | None = None

    def encode(self) -> bytes:
        """RDNSequence, DER, every value a UTF8String.

        A value over 64 characters is cut to 47 and closed with `~` and 64 bits of its SHA-256, so
        that equal values give equal names and different ones differ.

        Raises:
            ProfileError: A value is empty or holds control characters.
        """
        return _name(self.common_name, self.organization, self.organizational_unit)


@lru_cache(maxsize=4096)
def _name(common_name: str, organization: str | None, unit: str | None) -> bytes:
    return der.sequence(_organization(organization, unit), _rdn(COMMON_NAME, common_name))


@lru_cache(maxsize=1024)
def _organization(organization: str | None, unit: str | None) -> bytes:
    parts = ((ORGANIZATION, organization), (ORGANIZATIONAL_UNIT, unit))
    return b"".join(_rdn(kind, value) for kind, value in parts if value is not None)


def _rdn(kind: str, value: str) -> bytes:
    if not value.strip() or not value.isprintable():
        raise ProfileError("a name needs visible characters and no others", field="subject")
    text = bounded(value).encode()
    return rdn_opening(kind, len(text)) + text


@lru_cache(maxsize=1024)
def rdn_opening(kind: str, size: int) -> bytes:
    """What stands before a text of so many bytes that is the one attribute of an RDN."""
    attribute = der.sequence(der.oid(kind), der.tlv(der.UTF8_STRING, bytes(size)))
    opening = der.tlv(der.SET, attribute)
    return opening[: len(opening) - size]


def bounded(value: str) -> str:
    """The value as it stands in a name: at most 64 characters (see `Subject.encode`)."""
    if len(value) <= UPPER_BOUND:
        return value
    return f"{value[:47]}~{hashlib.sha256(value.encode()).hexdigest()[:16]}"


def read_name(reader: der.Reader) -> tuple[tuple[str, str], ...]:
    """Attributes (OID, value) of a strict RDNSequence: one text attribute in every RDN.

    Raises:
        DerError: Another form of name.
    """
    attributes: list[tuple[str, str]] = []
    rdns = reader.enter()
    while not rdns.done():
        attributes.append(_read_rdn(rdns.raw_of(der.SET)))
    return tuple(attributes)


@lru_cache(maxsize=1024)
def _read_rdn(raw: bytes) -> tuple[str, str]:
    rdn = der.Reader(raw).enter(der.SET)
    attribute = rdn.enter()
    rdn.finish()
    kind = attribute.oid()
    tag = attribute.peek()
    value = der.text(tag, attribute.content(tag))
    attribute.finish()
    if not value or not value.isprintable():
        raise DerError("a name needs visible characters and no others")
    return kind, value


def common_name(name: bytes) -> str | None:
    """The last common name of an encoded name, if there is one."""
    return _last(name, COMMON_NAME)


def organization(name: bytes) -> str | None:
    """The last organisation of an encoded name, if there is one."""
    return _last(name, ORGANIZATION)


def _last(name: bytes, wanted: str) -> str | None:
    reader = der.Reader(name)
    values = [value for kind, value in read_name(reader) if kind == wanted]
    reader.finish()
    return values[-1] if values else None


def is_host_name(text: str) -> bool:
    """Whether the text is a lower-case DNS name of one or more LDH labels (RFC 1123)."""
    if len(text) > 253 or not _LABELS.fullmatch(text):
        return False
    return not text.rpartition(".")[2].isdigit()  # else it might be an address


@lru_cache(maxsize=1024)
def is_domain(text: str) -> bool:
    """Whether the text is a host name of two labels or more, as URIs in certificates need it.

    RFC 5280 4.2.1.6: the host of a URI is fully qualified.
    """
    return "." in text and is_host_name(text)


def is_web_uri(text: str) -> bool:
    """Whether the text is an http(s) URI with a domain and a plain path, nothing else.

    No user information, query or fragment, and no segment `.` or `..`, which software resolves
    away: two different strings never name one resource.
    """
    match = _WEB_URI.fullmatch(text) if len(text) <= MAX_URI else None
    return match is not None and is_domain(match["host"]) and _plain_path(match["path"])


def is_location(text: str) -> bool:
    """Whether the text is where a CRL or certificate can be had: as `is_web_uri`, or at IPv4."""
    match = _WEB_URI.fullmatch(text) if len(text) <= MAX_URI else None
    if match is None or not _plain_path(match["path"]):
        return False
    host = match["host"]
    return is_domain(host) or _is_ipv4(host)


def _is_ipv4(text: str) -> bool:
    try:
        return str(IPv4Address(text)) == text
    except ValueError:
        return False


def _plain_path(path: str) -> bool:
    if "/." not in path and "/%2E" not in path:
        return True
    segments = path.replace("%2E", ".").split("/")
    return "." not in segments and ".." not in segments


def _segment(value: str, field: str) -> str:
    if value in {"", ".", ".."}:
        raise ProfileError(f"{value!r} cannot be a segment of a URI's path", field=field)
    try:
        return quote(value, safe=_SEGMENT_SAFE)
    except UnicodeEncodeError:
        raise ProfileError("a lone surrogate cannot stand in a URI", field=field) from None


def _base(domain: str) -> str:
    if not is_domain(domain):
        raise ProfileError(
            f"{domain[:80]!r} is not a fully qualified DNS name in lower case", field="domain"
        )
    return f"https://{domain}"


def user_uri(domain: str, user: str) -> str:
    """`https://<domain>/users/<user>`, percent-encoded where a URI needs it.

    Raises:
        ProfileError: The domain is not a DNS name, or the user is `.` or `..`.
    """
    return f"{_base(domain)}/users/{_segment(user, 'user')}"


def device_uri(domain: str, user: str, device: str) -> str:
    """`https://<domain>/users/<user>/devices/<device>`.

    Raises:
        ProfileError: As `user_uri`.
    """
    return f"{user_uri(domain, user)}/devices/{_segment(device, 'device')}"


def principal_uri(domain: str, name: str) -> str:
    """`https://<domain>/principals/<name>`: servers, officers and auditors.

    Raises:
        ProfileError: As `user_uri`.
    """
    return f"{_base(domain)}/principals/{_segment(name, 'principal')}"


def slot_uri(domain: str, slot: str, version: int) -> str:
    """`https://<domain>/kem-slots/<slot>/<version>`: a KEM slot of the organisation.

    Raises:
        ProfileError: As `user_uri`.
    """
    return f"{_base(domain)}/kem-slots/{_segment(slot, 'slot')}/{version}"


@dataclass(frozen=True, slots=True)
class Named:
    """What one of this module's URIs stands for; the fields that do not apply are None."""

    domain: str
    user: str | None = None
    device: str | None = None
    principal: str | None = None


def parse_uri(uri: str) -> Named | None:
    """Undo `user_uri`, `device_uri` and `principal_uri`; None for any other URI."""
    if not is_web_uri(uri) or not uri.startswith("https://"):
        return None
    domain, *segments = uri.removeprefix("https://").split("/")
    values = [unquote(segment) for segment in segments]
    if not all(values):
        return None
    match values:
        case ["users", user]:
            return Named(domain, user=user)
        case ["users", user, "devices", device]:
            return Named(domain, user=user, device=device)
        case ["principals", name]:
            return Named(domain, principal=name)
        case _:
            return None
