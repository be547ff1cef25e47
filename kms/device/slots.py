"""KEM slots of the organisation: what is served of them, believed only once it verifies.

A messaging server hands the document of `GET /v1/kem-slots/{slot}/public` on to its devices, and
each of them checks it by what it was given out of band. No I/O and no clock here.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509

from kms import wire
from kms.device import answers, verification
from kms.device.enrolment import Expectations
from kms.device.errors import UntrustedAnswerError
from kms.device.sealing import Recipient
from kms.spki import certificate_spki

MAX_VERSIONS = 64
_MAX_PARTS = 4
_MAX_OPENINGS = 16
_KEY_ID = r"[0-9a-f]{32}"
_PROFILE = "kem-slot"
_AUTHORITY = "infrastructure"


@dataclass(frozen=True, slots=True)
class SlotVersion:
    """A verified version of a slot, ready to be sealed to.

    Attributes:
        recipient: What `seal_envelope` and `seal_message` take.
        algorithm: Registry name.
        protection: The weakest of its parts': `token`, `transferable` or `wrapped`.
        certificate: DER.
        not_after: Nothing should be sealed to it from then on.
        index: Where the log tells of its birth.
        leaf: The exact bytes of that event.
        receipt: Offline proof that the log holds it (C2SP tlog-proof).
    """

    recipient: Recipient
    algorithm: str
    protection: str
    certificate: bytes
    not_after: datetime
    index: int
    leaf: bytes
    receipt: str


def verify_slot(
    document: object, slot: str, expectations: Expectations, at: datetime
) -> tuple[SlotVersion, ...]:
    """Check the public half of a slot.

    Args:
        document: Parsed JSON.
        slot: The slot that was asked for.
        expectations: Whom to believe.
        at: The moment at which something is to be sealed, aware.

    Returns:
        The versions that may be sealed to at that moment, the one to take first.

    Raises:
        MalformedAnswerError: It is not of the documented shape.
        UntrustedAnswerError: Something does not verify, or no version may be sealed to.
    """
    for name, expected in (("key", slot), ("tenant", expectations.tenant)):
        if answers.text(document, name) != expected:
            raise UntrustedAnswerError(f"the document is about another {name}")
    key_id = answers.text(document, "key_id", _KEY_ID)
    versions = answers.listing(document, "versions", at_most=MAX_VERSIONS)
    found = tuple(_version(item, slot, key_id, expectations) for item in versions)
    usable = tuple(item for item in found if at < item.not_after)
    if not usable:
        raise UntrustedAnswerError("no version of the slot may be sealed to at that time")
    return usable


def _version(item: object, slot: str, key_id: str, expected: Expectations) -> SlotVersion:
    number = answers.member(item, "version")
    if type(number) is not int or not 1 <= number < 1 << 32:
        raise UntrustedAnswerError("a version of the slot has no number")
    spki, where = answers.binary(item, "public_key"), f"version {number}"
    leaf, receipt = answers.binary(item, "leaf"), answers.mapping(item, "receipt")
    index = verification.logged_at(
        receipt, leaf, expected.log_vkey, expected.origin, expected.cosigner_vkey
    )
    data = answers.binary(item, "certificate")
    certificate = _certificate(item, data, spki, where, expected)
    _check_names(certificate, f"/kem-slots/{slot}/{number}", where, expected.domain)
    event = _event(leaf, expected.origin, where)
    _check_born(event, item, {"key": key_id, "version": number}, spki, data)
    _check_opened(item, event, expected.tenant, slot)
    recipient = Recipient.of(key_id, number, spki, _subject_key_id(certificate, where))
    return SlotVersion(
        recipient,
        recipient.kem.name,
        answers.text(item, "protection"),
        data,
        certificate.not_valid_after_utc,
        index,
        leaf,
        answers.text(receipt, "text"),
    )


def _certificate(
    item: object, data: bytes, spki: bytes, where: str, expected: Expectations
) -> x509.Certificate:
    """The certificate, if an authority under the trusted root gave it to the key."""
    texts = [{"chain": text} for text in answers.listing(item, "chain", at_most=2)]
    chain = [answers.binary(text, "chain") for text in texts]
    if len(chain) != 2 or chain[1] != expected.root:
        raise UntrustedAnswerError(f"{where}: the chain does not end in the trusted root")
    root = verification.load_certificate(expected.root, "root")
    issuer = verification.load_certificate(chain[0], "chain")
    verification.check_issued(issuer, root, "chain")
    if not verification.is_ca(issuer) or not verification.is_ca(root):
        raise UntrustedAnswerError("the chain holds a certificate that is no CA's")
    certificate = verification.load_certificate(data, where)
    verification.check_issued(certificate, issuer, where)
    if certificate_spki(certificate) != spki:
        raise UntrustedAnswerError(f"{where}: the certificate is for another key")
    return certificate


def _check_names(certificate: x509.Certificate, path: str, where: str, domain: str | None) -> None:
    """It names this version of this slot, and its key may be sealed to and nothing else."""
    uri = verification.only_uri(certificate, where)
    host = uri.removeprefix("https://").removesuffix(path)
    if uri != f"https://{host}{path}" or "/" in host or domain not in {None, host}:
        raise UntrustedAnswerError(f"{where}: the certificate does not name {path}")
    usage = _extension(certificate, x509.KeyUsage, where)
    if usage != _KEY_ENCIPHERMENT:
        raise UntrustedAnswerError(f"{where}: the certificate is not for sealing alone")


_KEY_ENCIPHERMENT = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=True,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _extension(certificate: x509.Certificate, kind: type[Any], where: str) -> Any:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except verification.X509_ERRORS as error:
        raise UntrustedAnswerError(f"{where}: the certificate lacks {kind.__name__}") from error


def _subject_key_id(certificate: x509.Certificate, where: str) -> bytes:
    found: bytes = _extension(certificate, x509.SubjectKeyIdentifier, where).digest
    return found


def _event(leaf: bytes, origin: str, where: str) -> Mapping[str, Any]:
    """The leaf as JSON; canonical, so that it has one reading only."""
    try:
        event = json.loads(leaf)
        canonical = wire.canonical(event) == leaf
    except (ValueError, RecursionError) as error:
        raise UntrustedAnswerError(f"{where}: the leaf is not JSON") from error
    expected = {
        "version": wire.LEAF_VERSION,
        "type": wire.EventType.KEY_GENERATED.value,
        "origin": origin,
    }
    if not canonical or not isinstance(event, dict):
        raise UntrustedAnswerError(f"{where}: the leaf is not a canonical JSON object")
    for name, value in expected.items():
        if answers.member(event, name) != value:
            raise UntrustedAnswerError(f"{where}: the leaf's {name} is not {value!r}")
    return event


def _check_born(
    event: Mapping[str, Any],
    item: object,
    expected: Mapping[str, object],
    spki: bytes,
    certificate: bytes,
) -> None:
    """The log tells of this key's birth, of how its parts are held, and of this certificate."""
    detail = answers.mapping(event, "detail")
    said = {
        **expected,
        "algorithm": answers.text(item, "algorithm"),
        "protection": answers.text(item, "protection"),
        "components": answers.listing(item, "components", at_most=_MAX_PARTS),
        "public_key_sha256": hashlib.sha256(spki).hexdigest(),
    }
    for name, value in said.items():
        if answers.member(detail, name) != value:
            raise UntrustedAnswerError(f"the log says another {name} of version {said['version']}")
    logged = [
        tuple(answers.text(entry, name) for name in ("authority", "profile", "sha256"))
        for entry in answers.listing(event, "certificates", at_most=1)
    ]
    if logged != [(_AUTHORITY, _PROFILE, hashlib.sha256(certificate).hexdigest())]:
        raise UntrustedAnswerError("the log does not name exactly this certificate")


def _check_opened(item: object, event: Mapping[str, Any], tenant: str, slot: str) -> None:
    """The event is shown to be about this slot of this tenant."""
    openings = tuple(
        verification.read_opening(entry)
        for entry in answers.listing(item, "openings", at_most=_MAX_OPENINGS)
    )
    if not wire.opened(answers.mapping(event, "commitments"), openings):
        raise UntrustedAnswerError("an opening does not open its commitment")
    named = {entry.field: (entry.tenant, entry.value) for entry in openings}
    for kind, value in ((wire.Committed.TENANT, tenant), (wire.Committed.KEY, slot)):
        if named.get(kind) != (tenant, value):
            raise UntrustedAnswerError(f"the log's event is not shown to be about this {kind}")
