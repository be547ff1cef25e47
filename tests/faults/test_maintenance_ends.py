"""The service's own work ends in order: a list that is being made when it stops is finished."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hsm_drivers.errors import HsmError
from hsm_drivers.ports import Purpose, Statement, StatementSigner
from kms.services import maintenance
from kms.services.maintenance import Maintenance
from tests.support.books import check_books
from tests.support.patience import until
from tests.support.services import world

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Held:
    """A signer that signs a list and keeps the answer back, from when it is told to."""

    def __init__(self) -> None:
        self.holds = False
        self.signed = asyncio.Event()
        self.released = asyncio.Event()
        self._signer: StatementSigner | None = None

    def wrap(self, signer: StatementSigner) -> StatementSigner:
        self._signer = signer
        return self  # type: ignore[return-value]  # the rest is passed on

    def __getattr__(self, name: str) -> Any:
        return getattr(self._signer, name)

    async def sign(self, statements: Sequence[Statement]) -> list[bytes | HsmError]:
        assert self._signer is not None
        answers = await self._signer.sign(statements)
        if self.holds and statements[0].purpose is Purpose.CRL:
            self.signed.set()
            await self.released.wait()
        return answers


async def test_a_list_that_is_being_made_is_finished(tmp_path: Path):
    held = Held()
    async with world(tmp_path, wrap_signer=held.wrap) as made:
        held.holds = True
        made.services.crls_wanted.put_nowait("people")
        running = asyncio.create_task(Maintenance(made.services).run())
        await until(held.signed.is_set)
        running.cancel()
        await asyncio.sleep(0)
        assert not running.done()
        held.released.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        await check_books(made)


async def test_what_does_not_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(maintenance, "FINISH_SECONDS", 0.05)
    held = Held()
    async with world(tmp_path, wrap_signer=held.wrap) as made:
        held.holds = True
        made.services.crls_wanted.put_nowait("people")
        running = asyncio.create_task(Maintenance(made.services).run())
        await until(held.signed.is_set)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(running, 10)
