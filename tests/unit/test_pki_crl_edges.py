"""Lists at the edge of what a key may sign: the last that is accepted, the first that is not."""

from datetime import timedelta

import pytest

from hsm_drivers.ports import Purpose
from pki import der, extensions
from pki.crl import REASON_CODES, CrlFactory, RevokedEntry
from pki.crl_checker import MAX_SKEW, judge_crl
from pki.errors import PkiError
from pki.limits import RefusalError, limits_of
from tests.support import pki

ISSUER, THIS, NEXT, ENTRIES, EXTENSIONS = 2, 3, 4, 5, 6
PEOPLE = pki.world().people
NOW = pki.NOW
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
LIST = (
    CrlFactory(PEOPLE.issuer)
    .prepare(7, NOW, NOW + DAY, [RevokedEntry(5, NOW, "key-compromise")])
    .statement.message
)
LARGEST = 2**159 - 1


def judge(message: bytes) -> str:
    return judge_crl(PEOPLE.record, message, NOW)


def refused(message: bytes, why: str) -> None:
    with pytest.raises(RefusalError, match=why):
        judge(message)


def with_part(message: bytes, place: int, part: bytes) -> bytes:
    parts = [child.encode() for child in der.parse(message).children]
    parts[place] = part
    return der.sequence(*parts)


def times(begin: timedelta, lifetime: timedelta) -> bytes:
    start = NOW + begin
    return with_part(with_part(LIST, THIS, der.time(start)), NEXT, der.time(start + lifetime))


def entries(*serials: int, tail: bytes = b"") -> bytes:
    rows = (der.sequence(der.integer(serial), der.time(NOW), tail) for serial in serials)
    return with_part(LIST, ENTRIES, der.sequence(*rows))


def numbered(number: int) -> bytes:
    items = (
        extensions.authority_key_identifier(PEOPLE.issuer.key_id),
        extensions.encode(extensions.CRL_NUMBER, der.integer(number), critical=False),
    )
    return with_part(LIST, EXTENSIONS, der.context(0, der.sequence(*items)))


def test_a_list_is_of_this_hour():
    assert timedelta(hours=1) == MAX_SKEW
    for begin in (-MAX_SKEW, timedelta(0), MAX_SKEW):
        judge(times(begin, DAY))
    for begin in (-MAX_SKEW - SECOND, MAX_SKEW + SECOND):
        refused(times(begin, DAY), "of this hour")


def test_the_next_update_follows_within_the_records_time():
    source = limits_of(PEOPLE.record, Purpose.CRL).source
    longest = timedelta(seconds=source["max_interval"])
    for lifetime in (SECOND, longest):
        judge(times(timedelta(0), lifetime))
    for lifetime in (timedelta(0), -SECOND, longest + SECOND):
        refused(times(timedelta(0), lifetime), "next update")


def test_a_number_has_up_to_twenty_octets():
    for number in (1, LARGEST):
        assert judge(numbered(number)) == str(number)
    for number in (0, -1, LARGEST + 1):
        refused(numbered(number), "number")


def test_serials_rise_within_their_bounds():
    for serials in ((1,), (1, 2), (5, LARGEST), (LARGEST,)):
        judge(entries(*serials))
    for serials in ((0,), (-1,), (5, 5), (6, 5), (LARGEST + 1,)):
        refused(entries(*serials), "serial order")
    refused(entries(), "empty")


def reason(value: bytes, *, critical: bool = False, oid: str = extensions.CRL_REASON) -> bytes:
    return der.sequence(extensions.encode(oid, value, critical=critical))


def test_an_entry_may_have_one_of_the_known_reasons():
    judge(entries(5))
    for code in set(range(256)) - set(REASON_CODES.values()) | {0}:
        tail = reason(der.tlv(der.ENUMERATED, bytes((code,))))
        refused(entries(5, tail=tail), "reason")
    for code in set(REASON_CODES.values()) - {0}:
        judge(entries(5, tail=reason(der.tlv(der.ENUMERATED, bytes((code,))))))


@pytest.mark.parametrize(
    "tail",
    [
        reason(der.tlv(der.ENUMERATED, b"\x01"), critical=True),
        reason(der.tlv(der.ENUMERATED, b"\x00\x01")),
        reason(der.tlv(der.ENUMERATED, b"\x01\x01")),
        reason(der.tlv(der.ENUMERATED, b"\x01"), oid=extensions.CRL_NUMBER),
        der.sequence(
            extensions.encode(
                extensions.CRL_REASON, der.tlv(der.ENUMERATED, b"\x01"), critical=False
            ),
            extensions.encode(extensions.CRL_NUMBER, der.integer(1), critical=False),
        ),
    ],
)
def test_an_entry_has_nothing_but_its_reason(tail: bytes):
    refused(entries(5, tail=tail), "entry has")


def test_nothing_follows_what_is_known():
    parts = [child.encode() for child in der.parse(LIST).children]
    known = der.parse(LIST).children[EXTENSIONS].children[0].encode()
    good = der.tlv(der.ENUMERATED, b"\x01")
    wrong = (
        der.sequence(*parts, der.null()),
        with_part(LIST, EXTENSIONS, der.context(0, known + der.null())),
        entries(5, tail=reason(good) + der.null()),
        entries(5, tail=reason(good + der.null())),
    )
    for message in wrong:
        with pytest.raises(PkiError):
            judge(message)
