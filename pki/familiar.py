"""Leaf certificates like those accepted before: what repeats is compared, only the rest is read.

A device's certificate differs from its neighbour's in serial, dates, common name, key and URI. The
rest stands in it byte for byte as in the first of its kind, which `pki.certificate_checker` read
element by element. Nothing is refused here: what is not recognised is read whole. What is, would
have been accepted there too: each part is guessed loosely and then held against the one encoding
that it can have.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache

from pki import der, extensions, names
from pki.errors import DerError, PkiError
from pki.keys import key_id
from pki.limits import MAX_AGE, MAX_AHEAD, Form, Limits, Shape, known_key
from pki.profiles import KeyUsage
from pki.structure import VERSION_3, Tbs

MAX_FORMS = 64
"""Kinds of certificates remembered for a key; more are forgotten all at once."""

_KEY_IDENTIFIER = extensions.subject_key_identifier(bytes(20))[:-20]
_COMMON_NAME = der.oid(names.COMMON_NAME) + bytes((der.UTF8_STRING,))
_UTC_VALIDITY = 32
"""Bytes of a Validity of two UTCTimes."""
_MAX_SERIAL = 20
_MAX_SUBJECT = 1024
"""Bytes: names are kept for comparison, and this service's have three parts of 64 characters."""
_NO_TIME = timedelta(0)


def remember(
    limits: Limits, tbs: Tbs, usages: frozenset[KeyUsage], shapes: Iterable[Shape]
) -> None:
    """Keep the form of a leaf that was accepted, if those like it can be recognised.

    Args:
        limits: Of the key that signs it.
        tbs: The leaf.
        usages: Its key usages.
        shapes: Profiles that allow these and its purposes.
    """
    *common, identifier, alt_names = tbs.extensions.values()
    form = Form(usages, tuple(shape for shape in shapes if shape.admits(uris=1, dns=0, ips=0)))
    if (
        identifier.oid != extensions.SUBJECT_KEY_IDENTIFIER
        or alt_names.oid != extensions.SUBJECT_ALT_NAME
        or not form.shapes
    ):
        return
    if len(limits.forms) >= MAX_FORMS:
        limits.forms.clear()
    encoded = (extensions.encode(it.oid, it.value, critical=it.critical) for it in common)
    limits.forms[b"".join(encoded) + _KEY_IDENTIFIER] = form


def recognised(limits: Limits, message: bytes, now: datetime) -> str | None:
    """Serial in hex of a TBSCertificate of a form known for the key, that it may sign now."""
    if not limits.forms:
        return None
    try:
        return _recognised(limits, message, now)
    except (PkiError, IndexError, ValueError):
        return None  # a guess that went wrong: another form


def _recognised(limits: Limits, message: bytes, now: datetime) -> str | None:
    opening = _opening(len(message))
    serial_at = len(opening) + 1
    serial = message[serial_at : serial_at + message[serial_at - 1]]
    dates_at = serial_at + len(serial) + len(limits.head)
    subject_at = dates_at + _UTC_VALIDITY
    begin, lifetime = _dates(message[dates_at:subject_at])
    spki_at = _end(message, subject_at)
    rest_at = _end(message, spki_at)
    subject = message[subject_at:spki_at]
    digits = serial.lstrip(b"\x00")
    if (
        message.startswith(opening)
        and len(serial) <= _MAX_SERIAL
        and len(serial) - len(digits) == digits[0] >> 7  # positive and minimal
        and message.startswith(limits.head, serial_at + len(serial))
        and -MAX_AGE <= begin - now <= MAX_AHEAD
        and subject != limits.issuer
        and len(subject) <= _MAX_SUBJECT
        and _is_plain(subject)
        and _fits(limits, lifetime, message[spki_at:rest_at], message[rest_at:])
    ):
        return digits.hex()
    return None


def _end(data: bytes, at: int) -> int:
    """Where the element that begins there ends, should it be well encoded and below 64 KiB."""
    size = data[at + 1]
    if size < 0x80:
        return at + 2 + size
    if size == 0x81:
        return at + 3 + data[at + 2]
    return at + 4 + (data[at + 2] << 8 | data[at + 3])


def _fits(limits: Limits, lifetime: timedelta, spki: bytes, rest: bytes) -> bool:
    """Whether `rest` are the extensions of a known form, for this key and an allowed name."""
    opening = _list_opening(len(rest))
    split = rest.find(_KEY_IDENTIFIER) + len(_KEY_IDENTIFIER)
    form = limits.forms.get(rest[len(opening) : split])
    key = known_key(spki)
    if (
        form is None
        or not rest.startswith(opening)
        or not form.usages <= key.usages
        or rest[split : split + 20] != key_id(key.raw)
    ):
        return False
    uri = _only_uri(rest[split + 20 :])
    if uri is None or not names.is_web_uri(uri):
        return False
    for shape in form.shapes:  # a generator would cost as much again as what it does
        if _NO_TIME < lifetime <= shape.longest and uri.startswith(shape.prefixes):
            return True
    return False


def _only_uri(extension: bytes) -> str | None:
    """The URI of a subject alternative name extension that holds nothing else."""
    at = extension.find(b"http")
    uri = extension[at:]
    if extension[:at] != extensions.uri_opening(len(uri)):
        return None
    return uri.decode("ascii")


def _is_plain(subject: bytes) -> bool:
    """Whether a name is organisation, unit and then common name, or the last of these."""
    header = _name_opening(len(subject))
    at = subject.rfind(_COMMON_NAME) + len(_COMMON_NAME) + 1
    value = subject[at:]
    opening = names.rdn_opening(names.COMMON_NAME, len(value))
    first = at - len(opening)
    if (
        not subject.startswith(header)
        or subject[first:at] != opening
        or not _is_organization(subject[len(header) : first])
    ):
        return False
    text = value.decode()
    return text.isprintable() and text != ""


# --- what comes again and again is worked out once ---------------------------------------------


def _header(tag: int, size: int) -> bytes:
    """Header of the element that takes `size` bytes with it; no element takes 130, for one."""
    for octets in range(2, min(6, size + 1)):
        header = der.header(tag, size - octets)
        if len(header) == octets:
            return header
    raise DerError(f"no element has {size} bytes")


@lru_cache(maxsize=1024)
def _opening(size: int) -> bytes:
    """What a TBSCertificate of so many bytes begins with, up to the length of its serial."""
    return _header(der.SEQUENCE, size) + VERSION_3 + bytes((der.INTEGER,))


@lru_cache(maxsize=1024)
def _name_opening(size: int) -> bytes:
    return _header(der.SEQUENCE, size)


@lru_cache(maxsize=1024)
def _list_opening(size: int) -> bytes:
    """What a list of extensions of so many bytes, the tag around it included, begins with."""
    outer = _header(0xA3, size)
    return outer + _header(der.SEQUENCE, size - len(outer))


@lru_cache(maxsize=1024)
def _dates(validity: bytes) -> tuple[datetime, timedelta]:
    """notBefore, and the time from it to notAfter."""
    outer = der.Reader(validity)
    reader = outer.enter()
    outer.finish()
    begin, end = reader.time(), reader.time()
    reader.finish()
    return begin, end - begin


@lru_cache(maxsize=1024)
def _is_organization(rdns: bytes) -> bool:
    """Whether these are RDNs of an organisation, a unit, both or neither."""
    attributes = names.read_name(der.Reader(der.tlv(der.SEQUENCE, rdns)))
    kinds = {kind for kind, _ in attributes}
    return kinds <= {names.ORGANIZATION, names.ORGANIZATIONAL_UNIT} and len(kinds) == len(
        attributes
    )
