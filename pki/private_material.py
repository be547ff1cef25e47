"""Finding private keys where none may be (promise P1).

Looks at bytes and texts that come from outside: PEM, DER (PKCS#8, SEC1, PKCS#1, DSA, PKCS#12, the
private-key CHOICEs of RFC 9881 and RFC 9935), OpenSSH, PuTTY and private JWKs, directly or in up to
two layers of base64, base64url or hexadecimal. It stops accidents and lazy escrow; a sender who
wants to smuggle a key can always encrypt it.

Structures are recognised by how they begin, so what stands behind them does not hide them.
"""

import binascii
import hashlib
import re

LEAST = 34
"""No private key is recognised in fewer bytes: a tagged ML-DSA seed has 34."""

_LEAST_TEXT = 44
_MAX_LAYERS = 2
_HEAD = 256  # characters of an encoded value that tell what it begins with

_PEM_PRIVATE = re.compile(
    r"BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY|PuTTY-User-Key-File-|openssh-key-v1|AGE-SECRET-KEY-1"
)
_PEM_BLOCK = re.compile(r"-----BEGIN [A-Z0-9 ]{1,60}-----([A-Za-z0-9+/=\s\\]{44,})")
_JWK_PRIVATE = re.compile(r'"(?:d|k|priv|p|q|dp|dq|qi)\\*"\s*:\s*\\*"')
_JSON_ESCAPE = re.compile(r"\\{1,8}u00([2-7][0-9A-Fa-f])")
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_="
_RUN = re.compile(r"[A-Za-z0-9+/_-]{44,}")
_SPACE = re.compile(r"(?:\s|\\r|\\n)+")
_HEX = re.compile(r"(?:0x)?([0-9A-Fa-f]{68,})")
_HEX_SEPARATED = re.compile(r"[0-9A-Fa-f:\s]{101,}")
_URL_SAFE = str.maketrans("-_", "+/")

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


def find_private_key(data: bytes | str) -> str | None:
    """Kind of private key that the value holds or encodes, or None.

    Args:
        data: A text or bytes from outside, of any size that the caller admits.
    """
    if isinstance(data, str):
        return _in_text(data, _MAX_LAYERS) if len(data) >= _LEAST_TEXT else None
    return _in_bytes(data, _MAX_LAYERS) if len(data) >= LEAST else None


def _in_text(text: str, layers: int) -> str | None:
    if layers and text.isascii() and not text.encode().translate(None, _ALPHABET):
        return _in_run(text, layers)  # one encoded value and nothing else: the usual case
    if "\\u" in text:
        text = _JSON_ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    if _PEM_PRIVATE.search(text):
        return "PEM"
    if "kty" in text and _JWK_PRIVATE.search(text):
        return "JWK"
    return _in_runs(text, layers) if layers else None


def _in_runs(text: str, layers: int) -> str | None:
    """Encoded values inside a longer text, wrapped or not."""
    candidates = [_SPACE.sub("", block[1]) for block in _PEM_BLOCK.finditer(text)]
    candidates += [run[0] for run in _RUN.finditer(text)]
    candidates += [re.sub(r"[:\s]", "", run[0]) for run in _HEX_SEPARATED.finditer(text)]
    if _SPACE.search(text):
        candidates.append(_SPACE.sub("", text))
    for candidate in candidates:
        found = _in_run(candidate, layers)
        if found:
            return found
    return None


def _in_run(run: str, layers: int) -> str | None:
    """One value in base64 or hexadecimal; only as much is decoded as is looked at."""
    digits = run.rstrip("=")
    size = len(digits) * 3 // 4
    head = _base64(digits[:_HEAD])
    if head is not None:
        if size in _RAW_ML_KEM or head[:LEAST].isascii():
            head = _base64(digits) or head
        found = _in_bytes(head, layers - 1, size)
        if found:
            return found
    match = _HEX.match(run)
    if match is None:
        return None
    return _in_bytes(bytes.fromhex(match[1][: len(match[1]) // 2 * 2]), layers - 1)


def _base64(digits: str) -> bytes | None:
    """Standard or URL-safe base64 without padding; None if the digits are neither."""
    padded = digits + "=" * (-len(digits) % 4)
    if "-" in digits or "_" in digits:
        padded = padded.translate(_URL_SAFE)
    try:
        return binascii.a2b_base64(padded)
    except ValueError:  # binascii.Error, or characters outside ASCII
        return None


def _in_bytes(data: bytes, layers: int, size: int | None = None) -> str | None:
    """Structures that the bytes begin with; `size` is theirs in all if `data` is only the head."""
    size = len(data) if size is None else size
    if size < LEAST:
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
    if size < _LEAST_TEXT or size != len(data):
        return None
    try:
        return _in_text(data.decode(), layers)
    except UnicodeDecodeError:
        return None


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
