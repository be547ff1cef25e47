"""Text encodings that notes, checkpoints, paths and receipts share; all strict."""

import base64
import binascii

from kms.tlog.errors import FormatError
from kms.tlog.hashing import HASH_SIZE

MAX_NUMBER = 2**63 - 1
"""Largest tree size, index and timestamp (tlog-cosignature)."""


def b64(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def unb64(text: str, what: str) -> bytes:
    """Undo `b64`; `what` names the field in the error.

    Raises:
        FormatError: Any other alphabet, padding or stray bits.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"{what} is not standard base64 with padding") from error
    if b64(data) != text:
        raise FormatError(f"{what} is base64 with stray bits")
    return data


def unb64_hash(text: str, what: str) -> bytes:
    """A base64 SHA-256 hash.

    Raises:
        FormatError: Not base64, or not of 32 bytes.
    """
    data = unb64(text, what)
    if len(data) != HASH_SIZE:
        raise FormatError(f"{what} has {len(data)} bytes, not {HASH_SIZE}")
    return data


def decimal(text: str, what: str) -> int:
    """A decimal number without sign, spaces or leading zeros, at most `MAX_NUMBER`.

    Raises:
        FormatError: Any other form.
    """
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(MAX_NUMBER)):
        raise FormatError(f"{what} is not a decimal number: {text[:40]!r}")
    number = int(text)
    if str(number) != text or number > MAX_NUMBER:
        raise FormatError(f"{what} is too large or has leading zeros: {text!r}")
    return number
