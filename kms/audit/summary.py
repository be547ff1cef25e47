"""The directory's own summary against what was found. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from kms import wire
from kms.audit.certificates import Held, Inventory
from kms.audit.decisions import algorithm_of
from kms.audit.findings import Check
from kms.audit.history import History
from kms.audit.names import Names

SUMMARY = "summary.json"


def read_summary(data: bytes | None) -> tuple[Check, Mapping[str, Any]]:
    """`summary.json` as JSON; its claims are checked by `check_summary`.

    Without a summary the directory claims nothing, and certificates may be missing from it.
    """
    check = Check("summary", "summary.json says what the record says")
    if data is None:
        check.notes.append(f"there is no {SUMMARY}: the directory does not claim to be complete")
        return check, {"complete": False}
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        check.fail(SUMMARY, "not a JSON object")
        return check, {}
    return check, document


def complete(summary: Mapping[str, Any]) -> bool:
    """Whether every certificate that the log names is said to be in the directory."""
    return summary.get("complete", True) is not False


def check_summary(
    check: Check,
    summary: Mapping[str, Any],
    log_size: int | None,
    history: History,
    inventory: Inventory,
    names: Names,
) -> None:
    """Compare every claim of the summary; failures go into `check`."""
    _check_counts(check, summary, log_size, history)
    entries = summary.get("certificates")
    if not isinstance(entries, list):
        check.expect(entries is None, SUMMARY, "'certificates' is not a list")
        return
    listed = set()
    for entry in entries:
        check.examined += 1
        path = entry.get("path") if isinstance(entry, dict) else None
        held = inventory.by_path.get(path) if isinstance(path, str) else None
        if held is None:
            check.fail(SUMMARY, f"{path!r} is no certificate of the directory with an event")
        else:
            listed.add(held.path)
            _check_entry(check, entry, held, history, names)
    for path in sorted(inventory.by_path.keys() - listed):
        check.expect(not path.startswith("devices/"), SUMMARY, f"{path} is not listed")


def _check_counts(
    check: Check, summary: Mapping[str, Any], log_size: int | None, history: History
) -> None:
    if "log_size" in summary:
        check.examined += 1
        if summary["log_size"] != log_size:
            check.fail(SUMMARY, f"log_size {summary['log_size']} is not the head's {log_size}")
    if type(summary.get("devices")) is int:
        check.examined += 1
        count = len({item.index for item in history.issued.values() if _enrols(item.leaf)})
        if summary["devices"] != count:
            check.fail(SUMMARY, f"{summary['devices']} devices, but {count} were enrolled")


def _enrols(leaf: wire.Leaf) -> bool:
    return leaf.type is wire.EventType.DEVICE_ENROLLED


def _check_entry(
    check: Check, entry: Mapping[str, Any], held: Held, history: History, names: Names
) -> None:
    algorithm = algorithm_of(held.certificate)
    index = held.issued.index
    truth = {
        "serial": held.issued.certificate.serial,
        "profile": held.issued.certificate.profile,
        "algorithm": algorithm.name if algorithm else None,
        "status": history.status(held.key),
        "index": index if index >= 0 else None,  # an earlier epoch counts its own
        "user": names.of(index, wire.Committed.USER),
        "device": names.of(index, wire.Committed.DEVICE),
    }
    for name, value in truth.items():
        if value is not None and name in entry and entry[name] != value:
            check.fail(SUMMARY, f"{held.path}: {name} {entry[name]!r}, the record says {value!r}")
