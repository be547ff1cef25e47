"""What a signer remembers of what it signed, and which statement may come next.

These rules need no knowledge of logs or X.509 and hold whatever the checkers say: a log never
shrinks, changes or goes on after a later one of its key began; the numbers of a key's CRLs go up
(RFC 5280 5.2.3), not far at a time.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from hsm_drivers.errors import StatementRefusedError
from hsm_drivers.ports import Head, KeyLabel

MAX_CRL_STEP = 1_000_000
"""How far a CRL's number may lie above the last: reserved numbers come to nothing in outages, but
one taken-over minute must not use up the 20 octets that RFC 5280 has."""
_MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class SignedHead:
    """The last head signed for a log; `key` is None where no key was kept with it yet."""

    origin: str
    size: int
    root: bytes
    key: KeyLabel | None = None

    @property
    def head(self) -> Head:
        """Without the key."""
        return Head(self.origin, self.size, self.root)


@dataclass(frozen=True, slots=True)
class SignedCrl:
    """The last CRL that a key signed; `digest` is the SHA-256 of its TBSCertList."""

    key: KeyLabel
    number: int
    digest: bytes


class Draft:
    """What a batch adds to the memory: each statement is judged after those before it.

    Attributes:
        heads: Heads that this batch moved, by origin.
        crls: Last CRLs of this batch, by key.
    """

    def __init__(self, heads: Mapping[str, SignedHead], crls: Mapping[KeyLabel, SignedCrl]) -> None:
        """Begin with what was remembered before: heads in the order in which their logs began."""
        self._heads = heads
        self._crls = crls
        self.heads: dict[str, SignedHead] = {}
        self.crls: dict[KeyLabel, SignedCrl] = {}

    def head(self, origin: str) -> Head | None:
        """The last head of an origin."""
        signed = self.heads.get(origin) or self._heads.get(origin)
        return None if signed is None else signed.head

    def advance(self, key: KeyLabel, origin: str, new: Head | None) -> None:
        """Move an origin to the head that its checker accepted; a second look after the checker's.

        Raises:
            StatementRefusedError: The log may not go there.
        """
        if new is None or new.origin != origin:
            raise StatementRefusedError(
                f"the check of a checkpoint of {origin!r} named no head of it"
            )
        self._refuse_ended(key, origin)
        last = self.head(origin)
        if last is not None and new.size < last.size:
            raise StatementRefusedError(
                f"log {origin!r} was signed at size {last.size}; it never shrinks to {new.size}"
            )
        if last is not None and new.size == last.size and new.root != last.root:
            raise StatementRefusedError(
                f"log {origin!r} was signed at size {last.size} with another root"
            )
        self.heads[origin] = SignedHead(origin, new.size, new.root, key)

    def confirm(self, head: Head | None) -> None:
        """Accept a cosignature of the very head that its log's key signed last, in its own epoch.

        Raises:
            StatementRefusedError: It is of another head, or of a log that ended.
        """
        origin = "" if head is None else head.origin
        signed = self.heads.get(origin) or self._heads.get(origin)
        if signed is None or signed.head != head:
            raise StatementRefusedError(
                f"log {origin!r}: only the head that its own key signed last is cosigned"
            )
        self._refuse_ended(signed.key, origin)

    def _refuse_ended(self, key: KeyLabel | None, origin: str) -> None:
        """A key has one log at a time: the last to begin, in a ceremony, ended those before it."""
        began = list((dict(self._heads) | self.heads).values())
        places = [place for place, signed in enumerate(began, 1) if signed.origin == origin]
        for later in began[places[0] :] if places else []:
            if later.key in {key, None}:
                raise StatementRefusedError(
                    f"log {origin!r} ended when {later.origin!r} began; it is never signed again"
                )

    def number(self, key: KeyLabel, reference: str, digest: bytes) -> None:
        """Take the number of a CRL that its checker accepted.

        The very list that was signed last may be signed again: its answer may have been lost.

        Raises:
            StatementRefusedError: The number is not above the last one, or too far above.
        """
        number = crl_number(reference)
        if number is None:
            raise StatementRefusedError(f"{reference!r} is no CRL number of {_MAX_DIGITS} digits")
        last = self.crls.get(key) or self._crls.get(key)
        if last is not None and (number, digest) == (last.number, last.digest):
            return
        floor = 0 if last is None else last.number
        if not floor < number <= floor + MAX_CRL_STEP:
            raise StatementRefusedError(
                f"key {key!r} signed CRL number {floor} last: the next is above it by at most"
                f" {MAX_CRL_STEP}, not {number}"
            )
        self.crls[key] = SignedCrl(key, number, digest)


def crl_number(reference: str) -> int | None:
    """The number that a CRL's journal reference is; None for what no honest service reaches."""
    plain = reference.isascii() and reference.isdecimal() and len(reference) <= _MAX_DIGITS
    return int(reference) if plain else None
