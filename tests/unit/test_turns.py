"""Places and turns: bounded, by class, fair between principals, and none is ever lost."""

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.types import Message

from kms.api import exchange as exchanges
from kms.api.identity import NativeTls
from kms.api.turns import Placed, class_of
from kms.config import parse
from kms.domain.authorisation import Caller as Principal
from kms.domain.records import Role, TenantId
from kms.processes.worker import _rooms
from kms.services.errors import OverloadedError, TooManyRequestsError
from kms.services.observing import Silent
from kms.services.turns import ROOMS, Admission, CallClass, Place, Room, Shed, Turns

pytestmark = pytest.mark.anyio

FOREVER = 3600.0
ONE, TWO, THREE = ("ministry", "one"), ("ministry", "two"), ("treasury", "three")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Noting(Silent):
    """An observer that remembers."""

    def __init__(self) -> None:
        self.sheds: list[tuple[str, str]] = []
        self.waits: list[str] = []

    def shed(self, kind: str, reason: str) -> None:
        self.sheds.append((kind, reason))

    def waited(self, kind: str, seconds: float) -> None:
        assert seconds >= 0
        self.waits.append(kind)


def turns(
    at_once: int, waiting: int, seconds: float = FOREVER, observer: Silent | None = None
) -> Turns:
    room = Room(at_once, waiting, seconds, body=1)
    return Turns(CallClass.ENROLMENT, room, observer or Silent())


class Caller:
    """One call: from its place to its end, which the test decides."""

    def __init__(self, of: Turns, who: tuple[str, str], order: list[str], name: str = "") -> None:
        of.arrive(who)
        self._place = Place(of, who)
        self._order = order
        self._name = name or who[1]
        self._end = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._place.begin()
            self._order.append(self._name)
            await self._end.wait()
        finally:
            self._place.leave()

    def end(self) -> None:
        self._end.set()


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def finish(*callers: Caller) -> None:
    for caller in callers:
        caller.end()
    await asyncio.gather(*(caller.task for caller in callers))
    await settle()


async def test_the_first_are_served_at_once_and_the_others_in_turn():
    of, order = turns(2, 10), list[str]()
    callers = [Caller(of, ONE, order, str(number)) for number in range(5)]
    await settle()
    assert order == ["0", "1"]
    assert (of.serving, of.waiting, of.present, of.served) == (2, 3, 5, 2)
    await finish(callers[1])
    assert order == ["0", "1", "2"]
    await finish(callers[0], *callers[2:])
    assert order == ["0", "1", "2", "3", "4"]
    assert (of.serving, of.waiting, of.present, of.served) == (0, 0, 0, 5)


async def test_principals_take_turns_however_much_one_of_them_asks():
    of, order = turns(1, 40), list[str]()
    many = [Caller(of, ONE, order) for _ in range(20)]
    await settle()
    few = [Caller(of, TWO, order) for _ in range(3)] + [Caller(of, THREE, order)]
    await settle()
    await finish(*many, *few)
    assert order[:7] == ["one", "one", "two", "three", "one", "two", "one"]
    assert order.count("two") == 3


async def test_one_principal_leaves_a_quarter_to_the_others():
    noting = Noting()
    of, order = turns(2, 6, observer=noting), list[str]()
    mine = [Caller(of, ONE, order) for _ in range(6)]
    with pytest.raises(TooManyRequestsError):
        of.arrive(ONE)
    others = [Caller(of, TWO, order), Caller(of, THREE, order)]
    assert noting.sheds == [("enrolment", Shed.SHARE)]
    await finish(*mine, *others)
    assert order.count("one") == 6


async def test_where_all_is_full_whoever_holds_most_gives_way():
    noting = Noting()
    of, order = turns(1, 7, observer=noting), list[str]()
    greedy = [Caller(of, ONE, order, f"one-{n}") for n in range(6)]
    others = [Caller(of, TWO, order) for _ in range(2)]
    await settle()
    late = Caller(of, THREE, order)
    await settle()
    assert noting.sheds == [("enrolment", Shed.SHARE)]
    assert isinstance(greedy[-1].task.exception(), TooManyRequestsError)
    assert of.present == of.room.places
    await finish(*greedy[:-1], *others, late)
    assert "three" in order
    assert "one-5" not in order
    assert of.present == 0


async def test_nobody_gives_way_to_who_holds_as_much():
    noting = Noting()
    of, order = turns(1, 3, observer=noting), list[str]()
    callers = [Caller(of, who, order) for who in (ONE, TWO, ONE, TWO)]
    await settle()
    for who in (ONE, TWO):
        with pytest.raises(TooManyRequestsError):
            of.arrive(who)
    assert of.present == 4
    await finish(*callers)


async def test_what_is_being_served_is_never_given_up():
    noting = Noting()
    of, order = turns(4, 0, observer=noting), list[str]()
    callers = [Caller(of, ONE, order) for _ in range(3)] + [Caller(of, TWO, order)]
    await settle()
    with pytest.raises(OverloadedError) as refused:
        of.arrive(THREE)
    assert refused.value.problem == "overloaded"
    assert noting.sheds == [("enrolment", Shed.FULL)]
    await finish(*callers)
    assert len(order) == 4


async def test_nobody_waits_longer_than_the_room_allows():
    noting = Noting()
    of, order = turns(1, 3, 0.01, noting), list[str]()
    first = Caller(of, ONE, order)
    await settle()
    second = Caller(of, TWO, order)
    with pytest.raises(OverloadedError):
        await second.task
    assert noting.sheds == [("enrolment", Shed.WAITED)]
    assert noting.waits == ["enrolment"]
    third = Caller(of, THREE, order)
    await settle()
    await finish(first)
    await finish(third)
    assert order == ["one", "three"]
    assert (of.present, of.serving) == (0, 0)


async def test_who_leaves_while_waiting_takes_no_turn():
    of, order = turns(1, 5), list[str]()
    first, second, third = (Caller(of, who, order) for who in (ONE, TWO, THREE))
    await settle()
    second.task.cancel()
    await settle()
    await finish(first)
    assert order == ["one", "three"]
    await finish(third)
    assert (of.present, of.serving) == (0, 0)


async def test_a_turn_that_comes_in_the_moment_of_leaving_goes_to_the_next():
    of, order = turns(1, 5), list[str]()
    first, second, third = (Caller(of, who, order) for who in (ONE, TWO, THREE))
    await settle()
    first.end()
    await asyncio.sleep(0)  # the turn is passed on to the second, which has not run yet
    await asyncio.sleep(0)
    second.task.cancel()
    await settle()
    assert "three" in order
    second.end()
    await finish(first, third)
    assert (of.present, of.serving) == (0, 0)


@pytest.mark.parametrize("seed", range(20))
async def test_no_place_and_no_turn_is_ever_lost(seed: int):
    """Any order of arriving, leaving, giving up and running out of time leaves all as it was."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    of, order = turns(chance.randint(1, 4), chance.randint(0, 6), 0.002), list[str]()
    callers: list[Caller] = []
    tasks: list[asyncio.Task[None]] = []
    for _ in range(300):
        step = chance.random()
        if step < 0.5:
            try:
                callers.append(Caller(of, chance.choice((ONE, TWO, THREE)), order))
                tasks.append(callers[-1].task)
            except OverloadedError:
                assert of.present >= min(of.room.share, of.room.places)
        elif callers:
            chosen = callers.pop(chance.randrange(len(callers)))
            chosen.task.cancel() if step < 0.7 else chosen.end()
        await asyncio.sleep(chance.choice((0, 0, 0, 0.001)))
        assert 0 <= of.serving <= of.room.at_once
        assert of.waiting >= 0
    for caller in callers:
        caller.end()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (of.present, of.serving, of.waiting) == (0, 0, 0)
    assert of.served >= len(order)
    assert of.try_begin()


async def test_refused_callers_are_told_to_come_back_at_different_times():
    of = turns(1, 0)
    of.arrive(ONE)
    after = set()
    for _ in range(8):
        with pytest.raises(OverloadedError) as refused:
            of.arrive(TWO)
        after.add(refused.value.after)
    assert after == {1, 2, 3, 4}


async def test_classes_do_not_touch_each_other():
    small = {kind: replace(room, at_once=1, waiting=0) for kind, room in ROOMS.items()}
    admission = Admission(small)
    for kind in CallClass:
        place = admission.enter(kind, ONE)
        await place.begin()
        with pytest.raises(OverloadedError):
            admission.enter(kind, TWO)


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "/v1/enrolments", CallClass.ENROLMENT),
        ("POST", f"/v1/enrolments/{'0' * 32}/proofs", CallClass.ENROLMENT),
        ("POST", "/v1/enrolments:batch", CallClass.BATCH),
        ("POST", "/v1/enrolments:batch-proofs", CallClass.BATCH),
        ("POST", "/v1/users/ada/revoke", CallClass.REVOCATION),
        ("POST", "/v1/devices/phone/revoke", CallClass.REVOCATION),
        ("POST", "/v1/certificates/0a/revoke", CallClass.REVOCATION),
        ("POST", "/v1/principals/messenger/disable", CallClass.REVOCATION),
        ("POST", "/v1/authorities/people/crl", CallClass.REVOCATION),
        ("POST", "/v1/certificates", CallClass.ADMINISTRATION),
        ("POST", "/v1/principals", CallClass.ADMINISTRATION),
        ("POST", "/v1/tenants", CallClass.ADMINISTRATION),
        ("GET", "/v1/log", CallClass.READING),
        ("GET", "/v1/users/revoke/devices", CallClass.READING),
        ("HEAD", "/v1/users/ada/revoke", CallClass.READING),
        ("BREW", "/", CallClass.READING),
    ],
)
def test_every_call_has_its_class(method: str, path: str, kind: CallClass):
    assert class_of(method, path) is kind


async def test_what_finds_no_place_is_not_read():
    full = dict.fromkeys(CallClass, Room(1, 0, FOREVER, body=1))
    admission = Admission(full)
    taken = admission.enter(CallClass.ENROLMENT, ONE)
    caller = Principal(TenantId("ministry"), "two", Role.MESSAGING_SERVER, ())

    async def never(*_: object) -> Message:
        raise AssertionError("nothing is read, nothing is served, nothing is sent")

    placed = Placed(never, admission, NativeTls(), lambda _: caller)  # type: ignore[arg-type]
    scope = {"type": "http", "method": "POST", "path": "/v1/enrolments", "state": {}}
    exchanges.begin(scope, "id")
    with pytest.raises(OverloadedError):
        await placed(scope, never, never)
    taken.leave()
    with pytest.raises(AssertionError):
        await placed(scope, never, never)
    assert admission.turns[CallClass.ENROLMENT].present == 0


def test_the_settings_and_the_service_have_the_same_defaults():
    values = {"name": "log.test.example", "public_url": "http://pki.test.example"}
    assert _rooms(parse(Path("/srv/kms/kms.toml"), values)) == ROOMS
