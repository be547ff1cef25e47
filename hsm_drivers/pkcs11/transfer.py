"""Moving a transferable key between tokens that hold the same trusted wrapping key.

A token makes a key's bytes leave it only under a key that its security officer has marked as
trusted (CKA_TRUSTED), wrapped by RFC 5649; what arrives is tried against its public key.
"""

import secrets
from dataclasses import dataclass
from typing import Any

from pkcs11 import Attribute, ObjectClass

from hsm_drivers import der
from hsm_drivers.errors import TokenFailureError, UnsupportedError
from hsm_drivers.pkcs11 import objects
from hsm_drivers.pkcs11.cryptoki import Cryptoki, Mechanism, Template, mechanism
from hsm_drivers.pkcs11.operations import refused_by
from hsm_drivers.pkcs11.proofs import belong_together
from hsm_drivers.ports import KeyLabel
from hsm_drivers.vendor import PointForm, Spelling
from policies.algorithms import Algorithm, Scheme


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A wrapping key that the token lets transferable keys leave and come under."""

    handle: int
    how: Mechanism
    refused: frozenset[int]


@dataclass(frozen=True, slots=True)
class Arriving:
    """A key that comes from another token; `public_key` is its SPKI, empty for a secret key."""

    label: KeyLabel
    row: Algorithm
    spelling: Spelling
    wrapped: bytes
    public_key: bytes


def trusted_key(token: Cryptoki, found: objects.Found, spelling: Spelling) -> TrustedKey:
    """A wrapping key as one that keys may move under.

    Raises:
        UnsupportedError: It is no wrapping key, or no trusted one.
    """
    if found.row.scheme is not Scheme.AES_KWP or not objects.is_trusted(token, found.handle):
        raise UnsupportedError("keys move under a trusted wrapping key only (CKA_TRUSTED)")
    return TrustedKey(found.handle, mechanism(spelling.use), refused_by(spelling))


def bring(token: Cryptoki, key: Arriving, under: TrustedKey) -> tuple[int, int | None]:
    """Unwrap a key and put its public half beside it; the handles of both.

    Raises:
        TokenFailureError: It is not what it should be; nothing of it stays.
    """
    identity: Template = {Attribute.ID: secrets.token_bytes(16), Attribute.LABEL: key.label}
    try:
        made = (_secret if objects.is_secret(key.row) else _pair)(token, key, under, identity)
    except BaseException:
        objects.remove(token, identity)
        raise
    if made is None:
        objects.remove(token, identity)
        raise TokenFailureError(
            f"what arrived as {key.label!r} is not the {key.row.name} key that it should be, or the"
            " token does not let that be seen; it was destroyed"
        )
    return made


def _secret(
    token: Cryptoki, key: Arriving, under: TrustedKey, identity: Template
) -> tuple[int, None] | None:
    """A secret key, if it is of the right size and the token tells so."""
    if len(key.wrapped) != objects.secret_size(key.row) + 8:  # RFC 5649
        return None
    arrived = _unwrapped(token, key, under, identity, ObjectClass.SECRET_KEY)
    return (arrived, None) if objects.fits(token, arrived, key.row, key.spelling) else None


def _pair(
    token: Cryptoki, key: Arriving, under: TrustedKey, identity: Template
) -> tuple[int, int] | None:
    """A private key and its public half, if they belong together."""
    private = _unwrapped(token, key, under, identity, ObjectClass.PRIVATE_KEY)
    public = token.create({**identity, **_public_half(key)})
    together = belong_together(token, private, public, key.row, key.spelling)
    return (private, public) if together else None


def _unwrapped(
    token: Cryptoki, key: Arriving, under: TrustedKey, identity: Template, kind: ObjectClass
) -> int:
    template = {
        **identity,
        **objects.usable(key.row, key.spelling, kind),
        **objects.held(transferable=True),
    }
    return token.unwrap(under.how, under.handle, key.wrapped, template, under.refused)


def _public_half(key: Arriving) -> dict[int, Any]:
    raw = key.public_key[-(key.row.public_key_size or 0) :]
    if der.public_key(key.row, raw) != key.public_key:
        raise TokenFailureError(f"the public key that came with it is none of {key.row.name}")
    made: dict[int, Any] = {
        Attribute.TOKEN: True,
        Attribute.PRIVATE: False,
        **objects.usable(key.row, key.spelling, ObjectClass.PUBLIC_KEY),
    }
    if Attribute.EC_PARAMS not in made:
        return {**made, Attribute.VALUE: raw}
    bare = key.spelling.point is PointForm.RAW
    return {**made, Attribute.EC_POINT: raw if bare else der.tlv(0x04, raw)}
