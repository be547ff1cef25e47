"""Can the service do its work now? Asked by `/readyz` and `kms doctor`; each check goes deep."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hsm_drivers.errors import HsmError
from kms.services.core import Core
from kms.services.crls import Crls
from kms.services.errors import KmsError
from kms.services.ports import LedgerUnavailableError


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer."""

    name: str
    ok: bool
    detail: str


class Readiness:
    """Asks signer, ledger and log."""

    def __init__(self, core: Core, crls: Crls) -> None:
        self._core = core
        self._crls = crls

    async def checks(self) -> list[Check]:
        """Every check, failed ones included; never raises."""
        return [
            await self._guard("signer", self._signer),
            await self._guard("ledger", self._ledger),
            await self._guard("log", self._log),
            await self._guard("crls", self._fresh_crls),
        ]

    async def _guard(self, name: str, check: Callable[[], Awaitable[str]]) -> Check:
        try:
            return Check(name, ok=True, detail=await check())
        except (KmsError, HsmError, LedgerUnavailableError) as error:
            return Check(name, ok=False, detail=str(error))

    async def _signer(self) -> str:
        health = await self._core.signer.health()
        if not health.ready:
            raise KmsError(health.detail)
        return f"token {health.token}: {health.detail}"

    async def _ledger(self) -> str:
        head = self._core.ledger.head()
        if head is None:
            raise KmsError("the log has not been opened: hold the ceremony first")
        # A transaction that changes nothing: locked, read-only, damaged show in it.
        await asyncio.to_thread(self._core.ledger.reserve, [])
        return f"{head.size} events committed"

    async def _log(self) -> str:
        head = self._core.ledger.head()
        signed = self._core.sequencer.signed_size
        if head is None or signed < head.size:
            size = 0 if head is None else head.size
            raise KmsError(f"{size} events are committed, {signed} are covered by a checkpoint")
        return f"signed up to {signed}"

    async def _fresh_crls(self) -> str:
        now = self._core.clock.now()
        stale = [
            authority.record.name
            for authority in self._core.authorities.all()
            if (current := self._crls.published(authority.record.name)) is None
            or current.record.next_update <= now
        ]
        if stale:
            raise KmsError(f"no valid CRL is published for {', '.join(stale)}")
        return "all valid"
