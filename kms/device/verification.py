"""Checking what an enrolment gave: certificates, leaf, receipt and openings, in one pure call.

No clock is asked: validity is measured at the time the log gives, which the checkpoint signs.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from kms import wire
from kms.device import answers
from kms.device.errors import MalformedAnswerError, UntrustedAnswerError
from kms.spki import certificate_spki
from kms.tlog.errors import TlogError
from kms.tlog.notes import VerifierKey, parse_note, verify_note
from kms.tlog.receipt import parse_receipt, verify_receipt

X509_ERRORS = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for a certificate that is not as it should be."""

_HOST = r"https://[a-z0-9.-]+"
_MAX_SLOTS = 16
_MAX_OPENINGS = 16


@dataclass(frozen=True, slots=True)
class SlotCertificate:
    """A verified certificate of one slot; `certificate` is DER."""

    slot: str
    profile: str
    serial: str
    certificate: bytes

    def pem(self) -> bytes:
        """The certificate in PEM."""
        return load_certificate(self.certificate, self.slot).public_bytes(Encoding.PEM)


@dataclass(frozen=True, slots=True)
class Certified:
    """A completed enrolment, all of it verified.

    Attributes:
        certificates: One per slot, in slot order.
        chain: Issuing CA and root, DER.
        index: Position of the event in the log.
        leaf: Exact bytes of the event.
        receipt: Offline proof that the log holds it (C2SP tlog-proof).
        openings: What opens the leaf's commitments.
    """

    enrolment: str
    user: str
    device: str
    certificates: tuple[SlotCertificate, ...]
    chain: tuple[bytes, bytes]
    index: int
    leaf: bytes
    receipt: str
    openings: tuple[wire.Opening, ...]


def verify(
    answer: object,
    transcript: wire.Transcript,
    log_vkey: str,
    root: bytes,
    domain: str | None = None,
    cosigner_vkey: str | None = None,
) -> Certified:
    """Check the answer to the proofs against the transcript that was proven.

    Args:
        answer: Parsed JSON.
        transcript: What the device signed.
        log_vkey: Verifier key of the log.
        root: Trusted root certificate, DER.
        domain: Identity domain of the tenant; None accepts any, if it is one for all certificates.
        cosigner_vkey: Verifier key of the log's cosigner, whose signature is then demanded.

    Raises:
        MalformedAnswerError: The answer is not of the documented shape.
        UntrustedAnswerError: Something does not verify.
    """
    for name in ("enrolment", "user", "device"):
        if answers.text(answer, name) != getattr(transcript, name):
            raise UntrustedAnswerError(f"the answer is about another {name}")
    chain = _chain(answer, transcript.authority, root)
    leaf = answers.binary(answer, "leaf")
    receipt = answers.mapping(answer, "receipt")
    index = logged_at(receipt, leaf, log_vkey, transcript.origin, cosigner_vkey)
    event, time = _event(leaf, transcript)
    certificates = _certificates(answer, transcript, load_certificate(chain[0], "chain"), time)
    _check_domain(certificates, domain)
    _check_logged(event, certificates)
    return Certified(
        transcript.enrolment,
        transcript.user,
        transcript.device,
        certificates,
        chain,
        index,
        leaf,
        answers.text(receipt, "text"),
        _openings(answer, event, transcript),
    )


def _certificates(
    answer: object, transcript: wire.Transcript, issuer: x509.Certificate, time: datetime
) -> tuple[SlotCertificate, ...]:
    """One certificate for each slot, in the order of the slots."""
    documents = answers.listing(answer, "certificates", at_most=_MAX_SLOTS)
    slots = [answers.text(item, "slot") for item in documents]
    if slots != [slot.name for slot in transcript.slots]:
        raise UntrustedAnswerError("the certificates are not those of the slots, in their order")
    return tuple(
        _certificate(document, slot, transcript, issuer, time)
        for slot, document in zip(transcript.slots, documents, strict=True)
    )


def _certificate(
    document: object,
    slot: wire.TranscriptSlot,
    transcript: wire.Transcript,
    issuer: x509.Certificate,
    time: datetime,
) -> SlotCertificate:
    """The slot's certificate, if it is this device's, for this key, and well issued."""
    data = answers.binary(document, "certificate")
    certificate = load_certificate(data, slot.name)
    check_issued(certificate, issuer, slot.name)
    _check_subject(certificate, slot, transcript)
    _check_document(certificate, document, slot.name)
    if not certificate.not_valid_before_utc <= time <= certificate.not_valid_after_utc:
        raise UntrustedAnswerError(f"slot {slot.name!r}: not valid when it was logged")
    serial = wire.serial_hex(certificate.serial_number)
    return SlotCertificate(slot.name, answers.text(document, "profile"), serial, data)


def load_certificate(data: bytes, where: str) -> x509.Certificate:
    """A certificate in DER.

    Raises:
        MalformedAnswerError: It is none; `where` says which was meant.
    """
    try:
        with warnings.catch_warnings():
            # What the library still reads with a warning (a serial that is not positive) is no
            # certificate to believe.
            warnings.simplefilter("error", CryptographyDeprecationWarning)
            return x509.load_der_x509_certificate(data)
    except (*X509_ERRORS, CryptographyDeprecationWarning) as error:
        raise MalformedAnswerError(f"{where}: not a certificate in DER") from error


def _chain(answer: object, authority: str, root: bytes) -> tuple[bytes, bytes]:
    """Issuing CA and root: the former named by the transcript, the latter trusted beforehand."""
    items = [{"chain": item} for item in answers.listing(answer, "chain", at_most=2)]
    chain = [answers.binary(item, "chain") for item in items]
    if len(chain) != 2 or chain[1] != root:
        raise UntrustedAnswerError("the chain does not end in the trusted root")
    if hashlib.sha256(chain[0]).hexdigest() != authority:
        raise UntrustedAnswerError("the issuing CA is not the one the transcript names")
    anchor = load_certificate(root, "root")
    issuer = load_certificate(chain[0], "chain")
    check_issued(issuer, anchor, "chain")
    for authority_certificate in (issuer, anchor):
        if not is_ca(authority_certificate):
            raise UntrustedAnswerError("the chain holds a certificate that is no CA's")
    return chain[0], chain[1]


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether its basic constraints say so."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except X509_ERRORS:
        return False


def check_issued(certificate: x509.Certificate, issuer: x509.Certificate, where: str) -> None:
    """Refuse a certificate that the CA above it did not sign.

    Raises:
        UntrustedAnswerError: It did not.
    """
    try:
        certificate.verify_directly_issued_by(issuer)
    except X509_ERRORS as error:
        raise UntrustedAnswerError(f"{where}: not issued by the CA above it") from error


def _check_subject(
    certificate: x509.Certificate, slot: wire.TranscriptSlot, transcript: wire.Transcript
) -> None:
    """The certificate carries this slot's key and names this device."""
    if certificate_spki(certificate) != slot.spki:
        raise UntrustedAnswerError(f"slot {slot.name!r}: the certificate is for another key")
    uri = only_uri(certificate, slot.name)
    path = f"/users/{transcript.user}/devices/{transcript.device}"
    if not re.fullmatch(_HOST + re.escape(path), uri):
        raise UntrustedAnswerError(f"slot {slot.name!r}: the certificate does not name {path}")


def only_uri(certificate: x509.Certificate, slot: str) -> str:
    """The only subject alternative name, which is a URI.

    Raises:
        UntrustedAnswerError: It has none, another, or several.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except X509_ERRORS as error:
        raise UntrustedAnswerError(f"slot {slot!r}: the certificate names no one") from error
    match list(names):
        case [x509.UniformResourceIdentifier() as name]:
            return name.value
        case _:
            raise UntrustedAnswerError(f"slot {slot!r}: the certificate's name is not one URI")


def _check_domain(certificates: Sequence[SlotCertificate], domain: str | None) -> None:
    """All certificates are of one identity domain, and of the expected one if it is known."""
    for item in certificates:
        uri = only_uri(load_certificate(item.certificate, item.slot), item.slot)
        host = urlsplit(uri).netloc
        domain = domain if domain is not None else host
        if host != domain:
            raise UntrustedAnswerError(
                f"slot {item.slot!r}: the certificate is of the domain {host!r}, not {domain!r}"
            )


def _check_document(certificate: x509.Certificate, document: object, slot: str) -> None:
    """What the answer says of a certificate is what the certificate says."""
    said = [answers.text(document, name) for name in ("serial", "not_before", "not_after")]
    true = [
        wire.serial_hex(certificate.serial_number),
        wire.timestamp(certificate.not_valid_before_utc),
        wire.timestamp(certificate.not_valid_after_utc),
    ]
    if said != true:
        raise UntrustedAnswerError(f"slot {slot!r}: the answer misdescribes the certificate")


def logged_at(
    receipt: Mapping[str, Any],
    leaf: bytes,
    log_vkey: str,
    origin: str,
    cosigner_vkey: str | None = None,
) -> int:
    """The leaf's index in the signed log; cosigned, where the cosigner's key is known.

    Raises:
        UntrustedAnswerError: The receipt does not prove that the log holds it.
    """
    if answers.text(receipt, "status") != "final":
        raise UntrustedAnswerError("the receipt is not final")
    try:
        text = answers.text(receipt, "text").encode()
        verify_receipt(text, leaf, [VerifierKey.parse(log_vkey)], origin)
        parsed = parse_receipt(text)
        if cosigner_vkey is not None:
            note = parse_note(parsed.checkpoint_note)
            verify_note(note, [VerifierKey.parse(cosigner_vkey)])
    except TlogError as error:
        raise UntrustedAnswerError(f"the receipt does not verify: {error}") from error
    if answers.member(receipt, "index") != parsed.index:
        raise UntrustedAnswerError("the receipt is for another index than the answer says")
    return parsed.index


def _event(leaf: bytes, transcript: wire.Transcript) -> tuple[Mapping[str, Any], datetime]:
    """The leaf as JSON and its time; canonical, so that it has one reading only."""
    try:
        event = json.loads(leaf)
        canonical = wire.canonical(event) == leaf
    except (ValueError, RecursionError) as error:
        raise UntrustedAnswerError("the leaf is not JSON") from error
    if not canonical or not isinstance(event, dict):
        raise UntrustedAnswerError("the leaf is not a canonical JSON object")
    renewing = transcript.purpose is wire.EnrolmentPurpose.RENEW
    kind = wire.EventType.DEVICE_RENEWED if renewing else wire.EventType.DEVICE_ENROLLED
    expected = {
        "version": wire.LEAF_VERSION,
        "type": kind.value,
        "origin": transcript.origin,
    }
    for name, value in expected.items():
        if answers.member(event, name) != value:
            raise UntrustedAnswerError(f"the leaf's {name} is not {value!r}")
    if answers.text(answers.mapping(event, "policy"), "hash") != transcript.policy:
        raise UntrustedAnswerError("the leaf names another policy than the transcript")
    try:
        return event, wire.parse_timestamp(answers.text(event, "time"))
    except wire.WireError as error:
        raise UntrustedAnswerError(f"the leaf's time: {error}") from error


def _check_logged(event: Mapping[str, Any], certificates: Sequence[SlotCertificate]) -> None:
    """The log names exactly these certificates."""
    logged = [
        tuple(answers.text(item, name) for name in ("slot", "profile", "serial", "sha256"))
        for item in answers.listing(event, "certificates", at_most=_MAX_SLOTS)
    ]
    released = [
        (item.slot, item.profile, item.serial, hashlib.sha256(item.certificate).hexdigest())
        for item in certificates
    ]
    if logged != released:
        raise UntrustedAnswerError("the log does not name exactly these certificates")


def _openings(
    answer: object, event: Mapping[str, Any], transcript: wire.Transcript
) -> tuple[wire.Opening, ...]:
    """Openings that open the leaf's commitments to this tenant, user and device."""
    openings = tuple(
        read_opening(item) for item in answers.listing(answer, "openings", at_most=_MAX_OPENINGS)
    )
    if not wire.opened(answers.mapping(event, "commitments"), openings):
        raise UntrustedAnswerError("an opening does not open its commitment")
    named = {item.field: (item.tenant, item.value) for item in openings}
    for kind, value in (
        (wire.Committed.TENANT, transcript.tenant),
        (wire.Committed.USER, transcript.user),
        (wire.Committed.DEVICE, transcript.device),
    ):
        if named.get(kind) != (transcript.tenant, value):
            raise UntrustedAnswerError(f"the log's event is not shown to be about this {kind}")
    return openings


def read_opening(document: object) -> wire.Opening:
    """An opening as answers carry it.

    Raises:
        MalformedAnswerError: It has another form.
    """
    try:
        opening = wire.Opening(
            wire.Committed(answers.text(document, "field")),
            answers.text(document, "tenant"),
            answers.text(document, "value"),
            answers.binary(document, "opening"),
        )
        opening.commitment()
    except (ValueError, OverflowError) as error:
        raise MalformedAnswerError("an opening is not of the documented form") from error
    return opening
