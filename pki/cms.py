"""CMS envelopes to KEM recipients, read strictly: DER, bounded, authenticated encryption only.

Sources: RFC 5652 (CMS), RFC 5083 and 5084 (AuthEnvelopedData with AES-GCM), RFC 9629
(KEMRecipientInfo), RFC 9936 (ML-KEM), draft-ietf-lamps-cms-composite-kem. An EnvelopedData is
refused: its content has no tag, so whoever may ask for it to be opened could ask for changes of it.
"""

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pki import der
from pki.errors import DerError, EnvelopeError
from policies.algorithms import Algorithm, Kind, algorithm, of_key
from policies.choices import CONTENT_CIPHER, CONTENT_WRAP

MAX_ENVELOPE = 13 << 20
"""Larger envelopes are refused unread, in bytes."""
MAX_RECIPIENTS = 16
MAX_UKM = 1024
"""Longest keying material of a recipient, in bytes."""

_AUTH_ENVELOPED_DATA = "1.2.840.113549.1.9.16.1.23"
_DATA = "1.2.840.113549.1.7.1"
_KEM_RECIPIENT = "1.2.840.113549.1.9.16.13.3"
_HKDF_SHA256 = der.sequence(der.oid("1.2.840.113549.1.9.16.3.28"))  # RFC 8619
_WRAP = der.sequence(der.oid(algorithm(CONTENT_WRAP).oid))
_CIPHER = algorithm(CONTENT_CIPHER).oid
_KEY_SIZE = 32
_WRAPPED_SIZE = _KEY_SIZE + 8
_NONCE_SIZE = 12
TAG_SIZE = 16
_KEM_CHOICE, _KEY_ID_CHOICE, _CONTENT_CHOICE, _ATTRIBUTES = 0xA4, 0x80, 0x80, 0xA1
_ORIGINATOR, _UNAUTHENTICATED = 0xA0, 0xA2


@dataclass(frozen=True, slots=True)
class KemRecipient:
    """One KEMRecipientInfo.

    Attributes:
        key_id: Subject key identifier of its certificate; None where issuer and serial name it.
        issuer: Its issuer's name, DER, and
        serial: its serial number, where they name it; else None.
        kem: The KEM's registry row.
        ciphertext: Encapsulated secret.
        ukm: User keying material, None where it has none.
        wrapped: The content key under the agreed key (RFC 3394).
    """

    key_id: bytes | None
    issuer: bytes | None
    serial: int | None
    kem: Algorithm
    ciphertext: bytes = field(repr=False)
    ukm: bytes | None
    wrapped: bytes = field(repr=False)

    @property
    def kdf_info(self) -> bytes:
        """CMSORIforKEMOtherInfo: what the key derivation is bound to (RFC 9629 5)."""
        ukm = b"" if self.ukm is None else der.context(0, der.octet_string(self.ukm))
        return der.sequence(_WRAP, der.integer(_KEY_SIZE), ukm)


@dataclass(frozen=True, slots=True)
class Envelope:
    """An AuthEnvelopedData.

    Attributes:
        recipients: Those that a KEM serves; others are left out.
        nonce: Of AES-256-GCM.
        tag: Of the content.
        ciphertext: Of the content; None where it is kept apart (RFC 5652 6.1: it may be absent).
        associated: What is authenticated besides: the attributes as a SET, DER; or nothing.
    """

    recipients: tuple[KemRecipient, ...]
    nonce: bytes
    tag: bytes
    ciphertext: bytes | None = field(repr=False)
    associated: bytes = b""

    def decrypt(self, content_key: bytes) -> bytes:
        """The content, given its key.

        Raises:
            EnvelopeError: It is kept apart, it was changed, or the key is another's.
        """
        if self.ciphertext is None:
            raise EnvelopeError("the encrypted content is missing")
        sealed = self.ciphertext + self.tag
        try:
            return AESGCM(content_key).decrypt(self.nonce, sealed, self.associated or None)
        except (InvalidTag, ValueError):
            raise EnvelopeError("the content was changed, or its key is another's") from None


def parse_envelope(data: bytes) -> Envelope:
    """Read a ContentInfo that holds an AuthEnvelopedData with at least one KEM recipient.

    Raises:
        EnvelopeError: It is not strict DER of one, too large, or uses another algorithm than
            HKDF-SHA256, AES-256 key wrap and AES-256-GCM.
    """
    if len(data) > MAX_ENVELOPE:
        raise EnvelopeError(f"an envelope has at most {MAX_ENVELOPE} bytes")
    try:
        return _read(data)
    except DerError as error:
        raise EnvelopeError(f"not a CMS AuthEnvelopedData in DER: {error}") from error


def detached(data: bytes) -> bytes:
    """The same envelope without its encrypted content: all that it takes to get the content key.

    Raises:
        EnvelopeError: As `parse_envelope`.
    """
    parse_envelope(data)
    body = der.Reader(data).enter()
    kind, rest = body.raw(), body.enter(0xA0).enter()
    version, recipients, content = rest.raw(), rest.raw(), rest.enter()
    stripped = der.sequence(content.raw(), content.raw())
    envelope = der.sequence(version, recipients, stripped, rest.rest())
    return der.sequence(kind, der.context(0, envelope))


def _read(data: bytes) -> Envelope:
    outer = der.Reader(data)
    info = outer.enter()
    outer.finish()
    if info.oid() != _AUTH_ENVELOPED_DATA:
        raise EnvelopeError("the content is no AuthEnvelopedData; no other type is opened here")
    wrapper = info.enter(0xA0)
    info.finish()
    body = wrapper.enter()
    wrapper.finish()
    if body.integer() != 0 or body.peek() == _ORIGINATOR:
        raise EnvelopeError("only version 0 without originator information is known here")
    recipients = _read_recipients(body)
    nonce, content = _read_content(body)
    associated = b""
    if body.peek() == _ATTRIBUTES:
        associated = der.tlv(der.SET, body.content(_ATTRIBUTES))
        der.parse(associated)
    tag = body.content(der.OCTET_STRING)
    if body.peek() == _UNAUTHENTICATED:
        raise EnvelopeError("attributes that nothing authenticates have no place here")
    body.finish()
    if len(tag) != TAG_SIZE:
        raise EnvelopeError(f"the tag has {TAG_SIZE} bytes, not {len(tag)}")
    return Envelope(recipients, nonce, tag, content, associated)


def _read_recipients(body: der.Reader) -> tuple[KemRecipient, ...]:
    """RecipientInfos: a SET in order, of which only KEM recipients are looked into."""
    infos, encodings, found = body.enter(der.SET), [], []
    while not infos.done():
        encoding = infos.raw()
        encodings.append(encoding)
        if len(encodings) > MAX_RECIPIENTS:
            raise EnvelopeError(f"an envelope has at most {MAX_RECIPIENTS} recipients")
        recipient = _read_recipient(encoding)
        if recipient is not None:
            found.append(recipient)
    if encodings != sorted(encodings):
        raise DerError("the SET of recipients is not in order")
    if not found:
        raise EnvelopeError("no recipient is one that a KEM serves (RFC 9629)")
    return tuple(found)


def _read_recipient(encoding: bytes) -> KemRecipient | None:
    if encoding[0] != _KEM_CHOICE:
        return None
    outer = der.Reader(encoding)
    other = outer.enter(_KEM_CHOICE)
    if other.oid() != _KEM_RECIPIENT:
        return None
    info = other.enter()
    other.finish()
    if info.integer() != 0:
        raise EnvelopeError("a KEM recipient has version 0")
    key_id, issuer, serial = _read_identifier(info)
    kem = _read_kem(info)
    ciphertext = info.content(der.OCTET_STRING)
    if info.raw() != _HKDF_SHA256:
        raise EnvelopeError("the key derivation is not HKDF-SHA256 (RFC 9936 2.2.1)")
    if info.integer() != _KEY_SIZE:
        raise EnvelopeError(f"the wrapping key has {_KEY_SIZE} bytes")
    ukm = _read_ukm(info)
    if info.raw() != _WRAP:
        raise EnvelopeError("the content key is not wrapped with AES-256 key wrap (RFC 9936 2.2.1)")
    wrapped = info.content(der.OCTET_STRING)
    info.finish()
    if len(wrapped) != _WRAPPED_SIZE:
        raise EnvelopeError(f"a wrapped content key has {_WRAPPED_SIZE} bytes")
    return KemRecipient(key_id, issuer, serial, kem, ciphertext, ukm, wrapped)


def _read_identifier(info: der.Reader) -> tuple[bytes | None, bytes | None, int | None]:
    """RecipientIdentifier (RFC 5652 6.2.1)."""
    if info.peek() == _KEY_ID_CHOICE:
        return info.content(_KEY_ID_CHOICE), None, None
    pair = info.enter()
    issuer, serial = pair.raw_of(der.SEQUENCE), pair.integer()
    pair.finish()
    return None, issuer, serial


def _read_kem(info: der.Reader) -> Algorithm:
    """A KEM of the registry, without parameters; its ciphertext is judged by whoever opens."""
    identifier = info.enter()
    oid = identifier.oid()
    identifier.finish()
    row = of_key(Kind.KEM, oid, None, None)
    if row is None:
        raise EnvelopeError(f"no KEM of the registry has the identifier {oid}")
    return row


def _read_ukm(info: der.Reader) -> bytes | None:
    if info.peek() != 0xA0:
        return None
    wrapper = info.enter(0xA0)
    ukm = wrapper.content(der.OCTET_STRING)
    wrapper.finish()
    if len(ukm) > MAX_UKM:
        raise EnvelopeError(f"keying material has at most {MAX_UKM} bytes")
    return ukm


def _read_content(body: der.Reader) -> tuple[bytes, bytes | None]:
    """EncryptedContentInfo: nonce and ciphertext of data under AES-256-GCM (RFC 5084 3.2)."""
    content = body.enter()
    if content.oid() != _DATA:
        raise EnvelopeError("the content type is not data")
    identifier = content.enter()
    if identifier.oid() != _CIPHER:
        raise EnvelopeError("the content is not encrypted with AES-256-GCM")
    parameters = identifier.enter()
    identifier.finish()
    nonce = parameters.content(der.OCTET_STRING)
    if parameters.integer() != TAG_SIZE or len(nonce) != _NONCE_SIZE:
        raise EnvelopeError(f"AES-GCM has {_NONCE_SIZE} bytes of nonce and {TAG_SIZE} of tag here")
    parameters.finish()
    there = content.peek() == _CONTENT_CHOICE
    ciphertext = content.content(_CONTENT_CHOICE) if there else None
    content.finish()
    return nonce, ciphertext
