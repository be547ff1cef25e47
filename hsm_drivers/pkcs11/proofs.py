"""Whether a private key on a token belongs to a public key there: the token uses both once."""

import hmac
import secrets
from collections.abc import Callable

from pkcs11 import Attribute, ObjectClass

from hsm_drivers.pkcs11 import objects
from hsm_drivers.pkcs11.cryptoki import Attributes, Cryptoki, mechanism
from hsm_drivers.pkcs11.operations import CARRIER, Operation, prepared, raw_signature_size
from hsm_drivers.vendor import Spelling
from policies.algorithms import Algorithm, Kind, Scheme

_CHALLENGE = 32
"""Bytes; for ECDSA it stands for a digest."""


def belong_together(
    token: Cryptoki, private: int, public: int, row: Algorithm, spelling: Spelling
) -> bool:
    """Whether the one's signatures or shared secrets are the other's."""
    if row.kind is Kind.SIGNATURE:
        how = mechanism(spelling.use)
        challenge = secrets.token_bytes(_CHALLENGE)
        signature = token.signer(how, private, raw_signature_size(row))(challenge)
        return token.verifies(how, public, challenge, signature)
    agree = _agreement(token, private, row, spelling)
    sent, secret = _SENDERS[row.scheme](token, public, row, spelling)
    return hmac.compare_digest(agree(sent), secret)


def _agreement(token: Cryptoki, private: int, row: Algorithm, spelling: Spelling) -> Operation:
    agree = prepared(token, private, row, spelling).decapsulate
    if agree is None:
        raise AssertionError(f"{row.name} is no KEM")
    return agree


def _send_point(
    token: Cryptoki, public: int, row: Algorithm, spelling: Spelling
) -> tuple[bytes, bytes]:
    """A point of a pair that lives as long as this call, and the secret made with it."""
    passing = {Attribute.TOKEN: False, Attribute.SENSITIVE: False}
    ours_public, ours = token.generate_pair(
        mechanism(spelling.generate),
        {Attribute.TOKEN: False, **objects.usable(row, spelling, ObjectClass.PUBLIC_KEY)},
        {**passing, **objects.usable(row, spelling, ObjectClass.PRIVATE_KEY)},
    )
    try:
        secret = _agreement(token, ours, row, spelling)(objects.point_of(token, public, row))
        return objects.point_of(token, ours_public, row), secret
    finally:
        token.destroy(ours_public)
        token.destroy(ours)


def _encapsulate(
    token: Cryptoki, public: int, row: Algorithm, spelling: Spelling
) -> tuple[bytes, bytes]:
    template = Attributes({**CARRIER, Attribute.VALUE_LEN: 32})
    size = row.ciphertext_size or 0
    ciphertext, secret = token.encapsulate(mechanism(spelling.use), public, size, template)
    return ciphertext, token.value_once(secret, 32)


_SENDERS: dict[Scheme, Callable[[Cryptoki, int, Algorithm, Spelling], tuple[bytes, bytes]]] = {
    Scheme.DHKEM_EC: _send_point,
    Scheme.DHKEM_X: _send_point,
    Scheme.ML_KEM: _encapsulate,
}
