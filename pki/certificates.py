"""Certificates from pre-encoded templates: prepare, lint, and once signed, complete.

A template is everything of a TBSCertificate that depends only on issuer, profile and key
algorithm. What remains (serial, validity, subject, key, names) is spliced in; no object tree is
built per certificate (DESIGN section 9).
"""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from hsm_drivers.ports import KeyLabel, Purpose, Statement
from pki import der, extensions, names
from pki.errors import DerError, LintError, PkiError, ProfileError
from pki.keys import PublicKey, key_id, signature_identifier
from pki.possession import check_signature_form
from pki.profiles import CertificateProfile
from pki.structure import VERSION_3, read_certificate
from policies.algorithms import Algorithm

MAX_SERIAL = (1 << 159) - 1
"""RFC 5280 4.1.2.2: at most 20 octets, and positive."""

MAX_BACKDATE = timedelta(hours=1)
"""How far notBefore may lie before the moment of issue, on top of the profile's validity."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """A certification authority of one generation, as a signer of certificates and CRLs.

    Attributes:
        name: `root`, `people`, `infrastructure` and so on; part of its public URLs.
        key: Its key on the token.
        algorithm: Of that key.
        certificate: DER.
        subject: Encoded name, which its certificates carry as issuer.
        key_id: Its subject key identifier.

    Raises:
        DerError: The certificate cannot be read.
    """

    name: str
    generation: int
    key: KeyLabel
    algorithm: Algorithm
    certificate: bytes = field(repr=False)
    subject: bytes = field(init=False, repr=False)
    key_id: bytes = field(init=False, repr=False)
    spki: bytes = field(init=False, repr=False)
    not_before: datetime = field(init=False)
    not_after: datetime = field(init=False)

    def __post_init__(self) -> None:
        tbs, _ = read_certificate(self.certificate)
        found = tbs.extensions.get(extensions.SUBJECT_KEY_IDENTIFIER)
        if found is None:
            raise DerError("the authority's certificate has no subject key identifier")
        computed = {
            "subject": tbs.subject,
            "key_id": extensions.read_subject_key_identifier(found.value),
            "spki": tbs.spki,
            "not_before": tbs.not_before,
            "not_after": tbs.not_after,
        }
        for attribute, value in computed.items():
            object.__setattr__(self, attribute, value)

    @property
    def authority_id(self) -> str:
        """SHA-256 of the certificate, hex: how transcripts name the authority."""
        return hashlib.sha256(self.certificate).hexdigest()


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """What one certificate is to say; of the serial 64 bits at least must be unpredictable."""

    profile: CertificateProfile
    serial: int
    not_before: datetime
    not_after: datetime
    subject: names.Subject
    key: PublicKey
    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    ips: tuple[extensions.IpAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class Issued:
    """A finished certificate; `sha256` (hex) is over its DER."""

    der: bytes = field(repr=False)
    sha256: str
    serial: int


class Prepared:
    """A linted TBSCertificate on its way to the signer, good for one certificate.

    Attributes:
        statement: What the signer is to sign.
        tbs_sha256: Hex digest of the TBSCertificate, as the signer's journal will have it.
        serial: Of the certificate.
    """

    __slots__ = ("_algorithm", "_used", "serial", "statement", "tbs_sha256")

    def __init__(self, issuer: KeyLabel, algorithm: Algorithm, serial: int, tbs: bytes) -> None:
        self.statement = Statement(issuer, Purpose.CERTIFICATE, tbs)
        self.tbs_sha256 = hashlib.sha256(tbs).hexdigest()
        self.serial = serial
        self._algorithm = algorithm
        self._used = False

    def complete(self, signature: bytes) -> Issued:
        """The certificate, given the signature over the statement.

        Raises:
            PkiError: It was completed before.
            ProofError: The signature does not have the algorithm's form. Whether it is right is
                `pki.chains.verify_issued`'s to say.
        """
        if self._used:
            raise PkiError("this certificate was completed already; prepare it again")
        check_signature_form(self._algorithm, signature)
        self._used = True
        data = der.sequence(
            self.statement.message,
            signature_identifier(self._algorithm),
            der.bit_string(signature),
        )
        return Issued(data, hashlib.sha256(data).hexdigest(), self.serial)


def authority_urls(base_url: str, name: str) -> tuple[str, str]:
    """Public URLs of an authority's CRL and certificate.

    Raises:
        ProfileError: The base is no http(s) URL of a domain or IPv4 address, or ends in a slash.
    """
    urls = (f"{base_url}/pki/{name}.crl", f"{base_url}/pki/{name}.cer")
    if base_url.endswith("/") or not all(map(names.is_location, urls)):
        raise ProfileError(
            f"{base_url[:80]!r} is no http(s) URL of a domain or IPv4 address without a slash "
            "at its end",
            field="base_url",
        )
    return urls


@dataclass(frozen=True, slots=True)
class _Template:
    """Extensions of one profile and key algorithm: those before and after the key identifier."""

    fixed: bytes
    identifier: bytes  # subject key identifier without its 20 bytes


class CertificateFactory:
    """Prepares one issuer's certificates; safe for any number of threads.

    Args:
        issuer: Who signs.
        base_url: Where its CRL and certificate are published.

    Raises:
        ProfileError: The base URL cannot stand in a certificate.
    """

    def __init__(self, issuer: Issuer, base_url: str) -> None:
        self.issuer = issuer
        crl_url, certificate_url = authority_urls(base_url, issuer.name)
        self._head = signature_identifier(issuer.algorithm) + issuer.subject
        self._common = (
            extensions.authority_key_identifier(issuer.key_id)
            + extensions.crl_distribution_point(crl_url)
            + extensions.authority_info_access(certificate_url)
            + extensions.basic_constraints(ca=False)
        )
        self._templates: dict[tuple[str, str], _Template] = {}

    def prepare(self, request: CertificateRequest) -> Prepared:
        """Build and lint a TBSCertificate; the same request gives the same bytes.

        Raises:
            LintError: It would break its profile, the issuer's limits or RFC 5280.
            ProfileError: The profile does not certify such keys.
        """
        lint_request(request, self.issuer)
        template = self._template(request.profile, request.key.algorithm)
        items = b"".join(
            (
                template.fixed,
                template.identifier,
                key_id(request.key.raw),
                extensions.subject_alt_name(request.uris, request.dns, request.ips),
            )
        )
        tbs = assemble_tbs(
            request.serial,
            self._head,
            request.not_before,
            request.not_after,
            request.subject.encode(),
            request.key.spki,
            items,
        )
        return Prepared(self.issuer.key, self.issuer.algorithm, request.serial, tbs)

    def _template(self, profile: CertificateProfile, algorithm: Algorithm) -> _Template:
        known = self._templates.get((profile.name, algorithm.name))
        if known is not None:
            return known
        purposes = profile.extended_key_usages
        fixed = self._common + extensions.key_usage(profile.key_usage(algorithm))
        fixed += extensions.extended_key_usage(purposes) if purposes else b""
        identifier = extensions.subject_key_identifier(bytes(20))[:-20]
        template = _Template(fixed, identifier)
        self._templates[profile.name, algorithm.name] = template
        return template


def assemble_tbs(
    serial: int,
    head: bytes,
    not_before: datetime,
    not_after: datetime,
    subject: bytes,
    spki: bytes,
    items: bytes,
) -> bytes:
    """A version 3 TBSCertificate from encoded parts.

    Args:
        serial: Positive.
        head: Signature AlgorithmIdentifier and issuer name.
        not_before: Whole seconds.
        not_after: Whole seconds.
        subject: Encoded name.
        spki: Encoded key.
        items: Encoded extensions, one after another.
    """
    validity = der.time(not_before) + der.time(not_after)
    listed = der.header(der.SEQUENCE, len(items))
    parts = (
        VERSION_3,
        der.integer(serial),
        head,
        der.header(der.SEQUENCE, len(validity)),
        validity,
        subject,
        spki,
        der.header(0xA3, len(listed) + len(items)),
        listed,
        items,
    )
    return der.tlv(der.SEQUENCE, b"".join(parts))


def lint_request(request: CertificateRequest, issuer: Issuer) -> None:
    """Refuse whatever would make a certificate that its profile does not allow.

    Raises:
        LintError: With the field.
    """
    profile = request.profile
    if not 0 < request.serial <= MAX_SERIAL:
        raise LintError("a serial is positive and has at most 20 octets", field="serial")
    if issuer.name not in profile.authorities:
        raise LintError(
            f"profile {profile.name} belongs to {', '.join(sorted(profile.authorities))}, not to"
            f" {issuer.name}",
            field="profile",
        )
    lint_validity(request.not_before, request.not_after, profile.validity, issuer)
    _lint_subject(request, issuer)
    _lint_names(request)


def lint_validity(
    not_before: datetime, not_after: datetime, longest: timedelta, issuer: Issuer | None
) -> None:
    """Refuse a validity that is inverted, too long or outside the issuer's.

    Raises:
        LintError: With the field.
    """
    if not_before.tzinfo is None or not_after.tzinfo is None:
        raise LintError("validity is given in aware times", field="not_before")
    if not_before.microsecond or not_after.microsecond:
        raise LintError("validity is given in whole seconds", field="not_before")
    if not not_before < not_after <= not_before + longest + MAX_BACKDATE:
        raise LintError(
            f"validity from {not_before:%F %T} to {not_after:%F %T} is not between nothing and "
            f"{longest.days} days",
            field="not_after",
        )
    if issuer is None:
        return
    if not_after > issuer.not_after or not_before < issuer.not_before - MAX_BACKDATE:
        raise LintError(
            f"validity would reach outside the issuer's, which ends {issuer.not_after:%F %T}",
            field="not_after",
        )


def _lint_subject(request: CertificateRequest, issuer: Issuer) -> None:
    subject, allowed = request.subject, request.profile.subject
    if (subject.organization is not None and "organization" not in allowed) or (
        subject.organizational_unit is not None and "organizational_unit" not in allowed
    ):
        raise LintError(
            f"profile {request.profile.name} names only {', '.join(sorted(allowed))}",
            field="subject",
        )
    if subject.encode() == issuer.subject:
        raise LintError("a subject cannot bear its issuer's name", field="subject")


def _lint_names(request: CertificateRequest) -> None:
    profile = request.profile
    if not (
        profile.uris.admits(len(request.uris))
        and profile.dns.admits(len(request.dns))
        and profile.ips.admits(len(request.ips))
    ):
        raise LintError(
            f"profile {profile.name} does not have that many alternative names", field="san"
        )
    if not (request.uris or request.dns or request.ips):
        raise LintError("a certificate needs at least one alternative name", field="san")
    for uri in request.uris:
        if not names.is_web_uri(uri):
            raise LintError(f"{uri[:80]!r} is not a URI that can be certified", field="uris")
    for name in request.dns:
        if not names.is_host_name(name):
            raise LintError(f"{name[:80]!r} is not a DNS name in lower case", field="dns")
