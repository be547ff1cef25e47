"""Changes of tokens' health become events: each once, and none for a token that is alone."""

import asyncio
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from hsm_drivers.errors import HsmError, TokenUnavailableError
from hsm_drivers.ports import SignerHealth, TokenStatus
from kms.domain.records import Event
from kms.services.token_watch import TokenWatch
from tests.support.services import World, world


@dataclass
class Told:
    """A signer that says of its tokens what it is told to."""

    tokens: list[TokenStatus] = field(default_factory=list)
    error: HsmError | None = None
    asked: int = 0

    async def health(self) -> SignerHealth:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return SignerHealth("kms", ready=True, detail="", counter=0, tokens=tuple(self.tokens))


def status(name: str, *, healthy: bool = True) -> TokenStatus:
    return TokenStatus(name, name, healthy, "", frozenset(), (), 1)


def watch(made: World, told: Told) -> TokenWatch:
    return TokenWatch(replace(made.services.core, signer=told))  # type: ignore[arg-type]


def events(made: World) -> list[dict[str, object]]:
    found = made.ledger.find(Event, type="token.health")
    return [json.loads(item.leaf)["detail"] for item in found]


def test_every_change_is_logged_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as made:
            told = Told([status(""), status("safe")])
            watching = watch(made, told)
            await watching.look()
            assert events(made) == []
            told.tokens = [status(""), status("safe", healthy=False)]
            for _ in range(3):
                await watching.look()
            assert events(made) == [{"token": "safe", "healthy": False}]
            told.error = TokenUnavailableError("the signer starts again")
            await watching.look()
            told.error = None
            told.tokens = [status("", healthy=False), status("safe")]
            await watching.look()
            assert events(made)[1:] == [
                {"token": "main", "healthy": False},
                {"token": "safe", "healthy": True},
            ]

    asyncio.run(scenario())


def test_a_token_alone_is_what_readiness_is_about(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as made:
            told = Told([status("", healthy=False)])
            watching = watch(made, told)
            for _ in range(3):
                await watching.look()
            assert events(made) == []
            assert told.asked == 1, "it costs a round trip to the token"

    asyncio.run(scenario())
