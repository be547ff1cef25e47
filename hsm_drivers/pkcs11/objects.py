"""Key objects on a token: how they are asked for, made and read. All errors are python-pkcs11's."""

import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass

from hsm_drivers import der
from hsm_drivers.errors import TokenFailureError
from hsm_drivers.pkcs11 import direct
from hsm_drivers.ports import KeyAttributes, KeyLabel
from policies.algorithms import Algorithm, Kind, Scheme, algorithms

KEY_TYPES = {Scheme.ECDSA: KeyType.EC, Scheme.EDDSA: KeyType.EC_EDWARDS}
"""Schemes whose keys are named by CKA_EC_PARAMS, and their CKA_KEY_TYPE."""

_CURVE_NAMES = {"1.3.101.112": b"edwards25519"}
"""Curves that some tokens (SoftHSM2) name by PrintableString (PKCS#11 3.0, 2.3.10)."""


def _rows() -> Iterator[tuple[tuple[KeyType, bytes], Algorithm]]:
    for row in algorithms(Kind.SIGNATURE):
        if row.scheme not in KEY_TYPES:
            continue
        yield (KEY_TYPES[row.scheme], der.oid(row.curve or row.oid)), row
        if row.oid in _CURVE_NAMES:
            yield (KEY_TYPES[row.scheme], der.tlv(0x13, _CURVE_NAMES[row.oid])), row


_ROWS = dict(_rows())
"""Registry rows by CKA_KEY_TYPE and CKA_EC_PARAMS."""
_SECRETS = (ObjectClass.PRIVATE_KEY, ObjectClass.SECRET_KEY)
_HELD = {Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}
_CARRIER = {
    Attribute.TOKEN: False,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: False,
    Attribute.EXTRACTABLE: True,
}
"""A session object that carries bytes into or out of a wrap and is destroyed at once."""


def secrets_labelled(session: Any, label: KeyLabel | None) -> list[Any]:
    """Private and secret keys, all or those of one label."""
    wanted = {} if label is None else {Attribute.LABEL: label}
    return [key for key in _search(session, wanted) if key.object_class in _SECRETS]


def public_of(session: Any, private: Any) -> Any:
    """The public half, found by CKA_ID.

    Raises:
        TokenFailureError: There is none, or two.
    """
    wanted = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: private[Attribute.ID]}
    found = _search(session, wanted)
    if len(found) != 1:
        raise TokenFailureError(
            f"the token holds {len(found)} public keys for {private.label!r} where one should be"
        )
    return found[0]


def _search(session: Any, wanted: dict[Any, Any]) -> Sequence[Any]:
    """Exhausts the search: python-pkcs11 holds its lock until it is.

    A search that cannot begin leaves python-pkcs11 0.10.1 an object whose finaliser prints a
    traceback; so a lost session is noticed before, by a call that has no such habit.
    """
    session.generate_random(8)
    return list(session.get_objects(wanted))


def make_pair(session: Any, label: KeyLabel, row: Algorithm) -> tuple[Any, Any]:
    """A signature key pair, made on the token under a random CKA_ID; (public, private)."""
    parameters = session.create_domain_parameters(
        KEY_TYPES[row.scheme], {Attribute.EC_PARAMS: der.oid(row.curve or row.oid)}, local=True
    )
    public, private = parameters.generate_keypair(
        id=secrets.token_bytes(16),
        label=label,
        store=True,
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        public_template={Attribute.PRIVATE: False},
        private_template=_HELD,
    )
    return public, private


def make_wrapping_key(session: Any, label: KeyLabel, row: Algorithm) -> Any:
    """An AES key that wraps and unwraps and does nothing else."""
    return session.generate_key(
        KeyType.AES,
        row.classical_bits,
        id=secrets.token_bytes(16),
        label=label,
        store=True,
        capabilities=MechanismFlag.WRAP | MechanismFlag.UNWRAP,
        template=_HELD,
    )


def wrap_bytes(session: Any, key: Any, mechanism: Mechanism, plaintext: bytes) -> bytes:
    """Carry bytes in as a generic secret and wrap that."""
    carrier = session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
            Attribute.VALUE: plaintext,
            **_CARRIER,
        }
    )
    try:
        return bytes(key.wrap_key(carrier, mechanism=mechanism))
    finally:
        carrier.destroy()


def unwrap_bytes(key: Any, mechanism: Mechanism, ciphertext: bytes) -> bytes:
    """Unwrap as a generic secret and read that."""
    carrier = key.unwrap_key(
        ObjectClass.SECRET_KEY,
        KeyType.GENERIC_SECRET,
        ciphertext,
        mechanism=mechanism,
        capabilities=MechanismFlag(0),
        template=_CARRIER,
    )
    try:
        return bytes(carrier[Attribute.VALUE])
    finally:
        carrier.destroy()


def attributes_of(key: Any) -> KeyAttributes:
    """The attributes that decide whether a key is held."""
    return KeyAttributes(
        local=key[Attribute.LOCAL],
        sensitive=key[Attribute.SENSITIVE],
        always_sensitive=key[Attribute.ALWAYS_SENSITIVE],
        extractable=key[Attribute.EXTRACTABLE],
        never_extractable=key[Attribute.NEVER_EXTRACTABLE],
        private=key[Attribute.PRIVATE],
        on_token=key[Attribute.TOKEN],
        sign=key[Attribute.SIGN],
    )


def spki_of(public: Any, row: Algorithm) -> bytes:
    """SubjectPublicKeyInfo of a public key object.

    Raises:
        TokenFailureError: CKA_EC_POINT is neither the key nor an OCTET STRING of it.
    """
    point = bytes(public[Attribute.EC_POINT])
    size = row.public_key_size or 0
    key = point[-size:]
    # PKCS#11 wants an OCTET STRING around the point; some tokens give it bare.
    if point not in (key, der.tlv(0x04, key)):
        raise TokenFailureError(f"the token gave a public key of {row.name} in no known form")
    return der.public_key(row, key)


def row_of(private: Any) -> Algorithm:
    """The registry row of a private key on the token.

    Raises:
        TokenFailureError: The registry has no such key.
    """
    try:
        return _ROWS[private.key_type, bytes(private[Attribute.EC_PARAMS])]
    except KeyError:
        raise TokenFailureError(
            f"key {private.label!r} is on a curve that the registry does not know"
        ) from None


def signer(private: Any, module: str) -> Callable[[bytes], bytes]:
    """What signs whole messages with this key; kept and called for as long as the handle holds.

    Args:
        private: The key.
        module: Path of the module that gave it.
    """
    row = row_of(private)
    if row.scheme is Scheme.EDDSA:
        return partial(private.sign, mechanism=Mechanism.EDDSA)
    sign = direct.signer(module, private.session.handle, private.handle, Mechanism.ECDSA)
    digest = getattr(hashlib, row.digest or "")
    encoded = der.ecdsa_signature
    return lambda message: encoded(sign(digest(message).digest()))
