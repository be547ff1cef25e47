"""Finding private keys where none may be (promise P1).

Looks at bytes and texts that come from outside: PEM, DER (PKCS#8, SEC1, PKCS#1, DSA, PKCS#12, the
private-key CHOICEs of RFC 9881 and RFC 9935), OpenSSH, PuTTY and private JWKs, directly or in up to
two layers of base64, base64url, hexadecimal, percent-encoding or lists of numbers; after a label,
joined to a public key, in pieces. It stops accidents and lazy escrow; a sender who wants to smuggle
a key can always encrypt it.

The time it takes is in proportion to the length of the value, whatever the value is.
"""

import binascii
import re
from base64 import b64encode
from collections.abc import Iterator
from itertools import islice
from urllib.parse import unquote_to_bytes

from pki.private_structures import LEAST, MARKS, beginning, embedded, needs_all

_LEAST_TEXT = 44
_MAX_LAYERS = 2
_HEAD = 256  # characters of an encoded value that tell what it begins with
_LABEL_SPACE = 32  # characters in which a label may stand, and the most labels looked behind
_MAX_LABELS = 3

_NAMES = ("PuTTY-User-Key-File-", "openssh-key-v1", "AGE-SECRET-KEY-1")
_PEM_PRIVATE = re.compile(r"BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY")
_PEM_BLOCK = re.compile(r"-----BEGIN [A-Z0-9 ]{1,60}-----([A-Za-z0-9+/=\s\\]{44,})")
_JWK_PRIVATE = re.compile(r'"(?:d|k|priv|p|q|dp|dq|qi)\\*"\s*:\s*\\*"')
_JSON_ESCAPE = re.compile(r"\\{1,8}u00([2-7][0-9A-Fa-f])")
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_="
_RUN = re.compile(r"[A-Za-z0-9+/_-]{44,}")
_LABEL = re.compile(r"[/_-]+")
_SPACE = re.compile(r"(?:\s|\\r|\\n)+")
_BETWEEN = str.maketrans("", "", " \t\n\r\f\v,;|\"'\\")
"""What stands between the pieces of one value."""
_ESCAPED = ("\\n", "\\r", "\\t")
_HEX = re.compile(r"(?:0[xX])?([0-9A-Fa-f]{68,})")
_HEX_PREFIXED = re.compile(r"(?:0[xX]|\\x)([0-9A-Fa-f]+)")
_HEX_LIST = re.compile(
    r"(?<![0-9A-Za-z])(?:[0-9A-Fa-f]{2})+(?:[\s:,;-]+(?:[0-9A-Fa-f]{2})+(?![0-9A-Za-z]))+"
)
_DECIMAL_LIST = re.compile(r"(?<![\w.-])-?[0-9]{1,3}(?:[\s,;]+-?[0-9]{1,3}(?![\w.]))+")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
_CONTROLS = bytes(range(1, 9)) + bytes(range(14, 32))  # not NUL: UTF-16 has many
_URL_SAFE = str.maketrans("-_", "+/")


def _spellings(mark: bytes) -> Iterator[str]:
    """The mark in base64: one spelling for each place it may have in a group of three bytes."""
    for place in range(3):
        text = b64encode(bytes(place) + mark).decode()
        yield text[(8 * place + 5) // 6 : 8 * (place + len(mark)) // 6]


_SPELLED = tuple(sorted({text for mark in MARKS for text in _spellings(mark)}))


def find_private_key(data: bytes | str) -> str | None:
    """Kind of private key that the value holds or encodes, or None.

    Args:
        data: A text or bytes from outside, of any size that the caller admits.
    """
    if len(data) < LEAST:
        return None
    return _in_text(data, _MAX_LAYERS) if isinstance(data, str) else _in_bytes(data, _MAX_LAYERS)


def _in_bytes(data: bytes, layers: int) -> str | None:
    """Structures that the bytes begin with or hold, and those in the text that they are."""
    found = beginning(data, len(data)) or embedded(data)
    if found or len(data) < LEAST:
        return found
    try:
        return _in_text(data.decode(), layers)
    except UnicodeDecodeError:
        return _named(data.replace(b"\0", b"").decode("latin-1"))


def _in_text(text: str, layers: int) -> str | None:
    if len(text) >= _LEAST_TEXT:
        found = _in_long_text(text, layers)
        if found:
            return found
    if not text.isascii():
        return _in_characters(text)
    return None


def _in_long_text(text: str, layers: int) -> str | None:
    if layers and text.isascii() and not text.encode().translate(None, _ALPHABET):
        return _named(text) or _in_runs(text, layers)  # digits of base64 only: the usual case
    if "\0" in text:  # UTF-16
        text = text.replace("\0", "")
    if "\\u" in text:
        text = _JSON_ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    return _named(text) or (_in_encodings(text, layers) if layers else None)


def _named(text: str) -> str | None:
    """Private keys that say what they are."""
    for name in _NAMES:
        if name in text:
            return "PEM"
    if "PRIVATE KEY" in text and _PEM_PRIVATE.search(text):
        return "PEM"
    if "kty" in text and _JWK_PRIVATE.search(text):
        return "JWK"
    return None


def _in_characters(text: str) -> str | None:
    """Bytes written as the characters of the same numbers."""
    try:
        data = text.encode("latin-1")
    except UnicodeEncodeError:
        return None
    return beginning(data, len(data)) or embedded(data)


def _in_encodings(text: str, layers: int) -> str | None:
    """Encoded values in a text of any kind, whole or in pieces."""
    for data in _octets(text):
        found = _in_bytes(data, layers - 1)
        if found:
            return found
    for block in _PEM_BLOCK.finditer(text):
        found = _in_runs(_SPACE.sub("", block[1]), layers)
        if found:
            return found
    joined = _joined(text)
    return _in_runs(text, layers) or (_in_runs(joined, layers) if joined != text else None)


def _joined(text: str) -> str:
    """The text without what stands between the pieces of a value."""
    if "\\" in text:
        for escaped in _ESCAPED:
            text = text.replace(escaped, "")
    return text.translate(_BETWEEN)


def _octets(text: str) -> Iterator[bytes]:
    """Bytes that a text writes one by one: `%30%82`, `0x30, 0x82`, `30:82`, `48, 130`."""
    if "%" in text and _PERCENT.search(text):
        yield unquote_to_bytes(text)
    if "0x" in text or "0X" in text or "\\x" in text:
        items = _HEX_PREFIXED.findall(text)
        yield bytes.fromhex("".join("0" * (len(item) % 2) + item for item in items))
    for match in _HEX_LIST.finditer(text):
        if len(match[0]) > 2 * LEAST:
            yield bytes.fromhex(re.sub(r"[\s:,;-]+", "", match[0]))
    for match in _DECIMAL_LIST.finditer(text):
        if len(match[0]) > 2 * LEAST:
            numbers = [int(number) for number in re.findall(r"-?[0-9]+", match[0])]
            if min(numbers) >= -128 and max(numbers) <= 255:
                yield bytes(number & 0xFF for number in numbers)


def _in_runs(text: str, layers: int) -> str | None:
    """The values in base64 or hexadecimal that the text has between other characters."""
    for match in _RUN.finditer(text):
        for value in _behind_labels(match[0]):
            found = _in_value(value, layers)
            if found:
                return found
        found = _inside(match[0])
        if found:
            return found
    return None


def _behind_labels(run: str) -> Iterator[str]:
    """The run, and what follows `v1/`, `device-` and the like at its beginning."""
    yield run
    last = min(_LABEL_SPACE, len(run) - _LEAST_TEXT)
    for match in islice(_LABEL.finditer(run, 0, last), _MAX_LABELS):
        yield run[match.end() :]


def _in_value(run: str, layers: int) -> str | None:
    """One value in base64 or hexadecimal; only as much is decoded as is looked at."""
    size = len(run) * 3 // 4
    head = _base64(run[:_HEAD])
    if head is not None:
        if _is_text(head[:LEAST]) or needs_all(head, size):
            found = _in_bytes(_base64(run) or head, layers - 1)
        else:
            found = beginning(head, size)
        if found:
            return found
    match = _HEX.match(run)
    if match is None:
        return None
    return _in_bytes(bytes.fromhex(match[1][: len(match[1]) // 2 * 2]), layers - 1)


def _is_text(head: bytes) -> bool:
    return head.isascii() or len(head.translate(None, _CONTROLS)) == len(head)


def _inside(run: str) -> str | None:
    """Structures anywhere in base64, whose groups may begin at any digit."""
    for spelled in _SPELLED:
        if spelled in run:
            break
    else:
        return None
    for start in range(4):
        end = len(run) - (len(run) - start) % 4
        found = embedded(_base64(run[start:end]) or b"")
        if found:
            return found
    return None


def _base64(digits: str) -> bytes | None:
    """Standard or URL-safe base64 without padding; None if the digits are neither."""
    padded = digits + "=" * (-len(digits) % 4)
    if "-" in digits or "_" in digits:
        padded = padded.translate(_URL_SAFE)
    try:
        return binascii.a2b_base64(padded)
    except ValueError:  # binascii.Error, or characters outside ASCII
        return None
