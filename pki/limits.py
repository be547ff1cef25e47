"""What a key's record means for the statements it may sign (`pki.constraints` wrote it)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any

from hsm_drivers.ports import KeyRecord, Purpose
from pki import extensions
from pki.certificates import MAX_BACKDATE
from pki.errors import PkiError
from pki.keys import infer_algorithm, key_id, parse_public_key, signature_identifier, spki_header
from pki.profiles import SCHEME_USAGES, Count, KeyUsage
from policies.algorithms import Kind, algorithm, algorithms

MAX_AGE = timedelta(hours=24) + MAX_BACKDATE
"""How far back a certificate's validity may begin: a reservation fixes notBefore, lives at most a
day (`limits.enrolment_seconds`) and is backdated by `MAX_BACKDATE` at most."""
MAX_AHEAD = timedelta(minutes=5)
"""How far ahead it may begin: nobody reserves for later, clocks differ by less."""


class RefusalError(PkiError):
    """Why a statement will not be signed; `pki.checkers` turns it into the port's error."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What one certificate profile allows (`pki.constraints`)."""

    profile: str
    longest: timedelta
    key_usages: frozenset[KeyUsage]
    extended_key_usages: tuple[str, ...]
    uris: Count
    dns: Count
    ips: Count
    prefixes: tuple[str, ...]

    def admits(self, uris: int, dns: int, ips: int) -> bool:
        """Whether there may be so many alternative names of each type."""
        return self.uris.admits(uris) and self.dns.admits(dns) and self.ips.admits(ips)


@dataclass(frozen=True, slots=True)
class Form:
    """What leaves have in common whose extensions begin alike (`pki.familiar`).

    Attributes:
        usages: Of their key usage extension.
        shapes: Profiles that allow these, their purposes and a single URI.
    """

    usages: frozenset[KeyUsage]
    shapes: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """What follows from a key's record for every statement it signs."""

    record: KeyRecord  # kept so that its id stays taken while this stands in the cache
    source: Mapping[str, Any]
    identifier: bytes
    issuer: bytes
    authority_key: bytes  # value of the authority key identifier its statements carry
    shapes: tuple[Shape, ...]
    head: bytes = field(init=False)  # identifier and issuer, as they stand in a TBSCertificate
    forms: dict[bytes, Form] = field(default_factory=dict)  # by the extensions they begin with

    def __post_init__(self) -> None:
        object.__setattr__(self, "head", self.identifier + self.issuer)


_LIMITS: dict[tuple[int, Purpose], Limits] = {}
_MAX_LIMITS = 256


def limits_of(record: KeyRecord, purpose: Purpose) -> Limits:
    """What the record means for this purpose; worked out once per record that the signer holds.

    Raises:
        RefusalError: The key does not serve the purpose.
    """
    known = _LIMITS.get((id(record), purpose))
    if known is not None and known.record is record:
        return known
    source = record.constraints.get(purpose)
    if source is None or purpose not in record.purposes:
        raise RefusalError(f"its record has no constraints for {purpose.value}")
    prefixes = tuple(source.get("san_prefixes", ())) or ("https://",)
    limits = Limits(
        record=record,
        source=source,
        identifier=signature_identifier(algorithm(record.algorithm)),
        issuer=bytes.fromhex(source["issuer"]),
        authority_key=_extension_value(
            extensions.authority_key_identifier(key_id(known_key(record.public_key).raw))
        ),
        shapes=tuple(_shape(row, prefixes) for row in source.get("shapes", ())),
    )
    if len(_LIMITS) >= _MAX_LIMITS:
        _LIMITS.clear()
    _LIMITS[id(record), purpose] = limits
    return limits


def _extension_value(raw: bytes) -> bytes:
    return extensions.read(raw).value


def _shape(row: Mapping[str, Any], prefixes: tuple[str, ...]) -> Shape:
    return Shape(
        profile=row["profile"],
        longest=timedelta(seconds=row["max_validity"]),
        key_usages=frozenset(map(KeyUsage, row["key_usages"])),
        extended_key_usages=tuple(row["extended_key_usages"]),
        uris=Count(*row["uris"]),
        dns=Count(*row["dns"]),
        ips=Count(*row["ips"]),
        prefixes=prefixes,
    )


def check_authority_key(limits: Limits, found: Mapping[str, extensions.Extension]) -> None:
    """Refuse extensions whose authority key identifier is not the signing key's.

    Raises:
        RefusalError: It is another, or missing.
    """
    extension = found.get(extensions.AUTHORITY_KEY_IDENTIFIER)
    if extension is None or extension.value != limits.authority_key:
        raise RefusalError("its authority key identifier is not this key's")


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A subject's key: its BIT STRING's bytes, and what it can do."""

    raw: bytes
    usages: frozenset[KeyUsage]


def known_key(spki: bytes) -> KnownKey:
    """A key of an algorithm of the registry in its one encoding; a P-256 key may sign or agree.

    Raises:
        InvalidKeyError: It is none.
    """
    for header, usages in _fixed_size_rows().get(len(spki), ()):
        if spki.startswith(header):
            return KnownKey(spki[len(header) :], usages)
    row = infer_algorithm(spki, Kind.SIGNATURE)
    return KnownKey(parse_public_key(spki, row).raw, SCHEME_USAGES[row.scheme])


@lru_cache(maxsize=1)
def _fixed_size_rows() -> dict[int, list[tuple[bytes, frozenset[KeyUsage]]]]:
    """SPKI size → (SPKI header, usages), for all algorithms whose keys have one size."""
    usages: dict[tuple[int, bytes], frozenset[KeyUsage]] = {}
    for row in algorithms():
        if row.public_key_size is not None:
            header = spki_header(row)
            place = (len(header) + row.public_key_size, header)
            usages[place] = usages.get(place, frozenset()) | SCHEME_USAGES[row.scheme]
    table: dict[int, list[tuple[bytes, frozenset[KeyUsage]]]] = {}
    for (size, header), allowed in usages.items():
        table.setdefault(size, []).append((header, allowed))
    return table
