"""What clients may ask of a service key: each call with one answer of one or more byte strings.

The signer does each of them whole. What a call gives birth to on the way (the component secrets of
a hybrid, the plaintext of a rewrap) stays in the signer's memory and is in no answer.
"""

import msgspec

from hsm_drivers.ports import KeyLabel, Operation


class _ServiceCall(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """Root of all calls."""

    key: KeyLabel

    def __repr__(self) -> str:
        """Without the bytes: they may be secret."""
        return f"{type(self).__name__}({self.key!r})"


class SignMessage(_ServiceCall, frozen=True, tag="sign"):
    """Answers the signature: ECDSA as DER, others raw."""

    message: bytes


class SignDigest(_ServiceCall, frozen=True, tag="sign-digest"):
    """As `SignMessage`, for schemes that sign digests (ECDSA)."""

    digest: bytes


class MakeMac(_ServiceCall, frozen=True, tag="mac"):
    """Answers the MAC, whole length."""

    message: bytes


class VerifyMac(_ServiceCall, frozen=True, tag="verify-mac"):
    """Answers one byte, 1, for the right MAC and no byte for any other."""

    message: bytes
    mac: bytes


class Encrypt(_ServiceCall, frozen=True, tag="encrypt"):
    """Answers nonce (12 bytes), ciphertext, tag (16 bytes), joined; the signer makes the nonce."""

    plaintext: bytes
    associated: bytes


class Decrypt(_ServiceCall, frozen=True, tag="decrypt"):
    """Answers the plaintext of what `Encrypt` answered."""

    sealed: bytes
    associated: bytes


class Rewrap(_ServiceCall, frozen=True, tag="rewrap"):
    """Decrypts under `key` and encrypts under `into`; answers as `Encrypt`."""

    sealed: bytes
    associated: bytes
    into: KeyLabel
    into_associated: bytes


class NewDataKey(_ServiceCall, frozen=True, tag="data-key"):
    """Random bytes of the token, 16 to 64; answers them as `Encrypt` would, and plain if wanted."""

    size: int
    associated: bytes
    plain: bool


class RandomBytes(_ServiceCall, frozen=True, tag="random"):
    """Answers random bytes of the service's own token; `key` is empty."""

    size: int


class WrapKey(_ServiceCall, frozen=True, tag="wrap"):
    """Answers 1 to `wrapping.MAX_FRAMED` bytes wrapped.

    RFC 5649, of a block that says how many they are: not every token wraps other sizes than
    multiples of 8 bytes.
    """

    plaintext: bytes


class UnwrapKey(_ServiceCall, frozen=True, tag="unwrap"):
    """Answers what `WrapKey` was given."""

    wrapped: bytes


class Decapsulate(_ServiceCall, frozen=True, tag="decapsulate"):
    """Answers the KEM's shared secret.

    Of ECDH and X25519 that of DHKEM (RFC 9180, 4.1), of a hybrid that of its combiner. A wrong
    ciphertext of ML-KEM gives a wrong secret and no error.
    """

    ciphertext: bytes


class OpenHpke(_ServiceCall, frozen=True, tag="open-hpke"):
    """Opens an HPKE message (RFC 9180, base mode, HKDF-SHA256, AES-256-GCM, one message)."""

    encapsulated: bytes
    ciphertext: bytes
    info: bytes
    associated: bytes


class UnwrapContentKey(_ServiceCall, frozen=True, tag="unwrap-content-key"):
    """Answers a CMS content-encryption key (RFC 9629: HKDF-SHA256, AES-256 key wrap)."""

    ciphertext: bytes
    kdf_info: bytes
    wrapped: bytes


ServiceCall = (
    SignMessage
    | SignDigest
    | MakeMac
    | VerifyMac
    | Encrypt
    | Decrypt
    | Rewrap
    | NewDataKey
    | RandomBytes
    | WrapKey
    | UnwrapKey
    | Decapsulate
    | OpenHpke
    | UnwrapContentKey
)

NEEDED: dict[type[ServiceCall], Operation] = {
    SignMessage: Operation.SIGN,
    SignDigest: Operation.SIGN,
    MakeMac: Operation.MAC,
    VerifyMac: Operation.VERIFY_MAC,
    Encrypt: Operation.ENCRYPT,
    Decrypt: Operation.DECRYPT,
    Rewrap: Operation.DECRYPT,
    NewDataKey: Operation.DATA_KEY,
    RandomBytes: Operation.DATA_KEY,
    WrapKey: Operation.WRAP,
    UnwrapKey: Operation.UNWRAP,
    Decapsulate: Operation.DECAPSULATE,
    OpenHpke: Operation.DECAPSULATE,
    UnwrapContentKey: Operation.DECAPSULATE,
}
"""What the key's record must permit; `Rewrap` needs ENCRYPT of its second key, too.

`RandomBytes` takes no key, and is only counted there.
"""
