"""The public key of a certificate as it stands there, whatever its algorithm.

`cryptography` has no objects for composite keys. It has parsed every certificate that comes here,
so that the walk below finds X.690 definite lengths.
"""

from cryptography import x509

_EXPLICIT_VERSION = 0xA0


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
