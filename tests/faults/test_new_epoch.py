"""The way out of a loss, interrupted anywhere, and after losses of every kind."""

import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from copy import deepcopy
from pathlib import Path

import pytest

from hsm_drivers.ports import Purpose
from kms.bootstrap import NotFoundedError, current_epoch
from kms.domain.records import Checkpoint, Epoch, Event
from kms.services.core import Core
from kms.services.epochs import Loss, continue_log, find_loss, open_next_epoch
from kms.services.errors import KmsError, StateError
from kms.services.facade import compose
from kms.services.head_signer import LogRolledBackError
from kms.services.ports import Ledger, LedgerUnavailableError
from kms.storage.faulty import Fault as LedgerFault
from kms.storage.faulty import FaultyLedger
from kms.storage.memory import MemoryLedger
from kms.tlog.notes import VerifierKey, parse_note, verify_note
from tests.support.faulty_signer import Fault, FaultySigner
from tests.support.flow import IDENTITY, enrol, new_device
from tests.support.services import World, build_core, world

pytestmark = pytest.mark.anyio

OFFICERS = ["alice", "bob"]
REASON = "an old copy was restored"


class Lost:
    """A world whose ledger was exchanged for the copy that was made before its last enrolment."""

    def __init__(self, made: World, old: Ledger, executor: ThreadPoolExecutor) -> None:
        self.made = made
        self.ledger = FaultyLedger(old)
        self.signer = FaultySigner(made.signer)
        self.executor = executor

    def core(self, epoch: Epoch) -> Core:
        made = self.made
        return build_core(
            self.ledger, self.signer, made.clock, epoch.origin, epoch.vkey, self.executor
        )

    async def begin(self) -> Epoch:
        """What the command does."""
        loss = await find_loss(self.ledger, self.signer)
        epoch = await open_next_epoch(self.ledger, self.signer, self.executor, loss)
        await continue_log(self.core(epoch), loss, OFFICERS, REASON)
        return epoch


def copy(ledger: MemoryLedger) -> MemoryLedger:
    made = MemoryLedger()
    made._tables, made._tiles = deepcopy(ledger._tables), dict(ledger._tiles)
    made._head = ledger._head
    return made


@asynccontextmanager
async def loss(folder: Path) -> AsyncIterator[Lost]:
    live = MemoryLedger()
    async with world(folder, live) as made:
        old = copy(live)
        await enrol(made, new_device(made, "ada", "phone", IDENTITY))
        with ThreadPoolExecutor(1) as executor:
            yield Lost(made, old, executor)


def check_begun(ledger: Ledger, epoch: Epoch, signed_origin: str) -> None:
    """Its first event, and no other, continues the log; a signed head covers it."""
    leaves = [json.loads(event.leaf) for event in ledger.find(Event, log=epoch.log)]
    assert [leaf["type"] for leaf in leaves].count("log.continued") == 1
    assert leaves[0]["detail"]["previous"]["origin"] == signed_origin
    newest = ledger.find(Checkpoint, log=epoch.log)[-1]
    assert newest.size == len(leaves)
    key = VerifierKey.parse(epoch.vkey)
    assert verify_note(parse_note(newest.note or b""), [key]) == [epoch.origin]


def interruptions() -> Iterator[tuple[str, LedgerFault | Fault]]:
    for method in ("open_log", "commit", "store_note"):
        yield from ((method, fault) for fault in LedgerFault)
    yield from (("sign", fault) for fault in Fault)


@pytest.mark.parametrize(("step", "fault"), list(interruptions()))
async def test_a_beginning_that_is_interrupted_is_ended_by_the_same_command(
    tmp_path: Path, step: str, fault: LedgerFault | Fault
):
    async with loss(tmp_path) as lost:
        if isinstance(fault, Fault):
            lost.signer.fail_next(Purpose.CHECKPOINT, fault)
        else:
            lost.ledger.fail_next(step, fault)
        with pytest.raises((KmsError, LedgerUnavailableError)):
            await lost.begin()
        if step == "store_note" or fault is Fault.DONE:  # signed: any service can go on from here
            with pytest.raises(StateError, match="no new epoch is needed"):
                await lost.begin()
            epoch = current_epoch(lost.ledger)
            await compose(lost.core(epoch)).upkeep.recover()
        else:
            epoch = await lost.begin()
        assert epoch.log == 2
        check_begun(lost.ledger, epoch, lost.made.report.origin)


async def test_no_service_runs_on_an_epoch_without_its_first_event(tmp_path: Path):
    async with loss(tmp_path) as lost:
        lost.ledger.fail_next("commit", LedgerFault.REFUSED)
        with pytest.raises(KmsError):
            await lost.begin()
        with pytest.raises(NotFoundedError, match=r"interrupted: end it with `kms log new-epoch`"):
            current_epoch(lost.ledger)
        assert (await find_loss(lost.ledger, lost.signer)).sentence.endswith("it is ended now")
        await lost.begin()
        assert current_epoch(lost.ledger).log == 2


async def test_a_copy_from_before_the_new_epoch(tmp_path: Path):
    """It may hold all of the first epoch: what it lacks is a whole epoch."""
    async with loss(tmp_path) as lost:
        second = await lost.begin()
        ledger = copy(lost.made.ledger)
        lost.ledger = FaultyLedger(ledger)
        first = current_epoch(ledger)
        with pytest.raises(LogRolledBackError, match=rf"events of {second.origin}, the ledger is"):
            await compose(lost.core(first)).upkeep.recover()
        with pytest.raises(LogRolledBackError):
            await compose(lost.core(first)).crls.publish("people")
        found = await find_loss(ledger, lost.signer)
        assert (found.signed.origin, found.kept.origin) == (second.origin, first.origin)
        assert found.next == 3
        assert "the ledger holds 0: 1 events are lost" in found.sentence
        third = await lost.begin()
        check_begun(ledger, third, second.origin)
        await compose(lost.core(third)).crls.publish("people")


async def test_a_ledger_that_lost_nothing_goes_on(tmp_path: Path):
    async with loss(tmp_path) as lost:
        with pytest.raises(StateError, match="no new epoch is needed"):
            await find_loss(lost.made.ledger, lost.signer)


async def test_other_events_of_the_same_number_are_a_loss(tmp_path: Path):
    async with loss(tmp_path) as lost:
        found = await find_loss(lost.ledger, lost.signer)
        same = Loss(found.signed, found.signed, found.next, begun=False)
        assert same.sentence.endswith("they are not those that were signed")
