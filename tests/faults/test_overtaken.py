"""What was fine when it began and is not any more when it ends: it must not be completed."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hsm_drivers.errors import HsmError
from hsm_drivers.ports import Purpose, Statement, StatementSigner
from kms.device import Device
from kms.domain.records import (
    Certificate,
    CertificateStatus,
    Event,
    PolicyVersion,
    Reason,
    Serial,
    UserId,
)
from kms.services.ceremony import activate_policy
from kms.services.errors import (
    ChallengeExpiredError,
    ChallengeUsedError,
    KeyReusedError,
    RevokedError,
)
from kms.services.facade import compose
from policies.policy import load
from tests.support.books import check_books
from tests.support.faulty_signer import FaultySigner
from tests.support.flow import IDENTITY, SLOTS, enrol, expectations, new_device, order, prove
from tests.support.services import TENANT, World, world

pytestmark = pytest.mark.anyio


class SlowSigner(FaultySigner):
    """Signs at once, and gives the answer when it is told to."""

    def __init__(self, signer: StatementSigner) -> None:
        super().__init__(signer)
        self.hold: asyncio.Event | None = None
        self.signed = asyncio.Event()

    async def sign(self, statements: Sequence[Statement]) -> list[bytes | HsmError]:
        answers = await super().sign(statements)
        if self.hold is not None and statements[0].purpose is Purpose.CERTIFICATE:
            self.signed.set()
            await self.hold.wait()
        return answers


async def test_an_orphan_is_not_completed_by_a_late_commit(tmp_path: Path):
    signers: list[SlowSigner] = []

    def slow(signer: StatementSigner) -> StatementSigner:
        signers.append(SlowSigner(signer))
        return signers[-1]

    async with world(tmp_path, wrap_signer=slow) as made:
        device = new_device(made, "ada", "phone", IDENTITY)
        answer = await order(made, device)
        signers[-1].hold = asyncio.Event()
        late = asyncio.create_task(prove(made, device, answer, "k"))
        await signers[-1].signed.wait()
        made.clock.advance(minutes=16)
        assert await made.services.upkeep.sweep() == 1
        signers[-1].hold.set()
        with pytest.raises(ChallengeUsedError):
            await late
        (certificate,) = made.ledger.find(Certificate, authority="people")
        assert certificate.status is CertificateStatus.ORPHANED
        await check_books(made)


async def test_a_request_on_its_way_keeps_its_reservation_for_a_while(tmp_path: Path):
    async with world(tmp_path) as made:
        device = new_device(made, "ada", "phone", IDENTITY)
        await order(made, device)
        made.clock.advance(minutes=12)
        assert made.services.upkeep._live()
        made.clock.advance(minutes=4)
        assert not made.services.upkeep._live()


async def renewal(made: World, device: Device) -> dict[str, object]:
    again = Device("ada", "phone", SLOTS, expectations(made), renews=identity(made))
    again.keys = device.keys
    return {"device": again, "answer": await order(made, again)}


def identity(made: World) -> str:
    (good,) = made.ledger.find(
        Certificate, device="phone", slot="identity", status=CertificateStatus.GOOD
    )
    return good.sha256


async def revoke(made: World, slot: str, reason: Reason) -> None:
    (good,) = made.ledger.find(
        Certificate, device="phone", slot=slot, status=CertificateStatus.GOOD
    )
    request = made.call("revoke", good.serial)
    await made.services.revocation.certificate(request, TENANT, Serial(good.serial), reason)


async def test_a_renewal_may_keep_good_keys(tmp_path: Path):
    async with world(tmp_path) as made:
        device = new_device(made, "ada", "phone")
        await enrol(made, device)
        again = await renewal(made, device)
        await prove(made, again["device"], again["answer"], "k")  # type: ignore[arg-type]
        assert made.ledger.count(Certificate, device="phone") == 4
        await check_books(made)


async def test_a_compromised_key_is_never_certified_again(tmp_path: Path):
    async with world(tmp_path) as made:
        device = new_device(made, "ada", "phone")
        await enrol(made, device)
        await revoke(made, "kem", Reason.KEY_COMPROMISE)
        with pytest.raises(KeyReusedError):
            await renewal(made, device)


async def test_a_key_compromised_between_order_and_proof_is_not_certified(tmp_path: Path):
    async with world(tmp_path) as made:
        device = new_device(made, "ada", "phone")
        await enrol(made, device)
        again = await renewal(made, device)
        await revoke(made, "kem", Reason.KEY_COMPROMISE)
        with pytest.raises(KeyReusedError):
            await prove(made, again["device"], again["answer"], "k")  # type: ignore[arg-type]


async def test_a_renewal_ends_with_the_certificate_it_follows(tmp_path: Path):
    async with world(tmp_path) as made:
        await enrol(made, new_device(made, "ada", "phone"))
        again = Device("ada", "phone", SLOTS, expectations(made), renews=identity(made))
        answer = await order(made, again)
        await revoke(made, "identity", Reason.SUPERSEDED)
        with pytest.raises(RevokedError):
            await prove(made, again, answer, "k")


async def test_what_was_decided_under_another_policy_is_ordered_again(tmp_path: Path):
    async with world(tmp_path) as made:
        device = new_device(made, "ada", "phone", IDENTITY)
        answer = await order(made, device)
        stricter = load(made.services.core.policy.source + b"\n# another\n")
        made.services = compose(replace(made.services.core, policy=stricter))
        with pytest.raises(ChallengeExpiredError):
            await prove(made, device, answer, "k")


async def test_a_policy_that_comes_back_is_logged_again(tmp_path: Path):
    async with world(tmp_path) as made:
        first = made.services.core
        second = replace(first, policy=load(first.policy.source + b"\n# another\n"))
        assert not await activate_policy(first, "test")
        assert await activate_policy(second, "test")
        assert not await activate_policy(second, "test")
        assert await activate_policy(first, "test")
        assert not await activate_policy(first, "test")
        assert made.ledger.count(PolicyVersion) == 2
        assert made.ledger.count(Event, type="policy.activated") == 3


async def test_a_revocation_has_one_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with world(tmp_path) as made:
        await enrol(made, new_device(made, "ada", "phone"))
        still = made.clock.now

        def ticking() -> object:
            made.clock.advance(seconds=1)
            return still()

        monkeypatch.setattr(made.clock, "now", ticking)
        await made.services.revocation.user(
            made.call("revoke", "ada"), TENANT, UserId("ada"), Reason.UNSPECIFIED
        )
        for certificate in made.ledger.find(Certificate, user="ada"):
            (event,) = made.ledger.find(Event, tenant=TENANT, event=certificate.revoked_by)
            assert certificate.revoked_at == event.time
