"""Leaves as values: a strict reader whose result encodes to the very same bytes."""

import json
import re
from collections.abc import Mapping
from typing import Any

from kms import wire
from kms.tlog.hashing import HASH_SIZE

_HASH = re.compile(r"[0-9a-f]{64}")
_SERIAL = re.compile(r"(?:[0-9a-f]{2}){1,20}")
_MAX_CERTIFICATES = 1_000


def parse_leaf(data: bytes) -> wire.Leaf:
    """Read a leaf; `parse_leaf(data).encode() == data` for all that is accepted.

    Raises:
        WireError: Not canonical JSON of the leaf schema.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise wire.WireError("the leaf is not JSON") from error
    if not isinstance(document, dict):
        raise wire.WireError("the leaf is not a JSON object")
    try:
        leaf = _leaf(document)
    except KeyError as error:
        raise wire.WireError(f"the leaf has no {error.args[0]!r}") from error
    if not _encodes_to(leaf, data):
        raise wire.WireError("the leaf is not canonical, or not of this version and schema")
    return leaf


def _encodes_to(leaf: wire.Leaf, data: bytes) -> bool:
    try:
        return leaf.encode() == data
    except ValueError:  # a number or a lone surrogate that has no canonical form
        return False


def _leaf(document: Mapping[str, Any]) -> wire.Leaf:
    policy = document["policy"]
    return wire.Leaf(
        event=_text(document, "event"),
        type=_member(wire.EventType, _text(document, "type")),
        time=wire.parse_timestamp(_text(document, "time")),
        origin=_text(document, "origin"),
        commitments={
            _member(wire.Committed, name): _commitment(value)
            for name, value in _object(document, "commitments").items()
        },
        certificates=tuple(_certificate(item) for item in _list(document, "certificates")),
        policy=None if policy is None else _policy(policy),
        approvals=tuple(_strings(document, "approvals")),
        detail=_object(document, "detail"),
    )


def _certificate(document: object) -> wire.LeafCertificate:
    if not isinstance(document, dict):
        raise wire.WireError("a certificate of the leaf is not an object")
    slot, sha256 = document["slot"], document["sha256"]
    if slot is not None and not isinstance(slot, str):
        raise wire.WireError("a certificate's slot is neither a name nor null")
    if sha256 is not None and not (isinstance(sha256, str) and _HASH.fullmatch(sha256)):
        raise wire.WireError("a certificate's sha256 is neither a hash nor null")
    serial = _text(document, "serial")
    if not _SERIAL.fullmatch(serial):
        raise wire.WireError(f"not a serial: {serial[:80]!r}")
    authority, profile = _text(document, "authority"), _text(document, "profile")
    return wire.LeafCertificate(authority, serial, profile, slot, sha256)


def _policy(document: object) -> Mapping[str, Any]:
    if not isinstance(document, dict) or not _HASH.fullmatch(_text(document, "hash")):
        raise wire.WireError("the leaf's policy names no policy hash")
    rules = _object(document, "rules")
    if not all(isinstance(rule, str) for rule in rules.values()):
        raise wire.WireError("the leaf's policy has a rule that is not named")
    return document


def _commitment(value: object) -> str:
    if not isinstance(value, str) or len(wire.unb64(value)) != HASH_SIZE:
        raise wire.WireError("a commitment is not a base64 hash")
    return value


def _member(kind: type[Any], value: str) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        raise wire.WireError(f"{value[:80]!r} is no {kind.__name__}") from error


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document[name]
    if not isinstance(value, str):
        raise wire.WireError(f"the leaf's {name} is not a string")
    return value


def _object(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = document[name]
    if not isinstance(value, dict):
        raise wire.WireError(f"the leaf's {name} is not an object")
    return value


def _strings(document: Mapping[str, Any], name: str) -> list[str]:
    values = _list(document, name)
    if not all(isinstance(value, str) for value in values):
        raise wire.WireError(f"the leaf's {name} are not strings")
    return values


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    value = document[name]
    if not isinstance(value, list) or len(value) > _MAX_CERTIFICATES:
        raise wire.WireError(f"the leaf's {name} is not a list of at most {_MAX_CERTIFICATES}")
    return value
