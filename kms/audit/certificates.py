"""Certificates against the log: one event for each, one certificate for each event. Pure."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kms import wire
from kms.audit import forms
from kms.audit.findings import Check, event
from kms.audit.forms import FORMS, X509_ERRORS
from kms.audit.history import CertificateKey, History, Issued
from kms.audit.names import Names
from kms.spki import certificate_spki

_DEVICE = re.compile(r"devices/([^/]+)/([^/]+)/([^/]+)\.pem")
_AUTHORITY = re.compile(r"ca/([^/]+)\.pem")
_EVENTS_OF_CA = (wire.EventType.AUTHORITY_CREATED,)


@dataclass(frozen=True, slots=True)
class Held:
    """A certificate of the directory and the event that issued it."""

    path: str
    certificate: x509.Certificate
    issued: Issued

    @property
    def key(self) -> CertificateKey:
        """Authority and serial."""
        return self.issued.certificate.authority, self.issued.certificate.serial


@dataclass(slots=True)
class Inventory:
    """Certificates that match an event.

    Attributes:
        by_key: Authority and serial to certificate.
        by_path: Path to certificate.
        by_hash: SHA-256 (hex) to certificate.
    """

    by_key: dict[CertificateKey, Held] = field(default_factory=dict)
    by_path: dict[str, Held] = field(default_factory=dict)
    by_hash: dict[str, Held] = field(default_factory=dict)

    def authorities(self, history: History, name: str) -> list[x509.Certificate]:
        """Certificates of all generations of an authority that are at hand."""
        hashes = [item.certificate.sha256 or "" for item in history.authorities.get(name, [])]
        return [self.by_hash[item].certificate for item in hashes if item in self.by_hash]


def match(
    pems: Mapping[str, bytes], history: History, names: Names, *, complete: bool
) -> tuple[Check, Inventory]:
    """Match certificates and events by SHA-256 and serial, both ways.

    Args:
        pems: Path to PEM.
        history: The replayed log.
        names: What the openings tell.
        complete: Whether the directory claims to hold every certificate.
    """
    check = Check("certificates", "every certificate has one event, every event its certificate")
    inventory = Inventory()
    by_hash = {item.certificate.sha256: item for item in history.issued.values()}
    for path in sorted(pems):
        check.examined += 1
        certificate = load(pems[path])
        if certificate is None:
            check.fail(path, "not exactly one certificate in PEM")
            continue
        digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
        issued = by_hash.get(digest)
        if issued is None:
            check.fail(path, f"no event issued this certificate (SHA-256 {digest})")
            continue
        held = Held(path, certificate, issued)
        _check_match(check, held, names)
        inventory.by_path[path] = held
        inventory.by_key.setdefault(held.key, held)
        inventory.by_hash.setdefault(digest, held)
    _check_missing(check, history, inventory, complete=complete)
    return check, inventory


def load(pem: bytes) -> x509.Certificate | None:
    """The one certificate of a PEM file, or None."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except X509_ERRORS:
        return None
    return certificates[0] if len(certificates) == 1 else None


def _check_match(check: Check, held: Held, names: Names) -> None:
    """Serial, slot, user and device of the event are those of the certificate and its path."""
    logged, index = held.issued.certificate, held.issued.index
    serial = wire.serial_hex(held.certificate.serial_number)
    if serial != logged.serial:
        check.fail(held.path, f"has serial {serial}, event {index} says {logged.serial}")
    device = _DEVICE.fullmatch(held.path)
    if device:
        user, name, slot = device.groups()
        check.expect(slot == logged.slot, held.path, f"event {index} is of slot {logged.slot!r}")
        for kind, value in ((wire.Committed.USER, user), (wire.Committed.DEVICE, name)):
            known = names.of(index, kind)
            if known is not None and known != value:
                check.fail(held.path, f"event {index} is about {kind} {known!r}")
    authority = _AUTHORITY.fullmatch(held.path)
    if authority:
        detail = held.issued.leaf.detail or {}
        created = held.issued.leaf.type in _EVENTS_OF_CA and detail.get("name") == authority[1]
        message = f"event {index} does not create the authority {authority[1]!r}"
        check.expect(created, held.path, message)


def _check_missing(check: Check, history: History, inventory: Inventory, *, complete: bool) -> None:
    missing = [item for key, item in history.issued.items() if key not in inventory.by_key]
    for item in missing if complete else []:
        logged = item.certificate
        check.fail(event(item.index), f"its certificate {logged.serial} is not in the directory")
    if missing and not complete:
        check.notes.append(f"{len(missing)} issued certificates are not in the directory")


def check_chains(inventory: Inventory, history: History, names: Names, root: bytes | None) -> Check:
    """Every certificate is signed by its authority, up to the root, and valid when it was logged.

    Args:
        inventory: Matched certificates.
        history: The replayed log.
        names: What the openings tell.
        root: DER of the root that the auditor trusts; None takes the log's word for it.
    """
    check = Check("chains", "every certificate chains to the root and names whom its event names")
    said: dict[tuple[int, str], str] = {}
    for path, held in inventory.by_path.items():
        check.examined += 1
        authority = held.issued.certificate.authority
        candidates = inventory.authorities(history, authority)
        if not any(_issued_by(held.certificate, issuer) for issuer in candidates):
            check.fail(path, f"not signed by the authority {authority!r}")
        _check_validity(check, held)
        _check_kind(check, held, history)
        _check_slot(check, held)
        _check_form(check, held, history, names, said)
    roots = inventory.authorities(history, "root")
    if root is not None:
        trusted = root in [item.public_bytes(Encoding.DER) for item in roots]
        check.expect(trusted, "ca/root.pem", "is not the root that you trust")
    elif not roots:
        check.fail("ca/root.pem", "there is no root certificate that the log knows")
    return check


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except X509_ERRORS:
        return False
    return True


def _check_validity(check: Check, held: Held) -> None:
    begin, end = held.certificate.not_valid_before_utc, held.certificate.not_valid_after_utc
    time = held.issued.leaf.time
    if not begin <= time <= end:
        check.fail(held.path, f"was not valid at its event {held.issued.index}")


def _check_kind(check: Check, held: Held, history: History) -> None:
    """CAs, and only they, are authorities of the log, with keys whose birth the log knows."""
    authority = held.issued.leaf.type in _EVENTS_OF_CA
    if _is_ca(held.certificate) != authority:
        says = "creates an authority" if authority else "does not create an authority"
        check.fail(held.path, f"event {held.issued.index} {says}; the certificate says otherwise")
    if authority:
        try:
            key = held.certificate.public_key()
            spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        except X509_ERRORS:
            check.fail(held.path, "its key cannot be read")
            return
        born = hashlib.sha256(spki).hexdigest() in history.keys
        check.expect(born, held.path, "no event tells of the birth of its key")


def _check_slot(check: Check, held: Held) -> None:
    """A certificate that came with a key's birth is of that key and that version."""
    leaf = held.issued.leaf
    if leaf.type is not wire.EventType.KEY_GENERATED:
        return
    detail = leaf.detail or {}
    digest = hashlib.sha256(certificate_spki(held.certificate)).hexdigest()
    same = digest == detail.get("public_key_sha256")
    message = f"is not of the key that event {held.issued.index} tells of"
    check.expect(same, held.path, message)
    form = FORMS.get(held.issued.certificate.profile)
    named = None if form is None else forms.named(form, held.certificate)
    version = None if named is None else named.get("version")
    message = f"is not of the version that event {held.issued.index} tells of"
    check.expect(version == str(detail.get("version")), held.path, message)


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except X509_ERRORS:
        return False


def _check_form(
    check: Check,
    held: Held,
    history: History,
    names: Names,
    said: dict[tuple[int, str], str],
) -> None:
    """Usages and names are those of the profile that was logged, and name whom the event names.

    Args:
        check: Where failures go.
        held: The certificate.
        history: The replayed log.
        names: What the openings tell.
        said: Event and kind of name to what an earlier certificate of the event says.
    """
    profile, index = held.issued.certificate.profile, held.issued.index
    form = FORMS.get(profile)
    if form is None:
        return  # the history says so
    if forms.usages(held.certificate) != form.usages:
        check.fail(held.path, f"its extended key usages are not those of profile {profile!r}")
    named = forms.named(form, held.certificate)
    if named is None:
        check.fail(held.path, f"its names are not those of profile {profile!r}")
        return
    for kind, value in named.items():
        first = said.setdefault((index, kind), value)
        if first != value:
            message = f"names the {kind} {value!r}, another of event {index} {first!r}"
            check.fail(held.path, message)
    _check_domain(check, held, named, history, names.of(index, wire.Committed.TENANT))
    _check_person(check, held, named, names)


def _check_domain(
    check: Check, held: Held, named: Mapping[str, str], history: History, tenant: str | None
) -> None:
    """The domain is the tenant's, or where the tenant is unknown, some tenant's."""
    domain, index = named.get("domain"), held.issued.index
    if domain is not None and domain not in history.domains(index, tenant):
        whose = "any tenant" if tenant is None else f"tenant {tenant!r}"
        check.fail(held.path, f"{domain!r} is no domain of {whose} registered before event {index}")


def _check_person(check: Check, held: Held, named: Mapping[str, str], names: Names) -> None:
    """User, device or principal are those that the event was opened to."""
    index = held.issued.index
    for kind in (wire.Committed.USER, wire.Committed.DEVICE, wire.Committed.KEY):
        known = names.of(index, kind)
        if kind.value in named and known is not None and named[kind.value] != known:
            check.fail(held.path, f"does not name {kind} {known!r}, as event {index} does")
