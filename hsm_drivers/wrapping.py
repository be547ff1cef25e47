"""What every driver agrees to wrap, so that a wrapped key can move from one to another."""

from hsm_drivers.errors import BadCiphertextError, UnsupportedError

MAX_WRAPPED = 65_536
"""Bytes that can be wrapped at once."""
MAX_FRAMED = MAX_WRAPPED - 8
"""Bytes that a client can have wrapped at once."""
_LENGTH_SIZE = 4


def refuse_unwrappable(plaintext: bytes) -> None:
    """Take multiples of 8 bytes only.

    RFC 5649 takes any length, but SoftHSM2 2.6.1 pads what it wraps to a multiple of 8 before it
    does, so that the length of anything else would be lost.

    Raises:
        UnsupportedError: With the size that was met.
    """
    if not 0 < len(plaintext) <= MAX_WRAPPED or len(plaintext) % 8:
        raise UnsupportedError(
            f"{len(plaintext)} bytes cannot be wrapped: a multiple of 8 up to {MAX_WRAPPED} can"
        )


def framed(plaintext: bytes) -> bytes:
    """Bytes of any length as every token wraps them: length (4 bytes, big-endian), bytes, zeros.

    Raises:
        UnsupportedError: Nothing, or too much.
    """
    if not 0 < len(plaintext) <= MAX_FRAMED:
        raise UnsupportedError(
            f"{len(plaintext)} bytes cannot be wrapped: 1 to {MAX_FRAMED} can; encrypt what is"
            " larger"
        )
    block = len(plaintext).to_bytes(_LENGTH_SIZE, "big") + plaintext
    return block + bytes(-len(block) % 8)


def unframed(block: bytes) -> bytes:
    """Undo `framed`.

    Raises:
        BadCiphertextError: It is no such block.
    """
    plaintext = block[_LENGTH_SIZE:][: int.from_bytes(block[:_LENGTH_SIZE], "big")]
    if not 0 < len(plaintext) <= MAX_FRAMED or framed(plaintext) != block:
        raise BadCiphertextError("what was unwrapped was not wrapped here")
    return plaintext
