"""What is written down for strangers (DESIGN section 6), beside what `kms … export` writes."""

import base64
import json
import ssl
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kms.cli.demo.people import Enrolled, Refusal


def write_devices(record: Path, enrolled: Sequence[Enrolled]) -> None:
    """Every device's certificates, and its receipt."""
    for item in enrolled:
        certified = item.certified
        folder = record / "devices" / certified.user / certified.device
        folder.mkdir(parents=True, exist_ok=True)
        for certificate in certified.certificates:
            (folder / f"{certificate.slot}.pem").write_bytes(certificate.pem())
        receipts = record / "receipts" / certified.user
        receipts.mkdir(parents=True, exist_ok=True)
        (receipts / f"{certified.device}.tlog-proof").write_text(certified.receipt)


def write_principals(record: Path, certificates: Iterable[Mapping[str, Any]]) -> int:
    """Certificates of officers, auditors, servers: with them the record has all that was issued."""
    count = 0
    for item in certificates:
        if item["device"] is None and not (record / "ca" / f"{item['principal']}.pem").exists():
            path = (
                record / "principals" / item["tenant"] / f"{item['principal']}-{item['serial']}.pem"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(ssl.DER_cert_to_PEM_cert(base64.b64decode(item["certificate"])))
            count += 1
    return count


def write_keys(record: Path, keys: Iterable[Mapping[str, Any]]) -> None:
    """What the ceremony read back from the token of each key."""
    documents = [
        {
            "label": key["label"],
            "id": key["id"],
            "purpose": "log" if "checkpoint" in key["purpose"] else "authority",
            "statements": key["purpose"],
            "algorithm": key["algorithm"],
            "attributes": key["attributes"],
        }
        for key in keys
    ]
    write_json(record / "keys.json", documents)


def summary(
    log: Mapping[str, Any],
    enrolled: Sequence[Enrolled],
    refusals: Sequence[Refusal],
    known: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """What the record holds, for scripts.

    Args:
        log: Answer of `kms log export`.
        enrolled: Certified devices.
        refusals: Refused requests.
        known: Serial to the service's own view of a certificate.
    """
    entries = [_entry(item, known) for item in enrolled]
    certificates = [entry for group in entries for entry in group]
    return {
        "log_size": log["log_size"],
        "devices": len(enrolled),
        "revoked": sum(entry["status"] == "revoked" for entry in certificates),
        "certificates": certificates,
        "complete": True,
        "origin": log["origin"],
        "users": sorted({item.certified.user for item in enrolled}),
        "refused": [
            {"what": item.what, "type": item.type, "log_size": item.size_after} for item in refusals
        ],
    }


def write_json(path: Path, document: object) -> None:
    """A document for people and scripts alike."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _entry(item: Enrolled, known: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    certified = item.certified
    return [
        {
            "path": f"devices/{certified.user}/{certified.device}/{certificate.slot}.pem",
            "serial": certificate.serial,
            "algorithm": item.owned.slots[certificate.slot],
            "profile": certificate.profile,
            "status": known[certificate.serial]["status"],
            "user": certified.user,
            "device": certified.device,
            "index": certified.index,
        }
        for certificate in certified.certificates
    ]
