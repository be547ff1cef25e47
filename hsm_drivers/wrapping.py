"""What every driver agrees to wrap, so that a wrapped key can move from one to another."""

from hsm_drivers.errors import UnsupportedError

_MAX_WRAPPED = 65_536


def refuse_unwrappable(plaintext: bytes) -> None:
    """Take multiples of 8 bytes only.

    RFC 5649 takes any length, but SoftHSM2 2.6.1 pads what it wraps to a multiple of 8 before it
    does, so that the length of anything else would be lost.

    Raises:
        UnsupportedError: With the size that was met.
    """
    if not 0 < len(plaintext) <= _MAX_WRAPPED or len(plaintext) % 8:
        raise UnsupportedError(
            f"{len(plaintext)} bytes cannot be wrapped: a multiple of 8 up to {_MAX_WRAPPED} can"
        )
