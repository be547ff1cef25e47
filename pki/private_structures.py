"""How private keys begin in DER, OpenSSH's format and FIPS 203, at the start of bytes or inside.

Structures are recognised by how they begin, so what stands behind them does not hide them. Some
choices of RFC 9881 and RFC 9935 begin too plainly for that: these are known by their exact size.
"""

import hashlib
import re
from collections.abc import Iterator

LEAST = 34
"""No private key is recognised in fewer bytes: a tagged ML-DSA seed has 34."""

_MAX_VALUES = 4  # complete values that are passed over to see what is joined to them

_SEEDS = {0x20: "ML-DSA seed", 0x40: "ML-KEM seed"}
_EXPANDED = {
    2560: "ML-DSA",
    4032: "ML-DSA",
    4896: "ML-DSA",
    1632: "ML-KEM",
    2400: "ML-KEM",
    3168: "ML-KEM",
}
_RAW_ML_KEM = frozenset(size for size, name in _EXPANDED.items() if name == "ML-KEM")
_PBE_PREFIXES = (b"\x2a\x86\x48\x86\xf7\x0d\x01\x05", b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01")
_PKCS7 = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07"
_OPENSSH = b"openssh-key-v1\x00"

MARKS = (
    b"\x02\x01\x00\x30",  # PKCS#8
    b"\x02\x01\x01\x30",
    b"\x02\x01\x01\x04",  # SEC1
    b"\x02\x01\x00\x02",  # PKCS#1, DSA
    b"\x02\x01\x01\x02",
    b"\x02\x01\x03\x30",  # PKCS#12
    *_PBE_PREFIXES,
    _OPENSSH[:-1],
)
"""Bytes of which `embedded` finds nothing without one: for a cheap look at encoded texts."""

_LENGTH = rb"(?:[\x10-\x80]|\x81.|\x82..|\x83...|\x84....)"
_VERSIONED = rb"\x02\x01(?:[\x00\x01][\x02\x30]|\x01\x04|\x03\x30)"
_ENCRYPTED = rb"\x30" + _LENGTH + rb"\x06[\x09-\x0b]\x2a\x86\x48\x86\xf7\x0d\x01[\x05\x0c]"
_CANDIDATE = re.compile(
    rb"\x30(?=" + _LENGTH + rb"(?:" + _VERSIONED + rb"|" + _ENCRYPTED + rb"))", re.DOTALL
)


def beginning(data: bytes, size: int) -> str | None:
    """Kind of private key that the bytes begin with; they are `size` in all, `data` their head."""
    if size < LEAST or len(data) < LEAST:
        return None
    found = None
    if data[0] == 0x30:
        found = _in_sequence(data)
    elif data[0] in {0x80, 0x04}:
        found = _in_choice(data, size)
    if found:
        return found
    if data.startswith(_OPENSSH):
        return "OpenSSH"
    if size in _RAW_ML_KEM and size == len(data) and _raw_ml_kem(data):
        return "ML-KEM private key"
    return None


def needs_all(head: bytes, size: int) -> bool:
    """Whether the head of so many bytes does not tell: raw, or with something joined to it."""
    tag, inner, length = _header(head, 0)
    return size in _RAW_ML_KEM or (tag == 0x30 and 0 <= length < size - inner)


def embedded(data: bytes) -> str | None:
    """Kind of a private key inside the bytes, whatever stands before it."""
    if _OPENSSH in data:
        return "OpenSSH"
    for match in _CANDIDATE.finditer(data):
        found = _in_sequence(data, match.start())
        if found:
            return found
    for rest in _behind(data):
        found = beginning(rest, len(rest))
        if found:
            return found
    return None


def _behind(data: bytes) -> Iterator[bytes]:
    """What is joined to the complete values that the bytes begin with, such as a public key."""
    end = 0
    for _ in range(_MAX_VALUES):
        tag, inner, size = _header(data, end)
        end = inner + size
        if tag != 0x30 or size < 0 or end >= len(data):
            return
        yield data[end:]


def _header(data: bytes, pos: int) -> tuple[int, int, int]:
    """Tag, content start and size, as BER allows them; size -1 if indefinite, tag 0 if cut off."""
    if pos + 2 > len(data):
        return 0, pos, 0
    tag, size = data[pos], data[pos + 1]
    if size < 0x80:
        return tag, pos + 2, size
    octets = size & 0x7F
    if octets == 0:
        return tag, pos + 2, -1
    if octets > 8 or pos + 2 + octets > len(data):
        return 0, pos, 0
    return tag, pos + 2 + octets, int.from_bytes(data[pos + 2 : pos + 2 + octets], "big")


def _in_sequence(data: bytes, start: int = 0, depth: int = 2) -> str | None:
    """Private keys that begin as a SEQUENCE."""
    _, pos, _ = _header(data, start)
    tag, inner, size = _header(data, pos)
    if tag == 0x02 and size == 1:
        return _versioned(data, data[inner : inner + 1], inner + 1)
    if tag == 0x30:
        return _algorithm_first(data, pos, inner, size, depth)
    if tag == 0x04 and size in {0x20, 0x40}:  # both: seed and expanded key (RFC 9881 6)
        following, _, expanded = _header(data, inner + size)
        if following == 0x04 and expanded in _EXPANDED:
            return f"{_EXPANDED[expanded]} private key"
    return None


def _versioned(data: bytes, version: bytes, pos: int) -> str | None:
    """SEQUENCE that begins with a small INTEGER, which public structures of this size do not."""
    tag, inner, size = _header(data, pos)
    if version in {b"\x00", b"\x01"} and tag == 0x30:
        # PKCS#8 goes on with an algorithm and an OCTET STRING; a CRL (version 1) with a name.
        algorithm, _, _ = _header(data, inner)
        key, _, _ = _header(data, inner + size)
        return "PKCS#8" if algorithm == 0x06 and key == 0x04 else None
    if version == b"\x01" and tag == 0x04 and 16 <= size <= 72:
        return "SEC1"
    if version in {b"\x00", b"\x01"} and tag == 0x02 and size >= 64:
        # PKCS#1 or DSA; an ECDSA signature whose r is 0 or 1 is none, and s has at most 66 bytes.
        following, _, _ = _header(data, inner + size)
        return "PKCS#1" if following == 0x02 or size > 72 else None
    if version == b"\x03" and tag == 0x30:
        _, oid, length = _header(data, inner)
        return "PKCS#12" if data[oid : oid + length].startswith(_PKCS7) else None
    return None


def _algorithm_first(data: bytes, pos: int, inner: int, size: int, depth: int) -> str | None:
    """EncryptedPrivateKeyInfo, or a SEQUENCE of private keys (RFC 5958)."""
    tag, oid, length = _header(data, inner)
    if tag == 0x06:
        following, _, _ = _header(data, inner + size)
        if following == 0x04 and data[oid : oid + length].startswith(_PBE_PREFIXES):
            return "encrypted PKCS#8"
        return None
    if tag == 0x02 and depth:
        return _in_sequence(data, pos, depth - 1)
    return None


def _in_choice(data: bytes, size: int) -> str | None:
    """Seed or expandedKey of RFC 9881 chapter 6 and RFC 9935 chapter 6, standing alone."""
    if data[0] == 0x80 and data[1] in _SEEDS and size == data[1] + 2:
        return _SEEDS[data[1]]
    if data[:2] == b"\x04\x82":
        inside = int.from_bytes(data[2:4], "big")
        if inside in _EXPANDED and size == inside + 4:
            return f"{_EXPANDED[inside]} private key"
    return None


def _raw_ml_kem(data: bytes) -> bool:
    """FIPS 203 decapsulation key dk ‖ ek ‖ H(ek) ‖ z, which its own hash gives away."""
    rank = (len(data) - 96) // 768
    begin, end = 384 * rank, 768 * rank + 32
    return hashlib.sha3_256(data[begin:end]).digest() == data[end : end + 32]
