"""What others change while a call is on its way: revoked in between is revoked."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hsm_drivers.errors import HsmError
from hsm_drivers.ports import Purpose, Statement, StatementSigner
from kms.domain.records import (
    Certificate,
    CertificateStatus,
    Device,
    DeviceId,
    Reason,
    Standing,
    UserId,
)
from kms.services.errors import RevokedError
from tests.support.books import check_books
from tests.support.flow import IDENTITY, enrol, new_device, order, prove
from tests.support.services import TENANT, World, world

pytestmark = pytest.mark.anyio


class Meanwhile:
    """A signer in front of which something happens, once, before certificates are signed."""

    def __init__(self) -> None:
        self.happens: Callable[[], Awaitable[Any]] | None = None
        self._signer: StatementSigner | None = None

    def wrap(self, signer: StatementSigner) -> StatementSigner:
        self._signer = signer
        return self  # type: ignore[return-value]  # the rest is passed on

    def __getattr__(self, name: str) -> Any:
        return getattr(self._signer, name)

    async def sign(self, statements: Sequence[Statement]) -> list[bytes | HsmError]:
        assert self._signer is not None
        happens, self.happens = self.happens, None
        if happens is not None and statements[0].purpose is Purpose.CERTIFICATE:
            await happens()
        return await self._signer.sign(statements)


async def revoke_user(made: World) -> None:
    request = made.call("revoke", {"user": "ada"})
    await made.services.revocation.user(request, TENANT, UserId("ada"), Reason.KEY_COMPROMISE)


async def revoke_device(made: World) -> None:
    request = made.call("revoke", {"device": "tablet"})
    device = DeviceId("tablet")
    await made.services.revocation.device(request, TENANT, device, Reason.KEY_COMPROMISE)


def nothing_good(made: World, **owner: str) -> bool:
    return not made.ledger.count(Certificate, status=CertificateStatus.GOOD, **owner)


async def test_a_user_revoked_while_a_device_is_being_certified(tmp_path: Path):
    meanwhile = Meanwhile()
    async with world(tmp_path, wrap_signer=meanwhile.wrap) as made:
        await enrol(made, new_device(made, "ada", "phone", IDENTITY))
        device = new_device(made, "ada", "tablet", IDENTITY)
        answer = await order(made, device)
        meanwhile.happens = lambda: revoke_user(made)
        with pytest.raises(RevokedError):
            await prove(made, device, answer, "k1")
        assert nothing_good(made, user="ada")
        assert made.ledger.get(Device, TENANT, "tablet") is None
        made.clock.advance(hours=1)
        assert await made.services.upkeep.sweep() == 1  # it was signed, and nobody got it
        await check_books(made)


async def test_another_device_of_the_user_revoked_meanwhile(tmp_path: Path):
    meanwhile = Meanwhile()
    async with world(tmp_path, wrap_signer=meanwhile.wrap) as made:
        await enrol(made, new_device(made, "ada", "phone", IDENTITY))
        await enrol(made, new_device(made, "ada", "tablet", IDENTITY))
        device = new_device(made, "ada", "watch", IDENTITY)
        answer = await order(made, device)
        meanwhile.happens = lambda: revoke_device(made)
        await prove(made, device, answer, "k1")  # another device of the same user goes on
        assert nothing_good(made, device="tablet")
        assert not nothing_good(made, device="watch")
        await check_books(made)


async def test_a_device_certified_while_its_user_is_being_revoked(tmp_path: Path):
    """The revocation was planned before the device was there, and is committed after it."""
    async with world(tmp_path) as made:
        await enrol(made, new_device(made, "ada", "phone", IDENTITY))
        device = new_device(made, "ada", "tablet", IDENTITY)
        answer = await order(made, device)
        sequencer = made.services.core.sequencer
        commit = sequencer.commit
        waiting: list[Callable[[], Awaitable[Any]]] = [lambda: prove(made, device, answer, "k1")]

        async def late(*arguments: Any, **named: Any) -> Any:
            while waiting:
                await waiting.pop()()
            return await commit(*arguments, **named)

        sequencer.commit = late  # type: ignore[method-assign]
        await revoke_user(made)
        assert nothing_good(made, user="ada")
        devices = made.ledger.find(Device, tenant=TENANT, user="ada")
        assert {item.standing for item in devices} == {Standing.REVOKED}
        await check_books(made)
