"""What a signer remembers bounds what it signs next, whatever its checkers say."""

import pytest

from hsm_drivers.errors import StatementRefusedError
from hsm_drivers.memory import MAX_CRL_STEP, Draft, SignedCrl, SignedHead, crl_number
from hsm_drivers.ports import Head, KeyLabel

KEY, OTHER_KEY = KeyLabel("log-1"), KeyLabel("log-2")
FIRST, SECOND = "log.example/1", "log.example/2"
ROOT, OTHER_ROOT = b"r" * 32, b"o" * 32
DIGEST, OTHER_DIGEST = b"d" * 32, b"e" * 32


def draft(*heads: SignedHead, crls: tuple[SignedCrl, ...] = ()) -> Draft:
    return Draft({head.origin: head for head in heads}, {crl.key: crl for crl in crls})


def crl(number: int, key: KeyLabel = KEY) -> SignedCrl:
    return SignedCrl(key, number, DIGEST)


def test_a_first_head_is_remembered_with_its_key():
    made = draft()
    assert made.head(FIRST) is None
    made.advance(KEY, FIRST, Head(FIRST, 7, ROOT))
    assert made.head(FIRST) == Head(FIRST, 7, ROOT)
    assert made.heads == {FIRST: SignedHead(FIRST, 7, ROOT, KEY)}


def test_a_head_without_its_key_is_nobody_elses():
    assert SignedHead(FIRST, 7, ROOT).key is None


def test_a_log_grows_or_stays_as_it_is():
    for size, root in ((7, ROOT), (8, ROOT), (8, OTHER_ROOT)):
        made = draft(SignedHead(FIRST, 7, ROOT, KEY))
        made.advance(KEY, FIRST, Head(FIRST, size, root))
        assert made.head(FIRST) == Head(FIRST, size, root)


@pytest.mark.parametrize(("size", "root"), [(6, ROOT), (6, OTHER_ROOT), (7, OTHER_ROOT)])
def test_a_log_neither_shrinks_nor_changes(size: int, root: bytes):
    made = draft(SignedHead(FIRST, 7, ROOT, KEY))
    with pytest.raises(StatementRefusedError):
        made.advance(KEY, FIRST, Head(FIRST, size, root))
    assert made.heads == {}
    assert made.head(FIRST) == Head(FIRST, 7, ROOT)


def test_what_this_batch_moved_counts_more_than_what_was_before():
    made = draft(SignedHead(FIRST, 7, ROOT, KEY))
    made.advance(KEY, FIRST, Head(FIRST, 9, ROOT))
    assert made.head(FIRST) == Head(FIRST, 9, ROOT)
    with pytest.raises(StatementRefusedError):
        made.advance(KEY, FIRST, Head(FIRST, 8, ROOT))


@pytest.mark.parametrize("new", [None, Head(SECOND, 1, ROOT)])
def test_a_checker_must_name_a_head_of_that_log(new: Head | None):
    with pytest.raises(StatementRefusedError):
        draft().advance(KEY, FIRST, new)


@pytest.mark.parametrize(("later", "ended"), [(KEY, True), (None, True), (OTHER_KEY, False)])
def test_a_later_log_of_the_same_key_ends_the_one_before(later: KeyLabel | None, *, ended: bool):
    made = draft(SignedHead(FIRST, 7, ROOT, KEY), SignedHead(SECOND, 1, ROOT, later))
    made.advance(later or KEY, SECOND, Head(SECOND, 2, ROOT))
    if not ended:
        made.advance(KEY, FIRST, Head(FIRST, 8, ROOT))
        return
    with pytest.raises(StatementRefusedError):
        made.advance(KEY, FIRST, Head(FIRST, 8, ROOT))


def test_a_log_that_began_in_this_batch_ends_the_one_before():
    made = draft(SignedHead(FIRST, 7, ROOT, KEY))
    made.advance(KEY, SECOND, Head(SECOND, 1, ROOT))
    with pytest.raises(StatementRefusedError):
        made.advance(KEY, FIRST, Head(FIRST, 8, ROOT))


def test_the_last_of_three_logs_goes_on_and_those_before_do_not():
    third = "log.example/3"
    made = draft(*(SignedHead(origin, 1, ROOT, KEY) for origin in (FIRST, SECOND, third)))
    made.advance(KEY, third, Head(third, 2, ROOT))
    for origin in (FIRST, SECOND):
        with pytest.raises(StatementRefusedError):
            made.advance(KEY, origin, Head(origin, 2, ROOT))


@pytest.mark.parametrize("number", ["1", "2", str(MAX_CRL_STEP)])
def test_the_first_crl_has_a_positive_number_in_reach(number: str):
    made = draft()
    made.number(KEY, number, DIGEST)
    assert made.crls == {KEY: SignedCrl(KEY, int(number), DIGEST)}


@pytest.mark.parametrize("number", ["0", "1000001", "-1", "x", ""])
def test_other_first_numbers_are_refused(number: str):
    made = draft()
    with pytest.raises(StatementRefusedError):
        made.number(KEY, number, DIGEST)
    assert made.crls == {}


@pytest.mark.parametrize("number", ["11", "1000010"])
def test_numbers_go_up(number: str):
    made = draft(crls=(crl(10),))
    made.number(KEY, number, OTHER_DIGEST)
    assert made.crls[KEY] == SignedCrl(KEY, int(number), OTHER_DIGEST)


@pytest.mark.parametrize("number", ["9", "10", "1000011"])
def test_numbers_neither_repeat_nor_jump(number: str):
    with pytest.raises(StatementRefusedError):
        draft(crls=(crl(10),)).number(KEY, number, OTHER_DIGEST)


def test_only_the_very_last_list_may_be_signed_again():
    made = draft(crls=(crl(10), crl(99, OTHER_KEY)))
    made.number(KEY, "10", DIGEST)
    assert made.crls == {}
    with pytest.raises(StatementRefusedError):
        made.number(KEY, "9", DIGEST)
    made.number(KEY, "11", DIGEST)  # another number over the same digest is another list
    made.number(KEY, "12", OTHER_DIGEST)
    with pytest.raises(StatementRefusedError):
        made.number(KEY, "11", DIGEST)


def test_a_number_has_at_most_eighteen_decimal_digits():
    assert crl_number("9" * 18) == 10**18 - 1
    for text in ("9" * 19, "", "٣", "²", "1.0", " 1", "0x1", "-1"):
        assert crl_number(text) is None
