"""Sealing objects to a KEM slot of the organisation, so that only its HSM opens them again.

Two forms, both bound to the slot, its version and a context of the caller's: a CMS envelope for
what is kept (RFC 5083, 5084, 9629, 9936), which foreign software opens too, and an HPKE message for
what is sent (RFC 9180, base mode, HKDF-SHA256, AES-256-GCM). No I/O here.
"""

import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kms import envelopes
from kms.device.der import tlv
from kms.device.encapsulation import Encapsulated, KemAlgorithm, parse_slot_key
from kms.device.errors import UsageError

MAX_OBJECT = 12 << 20
"""Largest object in bytes that an envelope holds; larger ones are archived in pieces."""
MAX_MESSAGE = 32 << 10
"""Largest plaintext of a message in bytes."""
MAX_RECIPIENTS = 16

_SEQUENCE, _SET, _INTEGER, _OCTET_STRING = 0x30, 0x31, 0x02, 0x04
_KEY_SIZE, _NONCE_SIZE, _TAG_SIZE = 32, 12, 16


def _oid(text: str) -> bytes:
    return tlv(0x06, bytes.fromhex(text))


_AUTH_ENVELOPED_DATA = _oid("2a864886f70d0109100117")  # 1.2.840.113549.1.9.16.1.23
_DATA = _oid("2a864886f70d010701")  # 1.2.840.113549.1.7.1
_KEM_RECIPIENT = _oid("2a864886f70d0109100d03")  # 1.2.840.113549.1.9.16.13.3
_HKDF_SHA256 = tlv(_SEQUENCE, _oid("2a864886f70d010910031c"))  # 1.2.840.113549.1.9.16.3.28
_AES256_WRAP = tlv(_SEQUENCE, _oid("60864801650304012d"))  # 2.16.840.1.101.3.4.1.45
_AES256_GCM = _oid("60864801650304012e")  # 2.16.840.1.101.3.4.1.46
_VERSION_0 = tlv(_INTEGER, b"\x00")
_KEK_LENGTH = tlv(_INTEGER, bytes((_KEY_SIZE,)))


@dataclass(frozen=True, slots=True)
class Recipient:
    """A version of a slot that something can be sealed to.

    Attributes:
        slot_key_id: Of the slot, 32 hexadecimal digits.
        version: Of the slot, from 1.
        kem: Its algorithm.
        public_key: Raw.
        key_id: Subject key identifier of its certificate.
    """

    slot_key_id: str
    version: int
    kem: KemAlgorithm
    public_key: bytes
    key_id: bytes

    @classmethod
    def of(cls, slot_key_id: str, version: int, spki: bytes, key_id: bytes) -> "Recipient":
        """From a SubjectPublicKeyInfo; where it came from is for the caller to judge.

        Raises:
            UsageError: Not a key that this client encapsulates to.
        """
        kem, raw = parse_slot_key(spki)
        return cls(slot_key_id, version, kem, raw, key_id)

    @property
    def header(self) -> bytes:
        """Names slot and version in what is sealed to it."""
        return envelopes.slot_header(self.slot_key_id, self.version)

    def encapsulate(self) -> Encapsulated:
        """A fresh secret, agreed on with the holder of the private key."""
        return self.kem.encapsulate(self.public_key)


def seal_message(recipient: Recipient, plaintext: bytes, context: bytes = b"") -> bytes:
    """An HPKE message: header ‖ enc ‖ ct.

    Args:
        recipient: To whom.
        plaintext: At most `MAX_MESSAGE` bytes.
        context: What it belongs to; whoever opens it must name the same.

    Raises:
        UsageError: It is too large, or the key is none.
    """
    _check_size(plaintext, MAX_MESSAGE)
    header, fresh = recipient.header, recipient.encapsulate()
    info = envelopes.slot_hpke_info(header, context)
    key, nonce = hpke_schedule(recipient.kem.hpke_id, fresh.secret, info)
    return header + fresh.ciphertext + AESGCM(key).encrypt(nonce, plaintext, None)


def hpke_schedule(kem_id: int, secret: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Key and first nonce (RFC 9180 5.1, base mode, HKDF-SHA256, AES-256-GCM)."""
    suite = b"HPKE" + kem_id.to_bytes(2, "big") + b"\x00\x01\x00\x02"

    def extract(salt: bytes, label: bytes, material: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + material, "sha256")

    def expand(label: bytes, size: int) -> bytes:  # at most one block of the hash
        wanted = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + context + b"\x01"
        return hmac.digest(pseudo_random_key, wanted, "sha256")[:size]

    context = b"\x00" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    pseudo_random_key = extract(secret, b"secret", b"")
    return expand(b"key", _KEY_SIZE), expand(b"base_nonce", _NONCE_SIZE)


def seal_envelope(recipients: Sequence[Recipient], plaintext: bytes, context: bytes = b"") -> bytes:
    """A CMS AuthEnvelopedData in DER, with a KEMRecipientInfo for each recipient.

    Args:
        recipients: Any one of them opens it; at most `MAX_RECIPIENTS`.
        plaintext: At most `MAX_OBJECT` bytes.
        context: What it belongs to; whoever opens it must name the same.

    Raises:
        UsageError: It is too large, or there are no or too many recipients.
    """
    _check_size(plaintext, MAX_OBJECT)
    if not 1 <= len(recipients) <= MAX_RECIPIENTS:
        raise UsageError(f"an envelope has 1 to {MAX_RECIPIENTS} recipients")
    content_key, nonce = os.urandom(_KEY_SIZE), os.urandom(_NONCE_SIZE)
    sealed = AESGCM(content_key).encrypt(nonce, plaintext, None)
    infos = sorted(_recipient_info(item, content_key, context) for item in recipients)
    parameters = tlv(_SEQUENCE, tlv(_OCTET_STRING, nonce) + tlv(_INTEGER, bytes((_TAG_SIZE,))))
    content = tlv(
        _SEQUENCE,
        _DATA + tlv(_SEQUENCE, _AES256_GCM + parameters) + tlv(0x80, sealed[:-_TAG_SIZE]),
    )
    tag = tlv(_OCTET_STRING, sealed[-_TAG_SIZE:])
    envelope = tlv(_SEQUENCE, _VERSION_0 + tlv(_SET, b"".join(infos)) + content + tag)
    return tlv(_SEQUENCE, _AUTH_ENVELOPED_DATA + tlv(0xA0, envelope))


def _recipient_info(recipient: Recipient, content_key: bytes, context: bytes) -> bytes:
    """RecipientInfo.ori (RFC 5652 6.2.5) holding a KEMRecipientInfo (RFC 9629 3)."""
    fresh = recipient.encapsulate()
    ukm = tlv(_OCTET_STRING, envelopes.slot_keying_material(recipient.header, context))
    bound = _AES256_WRAP + _KEK_LENGTH + tlv(0xA0, ukm)
    kdf = HKDF(hashes.SHA256(), _KEY_SIZE, salt=None, info=tlv(_SEQUENCE, bound))
    wrapped = keywrap.aes_key_wrap(kdf.derive(fresh.secret), content_key)
    info = tlv(
        _SEQUENCE,
        _VERSION_0
        + tlv(0x80, recipient.key_id)
        + tlv(_SEQUENCE, recipient.kem.oid)
        + tlv(_OCTET_STRING, fresh.ciphertext)
        + _HKDF_SHA256
        + _KEK_LENGTH
        + tlv(0xA0, ukm)
        + _AES256_WRAP
        + tlv(_OCTET_STRING, wrapped),
    )
    return tlv(0xA4, _KEM_RECIPIENT + info)


def _check_size(plaintext: bytes, most: int) -> None:
    if len(plaintext) > most:
        raise UsageError(f"at most {most} bytes are sealed so, not {len(plaintext)}")
