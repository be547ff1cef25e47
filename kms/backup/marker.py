"""The note that a restore leaves for the first start: it becomes the event `service.restored`.

    <home>/data/restored.json

It is removed when the event is durable; a crash in between finds the event by the backup's id.
"""

from pathlib import Path
from typing import Literal

import msgspec

from kms.backup.errors import BackupError
from kms.backup.format import Manifest
from kms.domain.records import SYSTEM_TENANT, Event
from kms.services.ceremony import commit_or_fail
from kms.services.core import Core
from kms.services.crls import SERVICE
from kms.wire import Committed, EventType, b64

NAME = "restored.json"
_MAX = 4096


class Marker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was restored: the backup's id, its time, and the head of the log in it."""

    version: Literal[1]
    backup: str
    made: str
    origin: str
    size: int
    root: bytes


def marker_of(manifest: Manifest) -> bytes:
    """The file for a backup."""
    log = manifest.log
    return msgspec.json.encode(
        Marker(1, manifest.id, manifest.made, log.origin, log.size, log.root)
    )


async def log_restore(core: Core, directory: Path) -> bool:
    """Log what a marker in the directory says, and remove it; answer whether there was one.

    Raises:
        KmsError: It could not be logged; the marker stays for the next try.
        BackupError: The marker is damaged.
    """
    path = directory / NAME
    marker = _read(path)
    if marker is None:
        return False
    known = core.ledger.find(Event, type=EventType.SERVICE_RESTORED.value)
    if not any(f'"backup":"{marker.backup}"'.encode() in event.leaf for event in known):
        event = core.events.draft(
            EventType.SERVICE_RESTORED,
            core.clock.now(),
            SYSTEM_TENANT,
            {Committed.ACTOR: SERVICE.name},
            detail={
                "backup": marker.backup,
                "made": marker.made,
                "origin": marker.origin,
                "size": marker.size,
                "root": b64(marker.root),
            },
        )
        await commit_or_fail(core, [], event)
    path.unlink(missing_ok=True)
    return True


def _read(path: Path) -> Marker | None:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MAX), type=Marker)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise BackupError(f"{path} is damaged ({error}); a restore made it: restore anew") from None
