"""Keys that a ceremony makes, as the ledger and the log have them."""

import hashlib
from dataclasses import asdict
from typing import Any

from hsm_drivers.ports import KeyRecord
from kms.domain.key_records import (
    GENERATED,
    NEVER,
    Key,
    KeyId,
    KeyReplica,
    KeyVersion,
    LogUses,
)
from kms.domain.records import SYSTEM_TENANT
from kms.services.core import Core
from kms.services.ports import Change, EventDraft, Insert
from policies.key_life import KeyState


def key_detail(record: KeyRecord) -> dict[str, Any]:
    """What the event of its birth says of it."""
    return {
        "label": record.label,
        "algorithm": record.algorithm,
        "purposes": [purpose.value for purpose in record.purposes],
        "protection": record.protection.value,
        "public_key_sha256": hashlib.sha256(record.public_key).hexdigest(),
        "attributes": asdict(record.attributes),
    }


def key_changes(core: Core, record: KeyRecord, purpose: str, event: EventDraft) -> list[Change]:
    """A key, its first version, and where that version lives.

    It is active from the first and has no end of its own: its certificate's is what counts.
    """
    tenant, name, now = SYSTEM_TENANT, str(record.label), event.time
    key = Key(
        tenant=tenant,
        key=name,
        key_id=KeyId(core.ids.random(16).hex()),
        purpose=purpose,
        slot="",
        algorithm="",
        protection="",
        token=record.home,
        rotation_days=0,
        originator_days=0,
        recipient_days=0,
        overlap_days=0,
        retention_days=0,
        log_uses=LogUses.NONE,
        hold="",
        due=NEVER,
        created=now,
        event=event.event,
    )
    version = KeyVersion(
        tenant=tenant,
        key=name,
        version=1,
        label=name,
        algorithm=record.algorithm,
        protection=record.protection.value,
        components=(),
        public_key=record.public_key,
        state=KeyState.ACTIVE,
        created=now,
        activates=now,
        originator_end=None,
        recipient_end=None,
        deactivates=None,
        compromised=None,
        recover_until=None,
        destroys=None,
        destroyed=None,
        certificate=None,
        policy=core.policy.hash,
        rule="",
        event=event.event,
    )
    replica = KeyReplica(
        tenant=tenant,
        key=name,
        version=1,
        token=record.home,
        token_label=record.token,
        key_id=record.key_id,
        how=GENERATED,
        attributes=asdict(record.attributes),
        added=now,
        destroyed=None,
    )
    return [Insert(key), Insert(version), Insert(replica)]
