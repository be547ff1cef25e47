"""Whatever fails between two steps of a commit: nothing acknowledged is lost, nothing doubled."""

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from hsm_drivers.ports import Purpose, StatementSigner
from kms.domain.records import Certificate, CertificateStatus, Event, Reason, UserId
from kms.services.core import Core
from kms.services.epochs import continue_log, find_loss, open_next_epoch
from kms.services.errors import (
    KmsError,
    LogUnavailableError,
    Retry,
    SignerUnavailableError,
    StateError,
)
from kms.services.head_signer import LogRolledBackError
from kms.storage.faulty import Fault as LedgerFault
from kms.storage.faulty import FaultyLedger
from kms.storage.memory import MemoryLedger
from kms.storage.migrate import migrate
from kms.storage.sql import SqlLedger
from kms.wire import b64
from tests.support.books import check_books
from tests.support.faulty_signer import Fault, FaultySigner
from tests.support.flow import IDENTITY, enrol, new_device, order, prove
from tests.support.services import TENANT, World, build_core, compose, decoded, world

pytestmark = pytest.mark.anyio


class Faulty:
    """A world whose ledger and signer fail on command."""

    def __init__(self) -> None:
        self.ledger = FaultyLedger(MemoryLedger())
        self.signers: list[FaultySigner] = []

    def wrap(self, signer: StatementSigner) -> StatementSigner:
        self.signers.append(FaultySigner(signer))
        return self.signers[-1]

    @property
    def signer(self) -> FaultySigner:
        return self.signers[-1]


async def retry(made: World, device: object, answer: dict[str, object], key: str) -> bytes:
    """A client that sends the same request until it is answered."""
    for _ in range(5):
        try:
            return (await prove(made, device, answer, key)).body  # type: ignore[arg-type]
        except KmsError as error:
            if error.retry is Retry.NEVER:
                raise
    raise AssertionError("never answered")


@pytest.mark.parametrize("purpose", [Purpose.CERTIFICATE, Purpose.CHECKPOINT])
@pytest.mark.parametrize("fault", list(Fault))
async def test_signer_fails(tmp_path: Path, purpose: Purpose, fault: Fault):
    faulty = Faulty()
    async with world(tmp_path, faulty.ledger, faulty.wrap) as made:
        device = new_device(made, "ada", "phone")
        answer = await order(made, device)
        faulty.signer.fail_next(purpose, fault)
        with pytest.raises(SignerUnavailableError):
            await prove(made, device, answer, "k1")
        body = await retry(made, device, answer, "k1")
        assert body == await retry(made, device, answer, "k1")
        assert made.ledger.count(Certificate, device="phone") == 2
        await check_books(made)


@pytest.mark.parametrize("method", ["commit", "store_note"])
@pytest.mark.parametrize("fault", list(LedgerFault))
async def test_ledger_fails(tmp_path: Path, method: str, fault: LedgerFault):
    faulty = Faulty()
    async with world(tmp_path, faulty.ledger, faulty.wrap) as made:
        device = new_device(made, "ada", "phone")
        answer = await order(made, device)
        faulty.ledger.fail_next(method, fault)
        with pytest.raises((LogUnavailableError, SignerUnavailableError)):
            await prove(made, device, answer, "k1")
        body = await retry(made, device, answer, "k1")
        assert body == await retry(made, device, answer, "k1")
        assert made.ledger.count(Certificate, device="phone") == 2
        await check_books(made)


async def test_nothing_is_committed_while_the_signer_is_known_to_be_away(tmp_path: Path):
    faulty = Faulty()
    async with world(tmp_path, faulty.ledger, faulty.wrap) as made:
        faulty.signer.fail_next(Purpose.CHECKPOINT, Fault.NOT_DONE)
        with pytest.raises(SignerUnavailableError):
            await made.services.crls.publish("people")
        before = made.ledger.head()
        faulty.signer.away = True
        device = new_device(made, "ada", "phone")
        answer = await order(made, device)
        with pytest.raises(SignerUnavailableError):
            await prove(made, device, answer, "k1")
        assert made.ledger.head() == before
        faulty.signer.away = False
        await retry(made, device, answer, "k1")
        await check_books(made)


async def test_a_revocation_takes_effect_while_the_token_is_away(tmp_path: Path):
    faulty = Faulty()
    async with world(tmp_path, faulty.ledger, faulty.wrap) as made:
        await enrol(made, new_device(made, "ada", "phone", IDENTITY))
        faulty.signer.away = True
        request = made.call("revoke", "ada")
        answer = await made.services.revocation.user(
            request, TENANT, UserId("ada"), Reason.KEY_COMPROMISE
        )
        assert decoded(answer)["receipt"]["status"] == "pending"
        (revoked,) = made.ledger.find(Certificate, user="ada")
        assert revoked.status is CertificateStatus.REVOKED
        faulty.signer.away = False
        await made.services.upkeep.recover()
        index = decoded(answer)["receipt"]["index"]
        receipt = await made.services.lookup.receipt(TENANT, index)
        assert receipt["status"] == "final"
        await check_books(made)


async def test_what_was_signed_and_lost_becomes_a_revoked_orphan(tmp_path: Path):
    faulty = Faulty()
    async with world(tmp_path, faulty.ledger, faulty.wrap) as made:
        device = new_device(made, "ada", "phone")
        answer = await order(made, device)
        faulty.signer.fail_next(Purpose.CERTIFICATE, Fault.DONE)
        with pytest.raises(SignerUnavailableError):
            await prove(made, device, answer, "k1")
        assert await made.services.upkeep.sweep() == 0  # the client may still come back
        made.clock.advance(minutes=16)
        assert await made.services.upkeep.sweep() == 2
        assert await made.services.upkeep.sweep() == 0
        orphans = made.ledger.find(Certificate, status=CertificateStatus.ORPHANED)
        assert len(orphans) == 2
        published = made.services.crls.published("people")
        assert published is not None
        assert published.entries == 2
        await check_books(made)


async def test_a_crl_that_was_signed_and_lost_is_logged(tmp_path: Path):
    faulty = Faulty()
    async with world(tmp_path, faulty.ledger, faulty.wrap) as made:
        faulty.signer.fail_next(Purpose.CRL, Fault.DONE)
        with pytest.raises(SignerUnavailableError):
            await made.services.crls.publish("people")
        assert await made.services.upkeep.sweep() == 0
        made.clock.advance(minutes=16)
        assert await made.services.upkeep.sweep() == 1
        assert (await made.services.crls.publish("people")).number == 3
        await check_books(made)


async def test_a_rolled_back_ledger_is_noticed_and_never_continued(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    migrate(url, create=True)
    async with world(tmp_path, SqlLedger(url)) as made:
        with (
            closing(sqlite3.connect(tmp_path / "ledger.db")) as live,
            closing(sqlite3.connect(tmp_path / "old.db")) as copy,
        ):
            live.backup(copy)
        await enrol(made, new_device(made, "ada", "phone", IDENTITY))
        with ThreadPoolExecutor(1) as executor:
            core = build_core(
                SqlLedger(f"sqlite:///{tmp_path / 'old.db'}"),
                made.signer,
                made.clock,
                made.report.origin,
                made.report.vkey,
                executor,
            )
            restored = compose(core)
            before = core.ledger.head()
            with pytest.raises(LogRolledBackError):
                await restored.upkeep.recover()
            with pytest.raises(LogRolledBackError):
                await restored.crls.publish("people")
            assert core.ledger.head() == before
            await continue_in_a_new_epoch(made, core, executor)
            core.ledger.close()


async def continue_in_a_new_epoch(made: World, core: Core, executor: ThreadPoolExecutor) -> None:
    """The way out: the new epoch names the lost head, and what it held is found and revoked."""
    old = core.ledger.head()
    assert old is not None
    loss = await find_loss(core.ledger, made.signer)
    assert loss.kept.size == old.size < loss.signed.size
    epoch = await open_next_epoch(core.ledger, made.signer, executor, loss)
    assert epoch.origin == f"{loss.signed.origin.removesuffix('1')}2"
    fresh = build_core(core.ledger, made.signer, made.clock, epoch.origin, epoch.vkey, executor)
    with pytest.raises(StateError):
        await continue_log(fresh, loss, ["alice"], "restored from a copy")
    await continue_log(fresh, loss, ["alice", "bob"], "restored from a copy")
    leaf = json.loads(core.ledger.find(Event, log=epoch.log)[0].leaf)
    assert leaf["detail"]["previous"]["size"] == loss.signed.size
    assert leaf["detail"]["kept"]["root"] == b64(old.root)
    services = compose(fresh)
    assert await services.upkeep.sweep() == 1
    signed = dict((await made.signer.health()).crl_numbers)
    assert (await services.crls.publish("root")).number == signed["root-1"] + 1
