"""A ceremony whose ledger and signer fail on command."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from hsm_drivers.errors import HsmError
from hsm_drivers.inprocess import InProcessSigner
from hsm_drivers.ports import StatementSigner
from hsm_drivers.software.driver import SoftwareDriver
from hsm_drivers.state import SignerState
from kms.domain.key_records import Key
from kms.domain.records import Authority, Epoch
from kms.services.ceremony import Ceremony, open_log
from kms.services.ceremony_plan import load_plan
from kms.services.core import Core
from kms.services.errors import SignerUnavailableError
from kms.services.facade import compose
from kms.storage.faulty import FaultyLedger
from kms.storage.memory import MemoryLedger
from kms.tlog.notes import VerifierKey
from policies.policy import shipped
from tests.support.books import EVERYTHING, Books
from tests.support.faulty_signer import FaultySigner
from tests.support.services import CHECKERS, SteppingClock, build_core
from tests.support.use_cases import WAITING, Act

START = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


class Founding:
    """A ceremony on a token and a ledger of its own, held again until it is over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clock = SteppingClock(START)
        self._states: list[SignerState] = []
        self.ledger = FaultyLedger(MemoryLedger())
        self.signer = FaultySigner(self._token())

    async def arrange(self) -> Act:
        """Everything anew."""
        self.ledger._ledger = MemoryLedger()
        self.signer._signer = self._token()
        return self._hold

    def close(self) -> None:
        """Let the signers' files go."""
        for state in self._states:
            state.close()

    def _token(self) -> StatementSigner:
        folder = self._folder / str(len(self._states))
        folder.mkdir(parents=True)
        self._states.append(SignerState(folder / "signer"))
        now = self._clock.now
        return InProcessSigner(SoftwareDriver(), CHECKERS, self._states[-1], ceremony=True, now=now)

    async def _hold(self) -> Mapping[str, bytes]:
        plan = load_plan(None, "log.test.example")
        try:
            with ThreadPoolExecutor(1) as executor:
                epoch = await open_log(
                    self.ledger, self.signer, plan, executor, shipped(), self._clock.now()
                )
                core = self._core(epoch, executor)
                report = await Ceremony(core, plan, ["alice", "bob"], lambda _: None).hold(epoch)
        except HsmError as error:  # the command line says: once more
            raise SignerUnavailableError(str(error)) from error
        return report.certificates

    def _core(self, epoch: Epoch, executor: ThreadPoolExecutor) -> Core:
        return build_core(self.ledger, self.signer, self._clock, epoch.origin, epoch.vkey, executor)

    async def check(self) -> None:
        """What it founded is one authority, and a service over it finds its books in order."""
        (epoch,) = self.ledger.find(Epoch)
        self._clock.advance(seconds=WAITING.total_seconds())
        with ThreadPoolExecutor(1) as executor:
            services = compose(self._core(epoch, executor))
            services.crls.load()
            await services.upkeep.recover()
            await services.upkeep.sweep()
        names = [item.name for item in self.ledger.find(Authority)]
        assert sorted(names) == ["infrastructure", "people", "root"]
        assert self.ledger.count(Key) == len(await self.signer.keys()) == len(names) + 1
        journal = await self.signer.journal(0, EVERYTHING)
        Books(self.ledger, journal, [VerifierKey.parse(epoch.vkey)]).check()
