"""Keys that are well-formed and must not be certified: an attacker may know or compute them.

RSA goes through the checks of `badkeys` that need no download; points of low order follow RFC 7748
and RFC 8032; blocklists are files in the format that `badkeys` publishes, where configured.
"""

import hashlib
import json
import math
import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import badkeys

from pki.errors import WeakKeyError
from pki.keys import PublicKey, fingerprints
from policies.algorithms import Scheme

_RSA_CHECKS = (
    "rsainvalid",
    "smallfactors",
    "fermat",
    "roca",
    "rsapoly",
    "sharedprimes",
    "smalld",
    "rsabias",
    "pattern",
)
_LEAST_EXPONENT = 65537  # FIPS 186-5 A.1.1: 2^16 < e < 2^256, odd

_P25519 = 2**255 - 19
_ORDER_8 = (  # RFC 7748 curve25519: u of the points of order 8
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
_X25519_LOW = frozenset({0, 1, _P25519 - 1, *_ORDER_8})
# The same points on edwards25519: y = (u - 1) / (u + 1), with 1 for the neutral element.
_ED25519_LOW = frozenset(
    {0, 1, _P25519 - 1} | {(u - 1) * pow(u + 1, -1, _P25519) % _P25519 for u in _ORDER_8}
)


@dataclass(frozen=True, slots=True)
class Blocklist:
    """Hashes of keys whose private half is public; made by `open_blocklist`."""

    _records: mmap.mmap = field(repr=False)
    _names: dict[int, str] = field(repr=False)

    def find(self, key: PublicKey) -> str | None:
        """Name of the list that knows one of the key's components."""
        for algorithm, raw in key.parts():
            number = self._lookup(_listed_value(algorithm.scheme, raw, key.modulus))
            if number is not None:
                return self._names.get(number, f"list {number}")
        return None

    def _lookup(self, value: bytes) -> int | None:
        """Binary search in sorted records of 15 bytes of SHA-256 and one of list number."""
        wanted = hashlib.sha256(value).digest()[:15]
        low, high = 0, len(self._records) // 16
        while low < high:
            middle = (low + high) // 2
            record = self._records[16 * middle : 16 * middle + 16]
            if record[:15] == wanted:
                return record[15]
            if record[:15] < wanted:
                low = middle + 1
            else:
                high = middle
        return None


def _listed_value(scheme: Scheme, raw: bytes, modulus: int | None) -> bytes:
    """What the blocklists hash: modulus, x coordinate or raw key; no leading zeros."""
    if modulus is not None:
        return modulus.to_bytes((modulus.bit_length() + 7) // 8, "big")
    if scheme in {Scheme.ECDSA, Scheme.DHKEM_EC}:
        return raw[1 : len(raw) // 2 + 1].lstrip(b"\x00")
    if scheme in {Scheme.EDDSA, Scheme.DHKEM_X}:
        return raw.lstrip(b"\x00")
    return raw


def blocklist_available(directory: Path | None) -> bool:
    """Whether a directory holds a blocklist; without one, `doctor` warns."""
    return directory is not None and (directory / "blocklist.dat").is_file()


def open_blocklist(directory: Path) -> Blocklist:
    """Map `blocklist.dat` and read `badkeysdata.json` beside it.

    Raises:
        OSError: A file is missing or unreadable.
        ValueError: A file has another format.
    """
    with (directory / "blocklist.dat").open("rb") as file:
        records = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if len(records) % 16:
        raise ValueError(f"{directory}/blocklist.dat is not made of records of 16 bytes")
    index = json.loads((directory / "badkeysdata.json").read_text("utf-8"))
    return Blocklist(records, {int(row["id"]): str(row["name"]) for row in index["blocklists"]})


def check(key: PublicKey, blocklists: Iterable[Blocklist] = ()) -> None:
    """Refuse a weak key; invalid ones were refused when the key was parsed.

    Messages name the weakness and never a factor, which would be the private key.

    Raises:
        WeakKeyError: An attacker may know or compute the private key.
    """
    for algorithm, raw in key.parts():
        if algorithm.scheme is Scheme.DHKEM_X:
            _check_x25519(raw)
        elif algorithm.scheme is Scheme.EDDSA:
            _check_ed25519(raw)
    if key.modulus is not None and key.exponent is not None:
        _check_rsa(key.modulus, key.exponent)
    for blocklist in blocklists:
        name = blocklist.find(key)
        if name is not None:
            raise WeakKeyError(f"the private key is public: {name} lists it", field="spki")


def _check_x25519(raw: bytes) -> None:
    u = int.from_bytes(raw, "little")
    if u >= _P25519:
        raise WeakKeyError("the X25519 key is not written canonically", field="spki")
    if u in _X25519_LOW:
        raise WeakKeyError("the X25519 key is a point of low order", field="spki")


def _check_ed25519(raw: bytes) -> None:
    y = int.from_bytes(raw, "little") & ((1 << 255) - 1)
    if y >= _P25519:
        raise WeakKeyError("the Ed25519 key is not written canonically", field="spki")
    if y in _ED25519_LOW:
        raise WeakKeyError("the Ed25519 key is a point of low order", field="spki")


def _check_rsa(modulus: int, exponent: int) -> None:
    if exponent < _LEAST_EXPONENT or exponent % 2 == 0 or exponent.bit_length() > 256:
        raise WeakKeyError("the RSA exponent is not odd between 2^16 and 2^256", field="spki")
    found = badkeys.checkrsa(modulus, e=exponent, checks=_RSA_CHECKS)
    if found:
        raise WeakKeyError(f"the RSA key fails the check {next(iter(found))}", field="spki")


def repeated_components(keys: Sequence[PublicKey]) -> tuple[int, ...]:
    """Positions of keys with a component that an earlier key, or the key itself, has already."""
    seen: set[str] = set()
    repeated: list[int] = []
    for position, key in enumerate(keys):
        own = fingerprints(key)
        if len(set(own)) != len(own) or not seen.isdisjoint(own):
            repeated.append(position)
        seen.update(own)
    return tuple(repeated)


def shared_factor(modulus: int, known: Iterable[int]) -> bool:
    """Whether a modulus has a factor in common with one that is known, or is one of them.

    The product of all is kept modulo the candidate, so it never grows, and one gcd ends it. The
    cost is linear: ten thousand known moduli of 3072 bits take about half a second, so ask once per
    key.
    """
    product = 1
    for other in known:
        product = product * other % modulus
    return math.gcd(modulus, product) != 1
