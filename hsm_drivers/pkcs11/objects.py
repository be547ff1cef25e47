"""Key objects on a token: how they are asked for, made, found and read.

All errors are python-pkcs11's, but for what a token holds that cannot be.
"""

import contextlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pkcs11 import Attribute, ObjectClass, PKCS11Error

from hsm_drivers import der, vendor
from hsm_drivers.errors import TokenFailureError
from hsm_drivers.pkcs11.cryptoki import Cryptoki, Template, mechanism, number
from hsm_drivers.ports import KeyAttributes, KeyLabel
from hsm_drivers.vendor import CurveName, Profile, Spelling, Wraps
from policies.algorithms import Algorithm, Kind, Scheme, algorithms

MADE = frozenset(
    {
        Scheme.ECDSA,
        Scheme.EDDSA,
        Scheme.ML_DSA,
        Scheme.DHKEM_EC,
        Scheme.DHKEM_X,
        Scheme.ML_KEM,
        Scheme.AES_KWP,
        Scheme.AES_GCM,
        Scheme.HMAC,
    }
)
"""Schemes that keys are made for on a token."""
_ON_CURVES = {Scheme.ECDSA, Scheme.EDDSA, Scheme.DHKEM_EC, Scheme.DHKEM_X}
_CURVE_NAMES = {"1.3.101.112": b"edwards25519", "1.3.101.110": b"curve25519"}
"""Curves that may be named by PrintableString (PKCS#11 3.1, 6.3.3)."""
_PARAMETER_SETS = {1312: 1, 1952: 2, 2592: 3, 800: 1, 1184: 2, 1568: 3}
"""CKP_ML_DSA_… and CKP_ML_KEM_… by the size of the public key (PKCS#11 3.2)."""
_SECRETS = (ObjectClass.PRIVATE_KEY, ObjectClass.SECRET_KEY)
_SECRET_USES = (
    Attribute.ENCRYPT,
    Attribute.DECRYPT,
    Attribute.SIGN,
    Attribute.VERIFY,
    Attribute.WRAP,
    Attribute.UNWRAP,
)
_PRIVATE_USES = (Attribute.SIGN, Attribute.DERIVE, Attribute.DECRYPT, Attribute.UNWRAP)
_PUBLIC_USES = (Attribute.VERIFY, Attribute.ENCRYPT, Attribute.WRAP)
_USES: Mapping[Scheme, frozenset[Attribute]] = {
    Scheme.ECDSA: frozenset({Attribute.SIGN, Attribute.VERIFY}),
    Scheme.EDDSA: frozenset({Attribute.SIGN, Attribute.VERIFY}),
    Scheme.ML_DSA: frozenset({Attribute.SIGN, Attribute.VERIFY}),
    Scheme.DHKEM_EC: frozenset({Attribute.DERIVE}),
    Scheme.DHKEM_X: frozenset({Attribute.DERIVE}),
    Scheme.ML_KEM: frozenset({Attribute.ENCAPSULATE, Attribute.DECAPSULATE}),
    Scheme.AES_KWP: frozenset({Attribute.WRAP, Attribute.UNWRAP}),
    Scheme.AES_GCM: frozenset({Attribute.ENCRYPT, Attribute.DECRYPT}),
    Scheme.HMAC: frozenset({Attribute.SIGN, Attribute.VERIFY}),
}
"""What keys of a scheme are for; everything else is denied them."""
_TELLING = (
    Attribute.CLASS,
    Attribute.KEY_TYPE,
    Attribute.ID,
    Attribute.EC_PARAMS,
    Attribute.PARAMETER_SET,
    Attribute.VALUE_LEN,
    Attribute.SIGN,
    Attribute.DERIVE,
    Attribute.WRAP,
    Attribute.ENCRYPT,
)
"""Attributes that tell what a key is."""


@dataclass(frozen=True, slots=True)
class Found:
    """A private or secret key on the token.

    Attributes:
        handle: CK_OBJECT_HANDLE.
        key_id: CKA_ID.
        row: The registry's row for it.
    """

    handle: int
    key_id: bytes
    row: Algorithm


def held(*, transferable: bool) -> dict[int, bool]:
    """Attributes of a key that stays on its token, or leaves it under a trusted key alone."""
    held = {
        Attribute.TOKEN: True,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: transferable,
    }
    return {**held, Attribute.WRAP_WITH_TRUSTED: True} if transferable else held


def secrets_labelled(token: Cryptoki, label: KeyLabel | None) -> list[int]:
    """Handles of private and secret keys, all or those of one label."""
    labelled: dict[int, str] = {} if label is None else {Attribute.LABEL: label}
    return [
        handle for kind in _SECRETS for handle in token.find({Attribute.CLASS: kind, **labelled})
    ]


def label_of(token: Cryptoki, handle: int) -> KeyLabel:
    """CKA_LABEL; a label that is no UTF-8 is no key of ours, and readable all the same."""
    return KeyLabel(
        token.read(handle, (Attribute.LABEL,))[Attribute.LABEL].decode(errors="replace")
    )


def id_of(token: Cryptoki, handle: int) -> bytes:
    """CKA_ID."""
    return token.read(handle, (Attribute.ID,)).get(Attribute.ID, b"")


def public_of(token: Cryptoki, key: Found, label: KeyLabel) -> int:
    """Handle of the public half.

    Raises:
        TokenFailureError: There is none, or two.
    """
    found = publics_of(token, key.key_id)
    if len(found) != 1:
        raise TokenFailureError(
            f"the token holds {len(found)} public keys for {label!r} where one should be"
        )
    return found[0]


def publics_of(token: Cryptoki, key_id: bytes) -> list[int]:
    """Handles of the public halves of a key."""
    return token.find({Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: key_id})


def make(
    token: Cryptoki, label: KeyLabel, row: Algorithm, spelling: Spelling, *, transferable: bool
) -> tuple[int, int | None]:
    """A key made on the token under a fresh CKA_ID: its handle and that of its public half.

    What a token leaves behind of a failed attempt is removed: NSS softoken may lose a key when
    another is stored under its CKA_ID, so that an id is never used twice.
    """
    identity: Template = {Attribute.ID: secrets.token_bytes(16), Attribute.LABEL: label}
    secret = {**identity, **held(transferable=transferable)}
    how = mechanism(spelling.generate)
    try:
        if is_secret(row):
            usage = usable(row, spelling, ObjectClass.SECRET_KEY)
            size = {Attribute.VALUE_LEN: secret_size(row)}
            return token.generate(how, {**secret, **usage, **size}), None
        public = {**identity, Attribute.TOKEN: True, Attribute.PRIVATE: False}
        public_half, private_half = token.generate_pair(
            how,
            {**public, **usable(row, spelling, ObjectClass.PUBLIC_KEY)},
            {**secret, **usable(row, spelling, ObjectClass.PRIVATE_KEY)},
        )
    except BaseException:
        remove(token, identity)
        raise
    return private_half, public_half


def is_secret(row: Algorithm) -> bool:
    """Whether keys of the algorithm have no public half."""
    return row.kind in (Kind.WRAP, Kind.CIPHER, Kind.MAC)


def usable(row: Algorithm, spelling: Spelling, kind: ObjectClass) -> dict[int, Any]:
    """What a key object is, and is for; of a public half also its curve or parameter set."""
    uses = {
        ObjectClass.SECRET_KEY: _SECRET_USES,
        ObjectClass.PRIVATE_KEY: _PRIVATE_USES,
        ObjectClass.PUBLIC_KEY: _PUBLIC_USES,
    }[kind]
    made = {Attribute.CLASS: kind, Attribute.KEY_TYPE: spelling.key_type, **_permitted(row, uses)}
    if row.scheme is Scheme.AES_KWP and spelling.wraps is Wraps.AS_CIPHER:
        made |= {Attribute.ENCRYPT: True, Attribute.DECRYPT: True}
    is_public = kind is ObjectClass.PUBLIC_KEY
    if row.scheme is Scheme.ML_KEM:  # the attributes of a KEM are unknown to older tokens
        made[Attribute.ENCAPSULATE if is_public else Attribute.DECAPSULATE] = True
    return {**made, **_parameters(row, spelling)} if is_public else made


def _permitted(row: Algorithm, uses: tuple[Attribute, ...]) -> dict[int, bool]:
    return {use: use in _USES[row.scheme] for use in uses}


def _parameters(row: Algorithm, spelling: Spelling) -> dict[int, bytes | int]:
    """What names the curve or the parameter set of a key."""
    if row.scheme not in _ON_CURVES:
        return {Attribute.PARAMETER_SET: _PARAMETER_SETS[row.public_key_size or 0]}
    oid = row.curve or row.oid
    if spelling.curve is CurveName.NAME and oid in _CURVE_NAMES:
        return {Attribute.EC_PARAMS: der.tlv(0x13, _CURVE_NAMES[oid])}
    return {Attribute.EC_PARAMS: der.oid(oid)}


def secret_size(row: Algorithm) -> int:
    """Bytes of a secret key; of an HMAC's as many as it answers (RFC 2104, section 3).

    The size also tells HMAC keys of different hashes apart.
    """
    if row.scheme is Scheme.HMAC:
        return {"sha256": 32, "sha512": 64}[row.digest or ""]
    return row.classical_bits // 8


def remove(token: Cryptoki, identity: Template) -> None:
    """Destroy what carries this CKA_ID, as far as the token lets us: another error is underway."""
    with contextlib.suppress(PKCS11Error):
        for handle in token.find({Attribute.ID: identity[Attribute.ID]}):
            token.destroy(handle)


def read(token: Cryptoki, handle: int, profile: Profile) -> tuple[Found, Spelling]:
    """What a private or secret key is, and how it is used.

    Raises:
        TokenFailureError: The registry has no such key.
    """
    told = token.read(handle, _TELLING)
    for row in algorithms():
        spelled = vendor.spelling_of(profile, row) if row.scheme in MADE else None
        if spelled is not None and _is(row, spelled, told):
            return Found(handle, told.get(Attribute.ID, b""), row), spelled
    raise TokenFailureError(
        f"key {label_of(token, handle)!r} is of a kind that the registry does not know"
    )


def fits(token: Cryptoki, handle: int, row: Algorithm, spelling: Spelling) -> bool:
    """Whether an object is a key of that row, as far as the token tells."""
    return _is(row, spelling, token.read(handle, _TELLING))


def _is(row: Algorithm, spelling: Spelling, told: Mapping[int, bytes]) -> bool:
    """Whether what is told of a key fits a row: kind, use, and parameters or size."""
    if number(told.get(Attribute.KEY_TYPE, b"\xff")) != spelling.key_type:
        return False
    uses = _USES[row.scheme] & set(_TELLING)
    if not all(_true(told, use) for use in uses):
        return False
    if row.scheme in _ON_CURVES:
        oid = row.curve or row.oid
        named = der.tlv(0x13, _CURVE_NAMES[oid]) if oid in _CURVE_NAMES else b""
        return told.get(Attribute.EC_PARAMS) in (der.oid(oid), named)
    if row.scheme in (Scheme.ML_DSA, Scheme.ML_KEM):
        parameters = told.get(Attribute.PARAMETER_SET, b"")
        return number(parameters) == _PARAMETER_SETS[row.public_key_size or 0]
    told_size = number(told.get(Attribute.VALUE_LEN, b""))
    # SoftHSM2 forgets the size of what it unwraps; the registry's AES keys have one size only.
    unknown = told_size == 0 and row.scheme is not Scheme.HMAC
    return unknown or told_size == secret_size(row)


def _true(told: Mapping[int, bytes], attribute: int) -> bool:
    return told.get(attribute) == b"\x01"


def attributes_of(token: Cryptoki, handle: int, profile: Profile) -> KeyAttributes:
    """The attributes that decide whether a key is held; what a token does not tell is not so.

    Where CKA_LOCAL does not tell, being born on the token follows from two others, which a key that
    was imported or unwrapped never has (PKCS#11 3.1, 4.9: CKA_ALWAYS_SENSITIVE and
    CKA_NEVER_EXTRACTABLE).
    """
    wanted = {
        "local": Attribute.LOCAL,
        "sensitive": Attribute.SENSITIVE,
        "always_sensitive": Attribute.ALWAYS_SENSITIVE,
        "extractable": Attribute.EXTRACTABLE,
        "never_extractable": Attribute.NEVER_EXTRACTABLE,
        "private": Attribute.PRIVATE,
        "on_token": Attribute.TOKEN,
        "sign": Attribute.SIGN,
        "wrap_with_trusted": Attribute.WRAP_WITH_TRUSTED,
    }
    told = token.read(handle, tuple(wanted.values()))
    made = KeyAttributes(**{name: _true(told, attribute) for name, attribute in wanted.items()})
    if profile.attributes.tells_local:
        return made
    return replace(made, local=made.always_sensitive and made.never_extractable)


def is_trusted(token: Cryptoki, handle: int) -> bool:
    """CKA_TRUSTED."""
    return _true(token.read(handle, (Attribute.TRUSTED,)), Attribute.TRUSTED)


def spki_of(token: Cryptoki, public: int, row: Algorithm) -> bytes:
    """SubjectPublicKeyInfo of a public key object.

    Raises:
        TokenFailureError: As `point_of`.
    """
    return der.public_key(row, point_of(token, public, row))


def point_of(token: Cryptoki, public: int, row: Algorithm) -> bytes:
    """A public key as it stands in an SPKI.

    Raises:
        TokenFailureError: The token gives neither the key nor an OCTET STRING of it.
    """
    where = Attribute.EC_POINT if row.scheme in _ON_CURVES else Attribute.VALUE
    told = token.read(public, (where,)).get(where, b"")
    key = told[-(row.public_key_size or 0) :]
    # PKCS#11 wants an OCTET STRING around a point; some tokens give it bare.
    forms = (key, der.tlv(0x04, key)) if row.scheme in _ON_CURVES else (key,)
    if len(key) != row.public_key_size or told not in forms:
        raise TokenFailureError(f"the token gave a public key of {row.name} in no known form")
    return key
