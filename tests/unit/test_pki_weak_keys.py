"""Weak keys are refused, ordinary ones are not."""

import hashlib
import json
import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pki import der
from pki.errors import WeakKeyError
from pki.keys import PublicKey, encode_spki, parse_public_key
from pki.weak_keys import (
    Blocklist,
    blocklist_available,
    check,
    open_blocklist,
    repeated_components,
    shared_factor,
)
from policies.algorithms import Kind, algorithm, algorithms
from tests.support import pki

P = 2**255 - 19
NAMES = [row.name for row in algorithms() if row.kind in {Kind.SIGNATURE, Kind.KEM}]


def rsa(modulus: int, exponent: int = 65537, name: str = "RSA-2048") -> PublicKey:
    """An RSA key of any numbers, around the library, which would refuse some of them itself."""
    row = algorithm(name)
    raw = der.sequence(der.integer(modulus), der.integer(exponent))
    spki = encode_spki(row, raw)
    return PublicKey(spki, row, raw, (spki,), modulus, exponent, (None,))


def noise(bits: int) -> int:
    """A number of that size without any pattern, the same in every run."""
    digest = hashlib.shake_256(b"noise").digest(bits // 8 + 1)
    return int.from_bytes(digest, "big") % (1 << bits - 2) | 3 << bits - 2


def next_prime(start: int) -> int:
    number = start | 1
    small = math.prod(range(3, 1000, 2))
    while math.gcd(small, number) != 1 or pow(2, number - 1, number) != 1:
        number += 2
    return number


def raw_key(name: str, number: int) -> PublicKey:
    row = algorithm(name)
    return parse_public_key(encode_spki(row, number.to_bytes(32, "little")), row)


@pytest.mark.parametrize("name", NAMES)
def test_ordinary_keys_pass(name: str):
    check(pki.public(name))


def test_close_primes_are_refused():
    prime = next_prime(3 << 1022)
    with pytest.raises(WeakKeyError, match="fermat"):
        check(rsa(prime * next_prime(prime + 2)))


def test_small_factors_are_refused():
    with pytest.raises(WeakKeyError, match="smallfactors"):
        check(rsa((noise(2032) | 1) * 65537))


def test_roca_moduli_are_refused():
    """Moduli that are powers of 65537 modulo the product of small primes (CVE-2017-15361)."""
    product = math.prod(
        number for number in range(2, 168) if all(number % small for small in range(2, number))
    )
    start = noise(2048) // product * product
    modulus = start + product + pow(65537, 12345, product)
    with pytest.raises(WeakKeyError, match="roca"):
        check(rsa(modulus))


@pytest.mark.parametrize("exponent", [-3, 0, 1, 3, 17, 65536, 65538, (1 << 256) + 1])
def test_other_exponents_are_refused(exponent: int):
    modulus = pki.public("RSA-2048").modulus
    assert modulus is not None
    with pytest.raises(WeakKeyError, match="exponent"):
        check(rsa(modulus, exponent))


def test_messages_hold_no_factor():
    prime = next_prime(3 << 1022)
    with pytest.raises(WeakKeyError) as caught:
        check(rsa(prime * next_prime(prime + 2)))
    assert str(prime)[:20] not in str(caught.value)


def test_every_point_of_low_order_is_refused_x25519():
    """Closed under doubling to nothing: computed here on the curve, not read from a table."""
    low = set(_small_order_u())
    assert len(low) == 5
    for u in low:
        with pytest.raises(WeakKeyError, match="low order"):
            check(raw_key("X25519", u))


def _small_order_u() -> list[int]:
    """u with 8·(u) = neutral on curve25519 or its twist: roots of the x-only doubling chain."""

    def double(x: int, z: int) -> tuple[int, int]:
        plus, minus = (x + z) ** 2 % P, (x - z) ** 2 % P
        gap = (plus - minus) % P
        return plus * minus % P, gap * (minus + 121666 * gap) % P

    eight = (
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    )
    found = []
    for u in (0, 1, P - 1, *eight):
        x, z = u, 1
        for _ in range(3):
            x, z = double(x, z)
        assert z == 0
        found.append(u)
    return found


def test_every_point_of_low_order_is_refused_ed25519():
    """The eight points whose eightfold is neutral, computed with the Edwards addition law."""
    d = -121665 * pow(121666, -1, P) % P
    root = pow(2, (P - 1) // 4, P)

    def x_of(y: int) -> int | None:
        square = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
        x = pow(square, (P + 3) // 8, P)
        if x * x % P != square:
            x = x * root % P
        return x if x * x % P == square else None

    def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        product = d * a[0] * b[0] * a[1] * b[1] % P
        x = (a[0] * b[1] + b[0] * a[1]) * pow(1 + product, -1, P) % P
        return x, (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, P) % P

    order = 2**252 + 27742317777372353535851937790883648493
    y = 3
    while True:
        x = x_of(y)
        if x is not None:
            point, total, rest = (x, y), (0, 1), order
            while rest:
                if rest & 1:
                    total = add(total, point)
                point, rest = add(point, point), rest >> 1
            multiples = {(0, 1)}
            current = total
            while current not in multiples:
                multiples.add(current)
                current = add(current, total)
            if len(multiples) == 8:
                break
        y += 1
    for x, low in multiples:
        number = low | (x & 1) << 255
        with pytest.raises(WeakKeyError, match="low order"):
            check(raw_key("Ed25519", number))


@pytest.mark.parametrize("offset", [2, 5, 18])
def test_numbers_beyond_the_field_are_refused(offset: int):
    with pytest.raises(WeakKeyError, match="canonical"):
        check(raw_key("X25519", P + offset))
    with pytest.raises(WeakKeyError, match="canonical"):
        check(raw_key("X25519", 9 | 1 << 255))
    raw, row = (P + 1).to_bytes(32, "little"), algorithm("Ed25519")
    spki = encode_spki(row, raw)
    with pytest.raises(WeakKeyError, match="canonical"):
        check(PublicKey(spki, row, raw, (spki,)))


def test_the_classical_part_of_a_hybrid_is_checked_too():
    row = algorithm("MLKEM768-X25519")
    raw = pki.public("ML-KEM-768").raw + bytes(32)
    with pytest.raises(WeakKeyError, match="low order"):
        check(parse_public_key(encode_spki(row, raw), row))


def test_components_may_not_repeat():
    hybrid = pki.public("MLKEM768-X25519")
    part = parse_public_key(hybrid.components[1], algorithm("X25519"))
    signing = pki.public("ECDSA-P256")
    agreeing = parse_public_key(signing.spki, algorithm("ECDH-P256"))
    assert repeated_components([hybrid, signing]) == ()
    assert repeated_components([hybrid, signing, part]) == (2,)
    assert repeated_components([signing, agreeing]) == (1,)
    assert repeated_components([signing, signing, hybrid]) == (1,)


def test_shared_factors_are_found_among_many():
    primes = [next_prime((3 << 254) + 1000 * number) for number in range(140)]
    known = [primes[i] * primes[i + 1] for i in range(0, 130, 2)]
    fresh = primes[132] * primes[133]
    assert not shared_factor(fresh, known)
    assert not shared_factor(fresh, [])
    for position in (0, 63, 64, 100, 129):
        assert shared_factor(primes[position] * primes[135], known)
    assert shared_factor(known[7], known)


@given(st.integers(3, 1 << 64), st.lists(st.integers(1, 1 << 64), max_size=12))
@example(15, [15])
@example(15, [15, 14])
@example(15, [7, 9])
@example(15, [3 * 7, 5 * 7])
@example(15, [14, 30, 7])
def test_a_shared_factor_is_what_any_single_gcd_finds(modulus: int, known: list[int]):
    """Equal moduli and multiples make the running product 0, which hides nothing."""
    expected = any(math.gcd(modulus, other) != 1 for other in known)
    assert shared_factor(modulus, known) is expected


def write_blocklist(folder: Path, values: list[bytes]) -> None:
    records = sorted(hashlib.sha256(value).digest()[:15] + b"\x07" for value in values)
    (folder / "blocklist.dat").write_bytes(b"".join(records))
    index = {"blocklists": [{"id": 7, "name": "made-up"}]}
    (folder / "badkeysdata.json").write_text(json.dumps(index))


@pytest.mark.parametrize("name", ["RSA-2048", "ECDSA-P256", "Ed25519", "ML-DSA-65", "ML-KEM-768"])
def test_blocklists_know_keys_by_their_numbers(name: str, tmp_path: Path):
    """The values are formed as badkeys' own documentation and code form them."""
    key = pki.public(name)
    if key.modulus is not None:
        value = key.modulus.to_bytes(256, "big")
    elif name == "ECDSA-P256":
        x = key.handle.public_numbers().x
        value = x.to_bytes((x.bit_length() + 7) // 8, "big")
    elif name == "Ed25519":
        number = int.from_bytes(key.raw, "big")
        value = number.to_bytes((number.bit_length() + 7) // 8, "big")
    else:
        value = key.raw
    others = [bytes((number,)) for number in range(50)]
    write_blocklist(tmp_path, others)
    check(key, [open_blocklist(tmp_path)])
    write_blocklist(tmp_path, [*others, value])
    assert blocklist_available(tmp_path)
    with pytest.raises(WeakKeyError, match="made-up"):
        check(key, [open_blocklist(tmp_path)])


def test_a_hybrid_is_looked_up_by_component(tmp_path: Path):
    key = pki.public("MLKEM768-X25519")
    write_blocklist(tmp_path, [key.raw[-32:].lstrip(b"\x00")])
    assert isinstance(open_blocklist(tmp_path), Blocklist)
    with pytest.raises(WeakKeyError):
        check(key, [open_blocklist(tmp_path)])


def test_absent_and_broken_blocklists_are_told_apart(tmp_path: Path):
    assert not blocklist_available(None)
    assert not blocklist_available(tmp_path)
    with pytest.raises(OSError, match="blocklist"):
        open_blocklist(tmp_path)
    (tmp_path / "blocklist.dat").write_bytes(b"x" * 17)
    with pytest.raises(ValueError, match="records"):
        open_blocklist(tmp_path)
