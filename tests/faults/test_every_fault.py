"""Every call that every use case makes of ledger and signer fails: not done, and done but not told.

Whatever fails, the caller is told to try again, or never notices; trying again gives the answer,
once more gives the same bytes, and the books agree. A use case, or a method of a port, that is not
met here fails a test.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hsm_drivers.ports import Purpose, ServiceKeys, StatementSigner
from kms.services import ceremony, epochs
from kms.services.errors import KmsError, Retry
from kms.services.facade import Services
from kms.services.ports import Ledger, LedgerUnavailableError
from kms.storage.faulty import Fault as LedgerFault
from kms.storage.faulty import FaultyLedger
from kms.storage.memory import MemoryLedger
from tests.support import (
    key_use_cases,  # noqa: F401 - registers its cases
    slot_use_cases,  # noqa: F401 - as above
)
from tests.support.books import check_books
from tests.support.faulty_signer import Fault as SignerFault
from tests.support.faulty_signer import FaultySigner
from tests.support.founding import Founding
from tests.support.services import World, world
from tests.support.use_cases import CASES, WAITING, Act, UseCase

pytestmark = pytest.mark.anyio

Port = FaultyLedger | FaultySigner
ATTEMPTS = 4
ALL = 1_000_000
LONG = pytest.param(ALL, id="all", marks=[pytest.mark.slow, pytest.mark.timeout(900)])


@asynccontextmanager
async def faulty_world(folder: Path) -> AsyncIterator[World]:
    async with world(folder, FaultyLedger(MemoryLedger()), FaultySigner) as made:
        yield made


def ports(made: World) -> tuple[FaultyLedger, FaultySigner]:
    assert isinstance(made.ledger, FaultyLedger)
    assert isinstance(made.signer, FaultySigner)
    return made.ledger, made.signer


async def calls_of(
    ports: tuple[Port, Port], arrange: Callable[[], Awaitable[Act]]
) -> list[tuple[Port, str, int]]:
    """What a use case calls while nothing fails: port, method, how often."""
    act = await arrange()
    for port in ports:
        port.calls.clear()
    await act()
    return [(port, method, count) for port in ports for method, count in port.calls.items()]


def spread(count: int, most: int) -> list[int]:
    """Which of so many calls fail: all, or the last, the first and some between."""
    if count <= most:
        return list(range(count))
    return sorted({count - 1, *(at * count // most for at in range(most - 1))})


READING = {
    *("get", "find", "count", "head", "tile"),
    *("keys", "attributes", "journal", "health", "tokens"),
}
"""Calls that change nothing: whether they were done makes no difference."""


def faults_of(port: Port, method: str) -> Sequence[Any]:
    faults = list(LedgerFault if isinstance(port, FaultyLedger) else SignerFault)
    return faults[:1] if method in READING else faults


async def every_fault(
    ports: tuple[Port, Port],
    arrange: Callable[[], Awaitable[Act]],
    most: int,
    check: Callable[[], Awaitable[object]] | None = None,
) -> int:
    """Let every call fail in every way; answers how many failures there were.

    Args:
        ports: What fails.
        arrange: Makes what is done, afresh for every failure.
        most: Of the calls of one method so many fail.
        check: Looks at what came of each.
    """
    came = 0
    for port, method, count in await calls_of(ports, arrange):
        for at in spread(count, most):
            for fault in faults_of(port, method):
                act = await arrange()
                port.fail_next(method, fault, after=at)
                try:
                    came += await survives(act, port)
                    if check is not None:
                        await check()
                except Exception as error:
                    where = f"{method} call {at + 1} of {count}, {fault}"
                    raise AssertionError(where) from error
    return came


async def survives(act: Act, port: Port) -> bool:
    """The act fails, or not; it is done in the end, and always says the same."""
    try:
        first = await attempt(act)
    finally:
        left = port.mend()
    for _ in range(ATTEMPTS):
        if not isinstance(first, Exception):
            break
        first = await attempt(act)
    assert not isinstance(first, Exception), f"not done in {ATTEMPTS} attempts: {first!r}"
    again = await act()
    if isinstance(first, bytes) and b'"pending"' not in first:
        assert again == first
    return not left


async def attempt(act: Act) -> Any:
    """What came, or the error that says: try again. Any other is raised: it would be a 500."""
    try:
        return await act()
    except LedgerUnavailableError as error:
        return error
    except KmsError as error:
        if error.retry is Retry.NEVER:
            raise
        return error


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.arrange.__name__)
@pytest.mark.parametrize("most", [2, LONG])
async def test_every_call_of_a_use_case_fails(tmp_path: Path, case: UseCase, most: int):
    async with faulty_world(tmp_path) as made:
        assert await every_fault(ports(made), partial(case.arrange, made), most)
        await settle(made)


async def settle(made: World) -> None:
    """Nobody comes back any more: what was left open is found, and the books agree."""
    made.clock.advance(seconds=WAITING.total_seconds())
    await made.services.upkeep.recover()
    await made.services.upkeep.sweep()
    await check_books(made)


@pytest.mark.parametrize("most", [1, LONG])
async def test_every_call_of_a_ceremony_fails(tmp_path: Path, most: int):
    with closing(Founding(tmp_path)) as founding:
        made = founding.ledger, founding.signer
        assert await every_fault(made, founding.arrange, most, founding.check)


NO_PORT = {"access.require"}
"""Verbs that decide without asking anyone."""
BY_CEREMONY = {"ceremony.open_log"}
BY_NEW_EPOCH = {"epochs.find_loss", "epochs.open_next_epoch", "epochs.continue_log"}
"""In test_new_epoch.py."""


def verbs_of(field: str, kind: type, seen: set[type]) -> Iterator[str]:
    """Public methods of a part of the service, and of its own parts; of each class once."""
    if kind in seen:
        return
    seen.add(kind)
    for name, part in inspect.get_annotations(kind).items():
        yield from verbs_of(f"{field}.{name}", part, seen)
    for name, member in vars(kind).items():
        if name[0] != "_" and inspect.isfunction(member):
            yield f"{field}.{name}"


def test_every_use_case_is_here():
    seen: set[type] = set()
    verbs = {
        name
        for field, kind in inspect.get_annotations(Services).items()
        if field not in ("core", "crls_wanted")
        for name in verbs_of(field, kind, seen)
    }
    verbs |= {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in (ceremony, epochs)
        for name, member in vars(module).items()
        if name[0] != "_" and inspect.iscoroutinefunction(member)
        if member.__module__ == module.__name__
    }
    here = {name for case in CASES for name in case.names}
    assert here | NO_PORT | BY_CEREMONY | BY_NEW_EPOCH == verbs


NOT_BY_USE_CASES = {"close", "attributes"}
"""Only when a process ends; only by `kms doctor`."""


def methods(port: type) -> set[str]:
    return {name for name, it in vars(port).items() if name[0] != "_" and inspect.isfunction(it)}


async def test_every_method_of_the_ports_fails_somewhere(tmp_path: Path):
    with closing(Founding(tmp_path / "ceremony")) as founding:
        calls = await calls_of((founding.ledger, founding.signer), founding.arrange)
    async with faulty_world(tmp_path) as made:
        for case in CASES:
            calls += await calls_of(ports(made), partial(case.arrange, made))
    met = {"sign" if method in set(Purpose) else method for _, method, _ in calls}
    offered = methods(Ledger) | methods(StatementSigner) | methods(ServiceKeys)
    assert met == offered - NOT_BY_USE_CASES
