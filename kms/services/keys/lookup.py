"""Reading keys: listed, shown, with permissions, places, and what was done with them."""

from dataclasses import dataclass
from typing import Any

from kms.domain.authorisation import Action, Caller, may
from kms.domain.key_records import Key, KeyPermission, KeyReplica
from kms.domain.records import Event, LogId, TenantId
from kms.services.core import Core
from kms.services.keys.documents import key_document, replica_document
from kms.services.keys.reach import MANAGE, KeyReach
from kms.services.lookup import PAGE, Page
from kms.services.ports import Ledger
from kms.wire import EventType, b64, timestamp

_LOOKED_AT = 2_000
"""Events that one page of uses looks through: they stand among the tenant's others."""


@dataclass(frozen=True, slots=True)
class Uses:
    """Logged uses of a key; `after` is where the next page begins, None at the end."""

    events: list[Event]
    after: int | None


class KeyLookup:
    """Answers questions about keys."""

    def __init__(self, core: Core, reach: KeyReach) -> None:
        self._core = core
        self._reach = reach

    def keys(
        self, caller: Caller, tenant: TenantId, *, after: str | None = None, limit: int = PAGE
    ) -> Page[dict[str, Any]]:
        """Keys of a tenant by name: all of them for who manages keys, else the permitted ones."""
        found = self._core.ledger.find(
            Key,
            tenant=tenant,
            order=("key",),
            after=None if after is None else (after,),
            limit=min(limit, PAGE),
        )
        shown = [
            key_document(self._reach.book(key)) for key in found if self._is_shown(caller, key)
        ]
        return Page(shown, found[-1].key if len(found) == min(limit, PAGE) else None)

    def key(self, caller: Caller, tenant: TenantId, name: str) -> dict[str, Any]:
        """One key: its versions, where they live, and what the caller may do.

        Whoever manages it is told of everyone's permissions.

        Raises:
            NotFoundError: There is none in reach.
        """
        key = self._reach.key(caller, tenant, name)
        own = self._reach.permitted(caller, key)
        replicas = self._core.ledger.find(KeyReplica, tenant=key.tenant, key=key.key)
        document = {
            **key_document(self._reach.book(key)),
            "replicas": [replica_document(item) for item in replicas],
            "permitted": list(own),
        }
        if MANAGE in own or may(caller, Action.MANAGE_KEYS):
            document["permissions"] = permissions(self._core.ledger, key)
        return document

    def uses(self, caller: Caller, tenant: TenantId, name: str, *, after: int = -1) -> Uses:
        """Events of the key's uses in the current log, oldest first.

        A page may be empty and not the last: it looks through so many of the tenant's events.

        Raises:
            NotFoundError: There is no such key in reach.
            OperationNotPermittedError: The caller does not manage it.
        """
        key = self._reach.managed(caller, tenant, name).key
        head = self._core.ledger.head()
        log = LogId(0) if head is None else head.log
        found = self._core.ledger.find(
            Event,
            tenant=key.tenant,
            log=log,
            order=("log", "index"),
            after=(log, after),
            limit=_LOOKED_AT,
        )
        signed = self._core.sequencer.signed_size
        wanted = [
            item
            for item in found
            if item.type == EventType.KEY_USED
            and item.index < signed
            and key.key_id.encode() in item.leaf
        ]
        return Uses(wanted, found[-1].index if len(found) == _LOOKED_AT else None)

    def _is_shown(self, caller: Caller, key: Key) -> bool:
        if not self._reach.has(key) or not self._reach.covered(key):
            return False
        return may(caller, Action.MANAGE_KEYS) or bool(self._reach.permitted(caller, key))


def permissions(ledger: Ledger, key: Key) -> list[dict[str, Any]]:
    """Who may do what with a key."""
    found = ledger.find(KeyPermission, tenant=key.tenant, key=key.key)
    return [{"principal": item.principal, "operations": list(item.operations)} for item in found]


def use_document(item: Event) -> dict[str, Any]:
    """A logged use, with the exact leaf."""
    return {"index": item.index, "time": timestamp(item.time), "leaf": b64(item.leaf)}
