"""The use cases of one running service, wired together."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from kms.domain.records import Idempotent
from kms.services.access import Access
from kms.services.answers import Answer, AnswerSpec, Covered, render
from kms.services.claims import Claims
from kms.services.core import Core
from kms.services.crls import Crls
from kms.services.enrolment_orders import EnrolmentOrders
from kms.services.enrolment_proofs import EnrolmentProofs
from kms.services.idempotency import Idempotency
from kms.services.infrastructure import Infrastructure
from kms.services.key_checks import KeyChecks
from kms.services.keys.composed import Keys, compose_keys
from kms.services.lookup import Lookup
from kms.services.principals import Principals
from kms.services.readiness import Readiness
from kms.services.revocation import Revocation
from kms.services.slots.composed import KemSlots, compose_slots
from kms.services.upkeep import Upkeep
from kms.tlog.checkpoint import parse_checkpoint
from kms.tlog.notes import parse_note
from pki.weak_keys import Blocklist


@dataclass(frozen=True, slots=True)
class Services:
    """Every use case, one attribute each."""

    core: Core
    access: Access
    idempotency: Idempotency
    orders: EnrolmentOrders
    proofs: EnrolmentProofs
    infrastructure: Infrastructure
    principals: Principals
    revocation: Revocation
    crls: Crls
    lookup: Lookup
    readiness: Readiness
    upkeep: Upkeep
    keys: Keys
    slots: KemSlots
    crls_wanted: asyncio.Queue[str]
    """Authorities whose CRL a revocation made stale."""


def compose(core: Core, blocklists: tuple[Blocklist, ...] = ()) -> Services:
    """Wire the use cases over one core."""
    checks, claims = KeyChecks(core.ledger, blocklists), Claims()
    access, crls = Access(core), Crls(core)
    wanted: asyncio.Queue[str] = asyncio.Queue()
    keys = compose_keys(core, claims)
    return Services(
        core=core,
        access=access,
        idempotency=Idempotency(core.ledger, replayer(core)),
        orders=EnrolmentOrders(core, checks),
        proofs=EnrolmentProofs(core, checks, claims),
        infrastructure=Infrastructure(core, checks, claims),
        principals=Principals(core, access.forget),
        revocation=Revocation(core, _after_revocation(access, wanted)),
        crls=crls,
        lookup=Lookup(core),
        readiness=Readiness(core, crls),
        upkeep=Upkeep(core, crls),
        keys=keys,
        slots=compose_slots(core, claims, _after_revocation(access, wanted)),
        crls_wanted=wanted,
    )


def _after_revocation(access: Access, wanted: asyncio.Queue[str]) -> Callable[[set[str]], None]:
    def revoked(authorities: set[str]) -> None:
        access.forget()
        for name in authorities:
            wanted.put_nowait(name)

    return revoked


class _Replayer:
    """Renders stored answers again."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def __call__(self, stored: Idempotent) -> Answer:
        spec = AnswerSpec.decode(stored.answer)
        if not stored.events:
            return render(spec, None)
        note = await self._core.sequencer.note_for(stored.log, stored.size)
        size = parse_checkpoint(parse_note(note).text).size
        nodes = self._core.sequencer.nodes(stored.log)
        return render(spec, Covered(stored.log, stored.first_index, size, note, nodes))


def replayer(core: Core) -> _Replayer:
    """Gives stored answers again, byte for byte."""
    return _Replayer(core)
