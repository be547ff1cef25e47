"""What is asked of a token once everything is decided: one call, one key, bytes in, bytes out.

The signer hands these to the tokens that hold the key, in process or through a socket; no call
changes what a token holds, so that each may be made again on another replica.
"""

from typing import assert_never

import msgspec

from hsm_drivers.ports import Driver, KeyLabel


class _Call(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    forbid_unknown_fields=True,
    gc=False,
    repr_omit_defaults=True,
):
    """Root of all calls; `label` is the key's name on the token, empty where none is used."""

    label: KeyLabel

    def __repr__(self) -> str:
        """Without the bytes: they may be secret."""
        return f"{type(self).__name__}({self.label!r})"


class SignCall(_Call, frozen=True, tag="sign"):
    """Sign a whole message."""

    message: bytes


class SignDigestCall(_Call, frozen=True, tag="sign-digest"):
    """Sign a digest."""

    digest: bytes


class DecapsulateCall(_Call, frozen=True, tag="decapsulate"):
    """The shared secret of a ciphertext."""

    ciphertext: bytes


class MacCall(_Call, frozen=True, tag="mac"):
    """The MAC of a message."""

    message: bytes


class EncryptCall(_Call, frozen=True, tag="encrypt"):
    """AES-GCM."""

    nonce: bytes
    plaintext: bytes
    associated: bytes


class DecryptCall(_Call, frozen=True, tag="decrypt"):
    """AES-GCM undone."""

    nonce: bytes
    ciphertext: bytes
    associated: bytes


class WrapCall(_Call, frozen=True, tag="wrap"):
    """Wrap bytes."""

    plaintext: bytes


class UnwrapCall(_Call, frozen=True, tag="unwrap"):
    """Undo a wrap."""

    ciphertext: bytes


class RandomCall(_Call, frozen=True, tag="random"):
    """Random bytes; `label` is empty."""

    size: int


TokenCall = (
    SignCall
    | SignDigestCall
    | DecapsulateCall
    | MacCall
    | EncryptCall
    | DecryptCall
    | WrapCall
    | UnwrapCall
    | RandomCall
)


def perform(driver: Driver, call: TokenCall) -> bytes:
    """Make the call.

    Raises:
        HsmError: As the driver's method says.
    """
    match call:
        case SignCall():
            return driver.sign(call.label, call.message)
        case SignDigestCall():
            return driver.sign_digest(call.label, call.digest)
        case DecapsulateCall():
            return driver.decapsulate(call.label, call.ciphertext)
        case MacCall():
            return driver.mac(call.label, call.message)
        case EncryptCall():
            return driver.encrypt(call.label, call.nonce, call.plaintext, call.associated)
        case DecryptCall():
            return driver.decrypt(call.label, call.nonce, call.ciphertext, call.associated)
        case WrapCall():
            return driver.wrap(call.label, call.plaintext)
        case UnwrapCall():
            return driver.unwrap(call.label, call.ciphertext)
        case RandomCall():
            return driver.random(call.size)
        case _:
            assert_never(call)
