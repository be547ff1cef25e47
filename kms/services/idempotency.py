"""One Idempotency-Key, one effect, one answer (DESIGN section 5).

Scope: tenant, principal, route, key. The record is written in the state's own commit, so an effect
without its record does not exist. Refusals leave no record: nothing happened.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kms.domain.authorisation import Caller
from kms.domain.records import Idempotent, LogId
from kms.services.answers import Answer
from kms.services.errors import (
    IdempotencyKeyMissingError,
    IdempotencyKeyReusedError,
    InputError,
    StillRunningError,
)
from kms.services.ports import Clock, Ledger

_KEY = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class Call:
    """Who calls what with which key and body."""

    caller: Caller
    route: str
    key: str
    body_sha256: str

    @property
    def scope(self) -> tuple[str, str, str, str]:
        """Primary key of the call's `Idempotent` record."""
        return (self.caller.tenant, self.caller.name, self.route, self.key)

    def record(self, clock: Clock, answer: bytes) -> Idempotent:
        """The record to commit with the call's effect."""
        return Idempotent(
            tenant=self.caller.tenant,
            principal=self.caller.name,
            route=self.route,
            idempotency_key=self.key,
            body_sha256=self.body_sha256,
            log=LogId(0),
            first_index=0,
            events=0,
            size=0,
            answer=answer,
            created=clock.now(),
        )


def call(caller: Caller, route: str, key: str | None, body: bytes) -> Call:
    """Check the key and describe the call.

    Raises:
        IdempotencyKeyMissingError: There is none.
        InputError: It is not 1 to 128 visible ASCII characters.
    """
    if key is None:
        raise IdempotencyKeyMissingError(
            "send an Idempotency-Key header with a fresh value for every new request",
            field="Idempotency-Key",
        )
    if not _KEY.fullmatch(key):
        raise InputError(
            "the Idempotency-Key must be 1 to 128 visible ASCII characters",
            field="Idempotency-Key",
        )
    return Call(caller, route, key, hashlib.sha256(body).hexdigest())


class Idempotency:
    """Guards calls: runs each once, gives the stored answer to its repetitions."""

    def __init__(self, ledger: Ledger, replay: Callable[[Idempotent], Awaitable[Answer]]) -> None:
        self._ledger = ledger
        self._replay = replay
        self._running: set[tuple[str, str, str, str]] = set()

    async def once(self, request: Call, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Run `work`, which commits `request.record(...)`, or answer from its record.

        Raises:
            StillRunningError: The same call is under way.
            IdempotencyKeyReusedError: The key came with another body before.
        """
        if request.scope in self._running:
            raise StillRunningError("the first request with this Idempotency-Key is still running")
        self._running.add(request.scope)
        try:
            stored = self._ledger.get(Idempotent, *request.scope)
            if stored is None:
                return await work()
            if stored.body_sha256 != request.body_sha256:
                raise IdempotencyKeyReusedError(
                    "this Idempotency-Key was used with another body", field="Idempotency-Key"
                )
            return await self._replay(stored)
        finally:
            self._running.discard(request.scope)
