"""The little DER that a driver needs: signatures, object identifiers, public keys."""

from policies.algorithms import Algorithm


def tlv(tag: int, *parts: bytes) -> bytes:
    """One element with definite, minimal length (X.690 10.1)."""
    body = b"".join(parts)
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + body


def oid(dotted: str) -> bytes:
    """OBJECT IDENTIFIER (X.690 8.19)."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    return tlv(0x06, *(_base128(arc) for arc in (40 * first + second, *rest)))


def ecdsa_signature(raw: bytes) -> bytes:
    """Ecdsa-Sig-Value (RFC 3279 2.2.3) of the token's r ‖ s; on the hot path."""
    half = len(raw) // 2
    body = _unsigned(raw[:half]) + _unsigned(raw[half:])
    if len(body) < 0x80:
        return bytes((0x30, len(body))) + body
    return bytes((0x30, 0x81, len(body))) + body


def public_key(row: Algorithm, key: bytes) -> bytes:
    """SubjectPublicKeyInfo (RFC 5280 4.1): named curve for EC (RFC 5480), bare OID else."""
    parameters = oid(row.curve) if row.curve else b""
    return tlv(0x30, tlv(0x30, oid(row.oid), parameters), tlv(0x03, b"\x00", key))


def _unsigned(number: bytes) -> bytes:
    """INTEGER, not negative, minimal."""
    digits = number.lstrip(b"\x00") or b"\x00"
    if digits[0] & 0x80:
        digits = b"\x00" + digits
    return bytes((0x02, len(digits))) + digits


def _base128(arc: int) -> bytes:
    digits = [arc & 0x7F]
    while arc := arc >> 7:
        digits.append(0x80 | (arc & 0x7F))
    return bytes(reversed(digits))
