"""The ciphertexts that clients get: which key and version made them stands in front.

    0x01 ‖ key id (16 bytes) ‖ version (4 bytes, big-endian) ‖ nonce ‖ ciphertext ‖ tag
    0x02 ‖ key id (16 bytes) ‖ version (4 bytes, big-endian) ‖ wrapped key (RFC 5649)

What stands in front of an encryption is authenticated, and so are the tenant and the caller's
associated data. Wrapping knows no associated data: there the key itself is all that binds.
"""

from dataclasses import dataclass

from kms.domain.key_book import KeyBook
from kms.domain.key_records import KeyVersion
from kms.services.errors import (
    CiphertextMalformedError,
    CiphertextOfAnotherKeyError,
    KeyVersionUnknownError,
)

SEALED, WRAPPED = 1, 2
"""First byte: what was encrypted, and what was wrapped."""
_HEADER = 1 + 16 + 4
_LEAST = {SEALED: 12 + 16, WRAPPED: 16}
"""Bytes behind the header: nonce and tag of an empty plaintext; RFC 5649's shortest."""
FIELD = "ciphertext"
"""Where bodies carry them."""


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """A ciphertext taken apart; `sealed` is what the signer answered."""

    header: bytes
    version: int
    sealed: bytes


def header_of(form: int, version: KeyVersion, key_id: str) -> bytes:
    """What stands in front of ciphertexts of that version."""
    return bytes([form]) + bytes.fromhex(key_id) + version.version.to_bytes(4, "big")


def associated(header: bytes, tenant: str, given: bytes) -> bytes:
    """The associated data of the signer's operation."""
    owner = tenant.encode()
    return header + len(owner).to_bytes(2, "big") + owner + given


def take_apart(form: int, data: bytes, book: KeyBook) -> tuple[Ciphertext, KeyVersion]:
    """The parts of a ciphertext, and the version that it names.

    Raises:
        CiphertextMalformedError: Too short, or of another format.
        CiphertextOfAnotherKeyError: It names another key.
        KeyVersionUnknownError: It names a version that the key does not have.
    """
    if len(data) < _HEADER + _LEAST[form] or data[0] != form:
        raise CiphertextMalformedError(
            "not such a ciphertext of this service, or one that was cut off", field=FIELD
        )
    header, sealed = data[:_HEADER], data[_HEADER:]
    if header[1:17] != bytes.fromhex(book.key.key_id):
        raise CiphertextOfAnotherKeyError("the ciphertext names another key", field=FIELD)
    number = int.from_bytes(header[17:], "big")
    version = book.version(number)
    if version is None:
        raise KeyVersionUnknownError("the ciphertext names a version that is not", field=FIELD)
    return Ciphertext(header, number, sealed), version
