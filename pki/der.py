"""A strict reader and writer of distinguished encoding (X.690 chapters 8 and 10).

Only what certificates need: low tag numbers, definite minimal lengths, canonical primitives. What
the reader accepts has exactly one encoding, so bytes that were compared need not be re-encoded.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from pki.errors import DerError

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL = 0x01, 0x02, 0x03, 0x04, 0x05
OBJECT_IDENTIFIER, ENUMERATED, UTF8_STRING, PRINTABLE_STRING = 0x06, 0x0A, 0x0C, 0x13
UTC_TIME, GENERALIZED_TIME, SEQUENCE, SET = 0x17, 0x18, 0x30, 0x31

MAX_DEPTH = 16
"""Deeper nesting is refused; a certificate with name constraints needs nine levels."""

MAX_SIZE = 0xFFFFFF
"""Largest content in bytes: three length octets, far above any CRL this service makes."""

MAX_OID = 64
"""Longest OBJECT IDENTIFIER in bytes: far above any in use, and cheap to turn into text."""

_PRINTABLE = re.compile(rb"[A-Za-z0-9 '()+,\-./:=?]*")
_UTC_TIME = re.compile(rb"\d{12}Z")
_GENERALIZED_TIME = re.compile(rb"\d{14}Z")
_GENERALIZED_FROM = 2050  # RFC 5280 4.1.2.5: UTCTime through 2049


# --- writing ---------------------------------------------------------------------------------


def header(tag: int, size: int) -> bytes:
    """Identifier and length octets for a content of `size` bytes."""
    if size < 0x80:
        return bytes((tag, size))
    if size <= 0xFF:
        return bytes((tag, 0x81, size))
    if size <= 0xFFFF:
        return bytes((tag, 0x82, size >> 8, size & 0xFF))
    if size <= MAX_SIZE:
        return bytes((tag, 0x83, size >> 16, size >> 8 & 0xFF, size & 0xFF))
    raise DerError(f"a content of {size} bytes exceeds {MAX_SIZE}")


def tlv(tag: int, content: bytes) -> bytes:
    """One element."""
    return header(tag, len(content)) + content


def sequence(*parts: bytes) -> bytes:
    """SEQUENCE of encoded elements."""
    return tlv(SEQUENCE, b"".join(parts))


def set_of(parts: Iterable[bytes]) -> bytes:
    """SET OF encoded elements, in the order that X.690 11.6 demands."""
    return tlv(SET, b"".join(sorted(parts)))


def integer(value: int) -> bytes:
    """INTEGER, also negative."""
    magnitude = value if value >= 0 else ~value
    return tlv(INTEGER, value.to_bytes(magnitude.bit_length() // 8 + 1, "big", signed=True))


def boolean(value: bool) -> bytes:  # noqa: FBT001 - the value is the whole argument
    """BOOLEAN."""
    return b"\x01\x01\xff" if value else b"\x01\x01\x00"


def null() -> bytes:
    """NULL."""
    return b"\x05\x00"


def octet_string(data: bytes) -> bytes:
    """OCTET STRING."""
    return tlv(OCTET_STRING, data)


def bit_string(data: bytes, unused: int = 0) -> bytes:
    """BIT STRING whose last byte leaves `unused` bits out."""
    return tlv(BIT_STRING, bytes((unused,)) + data)


def named_bits(bits: Iterable[int]) -> bytes:
    """BIT STRING of a named bit list: bit 0 first, trailing zeros dropped (X.690 11.2.2)."""
    positions = set(bits)
    if not positions:
        return bit_string(b"")
    size = max(positions) // 8 + 1
    value = sum(1 << (size * 8 - 1 - position) for position in positions)
    return bit_string(value.to_bytes(size, "big"), size * 8 - 1 - max(positions))


def utf8(text: str) -> bytes:
    """UTF8String."""
    return tlv(UTF8_STRING, text.encode())


def context(number: int, content: bytes, *, constructed: bool = True) -> bytes:
    """Element under a context tag; an explicit tag is constructed, an implicit string is not."""
    return tlv((0xA0 if constructed else 0x80) | number, content)


@lru_cache(maxsize=512)
def oid(dotted: str) -> bytes:
    """OBJECT IDENTIFIER.

    Raises:
        DerError: The text is not one.
    """
    try:
        arcs = [int(arc) for arc in dotted.split(".")]
    except ValueError:
        raise DerError(f"{dotted[:80]!r} is not an object identifier") from None
    if len(arcs) < 2 or arcs[0] > 2 or (arcs[0] < 2 and arcs[1] > 39) or min(arcs) < 0:
        raise DerError(f"{dotted[:80]!r} is not an object identifier")
    content = bytearray()
    for arc in (40 * arcs[0] + arcs[1], *arcs[2:]):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        content.extend(reversed(groups))
    return tlv(OBJECT_IDENTIFIER, bytes(content))


@lru_cache(maxsize=4096)
def time(moment: datetime) -> bytes:
    """UTCTime through 2049, GeneralizedTime from 2050 on (RFC 5280 4.1.2.5); whole seconds."""
    moment = moment.astimezone(UTC)
    if moment.microsecond:
        raise DerError("a time in a certificate has whole seconds")
    if moment.year >= _GENERALIZED_FROM:
        return tlv(GENERALIZED_TIME, moment.strftime("%Y%m%d%H%M%SZ").encode())
    if moment.year < 1950:
        raise DerError("a time before 1950 cannot stand in a certificate")
    return tlv(UTC_TIME, moment.strftime("%y%m%d%H%M%SZ").encode())


# --- reading ---------------------------------------------------------------------------------


class Reader:
    """Reads one element after another from a slice of bytes; nothing is copied before it is asked.

    Every method raises `DerError` when the bytes are not canonical or not what is asked for.
    """

    __slots__ = ("_end", "data", "pos")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self.data = data
        self.pos = start
        self._end = len(data) if end is None else end

    def done(self) -> bool:
        """Whether nothing is left."""
        return self.pos == self._end

    def peek(self) -> int:
        """Tag of the next element, 0 at the end."""
        return self.data[self.pos] if self.pos < self._end else 0

    def _open(self) -> tuple[int, int, int]:
        """Tag, start and end of the next element's content; the position stays."""
        data, pos, end = self.data, self.pos, self._end
        if pos + 2 > end:
            raise DerError("the encoding ends where an element is expected")
        tag, size = data[pos], data[pos + 1]
        start = pos + 2
        if size >= 0x80:
            octets = size & 0x7F
            if not 1 <= octets <= 3:
                raise DerError("a length is indefinite or larger than anything here can be")
            start += octets
            if start > end:
                raise DerError("the encoding ends inside a length")
            size = int.from_bytes(data[pos + 2 : start], "big")
            if size < 0x80 or size >> 8 * (octets - 1) == 0:
                raise DerError("a length is not in its shortest form")
        if tag & 0x1F == 0x1F:
            raise DerError("a tag number above 30 has no place here")
        if start + size > end:
            raise DerError("an element is longer than what holds it")
        return tag, start, start + size

    def _expect(self, tag: int) -> tuple[int, int]:
        """Step over the next element, which must carry this tag; start and end of its content."""
        data, pos, end = self.data, self.pos, self._end
        if pos + 2 <= end and data[pos] == tag and data[pos + 1] < 0x80:
            start = pos + 2  # the usual case, without the detour through `_open`
            stop = start + data[pos + 1]
            if stop <= end and tag & 0x1F != 0x1F:
                self.pos = stop
                return start, stop
        found, start, stop = self._open()
        if found != tag:
            raise DerError(f"tag 0x{found:02x} stands where 0x{tag:02x} is expected")
        self.pos = stop
        return start, stop

    def content(self, tag: int) -> bytes:
        """Content octets of the next element, which must carry this tag."""
        start, stop = self._expect(tag)
        return self.data[start:stop]

    def enter(self, tag: int = SEQUENCE) -> "Reader":
        """A reader of the inside of the next element, which must carry this tag."""
        start, stop = self._expect(tag)
        return Reader(self.data, start, stop)

    def raw(self) -> bytes:
        """The whole next element, header included, whatever its tag."""
        begin = self.pos
        _, _, self.pos = self._open()
        return self.data[begin : self.pos]

    def raw_of(self, tag: int) -> bytes:
        """The whole next element, header included, which must carry this tag."""
        begin = self.pos
        self._expect(tag)
        return self.data[begin : self.pos]

    def rest(self) -> bytes:
        """Everything that is left, unread."""
        begin, self.pos = self.pos, self._end
        return self.data[begin : self._end]

    def finish(self) -> None:
        """Refuse anything that is left."""
        if self.pos != self._end:
            raise DerError("bytes are left over after the last element")

    def integer(self) -> int:
        """INTEGER."""
        return _integer(self.content(INTEGER))

    def boolean(self) -> bool:
        """BOOLEAN."""
        return _boolean(self.content(BOOLEAN))

    def oid(self) -> str:
        """OBJECT IDENTIFIER, dotted."""
        return dotted(self.content(OBJECT_IDENTIFIER))

    def bit_string(self) -> bytes:
        """BIT STRING of whole bytes."""
        content = self.content(BIT_STRING)
        if not content or content[0] != 0:
            raise DerError("a BIT STRING here holds whole bytes")
        return content[1:]

    def time(self) -> datetime:
        """UTCTime or GeneralizedTime, as RFC 5280 4.1.2.5 limits them."""
        tag, start, stop = self._open()
        moment = _time(tag, self.data[start:stop])
        self.pos = stop
        return moment


def _integer(content: bytes) -> int:
    if not content:
        raise DerError("an INTEGER has no content")
    if len(content) > 1 and (
        (content[0] == 0x00 and content[1] < 0x80) or (content[0] == 0xFF and content[1] >= 0x80)
    ):
        raise DerError("an INTEGER is not in its shortest form")
    return int.from_bytes(content, "big", signed=True)


def _boolean(content: bytes) -> bool:
    if content not in {b"\x00", b"\xff"}:
        raise DerError("a BOOLEAN is neither 00 nor FF")
    return content == b"\xff"


@lru_cache(maxsize=512)
def dotted(content: bytes) -> str:
    """Content octets of an OBJECT IDENTIFIER as dotted text.

    Raises:
        DerError: They are not canonical.
    """
    if len(content) > MAX_OID:
        raise DerError(f"an OBJECT IDENTIFIER of more than {MAX_OID} bytes")
    if not content or content[-1] & 0x80:
        raise DerError("an OBJECT IDENTIFIER ends inside an arc")
    arcs: list[int] = []
    value, fresh = 0, True
    for octet in content:
        if fresh and octet == 0x80:
            raise DerError("an OBJECT IDENTIFIER is not in its shortest form")
        value = value << 7 | octet & 0x7F
        fresh = not octet & 0x80
        if fresh:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))


@lru_cache(maxsize=4096)
def _time(tag: int, content: bytes) -> datetime:
    pattern = {UTC_TIME: _UTC_TIME, GENERALIZED_TIME: _GENERALIZED_TIME}.get(tag)
    if pattern is None:
        raise DerError(f"tag 0x{tag:02x} stands where a time is expected")
    if not pattern.fullmatch(content):
        raise DerError("a time is not written in whole seconds with Z")
    text = content.decode("ascii")
    if tag == UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    try:
        moment = datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise DerError("a time names no moment") from None
    if (tag == GENERALIZED_TIME) != (moment.year >= _GENERALIZED_FROM):
        raise DerError("a time up to 2049 is a UTCTime, a later one a GeneralizedTime")
    return moment


# --- whole trees -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Element:
    """One element and, if its tag is constructed, the elements inside."""

    tag: int
    content: bytes
    children: tuple["Element", ...] = ()

    def encode(self) -> bytes:
        """The only encoding of the element."""
        if self.tag & 0x20:
            return tlv(self.tag, b"".join(child.encode() for child in self.children))
        return tlv(self.tag, self.content)


def parse(data: bytes, max_depth: int = MAX_DEPTH) -> Element:
    """Read exactly one element down to its leaves; universal primitives must be canonical.

    Raises:
        DerError: The bytes are not DER, are nested too deep or go on after the element.
    """
    reader = Reader(data)
    element = _element(reader, max_depth)
    reader.finish()
    return element


def _element(reader: Reader, depth: int) -> Element:
    if depth == 0:
        raise DerError("the encoding is nested too deep")
    tag = reader.peek()
    if not tag & 0x20:
        content = reader.content(tag)
        _check_primitive(tag, content)
        return Element(tag, content)
    inner = reader.enter(tag)
    if tag not in {SEQUENCE, SET} and tag < 0x40:
        raise DerError(f"a constructed string (tag 0x{tag:02x}) is not DER")
    children: list[Element] = []
    encodings: list[bytes] = []
    while not inner.done():
        begin = inner.pos
        children.append(_element(inner, depth - 1))
        encodings.append(inner.data[begin : inner.pos])
    if tag == SET and encodings != sorted(encodings):
        raise DerError("a SET is not in order")
    return Element(tag, b"", tuple(children))


def _check_primitive(tag: int, content: bytes) -> None:
    if tag in {INTEGER, ENUMERATED}:
        _integer(content)
    elif tag == BOOLEAN:
        _boolean(content)
    elif tag == NULL:
        if content:
            raise DerError("a NULL has content")
    elif tag == OBJECT_IDENTIFIER:
        dotted(content)
    elif tag == BIT_STRING:
        check_bits(content)
    elif tag in {UTF8_STRING, PRINTABLE_STRING}:
        text(tag, content)
    elif tag in {UTC_TIME, GENERALIZED_TIME}:
        _time(tag, content)
    elif tag in {SEQUENCE & 0x1F, SET & 0x1F, 0}:
        raise DerError(f"tag 0x{tag:02x} must be constructed")


def check_bits(content: bytes) -> None:
    """Refuse BIT STRING content whose unused bits are too many or not zero.

    Raises:
        DerError: They are.
    """
    if not content or content[0] > 7 or (content[0] and len(content) == 1):
        raise DerError("a BIT STRING names unused bits it does not have")
    if len(content) > 1 and content[-1] & ((1 << content[0]) - 1):
        raise DerError("the unused bits of a BIT STRING are not zero")


def text(tag: int, content: bytes) -> str:
    """Text of a UTF8String or PrintableString.

    Raises:
        DerError: Another tag, or characters the type does not have.
    """
    if tag == UTF8_STRING:
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise DerError("a UTF8String is not UTF-8") from None
    if tag == PRINTABLE_STRING and _PRINTABLE.fullmatch(content):
        return content.decode("ascii")
    raise DerError(f"tag 0x{tag:02x} holds no text that is accepted here")
