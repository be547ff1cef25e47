"""The little DER that `cryptography` does not offer: composite keys in and out of SPKI.

X.690 definite lengths only; every input here has been parsed strictly by `cryptography` before.
"""

from cryptography import x509

_SEQUENCE = 0x30
_BIT_STRING = 0x03
_EXPLICIT_VERSION = 0xA0


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


def certificate_spki(certificate: x509.Certificate) -> bytes:
    """The SubjectPublicKeyInfo of a certificate, byte for byte, whatever its algorithm."""
    tbs = certificate.tbs_certificate_bytes
    position = _content(tbs, 0)
    skip = 6 if tbs[position] == _EXPLICIT_VERSION else 5  # up to and including subject
    for _ in range(skip):
        position = _end(tbs, position)
    return tbs[position : _end(tbs, position)]


def _content(data: bytes, start: int) -> int:
    """Where the content of the element at `start` begins."""
    first = data[start + 1]
    return start + 2 + (first & 0x7F if first & 0x80 else 0)


def _end(data: bytes, start: int) -> int:
    """Where the element at `start` ends."""
    first = data[start + 1]
    content = _content(data, start)
    size = int.from_bytes(data[start + 2 : content], "big") if first & 0x80 else first
    return content + size
