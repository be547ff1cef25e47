"""A revocation does not queue behind enrolments: the next commit has it, whoever waits longer."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from kms.domain.records import Reason, UserId
from kms.services.ports import Conflict, Placed, Unit
from kms.services.sequencer import MAX_UNITS
from kms.storage.memory import MemoryLedger
from tests.support.books import check_books
from tests.support.flow import IDENTITY, enrol, new_device, order
from tests.support.patience import until
from tests.support.services import TENANT, World, decoded, world

pytestmark = pytest.mark.anyio

QUEUED = MAX_UNITS + 20
"""Orders that wait: more than one commit takes."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Slow(MemoryLedger):
    """A ledger whose commits can be held up; notes of each unit whether it has events."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[list[bool]] = []
        self.goes_on = threading.Event()
        self.goes_on.set()

    def commit(self, units: Sequence[Unit]) -> list[Placed | Conflict]:
        self.commits.append([bool(unit.events) for unit in units])
        self.goes_on.wait(30)
        return super().commit(units)


async def revoke(made: World, user: str) -> str:
    request = made.call("revoke", user)
    answer = await made.services.revocation.user(
        request, TENANT, UserId(user), Reason.KEY_COMPROMISE
    )
    return str(decoded(answer)["user"])


async def test_a_revocation_is_in_the_next_commit(tmp_path: Path):
    slow = Slow()
    async with world(tmp_path, slow) as made:
        await enrol(made, new_device(made, "ada", "ada-phone", IDENTITY))
        device = new_device(made, "user", "device", IDENTITY)
        slow.goes_on.clear()
        slow.commits.clear()
        orders = [asyncio.create_task(order(made, device))]
        await until(lambda: slow.commits)
        orders += [asyncio.create_task(order(made, device)) for _ in range(QUEUED)]
        await until(lambda: made.services.core.sequencer.waiting == QUEUED)
        revocation = asyncio.create_task(revoke(made, "ada"))
        await until(lambda: made.services.core.sequencer.waiting == QUEUED + 1)
        slow.goes_on.set()
        assert await revocation == "ada"
        await asyncio.gather(*orders)
        assert slow.commits[0] == [False]
        assert slow.commits[1] == [True] + [False] * (MAX_UNITS - 1)
        await check_books(made)
