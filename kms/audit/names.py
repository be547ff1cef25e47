"""Who events are about: openings, checked against the commitments in the leaves. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kms import wire
from kms.audit.findings import Check, event

OPENINGS = "openings.json"
_MAX_OPENINGS = 16


@dataclass(frozen=True, slots=True)
class Names:
    """Values whose openings open their commitments, by event.

    An event whose openings were erased, or are not this auditor's to see, has none.
    """

    values: Mapping[int, Mapping[wire.Committed, str]] = field(default_factory=dict)

    def of(self, index: int, kind: wire.Committed) -> str | None:
        """The value, or None if it is not known."""
        return self.values.get(index, {}).get(kind)

    def person(self, index: int) -> tuple[str, str] | None:
        """Tenant and user, if both are known."""
        return self._pair(index, wire.Committed.USER)

    def device(self, index: int) -> tuple[str, str] | None:
        """Tenant and device, if both are known."""
        return self._pair(index, wire.Committed.DEVICE)

    def _pair(self, index: int, kind: wire.Committed) -> tuple[str, str] | None:
        tenant, value = self.of(index, wire.Committed.TENANT), self.of(index, kind)
        return None if tenant is None or value is None else (tenant, value)


def check_openings(data: bytes | None, events: Mapping[int, wire.Leaf]) -> tuple[Check, Names]:
    """Every opening opens the commitment of its field.

    Args:
        data: `openings.json`: decimal event index to a list of openings.
        events: Index to leaf.
    """
    check = Check("openings", "every opening opens its commitment")
    values: dict[int, dict[wire.Committed, str]] = {}
    for index, documents in _documents(check, data).items():
        leaf = events.get(index)
        if leaf is None:
            check.fail(OPENINGS, f"opens event {index}, which is not there")
            continue
        values[index] = _open(check, index, leaf, documents)
    sealed = len(events.keys() - values.keys())
    if sealed:
        check.notes.append(f"{sealed} events have no openings: whom they are about stays unknown")
    return check, Names(values)


def _open(
    check: Check, index: int, leaf: wire.Leaf, documents: list[Any]
) -> dict[wire.Committed, str]:
    found: dict[wire.Committed, str] = {}
    tenants: set[str] = set()
    for document in documents:
        check.examined += 1
        opening = _opening(document)
        if opening is None:
            check.fail(OPENINGS, f"event {index}: not of the documented form")
        elif opening.field in found:
            check.fail(OPENINGS, f"event {index}: {opening.field} is opened twice")
        elif wire.opened(_texts(leaf), [opening]):
            found[opening.field] = opening.value
            tenants.add(opening.tenant)
        else:
            check.fail(event(index), f"the opening of {opening.field} does not open it")
    if wire.Committed.TENANT in found:
        same = tenants == {found[wire.Committed.TENANT]}
        check.expect(same, event(index), "openings name different tenants")
    return found


def _texts(leaf: wire.Leaf) -> dict[str, str]:
    return {kind.value: text for kind, text in leaf.commitments.items()}


def _documents(check: Check, data: bytes | None) -> dict[int, list[Any]]:
    if data is None:
        check.notes.append(f"there is no {OPENINGS}")
        return {}
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        check.fail(OPENINGS, "not a JSON object")
        return {}
    found: dict[int, list[Any]] = {}
    for name, value in document.items():
        if not (name.isascii() and name.isdecimal() and str(int(name)) == name):
            check.fail(OPENINGS, f"{name[:80]!r} is not an event index")
        elif not isinstance(value, list) or len(value) > _MAX_OPENINGS:
            check.fail(OPENINGS, f"event {name}: not a list of at most {_MAX_OPENINGS} openings")
        else:
            found[int(name)] = value
    return found


def _opening(document: object) -> wire.Opening | None:
    if not isinstance(document, dict):
        return None
    texts = [document.get(name) for name in ("field", "tenant", "value", "opening")]
    if set(document) != {"field", "tenant", "value", "opening"}:
        return None
    kind, tenant, value, opening = (text if isinstance(text, str) else "" for text in texts)
    try:
        result = wire.Opening(wire.Committed(kind), tenant, value, wire.unb64(opening))
        result.commitment()
    except (ValueError, OverflowError):
        return None
    return result
