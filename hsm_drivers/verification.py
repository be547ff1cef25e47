"""What a token signed is verified, with the public key of the key's record, before it is released.

Tokens, their libraries and the links to them fail, and a wrong signature under a log's head or a
CRL harms everybody. A verification costs about as much as a signature, so of ordinary certificates
one in each batch stands for the others, chosen at random: a token that is broken shows at once, a
single flipped bit may pass. That one harms one device, which verifies what it gets.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_drivers.ports import KeyLabel, KeyRecord, Purpose, Statement
from policies.algorithms import Algorithm, Kind, Scheme, algorithm, algorithms

Signed = tuple[Statement, bytes]
"""A statement and the signature that the token made of it."""
Verify = Callable[[bytes, bytes], None]
"""Takes signature and message; raises `InvalidSignature`."""

_DIGESTS: dict[str | None, type[hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}


class Verification:
    """Finds wrong signatures; a key that made one is never again believed without a look.

    Attributes:
        wrong: Per key, how many of its signatures were wrong since this process began.
    """

    def __init__(self) -> None:
        self.wrong: dict[KeyLabel, int] = {}
        self._verifiers: dict[KeyLabel, Verify] = {}

    def find_wrong(self, record: KeyRecord, signed: Mapping[int, Signed]) -> set[int]:
        """Places of wrong signatures among those that one key made in one batch, by place."""
        found = self._wrong_among(record, signed, self._chosen(record, signed))
        if found:
            found = self._wrong_among(record, signed, signed)
            self.wrong[record.label] = self.wrong.get(record.label, 0) + len(found)
        return found

    @property
    def notice(self) -> str:
        """What was found, as a sentence; empty for nothing."""
        if not self.wrong:
            return ""
        counts = ", ".join(f"{number} of key {label!r}" for label, number in self.wrong.items())
        return f"the token made wrong signatures, which were withheld: {counts}"

    def _chosen(self, record: KeyRecord, signed: Mapping[int, Signed]) -> Iterable[int]:
        """All that many rely on; of other certificates a random one."""
        if record.label in self.wrong:
            return signed
        rest = [at for at, (statement, _) in signed.items() if _ordinary(record, statement)]
        return signed.keys() - set(rest) | ({secrets.choice(rest)} if rest else set())

    def _wrong_among(
        self, record: KeyRecord, signed: Mapping[int, Signed], places: Iterable[int]
    ) -> set[int]:
        if record.label not in self._verifiers:
            self._verifiers[record.label] = verifier(algorithm(record.algorithm), record.public_key)
        verify = self._verifiers[record.label]
        return {at for at in places if not _is_right(verify, *signed[at])}


def _is_right(verify: Verify, statement: Statement, signature: bytes) -> bool:
    try:
        verify(signature, statement.message)
    except InvalidSignature:
        return False
    return True


def _ordinary(record: KeyRecord, statement: Statement) -> bool:
    """A certificate that harms no more than its holder: not what is signed in ceremonies."""
    return (
        statement.purpose is Purpose.CERTIFICATE and statement.purpose not in record.ceremony_only
    )


def verifiable(name: str) -> bool:
    """Whether signatures of that algorithm can be verified here."""
    return any(row.name == name for row in algorithms(Kind.SIGNATURE) if row.scheme in _SCHEMES)


def verifier(row: Algorithm, spki: bytes) -> Verify:
    """What verifies signatures of a key; of an algorithm that is `verifiable`."""
    return _SCHEMES[row.scheme](load_der_public_key(spki), row)


def _ecdsa(key: Any, row: Algorithm) -> Verify:
    return partial(key.verify, signature_algorithm=ec.ECDSA(_DIGESTS[row.digest]()))


def _pure(key: Any, _row: Algorithm) -> Verify:
    verify: Verify = key.verify
    return verify


_SCHEMES: dict[Scheme, Callable[[Any, Algorithm], Verify]] = {
    Scheme.ECDSA: _ecdsa,
    Scheme.EDDSA: _pure,
    Scheme.ML_DSA: _pure,
}
