"""Whose key it is, and who may do what with it (P7): decided from the ledger at that moment."""

from kms.domain.authorisation import Action, Caller, may, reaches
from kms.domain.key_book import KeyBook
from kms.domain.key_records import Key, KeyPermission, KeyVersion
from kms.domain.records import Event, EventId, TenantId
from kms.services.core import Core
from kms.services.errors import KeyVersionUnknownError, NotFoundError, OperationNotPermittedError
from policies.key_life import OPERATIONS, KeyPurpose, Operation

MANAGE = "manage"
"""Permission to change a key's life and who may use it."""


CLIENTS_KEYS = frozenset(KeyPurpose) - {KeyPurpose.KEM}
KEM_SLOTS = frozenset({KeyPurpose.KEM})


def offered(purpose: str) -> tuple[Operation, ...]:
    """What keys of that purpose do; nothing for those of ceremonies, which sign statements."""
    return OPERATIONS[KeyPurpose(purpose)] if purpose in set(KeyPurpose) else ()


class KeyReach:
    """Finds keys for callers.

    Args:
        core: Ports.
        purposes: Keys of others are not found here: KEM slots have calls of their own.
    """

    def __init__(self, core: Core, purposes: frozenset[KeyPurpose]) -> None:
        self._core = core
        self._purposes = purposes
        self._covered: set[EventId] = set()

    def key(self, caller: Caller, tenant: TenantId, name: str) -> Key:
        """A client's key of one of the purposes.

        Raises:
            NotFoundError: None of that name in a tenant that the caller reaches.
        """
        found = self._core.ledger.get(Key, tenant, name) if reaches(caller, tenant) else None
        if found is None or found.purpose not in self._purposes or not self.covered(found):
            raise NotFoundError("there is no such key", field="key")
        return found

    def has(self, key: Key) -> bool:
        """Whether it is of one of the purposes."""
        return key.purpose in self._purposes

    def covered(self, made: Key | KeyVersion) -> bool:
        """Whether a signed checkpoint covers the birth of it: nothing is released before (P3)."""
        if made.event in self._covered:
            return True
        found = self._core.ledger.find(Event, tenant=made.tenant, event=made.event, limit=1)
        head = self._core.ledger.head()
        if not found or head is None:
            return False
        older = found[0].log != head.log
        covered = older or found[0].index < self._core.sequencer.signed_size
        if covered:
            self._covered.add(made.event)
        return covered

    def book(self, key: Key) -> KeyBook:
        """The key with its versions."""
        found = self._core.ledger.find(KeyVersion, tenant=key.tenant, key=key.key)
        return KeyBook(key, tuple(found))

    def managed(self, caller: Caller, tenant: TenantId, name: str) -> KeyBook:
        """A key whose life the caller may change.

        Raises:
            NotFoundError: There is none in reach.
            OperationNotPermittedError: It may not.
        """
        key = self.key(caller, tenant, name)
        if not may(caller, Action.MANAGE_KEYS) and MANAGE not in self.permitted(caller, key):
            raise OperationNotPermittedError("you may not manage this key", field="key")
        return self.book(key)

    def permitted(self, caller: Caller, key: Key) -> tuple[str, ...]:
        """What the caller may do with the key by permission.

        Permissions are given to principals of the key's own tenant: a name means nobody else.
        """
        if caller.tenant != key.tenant:
            return ()
        found = self._core.ledger.get(KeyPermission, key.tenant, key.key, caller.name)
        return () if found is None else found.operations

    def require(self, caller: Caller, key: Key, operation: Operation) -> None:
        """Refuse what the caller has no permission for.

        Raises:
            OperationNotPermittedError: It has none.
        """
        if operation not in self.permitted(caller, key):
            raise OperationNotPermittedError(
                f"you have no permission to {operation} with this key; who manages it can give it",
                field="key",
            )


def version_of(book: KeyBook, number: int | None) -> KeyVersion:
    """The version of that number, or the current one.

    Raises:
        KeyVersionUnknownError: The key has none of that number.
    """
    found = book.current if number is None else book.version(number)
    if found is None:
        raise KeyVersionUnknownError(
            f"the key has {len(book.versions)} versions, and no other", field="version"
        )
    return found
