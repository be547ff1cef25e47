"""The little DER that `cryptography` does not write (X.690, definite lengths)."""

_SEQUENCE = 0x30
_BIT_STRING = 0x03


def tlv(tag: int, content: bytes) -> bytes:
    """One DER element."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def spki(algorithm_oid: bytes, public_key: bytes) -> bytes:
    """SubjectPublicKeyInfo without parameters (RFC 5280 4.1.2.7).

    Args:
        algorithm_oid: The encoded OBJECT IDENTIFIER, tag and length included.
        public_key: Content of the BIT STRING.
    """
    return tlv(_SEQUENCE, tlv(_SEQUENCE, algorithm_oid) + tlv(_BIT_STRING, b"\x00" + public_key))
