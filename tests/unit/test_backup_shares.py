"""Shares: any quorum rebuilds, fewer say nothing, mistakes and forgeries are named."""

import base64
import hashlib
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms.backup import shares
from kms.backup.errors import SharesError
from kms.backup.shares import MAX_SHARES, Share, divide, join, multiply, of_one_key, parse, split

KEY = "00112233445566aa"
SEED = bytes(range(32))


def slow_product(a: int, b: int) -> int:
    """FIPS 197 4.2, by the book: long multiplication, then the remainder by x^8+x^4+x^3+x+1."""
    product = 0
    for bit in range(8):
        product ^= (a << bit) if b >> bit & 1 else 0
    for bit in range(15, 7, -1):
        product ^= (0x11B << (bit - 8)) if product >> bit & 1 else 0
    return product


def test_the_field_is_that_of_aes() -> None:
    assert multiply(0x57, 0x83) == 0xC1  # FIPS 197, 4.2
    assert multiply(0x57, 0x13) == 0xFE  # FIPS 197, 4.2.1
    for a in range(256):
        for b in range(256):
            assert multiply(a, b) == slow_product(a, b)
            if b:
                assert multiply(divide(a, b), b) == a


quorums = st.integers(2, MAX_SHARES).flatmap(
    lambda count: st.tuples(st.integers(2, count), st.just(count))
)


@given(seed=st.binary(min_size=32, max_size=32), counts=quorums, data=st.data())
def test_any_quorum_rebuilds_the_seed(
    seed: bytes, counts: tuple[int, int], data: st.DataObject
) -> None:
    quorum, count = counts
    parts = split(seed, KEY, quorum, count)
    chosen = data.draw(st.permutations(parts))[:quorum]
    assert join(chosen) == seed


def test_every_quorum_of_five() -> None:
    parts = split(SEED, KEY, 3, 5)
    assert all(join(chosen) == SEED for chosen in combinations(parts, 3))
    assert all(join(chosen) != SEED for chosen in combinations(parts, 2))


def test_fewer_than_a_quorum_fit_every_seed() -> None:
    """By trying all: whatever the secret byte were, some curve would lead through both shares."""
    first, second = split(SEED, KEY, 3, 3)[:2]
    for secret in range(256):
        fitting = [
            (a, b)
            for a in range(256)
            for b in [divide(first.values[0] ^ secret ^ a, 1)]
            if secret ^ multiply(a, 2) ^ multiply(b, 4) == second.values[0]
        ]
        assert len(fitting) == 1


def test_one_share_of_two_is_any_byte_as_often_as_another() -> None:
    counts = dict.fromkeys(range(256), 0)
    for _ in range(200):
        for value in split(bytes(32), KEY, 2, 2)[0].values:
            counts[value] += 1
    # 6,400 bytes: of each value 25 are expected; none is missing or rules
    assert min(counts.values()) > 0
    assert max(counts.values()) < 75


@pytest.mark.parametrize(("quorum", "count"), [(1, 3), (0, 0), (4, 3), (2, MAX_SHARES + 1)])
def test_quorums_that_are_none(quorum: int, count: int) -> None:
    with pytest.raises(SharesError, match="not possible"):
        split(SEED, KEY, quorum, count)


@given(
    key=st.binary(min_size=8, max_size=8),
    values=st.binary(min_size=32, max_size=32),
    counts=quorums,
    data=st.data(),
)
def test_the_text_is_read_again(
    key: bytes, values: bytes, counts: tuple[int, int], data: st.DataObject
) -> None:
    number = data.draw(st.integers(1, counts[1]))
    share = Share(key.hex(), *counts, number, values)
    assert parse(f"Something before\n{share.text()}\nand after\n", "x") == share


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(SharesError):
        parse(text, "x")


def test_typed_as_people_type() -> None:
    share = split(SEED, KEY, 2, 3)[1]
    typed = []
    for line in share.text().lower().splitlines():
        number, *groups = line.split()
        letters = "-".join(groups).translate(str.maketrans("oib", "018"))
        typed.append(f"  {number}. {letters}")
    assert parse("\r\n".join(reversed(typed)), "paper") == share


def test_every_mistyped_letter_is_named_by_its_line() -> None:
    """All of them, of one share: the check group of a line misses one in a million."""
    whole = Share(KEY, 2, 3, 1, SEED).text().splitlines()
    for row, line in enumerate(whole):
        for at in range(3, len(line)):
            for letter in {*"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"} - {line[at], " "}:
                if line[at] == " ":
                    continue
                lines = [*whole[:row], line[:at] + letter + line[at + 1 :], *whole[row + 1 :]]
                with pytest.raises(SharesError, match=f"my share: line {row + 1} is mistyped"):
                    parse("\n".join(lines), "my share")


def test_a_line_that_is_missing_doubled_or_of_another_share() -> None:
    first, second = (share.text().splitlines() for share in split(SEED, KEY, 2, 2))
    with pytest.raises(SharesError, match="line 2, 5"):
        parse("\n".join([first[0], *first[2:4]]), "x")
    with pytest.raises(SharesError, match="line 1 is there twice"):
        parse("\n".join([*first, first[0]]), "x")
    with pytest.raises(SharesError, match="not of one share"):
        parse("\n".join([*first[:2], *second[2:]]), "x")
    with pytest.raises(SharesError, match="no share"):
        parse("\n".join(first) + "\n" * shares.MAX_TEXT, "x")


def test_another_version_is_named() -> None:
    data = bytearray(split(SEED, KEY, 2, 2)[0]._encode())
    data[0] = 2
    data[-6:] = hashlib.sha256(data[:-6]).digest()[:6]
    with pytest.raises(SharesError, match="version 2"):
        parse(_text(bytes(data)), "x")


@pytest.mark.parametrize("counts", [(1, 2, 1), (2, 1, 1), (2, 2, 3), (2, 2, 0), (2, 33, 1)])
def test_numbers_that_no_share_has(counts: tuple[int, int, int]) -> None:
    data = bytearray(split(SEED, KEY, 2, 2)[0]._encode())
    data[9:12] = bytes(counts)
    data[-6:] = hashlib.sha256(data[:-6]).digest()[:6]
    with pytest.raises(SharesError, match="no share has number"):
        parse(_text(bytes(data)), "x")


def _text(data: bytes) -> str:
    lines = []
    for number in range(1, 6):
        part = data[(number - 1) * 10 : number * 10]
        check = base64.b32encode(hashlib.sha256(bytes([number]) + part).digest()[:5])[:4]
        lines.append(f"{number} {base64.b32encode(part).decode()} {check.decode()}")
    return "\n".join(lines)


class TestOfOneKey:
    parts = split(SEED, KEY, 2, 3)
    digests = tuple(part.digest() for part in parts)

    def test_a_quorum_is_taken_and_no_more(self) -> None:
        given_ = {str(part.number): part for part in self.parts}
        assert join(of_one_key(given_, KEY, 2, self.digests)) == SEED

    def test_too_few(self) -> None:
        with pytest.raises(SharesError, match="1 of the 2 shares"):
            of_one_key({"a": self.parts[0]}, KEY, 2, self.digests)
        with pytest.raises(SharesError, match="0 of the 2 shares"):
            of_one_key({}, KEY, 2, self.digests)

    def test_a_share_that_claims_a_smaller_quorum_changes_nothing(self) -> None:
        part = self.parts[0]
        claims = Share(part.key, 1, 3, part.number, part.values)
        with pytest.raises(SharesError, match="1 of the 2 shares"):
            of_one_key({"a": claims}, KEY, 2, self.digests)

    def test_a_share_of_another_key_is_named(self) -> None:
        other = split(SEED, "ff" * 8, 2, 3)[0]
        with pytest.raises(SharesError, match=r"bob\.txt: a share of recovery key ffff"):
            of_one_key({"alice.txt": self.parts[0], "bob.txt": other}, KEY, 2, self.digests)

    def test_a_forged_share_is_named(self) -> None:
        part = self.parts[1]
        forged = Share(part.key, 2, 3, 2, bytes([part.values[0] ^ 1]) + part.values[1:])
        with pytest.raises(SharesError, match=r"bob\.txt: not the share number 2"):
            of_one_key({"alice.txt": self.parts[0], "bob.txt": forged}, KEY, 2, self.digests)

    def test_one_share_twice_is_no_quorum(self) -> None:
        with pytest.raises(SharesError, match=r"copy\.txt: share 1 is given twice"):
            of_one_key({"a": self.parts[0], "copy.txt": self.parts[0]}, KEY, 2, self.digests)


def test_nothing_secret_is_shown() -> None:
    share = split(SEED, KEY, 2, 2)[0]
    assert share.values.hex() not in repr(share)
    assert str(share.values) not in repr(share)
