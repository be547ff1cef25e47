"""Examples that the description of answers about keys shows."""

from typing import Any

from kms.api.examples import RECEIPT

__all__ = ["KEY", "RECEIPT", "REPLICA", "SHOWN", "TOUCHES", "VERSION"]

VERSION: dict[str, Any] = {
    "version": 1,
    "state": "active",
    "algorithm": "AES-256-GCM",
    "protection": "token",
    "components": [],
    "public_key": None,
    "certificate": None,
    "created": "2026-03-01T08:00:00Z",
    "activates": "2026-03-01T08:00:00Z",
    "originator_end": "2028-02-29T08:00:00Z",
    "recipient_end": "2031-02-28T08:00:00Z",
    "deactivates": None,
    "compromised": None,
    "recover_until": None,
    "destroys": None,
    "destroyed": None,
}
KEY: dict[str, Any] = {
    "tenant": "interior",
    "key": "room-archive",
    "key_id": "8f14e45fceea167a5a36dedd4bea2543",
    "purpose": "encryption",
    "slot": None,
    "token": "main",
    "settings": {
        "rotation_days": 90,
        "originator_days": 730,
        "recipient_days": 1825,
        "overlap_days": 0,
        "retention_days": 0,
        "log_uses": "count",
    },
    "hold": False,
    "current": 1,
    "versions": [VERSION],
}
REPLICA: dict[str, Any] = {
    "version": 1,
    "token": "main",
    "token_label": "kms",
    "how": "generated",
    "added": "2026-03-01T08:00:00Z",
    "destroyed": None,
}
SHOWN: dict[str, Any] = {
    **KEY,
    "replicas": [REPLICA],
    "permitted": ["data-key", "decrypt", "encrypt", "manage"],
    "permissions": [{"principal": "matrix-1", "operations": ["decrypt"]}],
}
TOUCHES: dict[str, Any] = {
    "versions": [VERSION],
    "slots": [],
    "certificates": [],
    "replicas": [REPLICA],
    "wrapped": [],
}
