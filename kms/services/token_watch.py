"""The health of the estate's tokens, as the log and the metrics learn of it."""

from hsm_drivers.errors import HsmError
from hsm_drivers.ports import TokenStatus
from kms.domain.records import SYSTEM_TENANT
from kms.services.core import Core
from kms.services.ports import Unit
from kms.wire import Committed, EventType

_ACTOR = "service"
OWN = "main"
"""What the service's own token is called where people read."""


class TokenWatch:
    """Asks the signer, and logs every change. One token alone is what readiness is about already.

    A token is taken to be well until it was seen not to be: a worker that starts anew beside a
    token that is away says so again.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._well: dict[str, bool] = {}
        self._alone = False

    async def look(self) -> None:
        """One round.

        Raises:
            KmsError: A change could not be logged; it stands in the process's log lines only.
        """
        if self._alone:
            return
        try:
            tokens = (await self._core.signer.health()).tokens
        except HsmError:
            return  # the metrics have been told
        self._alone = len(tokens) == 1
        changed = [token for token in tokens if self._well.get(token.name, True) != token.healthy]
        if self._alone or not changed:
            return
        # First, so that a log that cannot be signed meanwhile is not filled with the same again.
        self._well |= {token.name: token.healthy for token in changed}
        for token in changed:
            await self._log(token)

    async def _log(self, token: TokenStatus) -> None:
        event = self._core.events.draft(
            EventType.TOKEN_HEALTH,
            self._core.clock.now(),
            SYSTEM_TENANT,
            {Committed.ACTOR: _ACTOR},
            detail={"token": token.name or OWN, "healthy": token.healthy},
        )
        await self._core.sequencer.commit(Unit((), (event,)))
