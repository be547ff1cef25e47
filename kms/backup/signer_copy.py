"""A copy of what a signer keeps, opened and read as the signer itself does."""

import hashlib
from pathlib import Path

from hsm_drivers.ports import KeyRecord
from hsm_drivers.service.store import Held
from hsm_drivers.state import SignerState
from kms.backup.format import KeyEntry
from policies.decisions import Protection


def records(directory: Path) -> list[KeyRecord]:
    """Records of all keys that are held, service keys with what is wrapped of them.

    A batch that was being written when the journal was copied is cut off, as after a crash.

    Raises:
        HsmError: The copy is damaged.
    """
    with SignerState(directory) as state:
        return records_of(state)


def records_of(state: SignerState) -> list[KeyRecord]:
    """The same of a state that is open."""
    held = [entry.record for entry in state.service if isinstance(entry, Held)]
    return [*state.records(), *held]


def key_entry(record: KeyRecord) -> KeyEntry:
    """A key as a manifest refers to it."""
    return KeyEntry(
        label=str(record.label),
        key_id=record.key_id,
        algorithm=record.algorithm,
        protection=record.protection.value,
        public_key_sha256=hashlib.sha256(record.public_key).hexdigest(),
        wrapped=_carried(record),
    )


def _carried(record: KeyRecord) -> bool:
    """Whether all of it is in the record, so that the backup has it."""
    parts = [component.protection for component in record.components]
    return bool(parts) and all(part is Protection.WRAPPED for part in parts)
