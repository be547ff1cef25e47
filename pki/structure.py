"""The outer structure of certificates, CRLs and requests, read strictly (RFC 5280 4.1).

Nothing is judged here beyond the encoding; `pki.checkers` and `pki.chains` do that.
"""

from dataclasses import dataclass
from datetime import datetime

from pki import der, extensions, names
from pki.errors import DerError

MAX_CERTIFICATE = 65_536
"""Larger certificates are refused unread, in bytes."""

VERSION_3 = der.context(0, der.integer(2))


@dataclass(frozen=True, slots=True)
class Signed:
    """What certificates, CRLs and requests share: content, algorithm and signature."""

    content: bytes
    algorithm: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Tbs:
    """A TBSCertificate; names, algorithm and SPKI as raw elements."""

    serial: int
    algorithm: bytes
    issuer: bytes
    not_before: datetime
    not_after: datetime
    subject: bytes
    spki: bytes
    extensions: dict[str, extensions.Extension]


def split(data: bytes, limit: int = MAX_CERTIFICATE) -> Signed:
    """Take a signed structure apart.

    Raises:
        DerError: Not one, too large, or bytes follow it.
    """
    if len(data) > limit:
        raise DerError(f"more than {limit} bytes")
    outer = der.Reader(data)
    reader = outer.enter()
    outer.finish()
    signed = Signed(reader.raw_of(der.SEQUENCE), reader.raw_of(der.SEQUENCE), reader.bit_string())
    reader.finish()
    return signed


def read_tbs(data: bytes) -> Tbs:
    """Read a version 3 TBSCertificate.

    Raises:
        DerError: It is none, has unique identifiers, or extensions stand twice.
    """
    outer = der.Reader(data)
    reader = outer.enter()
    outer.finish()
    if reader.raw() != VERSION_3:
        raise DerError("only version 3 certificates are known here")
    serial = reader.integer()
    algorithm = reader.raw_of(der.SEQUENCE)
    issuer = reader.raw_of(der.SEQUENCE)
    validity = reader.enter()
    not_before, not_after = validity.time(), validity.time()
    validity.finish()
    subject = reader.raw_of(der.SEQUENCE)
    spki = reader.raw_of(der.SEQUENCE)
    wrapper = reader.enter(0xA3)
    reader.finish()
    found = extensions.read_all(wrapper)
    wrapper.finish()
    return Tbs(serial, algorithm, issuer, not_before, not_after, subject, spki, found)


def read_certificate(data: bytes) -> tuple[Tbs, Signed]:
    """Read a whole certificate; both its algorithm fields must agree (RFC 5280 4.1.1.2).

    Raises:
        DerError: It is not a strict version 3 certificate.
    """
    signed = split(data)
    tbs = read_tbs(signed.content)
    if tbs.algorithm != signed.algorithm:
        raise DerError("the certificate names two different signature algorithms")
    return tbs, signed


def check_names(tbs: Tbs) -> None:
    """Refuse names that this service would not write.

    Raises:
        DerError: An issuer or subject that is not a strict name.
    """
    for name in (tbs.issuer, tbs.subject):
        reader = der.Reader(name)
        names.read_name(reader)
        reader.finish()
