"""Replicas of the keys that a ceremony made, as the ledger and the log have them."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hsm_drivers.client import SignerClient
from hsm_drivers.ports import KeyLabel, KeyRecord, Purpose, Replica, Replication
from kms.domain.key_records import Key, KeyReplica
from kms.domain.records import SYSTEM_TENANT, Epoch
from kms.services.ceremony import commit_or_fail
from kms.services.core import Core
from kms.services.errors import StateError
from kms.services.ports import Change, Insert
from kms.services.token_watch import OWN
from kms.wire import Committed, EventType


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted.

    Attributes:
        token: Name of the further token in the configuration; empty for the service's own.
        trusted: The wrapping key that both tokens hold, for a transfer.
    """

    label: KeyLabel
    token: str
    how: Replication = Replication.MAKER
    trusted: KeyLabel | None = None


async def replicate(
    core: Core, signer: SignerClient, wish: Wish, officers: Sequence[str]
) -> KeyRecord:
    """Take a further token into a key's record, and log it; interrupted, it is ended by itself.

    Raises:
        HsmError: The signer or a token refused.
        KmsError: It could not be logged; ask again.
    """
    _refuse_alone(officers)
    record = await signer.replicate(wish.label, wish.token, wish.how, wish.trusted)
    replica = next(each for each in record.replicas if each.token == wish.token)
    if core.ledger.get(KeyReplica, SYSTEM_TENANT, str(wish.label), 1, wish.token) is None:
        detail = {
            **_named(record, wish.token),
            "how": replica.how.value,
            "attributes": asdict(replica.attributes),
        }
        await _log(
            core, EventType.KEY_REPLICATED, officers, detail, _changes(core, record, replica)
        )
    return record


def current_log_key(core: Core) -> KeyLabel:
    """Label of the key that signs the current epoch.

    Raises:
        StateError: There is no log yet.
    """
    head = core.ledger.head()
    epoch = None if head is None else core.ledger.get(Epoch, head.log)
    if epoch is None:
        raise StateError("this home has no log yet: hold its ceremony")
    return KeyLabel(epoch.key)


async def move_log(
    core: Core, signer: SignerClient, label: KeyLabel, token: str, officers: Sequence[str]
) -> KeyRecord:
    """Make a replica of a log's key the one that signs, and log it.

    Raises:
        StateError: It is the one already, or the key is no log's.
        HsmError: The signer refused.
        KmsError: It could not be logged; the key has moved.
    """
    _refuse_alone(officers)
    before = {record.label: record for record in await signer.keys()}.get(label)
    if before is None or Purpose.CHECKPOINT not in before.purposes:
        raise StateError(f"{label} is no log's key")
    if before.home == token:
        raise StateError(f"{label} signs on token {token or OWN} already")
    record = await signer.move(label, token)
    await _log(core, EventType.KEY_MOVED, officers, _named(record, token), [])
    return record


def _refuse_alone(officers: Sequence[str]) -> None:
    if len(set(officers)) < 2:
        raise StateError("a ceremony needs two different officers", field="officer")


def _named(record: KeyRecord, token: str) -> dict[str, Any]:
    return {
        "label": record.label,
        "public_key_sha256": hashlib.sha256(record.public_key).hexdigest(),
        "token": token or OWN,
    }


def _changes(core: Core, record: KeyRecord, replica: Replica) -> list[Change]:
    """A key of a ceremony before keys had lives has no row that a replica could belong to."""
    if core.ledger.get(Key, SYSTEM_TENANT, str(record.label)) is None:
        return []
    return [
        Insert(
            KeyReplica(
                tenant=SYSTEM_TENANT,
                key=str(record.label),
                version=1,
                token=replica.token,
                token_label="",
                key_id=replica.key_id,
                how=replica.how.value,
                attributes=asdict(replica.attributes),
                added=core.clock.now(),
                destroyed=None,
            )
        )
    ]


async def _log(
    core: Core,
    kind: EventType,
    officers: Sequence[str],
    detail: dict[str, Any],
    changes: Sequence[Change],
) -> None:
    event = core.events.draft(
        kind,
        core.clock.now(),
        SYSTEM_TENANT,
        {Committed.ACTOR: " and ".join(officers)},
        detail=detail,
    )
    await commit_or_fail(core, changes, event)
