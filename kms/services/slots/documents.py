"""The public half of a slot as it is served: key, certificate, HPKE key, and proof of its birth."""

import json
from typing import Any

from kms.domain.authorisation import Caller
from kms.domain.key_book import KeyBook, life
from kms.domain.key_records import KeyVersion
from kms.domain.records import (
    SYSTEM_TENANT,
    Authority,
    Certificate,
    CertificateStatus,
    Event,
    EventOpenings,
    TenantId,
)
from kms.services.answers import receipt_document
from kms.services.core import INFRASTRUCTURE, ROOT, Core
from kms.services.errors import NotFoundError
from kms.services.heads import newest_signed
from kms.services.keys.commits import moment
from kms.services.keys.documents import version_document
from kms.services.keys.reach import KeyReach
from kms.wire import Committed, b64
from pki.keys import parse_public_key
from policies.algorithms import algorithm
from policies.key_life import KeyState

_HKDF_SHA256, _AES_256_GCM = 0x0001, 0x0002
"""RFC 9180 7.2 and 7.3."""
_SHOWN = frozenset({Committed.TENANT.value, Committed.KEY.value})
"""Whose openings everyone of the tenant gets; who ordered the slot is not among them."""


class SlotDocuments:
    """What senders need to seal to a slot, and to believe that it is the organisation's."""

    def __init__(self, core: Core, reach: KeyReach) -> None:
        self._core = core
        self._reach = reach

    async def public(self, caller: Caller, tenant: TenantId, name: str) -> dict[str, Any]:
        """The versions that may be sealed to now, the current one first.

        Raises:
            NotFoundError: There is no such slot in reach.
        """
        book = self._reach.book(self._reach.key(caller, tenant, name))
        versions = []
        for version in self._sealable(book):
            found = await self._version(version)
            if found is not None:
                versions.append(found)
        key = book.key
        return {
            "tenant": key.tenant,
            "key": key.key,
            "key_id": key.key_id,
            "slot": key.slot,
            "versions": versions,
        }

    def held(self, caller: Caller, tenant: TenantId, name: str) -> dict[str, Any] | None:
        """Since when and why destruction is blocked, as the log has it; None where it is not.

        Raises:
            NotFoundError: There is no such slot in reach.
        """
        key = self._reach.key(caller, tenant, name)
        if not key.hold:
            return None
        event = self._event(key.tenant, key.hold)
        detail = {} if event is None else json.loads(event.leaf)["detail"]
        since = None if event is None else moment(event.time)
        return {"event": key.hold, "since": since, "reason": detail.get("reason")}

    def _sealable(self, book: KeyBook) -> list[KeyVersion]:
        """Active, and within the originator's period; what was succeeded, until overlap ends."""
        now, current = self._core.clock.now(), book.current
        found = [
            item
            for item in book.versions
            if item.state is KeyState.ACTIVE
            and (item.originator_end is None or now < item.originator_end)
            and life(item).activates is not None
        ]
        return sorted(found, key=lambda item: (item is not current, -item.version))

    async def _version(self, version: KeyVersion) -> dict[str, Any] | None:
        """None while no signed checkpoint covers it (P3), or once its certificate is revoked."""
        event = self._event(version.tenant, version.event)
        certificate = self._certificate(version)
        if event is None or certificate is None:
            return None
        receipt = await self._receipt(event)
        if receipt is None:
            return None
        row = algorithm(version.algorithm)
        opened = self._core.ledger.get(EventOpenings, version.tenant, version.event)
        openings = () if opened is None else opened.openings
        return {
            **version_document(version),
            "hpke": {
                "kem_id": row.hpke_kem_id,
                "kdf_id": _HKDF_SHA256,
                "aead_id": _AES_256_GCM,
                "public_key": b64(parse_public_key(version.public_key, row).raw),
            },
            "certificate": b64(certificate.der),
            "chain": self._chain(certificate),
            "leaf": b64(event.leaf),
            "openings": [item for item in openings if item["field"] in _SHOWN],
            "receipt": receipt,
        }

    def _certificate(self, version: KeyVersion) -> Certificate | None:
        if version.certificate is None:
            return None
        found = self._core.ledger.get(
            Certificate, version.tenant, INFRASTRUCTURE, version.certificate
        )
        return found if found and found.status is CertificateStatus.GOOD else None

    def _chain(self, certificate: Certificate) -> list[str]:
        issuer = self._core.ledger.get(
            Authority, SYSTEM_TENANT, INFRASTRUCTURE, certificate.generation
        )
        if issuer is None:
            raise NotFoundError("the authority of the slot's certificate is unknown")
        return [b64(issuer.certificate), b64(self._core.authorities[ROOT].record.certificate)]

    def _event(self, tenant: TenantId, event: str) -> Event | None:
        found = self._core.ledger.find(Event, tenant=tenant, event=event, limit=1)
        return found[0] if found else None

    async def _receipt(self, event: Event) -> dict[str, Any] | None:
        """Against the newest signed checkpoint of the event's epoch."""
        head = self._core.ledger.head()
        if head is not None and head.log == event.log:
            size = self._core.sequencer.signed_size
        else:
            newest = newest_signed(self._core.ledger, event.log)
            size = 0 if newest is None else newest.size
        if event.index >= size:
            return None
        note = await self._core.sequencer.note_for(event.log, size)
        nodes = self._core.sequencer.nodes(event.log)
        return receipt_document(event.log, event.index, size, note, nodes)
