"""The signer without its process: the same core behind the same port, for tests of what uses it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from hsm_drivers.core import SignerCore, utc_now, whole
from hsm_drivers.errors import HsmError
from hsm_drivers.operations import ServiceCall
from hsm_drivers.ports import (
    Driver,
    JournalEntry,
    KeyAttributes,
    KeyLabel,
    KeyRecord,
    KeySpec,
    Operation,
    Purpose,
    SignerHealth,
    Statement,
    StatementChecker,
    TokenStatus,
)
from hsm_drivers.service.keyring import ServiceLimits
from hsm_drivers.state import SignerState
from hsm_drivers.tokens import SingleToken


class InProcessSigner:
    """`ports.StatementSigner` and `ports.ServiceKeys` over drivers in this very process."""

    def __init__(
        self,
        driver: Driver | SingleToken,
        checkers: Mapping[Purpose, StatementChecker],
        state: SignerState,
        *,
        ceremony: bool = True,
        now: Callable[[], datetime] = utc_now,
        limits: ServiceLimits | None = None,
    ) -> None:
        """As `SignerCore`; a driver is the service's own and only token."""
        tokens = driver if isinstance(driver, SingleToken) else SingleToken(driver)
        self._core = SignerCore(tokens, checkers, state, ceremony=ceremony, now=now, limits=limits)

    async def sign(self, statements: Sequence[Statement]) -> list[bytes | HsmError]:
        """As `ports.StatementSigner.sign`."""
        return self._core.sign(statements)

    async def keys(self) -> list[KeyRecord]:
        """As `ports.StatementSigner.keys`."""
        return self._core.keys()

    async def attributes(self, label: KeyLabel) -> KeyAttributes:
        """As `ports.StatementSigner.attributes`."""
        return self._core.attributes(label)

    async def journal(self, after: int, limit: int) -> list[JournalEntry]:
        """As `ports.StatementSigner.journal`."""
        return self._core.journal(after, limit)

    async def health(self) -> SignerHealth:
        """As `ports.StatementSigner.health`."""
        return self._core.health()

    async def generate(self, spec: KeySpec) -> KeyRecord:
        """As `ports.StatementSigner.generate`."""
        return self._core.generate(spec)

    async def use(self, calls: Sequence[ServiceCall]) -> list[tuple[bytes, ...] | HsmError]:
        """As `ports.ServiceKeys.use`."""
        return whole(self._core.service.using(calls))

    async def tokens(self) -> list[TokenStatus]:
        """As `ports.ServiceKeys.tokens`."""
        return self._core.service.tokens()

    async def narrow(self, label: KeyLabel, operations: Sequence[Operation]) -> None:
        """As `ports.ServiceKeys.narrow`."""
        self._core.service.narrow(label, operations)

    async def schedule_destruction(self, label: KeyLabel, at: datetime) -> None:
        """As `ports.ServiceKeys.schedule_destruction`."""
        self._core.service.schedule_destruction(label, at)

    async def cancel_destruction(self, label: KeyLabel) -> None:
        """As `ports.ServiceKeys.cancel_destruction`."""
        self._core.service.cancel_destruction(label)

    async def destroy(self, label: KeyLabel) -> tuple[str, ...]:
        """As `ports.ServiceKeys.destroy`."""
        return self._core.service.destroy(label)
