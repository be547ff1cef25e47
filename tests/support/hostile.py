"""Public keys that nobody should certify, made by hand."""

import math
from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mlkem, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

P25519 = 2**255 - 19
N_P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
MLKEM768_X25519 = bytes.fromhex("06082b0601050507063a")
MLKEM1024_P384 = bytes.fromhex("06082b0601050507063f")
ED25519 = bytes.fromhex("06032b6570")


def tlv(tag: int, *parts: bytes) -> bytes:
    """One DER element."""
    content = b"".join(parts)
    if len(content) < 0x80:
        return bytes((tag, len(content))) + content
    size = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + content


def integer(value: int) -> bytes:
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def spki_raw(oid: bytes, key: bytes, parameters: bytes = b"") -> bytes:
    """SubjectPublicKeyInfo around raw key bytes."""
    return tlv(0x30, tlv(0x30, oid, parameters), tlv(0x03, b"\x00" + key))


def spki(key: object) -> bytes:
    made: bytes = key.public_bytes(  # type: ignore[attr-defined]
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return made


def p256() -> bytes:
    return spki(ec.generate_private_key(ec.SECP256R1()).public_key())


def rsa_spki(modulus: int, exponent: int = 65537) -> bytes:
    oid, null = bytes.fromhex("06092a864886f70d010101"), b"\x05\x00"
    return spki_raw(oid, tlv(0x30, integer(modulus), integer(exponent)), null)


def mlkem768_x25519(post_quantum: bytes | None = None, traditional: bytes | None = None) -> bytes:
    """A hybrid key, one of whose parts may be given."""
    first = post_quantum or mlkem.MLKEM768PrivateKey.generate().public_key().public_bytes_raw()
    second = traditional
    if second is None:
        second = x25519.X25519PrivateKey.generate().public_key().public_bytes_raw()
    return spki_raw(MLKEM768_X25519, first + second)


def mlkem1024_p384(traditional: bytes) -> bytes:
    first = mlkem.MLKEM1024PrivateKey.generate().public_key().public_bytes_raw()
    return spki_raw(MLKEM1024_P384, first + traditional)


def bad_encodings() -> Iterator[tuple[str, str, bytes]]:
    """Name, algorithm and bytes of keys that are not what DER or the algorithm ask for."""
    good = p256()
    point = good[-65:]
    algorithm = good[2:23]
    yield "trailing byte", "ECDSA-P256", good + b"\x00"
    yield "cut off", "ECDSA-P256", good[:-1]
    yield "non-minimal length", "ECDSA-P256", b"\x30\x81" + good[1:]
    yield "indefinite length", "ECDSA-P256", b"\x30\x80" + good[2:] + b"\x00\x00"
    yield "nothing inside", "ECDSA-P256", b"\x30\x00"
    yield "no DER", "ECDSA-P256", b"not DER at all, really"
    yield "another tag", "ECDSA-P256", b"\x31" + good[1:]
    yield "unused bits", "ECDSA-P256", tlv(0x30, algorithm, tlv(0x03, b"\x01" + point))
    x, y = point[1:33], point[33:]
    compressed = bytes((2 + (y[-1] & 1),)) + x
    yield "compressed point", "ECDSA-P256", tlv(0x30, algorithm, tlv(0x03, b"\x00" + compressed))
    yield "point at infinity", "ECDSA-P256", tlv(0x30, algorithm, tlv(0x03, b"\x00\x00"))
    off = b"\x04" + x + bytes((y[0] ^ 1,)) + y[1:]
    yield "point off the curve", "ECDSA-P256", tlv(0x30, algorithm, tlv(0x03, b"\x00" + off))
    hybrid = b"\x06" + x + y
    yield "hybrid point", "ECDSA-P256", tlv(0x30, algorithm, tlv(0x03, b"\x00" + hybrid))
    yield "another curve", "ECDSA-P256", spki(ec.generate_private_key(ec.SECP384R1()).public_key())
    k1 = spki(ec.generate_private_key(ec.SECP256K1()).public_key())
    yield "a curve of no policy", "ECDSA-P256", k1
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    yield "another algorithm", "ECDSA-P256", spki(edwards)
    raw = edwards.public_bytes_raw()
    yield "parameters where none belong", "Ed25519", spki_raw(ED25519, raw, b"\x05\x00")
    yield "short", "Ed25519", spki_raw(ED25519, raw[:-1])
    yield "long", "Ed25519", spki_raw(ED25519, raw + b"\x00")
    yield "Ed448", "Ed25519", spki(ed448.Ed448PrivateKey.generate().public_key())
    yield "DSA", "ECDSA-P256", spki(dsa.generate_private_key(2048).public_key())
    yield "PEM", "ECDSA-P256", b"-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"


def bad_kem_encodings() -> Iterator[tuple[str, bytes]]:
    """The same for MLKEM768-X25519."""
    good = mlkem768_x25519()
    yield "trailing byte", good + b"\x00"
    yield "only its first part", spki_raw(MLKEM768_X25519, good[-1216:-32])
    yield "parts exchanged", spki_raw(MLKEM768_X25519, good[-32:] + good[-1216:-32])
    yield "a coefficient not below q", mlkem768_x25519(b"\xff" * 1152 + bytes(32))
    yield "the other hybrid's name", spki_raw(MLKEM1024_P384, good[-1216:])
    yield "X25519 alone", spki(x25519.X25519PrivateKey.generate().public_key())


def weak_keys() -> Iterator[tuple[str, str, bytes]]:
    """Name, algorithm and bytes of well-formed keys that protect nobody."""
    yield "RSA with close primes", "RSA-3072", rsa_spki(_close_primes(1536))
    yield "RSA with a small factor", "RSA-3072", rsa_spki(_small_factor(3072))
    yield "RSA of ROCA's form", "RSA-3072", rsa_spki(_roca(3072))
    key = rsa.generate_private_key(65537, 3072).public_key().public_numbers()
    yield "RSA with exponent 3", "RSA-3072", rsa_spki(key.n, 3)
    yield "Ed25519 neutral point", "Ed25519", spki_raw(ED25519, b"\x01" + bytes(31))
    yield "Ed25519 of order 2", "Ed25519", spki_raw(ED25519, (P25519 - 1).to_bytes(32, "little"))
    yield "Ed25519 of order 4", "Ed25519", spki_raw(ED25519, bytes(32))


def low_order_x25519() -> list[bytes]:
    """u-coordinates of points of order 1, 2, 4 (RFC 7748 section 6)."""
    return [value.to_bytes(32, "little") for value in (0, 1, P25519 - 1)]


def _noise(bits: int) -> int:
    """A number of that size without a pattern that anyone looks for."""
    return (3 << (bits - 2)) | (pow(7, 1_000_003, 1 << (bits - 2)) | 1)


def _next_prime(number: int) -> int:
    number |= 1
    small = math.prod(range(3, 1000, 2))
    while math.gcd(small, number) != 1 or pow(2, number - 1, number) != 1:
        number += 2
    return number


def _close_primes(bits: int) -> int:
    prime = _next_prime(3 << (bits - 2))
    return prime * _next_prime(prime + 2)


def _small_factor(bits: int) -> int:
    return (_noise(bits - 16) | 1) * 65537


def _roca(bits: int) -> int:
    """A power of 65537 modulo the product of small primes (CVE-2017-15361)."""
    product = math.prod(n for n in range(2, 168) if all(n % small for small in range(2, n)))
    return _noise(bits) // product * product + pow(65537, 12345, product)
