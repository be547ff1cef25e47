"""A whole service in memory, ceremony held: ledger, signer and clock are the twins of the ports."""

import json
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hsm_drivers.inprocess import InProcessSigner
from hsm_drivers.ports import Driver, KeyLabel, Purpose
from hsm_drivers.software.driver import SoftwareDriver
from hsm_drivers.state import SignerState
from kms.domain.authorisation import Caller
from kms.domain.records import SYSTEM_TENANT, Role, TenantId
from kms.services.answers import Answer
from kms.services.ceremony import Ceremony, CeremonyReport, open_log
from kms.services.ceremony_plan import load_plan
from kms.services.checkpoint_checker import check_checkpoint, check_cosignature
from kms.services.core import AuthoritySet, Core, Limits
from kms.services.cosigner import Cosigner
from kms.services.errors import KmsError
from kms.services.events import EventFactory
from kms.services.facade import Services, compose
from kms.services.idempotency import Call, call
from kms.services.keys.specs import make_cosigner
from kms.services.observing import Silent
from kms.services.ports import Ledger
from kms.services.sequencer import Sequencer
from kms.services.system import SystemIds
from kms.services.verifying import InlineVerifier
from kms.storage.memory import MemoryLedger
from kms.tlog.notes import VerifierKey
from pki.checkers import check_certificate, check_crl
from policies.policy import Policy, shipped
from tests.support.faulty_signer import Signer

CHECKERS = {
    Purpose.CERTIFICATE: check_certificate,
    Purpose.CRL: check_crl,
    Purpose.CHECKPOINT: check_checkpoint,
    Purpose.COSIGNATURE: check_cosignature,
}
TENANT = TenantId("ministry")
DOMAIN = "id.ministry.example"
OFFICER = Caller(SYSTEM_TENANT, "alice", Role.OFFICER, ())
SERVER = Caller(TENANT, "messenger", Role.MESSAGING_SERVER, ("device", "device-identity"))


class SteppingClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, start: datetime) -> None:
        self.moment = start

    def now(self) -> datetime:
        return self.moment

    def advance(self, **parts: float) -> None:
        self.moment += timedelta(**parts)


def describe(error: KmsError) -> dict[str, Any]:
    return {"status": 422, "problem": {"type": error.problem, "field": error.field}}


@dataclass
class World:
    """A service and what surrounds it."""

    services: Services
    ledger: Ledger
    signer: Signer
    clock: SteppingClock
    report: CeremonyReport
    keys: list[VerifierKey] = field(default_factory=list)

    def call(self, route: str, body: object, key: str | None = None, who: Caller = SERVER) -> Call:
        data = json.dumps(body, default=str).encode()
        return call(who, route, key or secrets.token_hex(8), data)


def decoded(answer: Answer) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(answer.body)
    return document


def build_core(
    ledger: Ledger,
    signer: Signer,
    clock: SteppingClock,
    origin: str,
    vkey: str,
    executor: ThreadPoolExecutor,
    cosigner: Cosigner | None = None,
    policy: Policy | None = None,
) -> Core:
    observer = Silent()
    ids = SystemIds()
    sequencer = Sequencer(
        ledger, signer, KeyLabel("log-1"), VerifierKey.parse(vkey), executor, observer, cosigner
    )
    sequencer.load()
    authorities = AuthoritySet(ledger, "http://pki.authority.example")
    authorities.load()
    return Core(
        ledger=ledger,
        signer=signer,
        keys=signer,
        sequencer=sequencer,
        clock=clock,
        ids=ids,
        policy=policy or shipped(),
        events=EventFactory(origin, ids),
        authorities=authorities,
        observer=observer,
        limits=Limits(),
        verifier=InlineVerifier(),
        describe=describe,
    )


@asynccontextmanager
async def world(
    directory: Path,
    ledger: Ledger | None = None,
    wrap_signer: Callable[[Signer], Signer] = lambda signer: signer,
    *,
    policy: Policy | None = None,
    driver: Driver | None = None,
    plan: bytes | None = None,
) -> AsyncIterator[World]:
    """A service whose ceremony has been held, with one tenant and one messaging server."""
    ledger = ledger or MemoryLedger()
    driver = driver or SoftwareDriver()
    state = SignerState(directory / "signer")
    clock = SteppingClock(datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC))
    signer = wrap_signer(InProcessSigner(driver, CHECKERS, state, ceremony=True, now=clock.now))
    wanted = load_plan(plan, "log.test.example")
    chosen = policy or shipped()
    with ThreadPoolExecutor(1) as executor:
        epoch = await open_log(ledger, signer, wanted, executor, chosen, clock.now())
        cosigner = await make_cosigner(signer, wanted, epoch, chosen, clock.now)
        core = build_core(
            ledger, signer, clock, epoch.origin, epoch.vkey, executor, cosigner, chosen
        )
        report = await Ceremony(core, wanted, ["alice", "bob"], lambda _: None).hold(epoch)
        services = compose(core)
        services.crls.load()
        made = World(services, ledger, signer, clock, report, [VerifierKey.parse(epoch.vkey)])
        principals = services.principals
        await principals.add_tenant(made.call("tenants", TENANT, who=OFFICER), TENANT, DOMAIN)
        await principals.add_principal(
            made.call("principals", "messenger", who=OFFICER),
            TENANT,
            "messenger",
            Role.MESSAGING_SERVER,
            ["device", "device-identity"],
        )
        try:
            yield made
        finally:
            await core.sequencer.drain()
            state.close()
            ledger.close()
