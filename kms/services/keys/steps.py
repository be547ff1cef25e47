"""The steps of a key's life that its managers order, and what a compromise touches.

What ends trust takes effect at commit though the token is away, as a revocation does (P3). The
signer is told afterwards: from what is deactivated nothing protects again, whoever asks it.
"""

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from kms.domain.authorisation import Action, Caller, may
from kms.domain.key_book import Happened, KeyBook
from kms.domain.key_records import KeyReplica, KeyVersion
from kms.domain.records import Certificate, Fingerprint, Reason, TenantId
from kms.services.answers import Answer
from kms.services.core import INFRASTRUCTURE, Core
from kms.services.errors import InputError, KeyStateError, OperationNotPermittedError
from kms.services.idempotency import Call
from kms.services.keys.commits import KeyCommits, changes_of, moment
from kms.services.keys.documents import key_document, replica_document, version_document
from kms.services.keys.narrowing import Narrowing
from kms.services.keys.reach import KeyReach, version_of
from kms.services.ports import EventDraft
from kms.services.slots.certificates import revocations
from kms.wire import EventType
from policies.key_life import IllegalStepError, KeyState, Step

_Moved = tuple[KeyBook, list[Happened]]
_TAKES: dict[Step, KeyState] = {
    Step.SUSPEND: KeyState.ACTIVE,
    Step.RESUME: KeyState.SUSPENDED,
    Step.DEACTIVATE: KeyState.ACTIVE,
}
"""Which versions a step is meant for where none is named."""
_LONGEST_RECOVERY = timedelta(days=3650)
_ENDS_TRUST = frozenset({Step.SUSPEND, Step.DEACTIVATE})


class KeySteps:
    """Takes the steps, logs them, tells the signer.

    Args:
        core: Ports.
        reach: Finds keys.
        revoked: Told of authorities whose CRL a compromise made stale.
    """

    def __init__(
        self, core: Core, reach: KeyReach, revoked: Callable[[set[str]], None] = lambda _: None
    ) -> None:
        self._core = core
        self._revoked = revoked
        self._reach = reach
        self._commits = KeyCommits(core)
        self._narrowing = Narrowing(core)

    async def activate(
        self, request: Call, tenant: TenantId, name: str, version: int | None
    ) -> Answer:
        """Activate the version that waits, before its time or without one; its predecessor ends.

        Raises:
            KeyStateError: It does not wait.
        """
        book = self._reach.managed(request.caller, tenant, name)
        number = book.newest.version if version is None else version_of(book, version).version
        now = self._core.clock.now()
        return await self._take(request, book, lambda: book.activate(number, now))

    async def step(
        self, request: Call, tenant: TenantId, name: str, step: Step, version: int | None
    ) -> Answer:
        """Suspend, resume or deactivate a version, or all that the step is meant for.

        Raises:
            KeyStateError: The state does not allow it.
        """
        book = self._reach.managed(request.caller, tenant, name)
        numbers = _meant(book, step, version)
        now = self._core.clock.now()

        def take() -> _Moved:
            after, happened = book, list[Happened]()
            for number in numbers:
                after, more = after.take(number, step, now)
                happened += more
            return after, happened

        return await self._take(request, book, take, fail_safe=step in _ENDS_TRUST)

    async def compromise(
        self,
        request: Call,
        tenant: TenantId,
        name: str,
        version: int | None,
        since: datetime | None,
        recover_until: datetime | None,
    ) -> Answer:
        """Hold a version, or all, to be compromised; the answer tells what that touches.

        Raises:
            InputError: A time that makes no sense.
            KeyStateError: It is held to be already.
            OperationNotPermittedError: The caller is no officer and gives `recover_until`: who
                may have lost the key does not keep it open.
        """
        book = self._reach.managed(request.caller, tenant, name)
        now = self._core.clock.now()
        if since is not None and since > now:
            raise InputError("since lies in the future", field="since")
        if recover_until is not None:
            self._check_recovery(request.caller, recover_until, "recover_until")
        numbers = _compromised(book, version)

        def take() -> _Moved:
            after, happened = book, list[Happened]()
            for number in numbers:
                after, more = after.compromise(number, since or now, recover_until)
                happened += more
            return after, happened

        touched = {"touches": self.touches(book, numbers)}
        return await self._take(request, book, take, fail_safe=True, more=touched)

    async def recover(
        self, request: Call, tenant: TenantId, name: str, version: int | None, until: datetime
    ) -> Answer:
        """Have a compromised version, or all, open until then what was sealed for them.

        Raises:
            InputError: That time is past, or too far.
            KeyStateError: It is not compromised, or destroyed.
            OperationNotPermittedError: The caller is no officer.
        """
        book = self._reach.book(self._reach.key(request.caller, tenant, name))
        self._check_recovery(request.caller, until, "until")
        after, events = book, list[EventDraft]()
        for number in _lost(book, version):
            try:
                after = after.recover(number, until)
            except IllegalStepError as error:
                raise KeyStateError(str(error), field="version") from error
            detail = {"version": number, "until": moment(until)}
            kind, actor = EventType.KEY_RECOVERY_ALLOWED, request.caller.name
            events.append(self._commits.draft(kind, actor, book.key, detail))
        document = key_document(after)
        return await self._commits.answer(request, changes_of(book, after), events, document)

    def _check_recovery(self, caller: Caller, until: datetime, field: str) -> None:
        if not may(caller, Action.MANAGE_KEYS):
            raise OperationNotPermittedError(
                "officers alone let a compromised key open again", field=field
            )
        now = self._core.clock.now()
        if not now < until <= now + _LONGEST_RECOVERY:
            raise InputError("a time from now to ten years from now", field=field)

    def managed(self, caller: Caller, tenant: TenantId, name: str) -> KeyBook:
        """A key whose life the caller may change; as `KeyReach.managed`."""
        return self._reach.managed(caller, tenant, name)

    def touches(self, book: KeyBook, numbers: Sequence[int]) -> dict[str, Any]:
        """What depends on these versions, as far as the ledger knows it.

        What clients wrapped or encrypted under a key stays with them: of that the log tells, where
        the key's uses are logged.
        """
        versions = [item for item in book.versions if item.version in numbers]
        places = self._core.ledger.find(KeyReplica, tenant=book.key.tenant, key=book.key.key)
        return {
            "versions": [version_document(item) for item in versions],
            "slots": [book.key.slot] if book.key.slot else [],
            "certificates": [
                {"authority": item.authority, "serial": item.serial, "status": item.status.value}
                for version in versions
                for item in self._certificates(version)
            ],
            "replicas": [replica_document(item) for item in places if item.version in numbers],
            "wrapped": [
                {"version": item.version, "algorithm": part["algorithm"], "under": part["label"]}
                for item in versions
                for part in item.components
                if part["protection"] == "wrapped"
            ],
        }

    def _certificates(self, version: KeyVersion) -> list[Certificate]:
        """Those of its public key: its own, and where it is registered as somebody's."""
        found: list[Certificate] = []
        if version.certificate is not None:
            found += self._core.ledger.find(Certificate, serial=version.certificate)
        fingerprint = hashlib.sha256(version.public_key).hexdigest()
        owned = self._core.ledger.get(Fingerprint, version.tenant, fingerprint)
        if version.public_key and owned is not None:
            device, _, slot = owned.owner.partition("/")
            where: dict[str, Any] = {"device": device}
            if device == "principal":
                where = {"principal": slot}
            found += self._core.ledger.find(Certificate, tenant=version.tenant, **where)
        return found

    async def _take(
        self,
        request: Call,
        book: KeyBook,
        take: Callable[[], _Moved],
        *,
        fail_safe: bool = False,
        more: dict[str, Any] | None = None,
    ) -> Answer:
        try:
            after, happened = take()
        except IllegalStepError as error:
            raise KeyStateError(str(error), field="version") from error
        events = self._commits.steps(request.caller.name, book.key, happened)
        lost = [item.version for item in happened if item.step is Step.COMPROMISE]
        ended, told = revocations(self._core, request.caller.name, lost, Reason.KEY_COMPROMISE)
        changes = [*changes_of(book, after), *ended]
        document = {**key_document(after), **(more or {})}
        answer = await self._commits.answer(
            request, changes, [*events, *told], document, fail_safe=fail_safe
        )
        if ended:
            self._revoked({INFRASTRUCTURE})
        await self._narrowing.tell_of(after, happened)
        return answer


def numbers_of(book: KeyBook, version: int | None) -> list[int]:
    """The version of that number, or all.

    Raises:
        KeyVersionUnknownError: There is none of that number.
    """
    if version is not None:
        return [version_of(book, version).version]
    return [item.version for item in book.versions]


def _meant(book: KeyBook, step: Step, version: int | None) -> list[int]:
    """The versions that a step is for.

    Raises:
        KeyVersionUnknownError: There is none of that number.
        KeyStateError: There is none in the right state.
    """
    if version is not None:
        return [version_of(book, version).version]
    found = [item.version for item in book.versions if item.state is _TAKES[step]]
    if not found:
        raise KeyStateError(f"no version of the key is {_TAKES[step]}")
    return found


def _lost(book: KeyBook, version: int | None) -> list[int]:
    """The version of that number, or all that are compromised and not destroyed.

    Raises:
        KeyVersionUnknownError: There is none of that number.
        KeyStateError: None is.
    """
    if version is not None:
        return [version_of(book, version).version]
    found = [item.version for item in book.versions if item.state is KeyState.COMPROMISED]
    if not found:
        raise KeyStateError("no version of the key is compromised and still there")
    return found


def _compromised(book: KeyBook, version: int | None) -> list[int]:
    if version is not None:
        return [version_of(book, version).version]
    over = {KeyState.COMPROMISED, KeyState.DESTROYED_COMPROMISED}
    found = [item.version for item in book.versions if item.state not in over]
    if not found:
        raise KeyStateError("every version of the key is held to be compromised already")
    return found
