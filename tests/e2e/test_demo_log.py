"""The demonstration's log before a verifier that shares no code with the project."""

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.stranger import Verifier, check_receipt, read_log

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("demo-log")]

ISSUING = ("certificate.issued", "device.enrolled", "device.renewed", "authority.created")
REVOKING = ("certificate.revoked", "device.revoked", "user.revoked")
KEY = hashlib.sha256(b"sovereign-kms/commitment/v1").digest()


@pytest.fixture
def verifier(demonstration: Path) -> Verifier:
    announced = demonstration.with_name(f"{demonstration.name}-service") / "announced.vkey"
    assert (demonstration / "log.vkey").read_text().strip() == announced.read_text().strip()
    return Verifier.parse(announced.read_text())


@pytest.fixture
def leaves(demonstration: Path, verifier: Verifier) -> list[bytes]:
    return read_log(demonstration / "log", verifier)


def parsed(leaves: list[bytes], *types: str) -> list[dict[str, Any]]:
    return [e for leaf in leaves if (e := json.loads(leaf))["type"] in types]


def certificates(record: Path) -> dict[str, x509.Certificate]:
    """Every certificate of the record, by SHA-256."""
    found = [
        x509.load_pem_x509_certificate(path.read_bytes())
        for path in record.rglob("*.pem")
        if ".crl" not in path.name
    ]
    named = {hashlib.sha256(c.public_bytes(Encoding.DER)).hexdigest(): c for c in found}
    assert len(named) == len(found)
    return named


def test_checkpoint_tiles_and_entries_agree(demonstration: Path, leaves: list[bytes]):
    files = {path.name: path.read_bytes() for path in demonstration.glob("events/*.json")}
    assert files == {f"{index}.json": leaf for index, leaf in enumerate(leaves)}
    assert json.loads(leaves[0])["type"] == "log.opened"


def test_leaves_are_canonical_and_name_nobody(leaves: list[bytes]):
    for leaf in leaves:
        document = json.loads(leaf)
        # RFC 8785 for documents of ASCII strings, integers and the like.
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert canonical.encode() == leaf
        # A tenant's identity domain stands in every certificate of its people anyway.
        domain = str(document["detail"].get("identity_domain", "-")).encode()
        for name in (b"amina", b"boris", b"chloe", b"messenger", b"ministry"):
            assert name not in leaf.replace(domain, b"")


def test_every_receipt_proves_its_devices_event(
    demonstration: Path, leaves: list[bytes], verifier: Verifier
):
    receipts = list(demonstration.glob("receipts/*/*.tlog-proof"))
    folders = {path.parent for path in demonstration.glob("devices/*/*/*.pem")}
    assert len(receipts) == len(folders) >= 5
    for path in receipts:
        text = path.read_bytes()
        index = int(text.split(b"\n")[1].removeprefix(b"index "))
        assert check_receipt(text, leaves[index], verifier)[0] == index
        named = {item["sha256"] for item in json.loads(leaves[index])["certificates"]}
        device = demonstration / "devices" / path.parent.name / path.stem
        assert named == certificates(device).keys()


def test_a_receipt_proves_nothing_else(
    demonstration: Path, leaves: list[bytes], verifier: Verifier
):
    path = next(demonstration.glob("receipts/*/*.tlog-proof"))
    with pytest.raises(AssertionError):
        check_receipt(path.read_bytes(), leaves[0], verifier)


def test_certificates_and_events_match_both_ways(demonstration: Path, leaves: list[bytes]):
    known = certificates(demonstration)
    issued = [item for event in parsed(leaves, *ISSUING) for item in event["certificates"]]
    assert sorted(item["sha256"] for item in issued) == sorted(known)
    for item in issued:
        serial = known[item["sha256"]].serial_number
        assert int(item["serial"], 16) == serial


def test_revocations_and_lists_match_both_ways(demonstration: Path, leaves: list[bytes]):
    revoked = {
        (item["authority"], int(item["serial"], 16))
        for event in parsed(leaves, *REVOKING)
        for item in event["certificates"]
    }
    listed = {
        (name, entry.serial_number)
        for name in ("root", "people", "infrastructure")
        for entry in x509.load_der_x509_crl((demonstration / f"ca/{name}.crl").read_bytes())
    }
    assert listed == revoked != set()
    newest = {e["detail"]["authority"]: e["detail"] for e in parsed(leaves, "crl.issued")}
    for name, detail in newest.items():
        data = (demonstration / f"ca/{name}.crl").read_bytes()
        assert hashlib.sha256(data).hexdigest() == detail["sha256"]


def test_openings_open_their_commitments(demonstration: Path, leaves: list[bytes]):
    openings = json.loads((demonstration / "openings.json").read_text())
    assert openings.keys() == {str(index) for index in range(len(leaves))}
    for index, items in openings.items():
        commitments = json.loads(leaves[int(index)])["commitments"]
        assert {item["field"] for item in items} == commitments.keys()
        for item in items:
            tenant, value = item["tenant"].encode(), item["value"].encode()
            message = base64.b64decode(item["opening"]) + item["field"].encode()
            message += len(tenant).to_bytes(2, "big") + tenant
            message += len(value).to_bytes(2, "big") + value
            made = base64.b64encode(hmac.digest(KEY, message, "sha256")).decode()
            assert made == commitments[item["field"]]
