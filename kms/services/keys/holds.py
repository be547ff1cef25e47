"""Legal holds: while one is placed, nothing destroys any version of the key.

A hold takes effect though the token is away: it can only keep what would be gone otherwise. What
was scheduled for destruction is cancelled with it, so that lifting the hold destroys nothing that
nobody has looked at again: retention begins the delay anew. The signer is asked first: nothing is
called held of which it has begun to destroy the key.
"""

from dataclasses import replace

from hsm_drivers.errors import HsmError
from hsm_drivers.ports import KeyLabel
from kms.domain.authorisation import Action, may
from kms.domain.key_book import KeyBook
from kms.domain.key_records import KeyVersion
from kms.domain.records import TenantId
from kms.services.answers import Answer
from kms.services.core import Core
from kms.services.errors import KeyStateError, OperationNotPermittedError
from kms.services.idempotency import Call
from kms.services.keys.commits import KeyCommits, changes_of
from kms.services.keys.destruction import BEGUN, begun
from kms.services.keys.documents import key_document
from kms.services.keys.reach import KeyReach
from kms.wire import EventType


class KeyHolds:
    """Places and lifts them. Officers do, and nobody by permission: a hold binds the owner, too."""

    def __init__(self, core: Core, reach: KeyReach) -> None:
        self._core = core
        self._reach = reach
        self._commits = KeyCommits(core)

    async def place(self, request: Call, tenant: TenantId, name: str, reason: str) -> Answer:
        """Block destruction.

        Args:
            request: Whose call.
            tenant: Of the key.
            name: Of the key.
            reason: Why, in a sentence without personal data; it stands in the log.

        Raises:
            KeyStateError: It is held already, or the destruction of a version has begun.
            OperationNotPermittedError: The caller is no officer.
        """
        book = self._book(request, tenant, name)
        if book.key.hold:
            raise KeyStateError("the key is held already")
        waiting = [item for item in book.versions if item.destroys and not item.state.gone]
        for item in waiting:
            await self._keep(item)
        actor, detail = request.caller.name, {"reason": reason}
        held = self._commits.draft(EventType.KEY_HELD, actor, book.key, detail)
        after, events = replace(book, key=replace(book.key, hold=held.event)), [held]
        for item in waiting:
            after = after.schedule(item.version, None)
            kind = EventType.KEY_DESTRUCTION_CANCELLED
            events.append(self._commits.draft(kind, actor, book.key, {"version": item.version}))
        return await self._commits.answer(
            request,
            changes_of(book, after.settled()),
            events,
            key_document(after),
            fail_safe=True,
        )

    async def release(self, request: Call, tenant: TenantId, name: str, reason: str) -> Answer:
        """Lift the hold.

        Raises:
            KeyStateError: There is none.
            OperationNotPermittedError: The caller is no officer.
        """
        book = self._book(request, tenant, name)
        if not book.key.hold:
            raise KeyStateError("there is no hold on the key")
        detail = {"reason": reason, "hold": book.key.hold}
        released = self._commits.draft(
            EventType.KEY_RELEASED, request.caller.name, book.key, detail
        )
        after = replace(book, key=replace(book.key, hold="")).settled()
        return await self._commits.answer(
            request, changes_of(book, after), [released], key_document(after)
        )

    def _book(self, request: Call, tenant: TenantId, name: str) -> KeyBook:
        key = self._reach.key(request.caller, tenant, name)
        if not may(request.caller, Action.MANAGE_KEYS):
            raise OperationNotPermittedError("officers alone place and lift holds", field="key")
        return self._reach.book(key)

    async def _keep(self, version: KeyVersion) -> None:
        """Have the signer forget the schedule.

        Of a signer that is away the schedule destroys nothing, for nobody here asks it to.

        Raises:
            KeyStateError: It has begun.
        """
        try:
            await self._core.keys.cancel_destruction(KeyLabel(version.label))
        except BEGUN as error:
            raise begun(version, error) from error
        except HsmError:
            self._core.observer.refused("signer-not-told")
