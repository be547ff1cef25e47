"""The signer without its process: the same core behind the same port, for tests of what uses it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from hsm_drivers.core import SignerCore, utc_now
from hsm_drivers.errors import HsmError
from hsm_drivers.ports import (
    Driver,
    JournalEntry,
    KeyAttributes,
    KeyLabel,
    KeyRecord,
    KeySpec,
    Purpose,
    SignerHealth,
    Statement,
    StatementChecker,
)
from hsm_drivers.state import SignerState
from hsm_drivers.tokens import SingleToken


class InProcessSigner:
    """`ports.StatementSigner` over a driver in this very process."""

    def __init__(
        self,
        driver: Driver,
        checkers: Mapping[Purpose, StatementChecker],
        state: SignerState,
        *,
        ceremony: bool = True,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """As `SignerCore`."""
        self._core = SignerCore(SingleToken(driver), checkers, state, ceremony=ceremony, now=now)

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
