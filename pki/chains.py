"""Looking at finished certificates: self-checks after signing, and who a client is."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pki import extensions, names
from pki.certificates import Issuer
from pki.errors import DerError, PkiError
from pki.keys import parse_public_key, signature_identifier
from pki.possession import verify_signature
from pki.structure import Tbs, read_certificate


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """What the service itself asks of a certificate.

    Attributes:
        serial: Lower-case hex, even length.
        subject: Common name, or empty.
        uris: Alternative names that are URIs.
        issuer: Encoded issuer name.
        issuer_key_id: Authority key identifier, empty if it has none.
        sha256: Hex digest of the whole certificate.
    """

    serial: str
    subject: str
    uris: tuple[str, ...]
    dns: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    issuer: bytes
    issuer_key_id: bytes
    extended_key_usages: tuple[str, ...]
    spki: bytes
    sha256: str


def certificate_info(data: bytes) -> CertificateInfo:
    """Read a certificate of the form that this service issues; nothing is verified.

    Raises:
        DerError: It has another form.
    """
    tbs, _ = read_certificate(data)
    if tbs.serial < 0:
        raise DerError("a serial is negative")
    found = tbs.extensions
    alt_names = extensions.AltNames((), (), ())
    if extensions.SUBJECT_ALT_NAME in found:
        alt_names = extensions.read_subject_alt_name(found[extensions.SUBJECT_ALT_NAME].value)
    purposes: tuple[str, ...] = ()
    if extensions.EXTENDED_KEY_USAGE in found:
        purposes = extensions.read_extended_key_usage(found[extensions.EXTENDED_KEY_USAGE].value)
    return CertificateInfo(
        serial=tbs.serial.to_bytes((tbs.serial.bit_length() + 7) // 8 or 1, "big").hex(),
        subject=names.common_name(tbs.subject) or "",
        uris=alt_names.uris,
        dns=alt_names.dns,
        not_before=tbs.not_before,
        not_after=tbs.not_after,
        issuer=tbs.issuer,
        issuer_key_id=_issuer_key_id(tbs),
        extended_key_usages=purposes,
        spki=tbs.spki,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _issuer_key_id(tbs: Tbs) -> bytes:
    found = tbs.extensions.get(extensions.AUTHORITY_KEY_IDENTIFIER)
    return b"" if found is None else extensions.read_authority_key_identifier(found.value)


def verify_issued(data: bytes, issuer: Issuer) -> None:
    """Accept a certificate that the issuer's key signed under the issuer's name, or raise.

    Raises:
        PkiError: Another issuer, key identifier or algorithm, or a wrong signature.
    """
    tbs, signed = read_certificate(data)
    own = tbs.subject == tbs.issuer
    if tbs.issuer != issuer.subject or (not own and _issuer_key_id(tbs) != issuer.key_id):
        raise PkiError("the certificate names another issuer")
    if signed.algorithm != signature_identifier(issuer.algorithm):
        raise PkiError("the certificate is signed with another algorithm than its issuer's")
    key = parse_public_key(issuer.spki, issuer.algorithm)
    verify_signature(key, signed.content, signed.signature)


def verify_chain(leaf: bytes, chain: Sequence[Issuer], at: datetime) -> None:
    """Accept a leaf under its authorities at a moment, or raise; revocation is not looked at.

    Args:
        leaf: Certificate, DER.
        chain: Its issuer first, the root last.
        at: Everything must be valid then.

    Raises:
        PkiError: A link is broken, or something is not valid at that moment.
    """
    if not chain:
        raise PkiError("a chain needs at least a root")
    certificates = [leaf, *(issuer.certificate for issuer in chain)]
    for certificate, issuer in zip(certificates, [*chain, chain[-1]], strict=True):
        verify_issued(certificate, issuer)
        tbs, _ = read_certificate(certificate)
        if not tbs.not_before <= at <= tbs.not_after:
            raise PkiError(f"serial {tbs.serial:x} is not valid at {at:%F %T}")
