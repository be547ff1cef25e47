"""Full certificate revocation lists (RFC 5280 chapter 5)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from hsm_drivers.ports import KeyLabel, Purpose, Statement
from pki import der, extensions
from pki.certificates import MAX_SERIAL, Issuer
from pki.errors import LintError, PkiError
from pki.keys import signature_identifier
from pki.possession import check_signature_form
from pki.profiles import authority_profile
from policies.algorithms import Algorithm

REASON_CODES: dict[str, int] = {
    "unspecified": 0,
    "key-compromise": 1,
    "ca-compromise": 2,
    "affiliation-changed": 3,
    "superseded": 4,
    "cessation-of-operation": 5,
    "privilege-withdrawn": 9,
}
"""CRLReason (RFC 5280 5.3.1) by the name the service uses."""

VERSION_2 = der.integer(1)


@dataclass(frozen=True, slots=True)
class RevokedEntry:
    """A revoked certificate; `reason` is a key of `REASON_CODES`, the time has whole seconds."""

    serial: int
    revoked_at: datetime
    reason: str


class PreparedCrl:
    """A linted TBSCertList on its way to the signer, good for one list.

    Attributes:
        statement: What the signer is to sign.
        tbs_sha256: Hex digest of the TBSCertList, as the signer's journal will have it.
        number: CRL number.
    """

    __slots__ = ("_algorithm", "_used", "number", "statement", "tbs_sha256")

    def __init__(self, issuer: KeyLabel, algorithm: Algorithm, number: int, tbs: bytes) -> None:
        self.statement = Statement(issuer, Purpose.CRL, tbs)
        self.tbs_sha256 = hashlib.sha256(tbs).hexdigest()
        self.number = number
        self._algorithm = algorithm
        self._used = False

    def complete(self, signature: bytes) -> bytes:
        """The CRL, DER, given the signature over the statement.

        Raises:
            PkiError: It was completed before.
            ProofError: The signature does not have the algorithm's form.
        """
        if self._used:
            raise PkiError("this CRL was completed already; prepare it again")
        check_signature_form(self._algorithm, signature)
        self._used = True
        return der.sequence(
            self.statement.message,
            signature_identifier(self._algorithm),
            der.bit_string(signature),
        )


class CrlFactory:
    """Prepares one issuer's full CRLs."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self._head = VERSION_2 + signature_identifier(issuer.algorithm) + issuer.subject
        self._longest = authority_profile(issuer.name).crl_validity

    def prepare(
        self,
        number: int,
        this_update: datetime,
        next_update: datetime,
        entries: Sequence[RevokedEntry],
    ) -> PreparedCrl:
        """Build a TBSCertList; the same arguments give the same bytes, entries in serial order.

        Raises:
            LintError: Number, times or an entry are out of bounds, or a serial stands twice.
        """
        _lint(number, this_update, next_update, self._longest)
        revoked = b"".join(_encode_entries(entries))
        items = extensions.authority_key_identifier(self.issuer.key_id) + extensions.crl_number(
            number
        )
        parts = (
            self._head,
            der.time(this_update),
            der.time(next_update),
            der.tlv(der.SEQUENCE, revoked) if revoked else b"",  # 5.1.2.6: absent when empty
            der.context(0, der.sequence(items)),
        )
        tbs = der.sequence(*parts)
        return PreparedCrl(self.issuer.key, self.issuer.algorithm, number, tbs)


def _lint(number: int, this_update: datetime, next_update: datetime, longest: timedelta) -> None:
    if not 0 < number <= MAX_SERIAL:
        raise LintError("a CRL number is positive and has at most 20 octets", field="number")
    if this_update.tzinfo is None or next_update.tzinfo is None:
        raise LintError("updates are given in aware times", field="this_update")
    if this_update.microsecond or next_update.microsecond:
        raise LintError("updates are given in whole seconds", field="this_update")
    if not this_update < next_update <= this_update + longest:
        raise LintError(
            f"the next update must follow within {longest.days} days", field="next_update"
        )


def _encode_entries(entries: Sequence[RevokedEntry]) -> list[bytes]:
    encoded: list[bytes] = []
    previous = 0
    for entry in sorted(entries, key=_serial):
        serial = entry.serial
        if not previous < serial <= MAX_SERIAL:
            raise LintError("a revoked serial is out of bounds or stands twice", field="serial")
        previous = serial
        number = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
        tail = _tail(entry.revoked_at, entry.reason)
        size = len(number) + len(tail)
        encoded.append(b"%c%c\x02%c%b%b" % (der.SEQUENCE, size + 2, len(number), number, tail))
    return encoded


def _serial(entry: RevokedEntry) -> int:
    return entry.serial


@lru_cache(maxsize=4096)
def _tail(revoked_at: datetime, reason: str) -> bytes:
    """Revocation date and entry extensions: at most 33 bytes, so entries have short lengths."""
    code = REASON_CODES.get(reason)
    if code is None:
        raise LintError(f"{reason[:40]!r} is no reason to revoke", field="reason")
    if code == 0:  # 5.3.1: unspecified is said by saying nothing
        return der.time(revoked_at)
    value = der.tlv(der.ENUMERATED, bytes((code,)))
    listed = der.sequence(extensions.encode(extensions.CRL_REASON, value))
    return der.time(revoked_at) + listed
