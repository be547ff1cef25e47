"""The birth of a recovery key, on the record: who was there, and how many open with it."""

from collections.abc import Sequence

from kms.backup.errors import RecoveryKeyError
from kms.backup.recovery import NewKey
from kms.domain.records import SYSTEM_TENANT
from kms.services.ceremony import commit_or_fail
from kms.services.core import Core
from kms.wire import Committed, EventType


async def register(core: Core, made: NewKey, officers: Sequence[str]) -> None:
    """Log the key; backups may be encrypted to it from then on.

    Raises:
        RecoveryKeyError: Fewer than two officers are present.
        KmsError: It could not be logged.
    """
    if len(set(officers)) < 2:
        raise RecoveryKeyError("a recovery key needs two different officers")
    key = made.public
    event = core.events.draft(
        EventType.RECOVERY_KEY_REGISTERED,
        core.clock.now(),
        SYSTEM_TENANT,
        {Committed.ACTOR: " and ".join(officers)},
        policy={"hash": core.policy.hash, "rules": {"backup": made.rule}},
        detail={
            "recovery_key": key.id,
            "algorithm": key.algorithm,
            "public_key_sha256": key.sha256,
            "quorum": key.quorum,
            "shares": len(key.shares),
        },
    )
    await commit_or_fail(core, [], event)
