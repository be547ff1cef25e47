"""What clients do with KEM slots: open what was sealed to them, and decapsulate.

Component secrets, shared secrets of messages and the keys that wrap content keys stay in the
signer. Of an envelope the signer gives the content key, which opens that one object, and the
content is decrypted here.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any

from hsm_drivers.operations import Decapsulate, OpenHpke, UnwrapContentKey
from hsm_drivers.ports import KeyLabel
from kms import envelopes
from kms.domain.key_book import KeyBook
from kms.domain.key_records import KeyVersion
from kms.services.errors import (
    CiphertextMalformedError,
    CiphertextOfAnotherKeyError,
    CiphertextRefusedError,
    KeyVersionUnknownError,
)
from kms.services.keys.ciphertexts import FIELD
from kms.services.keys.reach import version_of
from kms.services.keys.verbs import Asked, Item, Verb
from kms.wire import WireError, b64, serial_hex
from pki.cms import TAG_SIZE, Envelope, KemRecipient, parse_envelope
from pki.errors import EnvelopeError
from pki.keys import parse_public_key
from policies.algorithms import algorithm
from policies.key_life import Operation

MAX_MESSAGE = 48 << 10
"""Bytes: the whole of a message goes through the signer."""


def _open(book: KeyBook, item: Item) -> Asked:
    """An HPKE message or a CMS envelope, by its first byte; `associated` is its context."""
    if item.ciphertext[:1] == bytes((envelopes.SLOT_FORM,)):
        return _open_message(book, item)
    return _open_envelope(book, item)


def _open_message(book: KeyBook, item: Item) -> Asked:
    if len(item.ciphertext) > MAX_MESSAGE:
        raise CiphertextMalformedError(f"a message has at most {MAX_MESSAGE} bytes", field=FIELD)
    header, rest = _header(item.ciphertext), item.ciphertext[envelopes.SLOT_HEADER_SIZE :]
    version = _named(book, header)
    size = algorithm(version.algorithm).ciphertext_size or 0
    if len(rest) < size + TAG_SIZE:
        raise CiphertextMalformedError("the message is cut off", field=FIELD)
    info = envelopes.slot_hpke_info(header, item.associated)
    call = OpenHpke(KeyLabel(version.label), rest[:size], rest[size:], info, b"")
    return Asked(version, call, item, _opened(version, item, lambda plaintext: plaintext))


def _open_envelope(book: KeyBook, item: Item) -> Asked:
    envelope, version, call = _unwrapping(book, item)
    if envelope.ciphertext is None:
        raise CiphertextMalformedError(
            "the content is kept apart: unwrap its key, and decrypt it where it is", field=FIELD
        )
    return Asked(version, call, item, _opened(version, item, lambda key: _decrypt(envelope, key)))


def _unwrap(book: KeyBook, item: Item) -> Asked:
    """The content key of an envelope whose content is too large to be sent, or not for sending."""
    _, version, call = _unwrapping(book, item)
    return Asked(version, call, item, _told(version, item, "content_key", lambda key: key))


def _unwrapping(book: KeyBook, item: Item) -> tuple[Envelope, KeyVersion, UnwrapContentKey]:
    try:
        envelope = parse_envelope(item.ciphertext)
    except EnvelopeError as error:
        raise CiphertextMalformedError(str(error), field=FIELD) from error
    recipient, version = _recipient(book, envelope, item.associated)
    row = algorithm(version.algorithm)
    if recipient.kem != row or len(recipient.ciphertext) != row.ciphertext_size:
        raise CiphertextMalformedError(
            f"the recipient's ciphertext is not one of {row.name}", field=FIELD
        )
    call = UnwrapContentKey(
        KeyLabel(version.label), recipient.ciphertext, recipient.kdf_info, recipient.wrapped
    )
    return envelope, version, call


def _decrypt(envelope: Envelope, content_key: bytes) -> bytes:
    """The content.

    Raises:
        CiphertextRefusedError: It was changed.
    """
    try:
        return envelope.decrypt(content_key)
    except EnvelopeError as error:
        raise CiphertextRefusedError(str(error), field=FIELD) from error


def _recipient(
    book: KeyBook, envelope: Envelope, context: bytes
) -> tuple[KemRecipient, KeyVersion]:
    """The recipient that is a version of this slot.

    Raises:
        CiphertextOfAnotherKeyError: None of them is.
        CiphertextMalformedError: What stands in its keying material is not what is written here.
        CiphertextRefusedError: It is bound to another context.
        KeyVersionUnknownError: It names a version that the slot does not have.
    """
    for recipient in envelope.recipients:
        version = _version_of(book, recipient)
        if version is not None:
            _check_bound(book, recipient, version, context)
            return recipient, version
    raise CiphertextOfAnotherKeyError("no recipient is a version of this slot", field=FIELD)


def _version_of(book: KeyBook, recipient: KemRecipient) -> KeyVersion | None:
    """By subject key identifier, or by the serial number of its certificate."""
    for version in book.versions:
        public = parse_public_key(version.public_key, algorithm(version.algorithm))
        if recipient.key_id == public.key_id():
            return version
        serial = recipient.serial
        if serial is not None and serial > 0 and serial_hex(serial) == version.certificate:
            return version
    return None


def _check_bound(
    book: KeyBook, recipient: KemRecipient, version: KeyVersion, context: bytes
) -> None:
    """Slot, version and context are those in the keying material, where we know its form.

    The signer's unwrapping would tell, too; here the caller is told what is wrong.
    """
    try:
        bound = envelopes.parse_slot_keying_material(recipient.ukm or b"")
    except WireError as error:
        raise CiphertextMalformedError(str(error), field=FIELD) from error
    if bound is None:
        if context:
            raise CiphertextRefusedError(
                "the envelope is another software's and bound to no context", field="context"
            )
        return
    header, digest = bound
    if _named(book, header) != version:
        raise CiphertextOfAnotherKeyError("the envelope names another version", field=FIELD)
    if not hmac.compare_digest(digest, hashlib.sha256(context).digest()):
        raise CiphertextRefusedError("the envelope is bound to another context", field="context")


def _header(data: bytes) -> bytes:
    try:
        envelopes.parse_slot_header(data)
    except WireError as error:
        raise CiphertextMalformedError(str(error), field=FIELD) from error
    return data[: envelopes.SLOT_HEADER_SIZE]


def _named(book: KeyBook, header: bytes) -> KeyVersion:
    """The version that a header names."""
    key_id, number = envelopes.parse_slot_header(header)
    if key_id != book.key.key_id:
        raise CiphertextOfAnotherKeyError("it is sealed to another slot", field=FIELD)
    version = book.version(number)
    if version is None:
        raise KeyVersionUnknownError("it names a version that the slot does not have", field=FIELD)
    return version


def _decapsulate(book: KeyBook, item: Item) -> Asked:
    version = version_of(book, item.version)
    row = algorithm(version.algorithm)
    if len(item.ciphertext) != row.ciphertext_size:
        raise CiphertextMalformedError(
            f"a ciphertext of {row.name} has {row.ciphertext_size} bytes, not"
            f" {len(item.ciphertext)}",
            field=FIELD,
        )
    call = Decapsulate(KeyLabel(version.label), item.ciphertext)

    def tell(answer: tuple[bytes, ...]) -> tuple[dict[str, Any], bytes]:
        return {"version": version.version, "shared_secret": b64(answer[0])}, item.ciphertext

    return Asked(version, call, item, tell)


def _opened(
    version: KeyVersion, item: Item, content: Callable[[bytes], bytes]
) -> Callable[[tuple[bytes, ...]], tuple[dict[str, Any], bytes]]:
    return _told(version, item, "plaintext", content)


def _told(
    version: KeyVersion, item: Item, name: str, content: Callable[[bytes], bytes]
) -> Callable[[tuple[bytes, ...]], tuple[dict[str, Any], bytes]]:
    """What came out, and the hash by which the log knows the object."""

    def tell(answer: tuple[bytes, ...]) -> tuple[dict[str, Any], bytes]:
        told = {
            "version": version.version,
            "sha256": hashlib.sha256(item.ciphertext).hexdigest(),
            name: b64(content(answer[0])),
        }
        return told, item.ciphertext

    return tell


OPEN = Verb("open", (Operation.DECAPSULATE,), _open)
UNWRAP = Verb("unwrap", (Operation.DECAPSULATE,), _unwrap)
DECAPSULATE = Verb("decapsulate", (Operation.DECAPSULATE,), _decapsulate)
SLOT_VERBS: Mapping[str, Verb] = {verb.name: verb for verb in (OPEN, UNWRAP, DECAPSULATE)}
"""Every verb of slots by its name."""
