"""What the detail of each type of event must hold, so that replaying it can believe its shape."""

from collections.abc import Mapping
from datetime import datetime
from types import UnionType
from typing import Any, get_args, get_origin

from kms import wire
from kms.wire import EventType

Kind = type | UnionType
"""`str`, `int`, `bool`, `dict`, `list[str]`; with `| None` it may be null or missing."""

_STEP: Mapping[str, Kind] = {"key": str, "version": int}
DETAIL: Mapping[EventType, Mapping[str, Kind]] = {
    EventType.LOG_OPENED: {"vkey": str, "public_key_sha256": str | None},
    EventType.LOG_CONTINUED: {"previous": dict},
    EventType.CEREMONY_STEP: {"step": str, "plan_sha256": str},
    EventType.KEY_CREATED: {"key": str, "purpose": str, "slot": str, "settings": dict},
    EventType.KEY_GENERATED: {
        "label": str,
        "algorithm": str,
        "purposes": list[str],
        "protection": str,
        "public_key_sha256": str,
        "attributes": dict,
        "key": str | None,
        "version": int | None,
        "tokens": list[str] | None,
        "activates": str | None,
        "vkey": str | None,
    },
    EventType.KEY_ORPHANED: {"label": str, "public_key_sha256": str},
    EventType.KEY_ACTIVATED: {
        **_STEP,
        "originator_end": str | None,
        "recipient_end": str | None,
    },
    EventType.KEY_SUSPENDED: _STEP,
    EventType.KEY_RESUMED: _STEP,
    EventType.KEY_DEACTIVATED: _STEP,
    EventType.KEY_COMPROMISED: {**_STEP, "since": str, "recover_until": str | None},
    EventType.KEY_RECOVERY_ALLOWED: {**_STEP, "until": str},
    EventType.KEY_DESTRUCTION_SCHEDULED: {**_STEP, "at": str, "delay_seconds": int},
    EventType.KEY_DESTRUCTION_CANCELLED: _STEP,
    EventType.KEY_DESTROYED: {**_STEP, "tokens": list[str]},
    EventType.KEY_PERMITTED: {"key": str, "operations": list[str]},
    EventType.KEY_HELD: {"key": str},
    EventType.KEY_RELEASED: {"key": str},
    EventType.KEY_USED: {"key": str, "operation": str, "uses": dict, "sha256": str},
    EventType.KEY_REPLICATED: {
        "label": str,
        "public_key_sha256": str,
        "token": str,
        "how": str,
        "attributes": dict,
    },
    EventType.KEY_MOVED: {"label": str, "public_key_sha256": str, "token": str},
    EventType.TOKEN_HEALTH: {"token": str, "healthy": bool},
    EventType.AUTHORITY_CREATED: {"name": str, "generation": int},
    EventType.POLICY_ACTIVATED: {"name": str, "hash": str},
    EventType.CERTIFICATE_REVOKED: {"reason": str},
    EventType.DEVICE_REVOKED: {"reason": str},
    EventType.USER_REVOKED: {"reason": str},
    EventType.CRL_ISSUED: {
        "authority": str,
        "number": int,
        "sha256": str,
        "entries": int,
        "this_update": str,
        "next_update": str,
    },
    EventType.CRL_ORPHANED: {"authority": str, "number": int},
    EventType.RECOVERY_KEY_REGISTERED: {
        "recovery_key": str,
        "algorithm": str,
        "public_key_sha256": str,
        "quorum": int,
        "shares": int,
    },
    EventType.SERVICE_RESTORED: {
        "backup": str,
        "made": str,
        "origin": str,
        "size": int,
        "root": str,
    },
}
"""By type; further members are nobody's concern."""

_AGE = range(2000, 3000)


def malformed(leaf: wire.Leaf) -> list[str]:
    """Names of the members of its detail that are missing, or of another kind."""
    detail: Mapping[str, Any] = leaf.detail or {}
    wanted = DETAIL.get(leaf.type, {})
    return [name for name, kind in wanted.items() if not _is(detail.get(name), kind)]


def in_age(moment: datetime) -> bool:
    """Whether a log can tell of that time; the longest period added to it is still a time."""
    return moment.year in _AGE


def _is(value: object, kind: Any) -> bool:
    """JSON's own kinds, exactly: true is no number."""
    if get_origin(kind) is UnionType:
        return any(_is(value, item) for item in get_args(kind))
    if get_origin(kind) is list:
        (inner,) = get_args(kind)
        return type(value) is list and all(_is(item, inner) for item in value)
    return type(value) is kind
