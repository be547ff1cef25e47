"""Using keys: decide → ask the signer → log where the key's policy says so → answer.

Uses change no state and carry no Idempotency-Key: made again they give another ciphertext, or the
same plaintext. Where they are logged, nothing is answered before the event is durable and covered
by a signed checkpoint (P3).
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from hsm_drivers.errors import (
    BadCiphertextError,
    HsmError,
    KeyNotFoundError,
    StatementRefusedError,
    UnsupportedError,
)
from hsm_drivers.operations import RandomBytes
from hsm_drivers.ports import KeyLabel
from kms.domain.authorisation import Caller
from kms.domain.key_book import KeyBook, life
from kms.domain.key_records import KeyVersion, LogUses
from kms.domain.records import TenantId
from kms.services.batching import breathe
from kms.services.core import Core
from kms.services.errors import (
    AlgorithmRefusedError,
    CiphertextRefusedError,
    InputError,
    KeyCompromisedError,
    KeyDeactivatedError,
    KeyDestroyedError,
    KeyExpiredError,
    KeyNotActiveError,
    KeyStateError,
    KeySuspendedError,
    KmsError,
    StateError,
    WrongPurposeError,
)
from kms.services.keys.ciphertexts import FIELD
from kms.services.keys.commits import KeyCommits
from kms.services.keys.making import unavailable
from kms.services.keys.reach import KeyReach, offered
from kms.services.keys.verbs import Asked, Item, Verb
from kms.services.keys.verifying import signature_is_right
from kms.services.ports import EventDraft, Unit
from kms.wire import EventType, b64
from policies.decisions import Protection, Question, Use, decide
from policies.key_life import Operation, Refusal

_REFUSED: dict[Refusal, tuple[type[KeyStateError], str]] = {
    Refusal.NOT_YET_ACTIVE: (KeyNotActiveError, "is not active yet"),
    Refusal.SUSPENDED: (KeySuspendedError, "is suspended"),
    Refusal.DEACTIVATED: (KeyDeactivatedError, "is deactivated and protects nothing any more"),
    Refusal.EXPIRED: (KeyExpiredError, "is past its usage period for this"),
    Refusal.COMPROMISED: (KeyCompromisedError, "is held to be compromised"),
    Refusal.DESTROYED: (KeyDestroyedError, "is destroyed"),
}
_ITEM_ERRORS = (InputError, StateError)
"""What refuses one item of a batch; anything else fails the call."""

Told = dict[str, Any] | KmsError


class KeyUse:
    """Does what clients ask of keys."""

    def __init__(self, core: Core, reach: KeyReach) -> None:
        self._core = core
        self._reach = reach
        self._commits = KeyCommits(core)

    async def run(
        self,
        caller: Caller,
        tenant: TenantId,
        name: str,
        verb: Verb,
        items: Sequence[Item | KmsError],
    ) -> list[Told]:
        """What came of each item, in order; a refused one is its error and sinks no other.

        Raises:
            NotFoundError: No such key in reach.
            OperationNotPermittedError: The caller may not do this with it.
            WrongPurposeError: Keys of its purpose do not do this.
            AlgorithmRefusedError: The policy refuses the algorithm by now.
            SignerUnavailableError: The signer is away.
            LogUnavailableError: The use is to be logged and cannot be.
        """
        book = self._book(caller, tenant, name, verb)
        now = self._core.clock.now()
        asked: list[Asked | KmsError] = []
        for at, item in enumerate(items):
            asked.append(self._try_ask(book, verb, item, now))
            await breathe(at)
        answers = await self._answers(asked)
        await self._log(caller, book, verb, asked, answers)
        return [item if isinstance(item, KmsError) else item[0] for item in answers]

    async def random(self, size: int) -> dict[str, Any]:
        """Random bytes of the service's own token.

        Raises:
            SignerUnavailableError: The signer is away.
        """
        try:
            (answer,) = await self._core.keys.use([RandomBytes(KeyLabel(""), size)])
        except HsmError as error:
            raise unavailable(error) from error
        if isinstance(answer, HsmError):
            raise unavailable(answer) from answer
        return {"random": b64(answer[0])}

    def _book(self, caller: Caller, tenant: TenantId, name: str, verb: Verb) -> KeyBook:
        key = self._reach.key(caller, tenant, name)
        if not set(verb.needs) <= set(offered(key.purpose)):
            raise WrongPurposeError(f"a key for {key.purpose} does not {verb.name}", field="key")
        for operation in verb.needs:
            self._reach.require(caller, key, operation)
        return self._reach.book(key)

    def _try_ask(
        self, book: KeyBook, verb: Verb, item: Item | KmsError, now: datetime
    ) -> Asked | KmsError:
        if isinstance(item, KmsError):
            return item
        try:
            asked = verb.ask(book, item)
            for operation in verb.needs:
                version = book.current if operation.originates else asked.version
                self._require_life(book.key.purpose, version, operation, now)
        except _ITEM_ERRORS as error:
            return error
        return asked

    def _require_life(
        self, purpose: str, version: KeyVersion, operation: Operation, now: datetime
    ) -> None:
        """State and usage period, and whether the log covers the version's birth (P3, P4).

        Raises:
            KeyStateError: One of them forbids it.
            AlgorithmRefusedError: The policy does not have things protected with it any more.
        """
        refusal = life(version).refusal(operation, now)
        if refusal is not None:
            kind, why = _REFUSED[refusal]
            raise kind(f"version {version.version} of the key {why}")
        if not self._reach.covered(version):
            raise KeyNotActiveError("the log does not cover the key yet; try again in a moment")
        if operation.originates:
            self._decide(purpose, version, now)

    def _decide(self, purpose: str, version: KeyVersion, now: datetime) -> None:
        protection = Protection(version.protection)
        question = Question(Use.KEY, purpose, version.algorithm, protection, now, now)
        decision = decide(self._core.policy, question)
        if not decision.allowed:
            raise AlgorithmRefusedError(decision.reason)

    async def _answers(
        self, asked: Sequence[Asked | KmsError]
    ) -> list[tuple[dict[str, Any], bytes] | KmsError]:
        calls = [item.call for item in asked if isinstance(item, Asked) and item.call is not None]
        try:
            outcomes = iter(await self._core.keys.use(calls) if calls else [])
        except HsmError as error:
            raise unavailable(error) from error
        answers: list[tuple[dict[str, Any], bytes] | KmsError] = []
        for at, item in enumerate(asked):
            if isinstance(item, KmsError):
                answers.append(item)
            elif item.call is None:
                answers.append(item.tell((signature_is_right(item.version, item.item),)))
            else:
                answers.append(_answer(item, next(outcomes)))
            await breathe(at)
        return answers

    async def _log(
        self,
        caller: Caller,
        book: KeyBook,
        verb: Verb,
        asked: Sequence[Asked | KmsError],
        answers: Sequence[tuple[dict[str, Any], bytes] | KmsError],
    ) -> None:
        """Log the uses as the key's policy wants it, and wait for the log's signed head."""
        if book.key.log_uses is LogUses.NONE:
            return
        uses = [
            (item.version.version, hashlib.sha256(answer[1]).digest())
            for item, answer in zip(asked, answers, strict=True)
            if isinstance(item, Asked) and not isinstance(answer, KmsError)
        ]
        if not uses:
            return
        groups = [[use] for use in uses] if book.key.log_uses is LogUses.EVERY else [uses]
        events = tuple(self._used(caller, book, verb, group) for group in groups)
        await self._core.sequencer.commit(Unit((), events))

    def _used(
        self, caller: Caller, book: KeyBook, verb: Verb, uses: Sequence[tuple[int, bytes]]
    ) -> EventDraft:
        """The event of some uses; several digests are hashed once more, in their order."""
        digests = [digest for _, digest in uses]
        whole = digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()
        counts = Counter(str(version) for version, _ in uses)
        detail = {"operation": verb.name, "uses": dict(counts), "sha256": whole.hex()}
        return self._commits.draft(EventType.KEY_USED, caller.name, book.key, detail)


def _answer(
    asked: Asked, outcome: tuple[bytes, ...] | HsmError
) -> tuple[dict[str, Any], bytes] | KmsError:
    """What the client is told of one call.

    Raises:
        SignerUnavailableError: The token failed; the whole request may be sent again.
    """
    if isinstance(outcome, BadCiphertextError):
        return CiphertextRefusedError(
            "ciphertext, associated data and key do not belong together", field=FIELD
        )
    if isinstance(outcome, KeyNotFoundError | StatementRefusedError):
        return KeyStateError("the signer does not do this with the key any more")
    if isinstance(outcome, UnsupportedError):
        return InputError(str(outcome))
    if isinstance(outcome, HsmError):
        raise unavailable(outcome) from outcome
    try:
        return asked.tell(outcome)
    except InputError as error:  # an envelope's content, which is decrypted here
        return error
