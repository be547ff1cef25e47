"""Sizes that the formats promise, to the byte: a limit that moves is another format."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kms.tlog.checkpoint import MAX_EXTENSIONS, MAX_ORIGIN
from kms.tlog.errors import FormatError, SignatureError
from kms.tlog.notes import (
    MAX_NOTE,
    MAX_SIGNATURES,
    KeyType,
    NoteSignature,
    VerifierKey,
    format_note,
)
from kms.tlog.receipt import MAX_EXTRA, MAX_RECEIPT, Receipt, parse_receipt

HEADER = b"c2sp.org/tlog-proof@v1\nindex 0\n\n"


def test_the_limits_are_these():
    assert (MAX_ORIGIN, MAX_EXTENSIONS) == (255, 16)
    assert (MAX_EXTRA, MAX_RECEIPT) == (65_535, 262_144 + 131_070)


def test_a_receipt_of_exactly_the_largest_size_is_read():
    largest = HEADER + b"x" * (MAX_RECEIPT - len(HEADER))
    assert parse_receipt(largest) == Receipt(0, (), largest[len(HEADER) :], None)
    with pytest.raises(FormatError, match="larger"):
        parse_receipt(largest + b"x")


def test_a_receipt_has_no_extra_data_unless_it_is_given():
    assert Receipt(0, (), b"note").extra is None


def test_a_note_has_at_most_64_signatures():
    assert (MAX_NOTE, MAX_SIGNATURES) == (262_144, 64)


@pytest.mark.parametrize("type_", KeyType)
def test_a_signature_has_its_types_size(type_: KeyType):
    public = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    if type_ is KeyType.ML_DSA_44_COSIGNATURE:
        public = bytes(1312)
    key = VerifierKey("log.example", type_, public)
    for size in (0, 8, 63, 65, 73, 2429):
        with pytest.raises(SignatureError, match=f"has {size} bytes"):
            key.verify(b"no checkpoint\n", bytes(size))


def test_no_text_smuggles_a_signature_into_a_note():
    """A text that ends with a signature line but for its newline would be read as another note."""
    signature = NoteSignature("log.example", b"abcd", b"signature")
    text = b"text\n\n" + signature.line().encode().removesuffix(b"\n")
    with pytest.raises(FormatError, match="cannot stand"):
        format_note(text, [signature])
