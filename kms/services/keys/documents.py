"""Keys as answers show them."""

from typing import Any

from kms.domain.key_book import KeyBook
from kms.domain.key_records import Key, KeyReplica, KeyVersion
from kms.services.keys.commits import moment
from kms.wire import b64


def settings_document(key: Key) -> dict[str, Any]:
    """How a key is to live."""
    return {
        "rotation_days": key.rotation_days,
        "originator_days": key.originator_days,
        "recipient_days": key.recipient_days,
        "overlap_days": key.overlap_days,
        "retention_days": key.retention_days,
        "log_uses": key.log_uses.value,
    }


def key_document(book: KeyBook) -> dict[str, Any]:
    """A key and its versions."""
    key = book.key
    return {
        "tenant": key.tenant,
        "key": key.key,
        "key_id": key.key_id,
        "purpose": key.purpose,
        "slot": key.slot or None,
        "token": key.token or "main",
        "settings": settings_document(key),
        "hold": bool(key.hold),
        "current": book.current.version,
        "versions": [version_document(item) for item in book.versions],
    }


def version_document(item: KeyVersion) -> dict[str, Any]:
    """One version; what is protected how is always shown (promise P2)."""
    return {
        "version": item.version,
        "state": item.state.value,
        "algorithm": item.algorithm,
        "protection": item.protection,
        "components": [
            {"algorithm": part["algorithm"], "protection": part["protection"]}
            for part in item.components or (_whole(item),)
        ],
        "public_key": b64(item.public_key) if item.public_key else None,
        "certificate": item.certificate,
        "created": moment(item.created),
        "activates": moment(item.activates),
        "originator_end": moment(item.originator_end),
        "recipient_end": moment(item.recipient_end),
        "deactivates": moment(item.deactivates),
        "compromised": moment(item.compromised),
        "recover_until": moment(item.recover_until),
        "destroys": moment(item.destroys),
        "destroyed": moment(item.destroyed),
    }


def _whole(item: KeyVersion) -> dict[str, Any]:
    """A key in one part."""
    return {"algorithm": item.algorithm, "protection": item.protection}


def replica_document(item: KeyReplica) -> dict[str, Any]:
    """Where a version lives."""
    return {
        "version": item.version,
        "token": item.token or "main",
        "token_label": item.token_label,
        "how": item.how,
        "added": moment(item.added),
        "destroyed": moment(item.destroyed),
    }
