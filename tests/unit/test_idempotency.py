"""One Idempotency-Key, one effect, one answer: what is run, replayed and refused."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from kms.domain.authorisation import Caller
from kms.domain.records import Idempotent, Role, TenantId
from kms.services.answers import Answer
from kms.services.errors import (
    IdempotencyKeyMissingError,
    IdempotencyKeyReusedError,
    InputError,
    StillRunningError,
)
from kms.services.idempotency import Call, Idempotency, call
from kms.services.ports import Ledger
from tests.support.services import SteppingClock

CALLER = Caller(TenantId("ministry"), "messenger", Role.MESSAGING_SERVER, ())
NOW = datetime(2026, 11, 22, tzinfo=UTC)
WORKED, REPLAYED = Answer(201, b"worked"), Answer(201, b"replayed")


class Records:
    """The one table of the ledger that counts here."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, ...], Idempotent] = {}

    def get(self, kind: type[Idempotent], *key: str) -> Idempotent | None:
        assert kind is Idempotent
        return self.rows.get(key)

    def add(self, record: Idempotent) -> None:
        scope = (record.tenant, record.principal, record.route, record.idempotency_key)
        self.rows[scope] = record


def guard(records: Records, replayed: list[Idempotent] | None = None) -> Idempotency:
    async def replay(stored: Idempotent) -> Answer:
        if replayed is not None:
            replayed.append(stored)
        return REPLAYED

    return Idempotency(cast("Ledger", records), replay)


def working(records: Records, request: Call) -> Callable[[], Awaitable[Answer]]:
    async def work() -> Answer:
        records.add(request.record(SteppingClock(NOW), b"spec"))
        return WORKED

    return work


async def never() -> Answer:
    raise AssertionError("done twice")


def ask(key: str | None = "key", body: bytes = b"body", **other: Any) -> Call:
    caller = Caller(
        other.get("tenant", CALLER.tenant), other.get("name", CALLER.name), CALLER.role, ()
    )
    return call(caller, other.get("route", "orders"), key, body)


def test_a_key_is_demanded():
    with pytest.raises(IdempotencyKeyMissingError) as error:
        ask(None)
    assert error.value.field == "Idempotency-Key"


@pytest.mark.parametrize("key", ["!", "~" * 128, "a"])
def test_a_key_is_visible_ascii(key: str):
    assert ask(key).key == key


@pytest.mark.parametrize("key", ["", " ", "a b", "a\n", "\x7f", "é", "a" * 129])
def test_other_keys_are_refused(key: str):
    with pytest.raises(InputError) as error:
        ask(key)
    assert error.value.field == "Idempotency-Key"


def test_a_call_is_recorded_as_what_it_was():
    record = ask().record(SteppingClock(NOW), b"spec")
    assert record.tenant == "ministry"
    assert record.principal == "messenger"
    assert record.route == "orders"
    assert record.idempotency_key == "key"
    assert record.body_sha256 == hashlib.sha256(b"body").hexdigest()
    assert (record.log, record.first_index, record.events, record.size) == (0, 0, 0, 0)
    assert (record.answer, record.created) == (b"spec", NOW)


def test_a_repetition_gets_the_answer_of_the_record():
    records, replayed = Records(), list[Idempotent]()
    once = guard(records, replayed).once
    assert asyncio.run(once(ask(), working(records, ask()))) == WORKED
    assert asyncio.run(once(ask(), never)) == REPLAYED
    assert replayed == list(records.rows.values())


def test_a_key_with_another_body_is_refused():
    records = Records()
    once = guard(records).once
    asyncio.run(once(ask(), working(records, ask())))
    with pytest.raises(IdempotencyKeyReusedError) as error:
        asyncio.run(once(ask(body=b"other"), never))
    assert error.value.field == "Idempotency-Key"


@pytest.mark.parametrize(
    "other", [{"tenant": TenantId("x")}, {"name": "x"}, {"route": "x"}, {"key": "x"}]
)
def test_a_key_counts_for_one_tenant_principal_and_route(other: dict[str, Any]):
    records = Records()
    once = guard(records).once
    asyncio.run(once(ask(), working(records, ask())))
    request = ask(**other)
    assert asyncio.run(once(request, working(records, request))) == WORKED
    assert len(records.rows) == 2


def test_a_call_that_is_under_way_is_not_begun_again():
    async def both() -> None:
        records = Records()
        once = guard(records).once

        async def work() -> Answer:
            with pytest.raises(StillRunningError):
                await once(ask(), never)
            with pytest.raises(StillRunningError):  # a refusal must not free the first's place
                await once(ask(body=b"other"), never)
            assert await once(ask("another"), working(records, ask("another"))) == WORKED
            return WORKED

        assert await once(ask(), work) == WORKED
        assert await once(ask(), working(records, ask())) == WORKED

    asyncio.run(both())


def test_a_call_that_failed_may_be_made_again():
    async def fail() -> Answer:
        raise InputError("refused")

    records = Records()
    once = guard(records).once
    with pytest.raises(InputError):
        asyncio.run(once(ask(), fail))
    assert asyncio.run(once(ask(), working(records, ask()))) == WORKED
