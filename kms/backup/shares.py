"""Shares of a recovery key: any quorum of them rebuilds its seed, fewer say nothing about it. Pure.

Shamir's scheme ("How to share a secret", CACM 22(11), 1979), byte by byte over GF(2^8) with the
polynomial of AES (FIPS 197, 4.2): share `x` holds the values at `x` of polynomials whose constant
terms are the seed. Sharing and joining happen off line, so that time tells nobody anything.

A share is 50 bytes, written as five lines that can be printed, read out and typed:

    version (1)  key id (8)  quorum (1)  shares (1)  number (1)  values (32)  check (6)
    1  ABCD EFGH IJKL MNOP  QRST

Each line has ten bytes in base32 (RFC 4648; 0, 1 and 8 are read as O, I and B) and a check group of
its own, so that a mistake is named by its line. Checks are beginnings of SHA-256: they find
mistakes, not forgeries. Those show by the digests that the recovery key's public half carries.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kms.backup.errors import SharesError

SEED_SIZE = 32
KEY_ID_SIZE = 8
MAX_SHARES = 32
MIN_QUORUM = 2
"""One share alone would be the key itself, in one person's hands."""
MAX_TEXT = 16_384
"""Largest file of a share in bytes."""

_VERSION = 1
_CHECK_SIZE = 6
_LINE_SIZE = 10
_LINES = 5
_LINE = re.compile(r"\s*([0-9])[.:)]?\s+([A-Za-z0-9 \t-]+?)\s*")
_ALIKE = str.maketrans("018", "OIB")
_DIGEST_LABEL = b"sovereign-kms/backup/share/v1\x00"


@dataclass(frozen=True, slots=True)
class Share:
    """One officer's part of a recovery key.

    Attributes:
        key: Id of the recovery key, hex.
        quorum: How many shares rebuild the seed.
        shares: How many there are.
        number: From 1; the place at which the polynomials were evaluated.
        values: Their values there; secret.
    """

    key: str
    quorum: int
    shares: int
    number: int
    values: bytes = field(repr=False)

    def digest(self) -> str:
        """What the recovery key's public half knows the share by, hex.

        The values are as long and as random as a key, so their hash tells nobody anything.
        """
        return hashlib.sha256(_DIGEST_LABEL + bytes([self.number]) + self.values).hexdigest()

    def text(self) -> str:
        """Five lines that `parse` reads, on paper or in a file."""
        data = self._encode()
        parts = [data[at : at + _LINE_SIZE] for at in range(0, len(data), _LINE_SIZE)]
        return "".join(_line(number, part) for number, part in enumerate(parts, 1))

    def _encode(self) -> bytes:
        counts = bytes([self.quorum, self.shares, self.number])
        data = bytes([_VERSION]) + bytes.fromhex(self.key) + counts + self.values
        return data + _check(data)


def parse(text: str, where: str) -> Share:
    """Read a share; lines that are none of its five are passed over, so a whole file may be given.

    Args:
        text: A file's content, or what somebody typed.
        where: Names it in messages.

    Raises:
        SharesError: A line is missing, mistyped or there twice, or the lines are not of one share.
    """
    if len(text) > MAX_TEXT:
        raise SharesError(f"{where}: larger than {MAX_TEXT} bytes; this is no share")
    found: dict[int, bytes] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        letters = re.sub(r"[\s-]", "", match[2]).upper() if match else ""
        if match is None or len(letters) != 20:
            continue
        number = int(match[1])
        if number in found:
            raise SharesError(f"{where}: line {number} is there twice; give one share a file")
        found[number] = _read_line(number, letters, where)
    missing = [str(number) for number in range(1, _LINES + 1) if number not in found]
    if missing:
        raise SharesError(f"{where}: line {', '.join(missing)} of a share's five is missing")
    return _decode(b"".join(found[number] for number in range(1, _LINES + 1)), where)


def split(seed: bytes, key: str, quorum: int, shares: int) -> tuple[Share, ...]:
    """Divide a seed so that any `quorum` of the shares rebuild it.

    Raises:
        SharesError: Not at least two of at most `MAX_SHARES`.
    """
    if not MIN_QUORUM <= quorum <= shares <= MAX_SHARES:
        raise SharesError(
            f"a quorum of {quorum} of {shares} shares is not possible: at least {MIN_QUORUM},"
            f" and at most as many as there are shares, which are {MAX_SHARES} at most"
        )
    polynomials = [bytes([byte]) + secrets.token_bytes(quorum - 1) for byte in seed]
    return tuple(
        Share(key, quorum, shares, x, bytes(_evaluate(item, x) for item in polynomials))
        for x in range(1, shares + 1)
    )


def join(shares: Sequence[Share]) -> bytes:
    """Rebuild the seed from exactly a quorum; whether it is the right one shows elsewhere."""
    places = [share.number for share in shares]
    weights = [_weight(place, places) for place in places]
    columns = zip(*(share.values for share in shares), strict=True)
    return bytes(_sum_of_products(weights, column) for column in columns)


def of_one_key(
    shares: Mapping[str, Share], key: str, quorum: int, digests: Sequence[str]
) -> list[Share]:
    """A quorum of the shares, each known to the recovery key.

    Args:
        shares: By the name of where each comes from.
        key: Id of the recovery key.
        quorum: How many of its shares rebuild it.
        digests: What its public half knows the shares by, in order.

    Raises:
        SharesError: One is of another key, was altered, or is there twice; or they are too few.
    """
    chosen: dict[int, Share] = {}
    for where, share in shares.items():
        if share.key != key:
            raise SharesError(f"{where}: a share of recovery key {share.key}, not of {key}")
        known = digests[share.number - 1] if share.number <= len(digests) else ""
        if not secrets.compare_digest(share.digest(), known):
            raise SharesError(
                f"{where}: not the share number {share.number} that recovery key {key} was"
                " divided into: it was altered. Ask its holder for the original"
            )
        if share.number in chosen:
            raise SharesError(f"{where}: share {share.number} is given twice")
        chosen[share.number] = share
    if len(chosen) < quorum:
        raise SharesError(
            f"{len(chosen)} of the {quorum} shares that recovery key {key} needs were given;"
            " --share FILE names each one"
        )
    return list(chosen.values())[:quorum]


def _line(number: int, part: bytes) -> str:
    letters = base64.b32encode(part).decode() + _line_check(number, part)
    groups = [letters[at : at + 4] for at in range(0, len(letters), 4)]
    return f"{number}  {' '.join(groups[:-1])}  {groups[-1]}\n"


def _read_line(number: int, letters: str, where: str) -> bytes:
    letters = letters.translate(_ALIKE)
    try:
        part = base64.b32decode(letters[:16])
    except ValueError:  # 9
        part = b""
    if not part or _line_check(number, part) != letters[16:]:
        raise SharesError(f"{where}: line {number} is mistyped; compare it with the paper")
    return part


def _line_check(number: int, part: bytes) -> str:
    """Four letters: a mistyped line passes once in a million."""
    return base64.b32encode(hashlib.sha256(bytes([number]) + part).digest()[:5]).decode()[:4]


def _check(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_CHECK_SIZE]


def _decode(data: bytes, where: str) -> Share:
    body, check = data[:-_CHECK_SIZE], data[-_CHECK_SIZE:]
    if check != _check(body):
        raise SharesError(f"{where}: its five lines are not of one share")
    if body[0] != _VERSION:
        raise SharesError(f"{where}: a share of version {body[0]}; this program reads {_VERSION}")
    quorum, shares, number = body[9:12]
    if not (MIN_QUORUM <= quorum <= shares <= MAX_SHARES and 1 <= number <= shares):
        raise SharesError(f"{where}: no share has number {number} of {shares}, quorum {quorum}")
    return Share(body[1:9].hex(), quorum, shares, number, body[12:])


def _tables() -> tuple[bytes, bytes]:
    """Powers of the generator 3, twice over so that sums of two logarithms need no division."""
    powers, logarithms, value = bytearray(510), bytearray(256), 1
    for exponent in range(255):
        powers[exponent] = powers[exponent + 255] = value
        logarithms[value] = exponent
        value ^= (value << 1) ^ (0x11B if value & 0x80 else 0)
    return bytes(powers), bytes(logarithms)


_POWERS, _LOGARITHMS = _tables()


def multiply(a: int, b: int) -> int:
    """Product in GF(2^8)."""
    return _POWERS[_LOGARITHMS[a] + _LOGARITHMS[b]] if a and b else 0


def divide(a: int, b: int) -> int:
    """Quotient in GF(2^8); `b` is not 0."""
    return _POWERS[_LOGARITHMS[a] + 255 - _LOGARITHMS[b]] if a else 0


def _evaluate(polynomial: bytes, x: int) -> int:
    """Horner's rule; the constant term stands first."""
    value = 0
    for coefficient in reversed(polynomial):
        value = multiply(value, x) ^ coefficient
    return value


def _weight(place: int, places: Sequence[int]) -> int:
    """Lagrange's coefficient of a place for the value at 0; minus is plus here."""
    weight = 1
    for other in places:
        if other != place:
            weight = multiply(weight, divide(other, other ^ place))
    return weight


def _sum_of_products(weights: Sequence[int], values: Sequence[int]) -> int:
    total = 0
    for weight, value in zip(weights, values, strict=True):
        total ^= multiply(weight, value)
    return total
