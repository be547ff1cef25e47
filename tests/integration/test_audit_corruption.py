"""One thing wrong with a record, and `kms-audit` says which (files changed after the fact)."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kms.audit.main import main
from tests.support.authority import Authority
from tests.support.ministry import START, Ministry, busy_ministry
from tests.support.naive_log import NaiveLog

Corruption = Callable[[Path, Ministry], None]


@pytest.fixture(scope="module")
def ministry() -> Ministry:
    return busy_ministry()


@pytest.fixture(scope="module")
def record(ministry: Ministry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ministry.write(tmp_path_factory.mktemp("record"))


def verdict(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    status = main(["verify", *arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def failures(document: dict[str, Any]) -> list[str]:
    return [
        f"{check['check']}: {item['where']}: {item['message']}"
        for check in document["checks"]
        for item in check["failures"]
    ]


def test_the_record_itself_holds(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, document = verdict(capsys, str(record))
    assert failures(document) == []
    assert status == 0
    # Nothing was vacuous: every check looked at something, where the record has what it looks at.
    idle = {check["check"] for check in document["checks"] if not check["examined"]}
    assert idle <= {"backups", "cosignatures"}, idle


def flip(folder: Path, name: str, at: int = -1, mask: int = 1) -> None:
    data = bytearray((folder / name).read_bytes())
    data[at] ^= mask
    (folder / name).write_bytes(data)


def tile(folder: Path) -> str:
    (path,) = (folder / "log/tile/0/000.p").iterdir()
    return path.relative_to(folder).as_posix()


def bundle(folder: Path) -> str:
    (path,) = (folder / "log/tile/entries/000.p").iterdir()
    return path.relative_to(folder).as_posix()


def edit_json(folder: Path, name: str, change: Callable[[Any], None]) -> None:
    document = json.loads((folder / name).read_bytes())
    change(document)
    (folder / name).write_text(json.dumps(document))


def swap(folder: Path, first: str, second: str) -> None:
    one, two = (folder / first).read_bytes(), (folder / second).read_bytes()
    (folder / first).write_bytes(two)
    (folder / second).write_bytes(one)


def both_leaves(folder: Path, ministry: Ministry) -> None:
    """The same forged leaf in both places."""
    forged = NaiveLog(ministry.log.origin, bytes(32))
    forged.leaves = list(ministry.log.leaves)
    forged.leaves[4] = forged.leaves[4].replace(b"ECDSA-P256", b"ECDSA-P384")
    (folder / "events/4.json").write_bytes(forged.leaves[4])
    shutil.rmtree(folder / "log")
    forged.write(folder / "log")
    (folder / "log/checkpoint").write_bytes(ministry.log.checkpoint())


def other_log(folder: Path, ministry: Ministry) -> None:
    forged = NaiveLog("log.elsewhere.example/1", os.urandom(32))
    forged.leaves = list(ministry.log.leaves)
    (folder / "log/checkpoint").write_bytes(forged.checkpoint())


def other_key(folder: Path, ministry: Ministry) -> None:
    """The whole log under another key of the same name."""
    forged = NaiveLog(ministry.log.origin, os.urandom(32))
    forged.leaves = list(ministry.log.leaves)
    (folder / "log/checkpoint").write_bytes(forged.checkpoint())
    (folder / "log.vkey").write_text(forged.vkey)


def forked_receipt(folder: Path, ministry: Ministry) -> None:
    """Another history, signed by the log's own key: what only the tree can show."""
    forged = NaiveLog(ministry.log.origin)
    forged.key = ministry.log.key
    forged.leaves = [b"another history", *ministry.log.leaves[1:]]
    receipt = (folder / "receipts/ada/ada-phone.tlog-proof").read_bytes()
    index = int(receipt.split(b"\n")[1].removeprefix(b"index "))
    forged_receipt = forged.receipt(index)
    (folder / "receipts/ada/ada-phone.tlog-proof").write_bytes(forged_receipt)


def unlogged_certificate(folder: Path, ministry: Ministry) -> None:
    """Same key, same name, same serial, same CA; only no event knows it."""
    path = folder / "devices/bob/bob-phone/identity.pem"
    old = x509.load_pem_x509_certificate(path.read_bytes())
    spki = old.public_key()
    der = ministry.cas["people"].issue(
        spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "https://id.interior.example/users/bob/devices/bob-phone",
        old.serial_number,
        old.not_valid_before_utc,
        old.not_valid_after_utc,
    )
    path.write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))


def unlogged_authority(folder: Path, ministry: Ministry) -> None:
    made = Authority.create("people", ministry.cas["root"], 77, START)
    pem = x509.load_der_x509_certificate(made.certificate).public_bytes(Encoding.PEM)
    (folder / "ca/people.pem").write_bytes(pem)


def put_crl(folder: Path, der: bytes) -> None:
    (folder / "ca/people.crl").write_bytes(der)
    pem = x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)
    (folder / "ca/people.crl.pem").write_bytes(pem)


def crl_without(folder: Path, ministry: Ministry) -> None:
    kept = ministry.revoked["people"].pop()
    put_crl(folder, ministry.crl("people", 2))
    ministry.revoked["people"].append(kept)


def crl_with_more(folder: Path, ministry: Ministry) -> None:
    ministry.revoked["people"].append(("0badcafe", ministry.now, "key-compromise"))
    put_crl(folder, ministry.crl("people", 2))
    ministry.revoked["people"].pop()


def crl_by_another(folder: Path, ministry: Ministry) -> None:
    own = ministry.cas["people"]
    ministry.cas["people"] = Authority.create("people", ministry.cas["root"], 78, START)
    put_crl(folder, ministry.crl("people", 2))
    ministry.cas["people"] = own


def link(folder: Path, _: Ministry) -> None:
    path = folder / "devices/ada/ada-phone/identity.pem"
    path.unlink()
    path.symlink_to("/etc/hostname")


def grow(name: str, content: bytes) -> Corruption:
    def change(folder: Path, _: Ministry) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return change


def opening(index_of: str, member: str, value: str) -> Corruption:
    """Change one member of the opening of the user in the receipt's event."""

    def change(folder: Path, _: Ministry) -> None:
        receipt = (folder / f"receipts/{index_of}.tlog-proof").read_text()
        index = receipt.split("\n")[1].removeprefix("index ")

        def edit(document: Any) -> None:
            (item,) = [item for item in document[index] if item["field"] == "user"]
            item[member] = value

        edit_json(folder, "openings.json", edit)

    return change


def summary(change: Callable[[Any], None]) -> Corruption:
    return lambda folder, _: edit_json(folder, "summary.json", change)


ADA, LAPTOP = "devices/ada/ada-phone", "devices/ada/ada-laptop"
CORRUPTIONS: dict[str, tuple[Corruption, str]] = {
    "leaf": (
        lambda f, _: flip(f, "events/5.json", 9),
        "leaves: events/5.json: differs from the entry bundle",
    ),
    "leaf in both places": (both_leaves, "tree: log/checkpoint: the leaves do not have the signed"),
    "leaf gone": (lambda f, _: (f / "events/7.json").unlink(), "events: leaf 7 is missing"),
    "all leaves gone": (
        lambda f, _: (shutil.rmtree(f / "events"), shutil.rmtree(f / "log/tile/entries")),
        "none of the 25 leaves is there",
    ),
    "leaf beyond the head": (grow("events/25.json", b"{}"), "event 25: lies beyond the head of 25"),
    "leaf misnamed": (
        grow("events/07.json", b"{}"),
        "files: events/07.json: not named by an index",
    ),
    "leaf too large": (
        grow("events/3.json", b" " * 65_536),
        "files: events/3.json: larger than 65535 bytes",
    ),
    "tile": (lambda f, _: flip(f, tile(f), 100), "is not what the leaves hash to"),
    "tile gone": (lambda f, _: (f / tile(f)).unlink(), "log/tile/0/000.p/25: missing"),
    "tile too many": (
        grow("log/tile/1/000.p/1", bytes(32)),
        "log/tile/1/000.p/1: lies beyond the tree",
    ),
    "tile longer": (
        lambda f, _: (f / tile(f)).write_bytes((f / tile(f)).read_bytes() + bytes(32)),
        "is not what the leaves hash to",
    ),
    "tile misnamed": (grow("log/tile/0/x000/000", b""), "tile number with leading zeros"),
    "bundle": (lambda f, _: flip(f, bundle(f), 40), "differs from the entry bundle"),
    "bundle cut off": (
        lambda f, _: (f / bundle(f)).write_bytes((f / bundle(f)).read_bytes()[:-1]),
        "entry 24 of the bundle is cut off",
    ),
    "bundle gone": (
        lambda f, _: (f / bundle(f)).rename(f / "log/tile/entries/000.p/26"),
        "does not hold exactly 26 entries",
    ),
    "checkpoint": (lambda f, _: flip(f, "log/checkpoint", -20), "checkpoint: log/checkpoint: "),
    "checkpoint gone": (
        lambda f, _: (f / "log/checkpoint").unlink(),
        "checkpoint: log/checkpoint: missing",
    ),
    "older checkpoint": (
        lambda f, m: (f / "log/checkpoint").write_bytes(m.log.checkpoint(20)),
        "event 20: lies beyond the head of 20",
    ),
    "checkpoint of another log": (other_log, "no known key signed the note"),
    "log under another key": (
        other_key,
        "beginnings: event 0: the log was opened under another key",
    ),
    "log key gone": (lambda f, _: (f / "log.vkey").unlink(), "key: log.vkey: missing"),
    "log key broken": (grow("log.vkey", b"\xff\xfe"), "key: log.vkey: not a verifier key"),
    "receipt": (
        lambda f, _: flip(f, "receipts/ada/ada-phone.tlog-proof", 45),
        "receipts: receipts/ada/ada-phone.tlog-proof: ",
    ),
    "receipts swapped": (
        lambda f, _: swap(
            f, "receipts/ada/ada-phone.tlog-proof", "receipts/bob/bob-phone.tlog-proof"
        ),
        "is about user 'bob'",
    ),
    "receipts of one user swapped": (
        lambda f, _: swap(
            f, "receipts/ada/ada-phone.tlog-proof", "receipts/ada/ada-laptop.tlog-proof"
        ),
        "is about device 'ada-laptop'",
    ),
    "receipt gone": (
        lambda f, _: (f / "receipts/eve/eve-phone.tlog-proof").unlink(),
        "receipts/eve/eve-phone.tlog-proof: missing",
    ),
    "receipt of no device": (
        lambda f, m: grow("receipts/ada/ada-phone.tlog-proof", m.log.receipt(0))(f, m),
        "event 0 certifies no device",
    ),
    "receipt misnamed": (
        lambda f, m: grow("receipts/ada.tlog-proof", m.log.receipt(0))(f, m),
        "receipts/ada.tlog-proof: not named",
    ),
    "receipt of a fork": (forked_receipt, "ada-phone.tlog-proof: "),
    "certificate unlogged": (unlogged_certificate, "no event issued this certificate"),
    "certificate of another user": (
        lambda f, _: swap(f, f"{ADA}/identity.pem", "devices/bob/bob-phone/identity.pem"),
        "is about user 'bob'",
    ),
    "certificates of other slots": (
        lambda f, _: swap(f, f"{ADA}/identity.pem", f"{ADA}/kem.pem"),
        "is of slot 'kem'",
    ),
    "certificate gone": (
        lambda f, _: (f / f"{LAPTOP}/kem.pem").unlink(),
        "is not in the directory",
    ),
    "client certificate gone": (
        lambda f, _: (f / "clients/matrix.pem").unlink(),
        "is not in the directory",
    ),
    "two in a file": (
        lambda f, _: (f / f"{ADA}/kem.pem").write_bytes((f / f"{ADA}/kem.pem").read_bytes() * 2),
        "kem.pem: not exactly one certificate",
    ),
    "no certificate": (grow(f"{ADA}/kem.pem", b"junk"), "not exactly one certificate"),
    "certificate linked": (link, "files: devices/ada/ada-phone/identity.pem: not a regular file"),
    "authority unlogged": (unlogged_authority, "ca/people.pem: no event issued this certificate"),
    "authorities swapped": (
        lambda f, _: swap(f, "ca/people.pem", "ca/infrastructure.pem"),
        "does not create the authority 'people'",
    ),
    "root gone": (lambda f, _: (f / "ca/root.pem").unlink(), "there is no root certificate"),
    "list gone": (lambda f, _: (f / "ca/people.crl").unlink(), "crls: ca/people.crl: missing"),
    "list broken": (grow("ca/people.crl", b"0\x00"), "ca/people.crl: not a CRL in DER"),
    "list older": (
        lambda f, m: put_crl(f, m.cas["people"].crl([], 1, START, START)),
        "is not the list of event",
    ),
    "list without a revocation": (crl_without, "does not list"),
    "list with more": (crl_with_more, "lists 0badcafe, which no event revokes"),
    "list by another": (crl_by_another, "not signed by its authority"),
    "list in PEM differs": (
        lambda f, _: swap(f, "ca/people.crl.pem", "ca/root.crl.pem"),
        "does not hold the list of ca/people.crl",
    ),
    "list of nobody": (grow("ca/ghosts.crl", b""), "ca/ghosts.crl: no event issued a CRL"),
    "opening of another user": (
        opening("ada/ada-phone", "value", "bob"),
        "the opening of user does not open it",
    ),
    "opening of another tenant": (
        opening("ada/ada-phone", "tenant", "defence"),
        "the opening of user does not open it",
    ),
    "opening of another field": (
        opening("ada/ada-phone", "field", "device"),
        "the opening of device does not open it",
    ),
    "opening of no field": (opening("ada/ada-phone", "field", "x"), "not of the documented form"),
    "opening of no event": (
        lambda f, _: edit_json(f, "openings.json", lambda d: d.update({"99": []})),
        "opens event 99, which is not there",
    ),
    "openings without index": (
        lambda f, _: edit_json(f, "openings.json", lambda d: d.update({"one": []})),
        "'one' is not an event index",
    ),
    "openings no object": (grow("openings.json", b"[]"), "openings: openings.json: not a JSON"),
    "summary of another size": (
        summary(lambda d: d.update(log_size=24)),
        "log_size 24 is not the head's 25",
    ),
    "summary of more devices": (summary(lambda d: d.update(devices=6)), "6 devices, but 5"),
    "summary calls revoked good": (
        summary(lambda d: [c.update(status="good") for c in d["certificates"]]),
        "status 'good', the record says 'revoked'",
    ),
    "summary of another algorithm": (
        summary(lambda d: d["certificates"][-1].update(algorithm="ML-KEM-768")),
        "algorithm 'ML-KEM-768', the record says 'MLKEM768-X25519'",
    ),
    "summary of another event": (
        summary(lambda d: d["certificates"][1].update(index=0)),
        "index 0, the record says",
    ),
    "summary lists too little": (
        summary(lambda d: d["certificates"].pop()),
        "devices/eve/eve-tablet/kem.pem is not listed",
    ),
    "summary lists too much": (
        summary(lambda d: d["certificates"].append({"path": "../secret.pem"})),
        "'../secret.pem' is no certificate of the directory",
    ),
    "summary no object": (grow("summary.json", b"null"), "summary: summary.json: not a JSON"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_found_and_named(
    name: str,
    record: Path,
    ministry: Ministry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corrupt, message = CORRUPTIONS[name]
    folder = tmp_path / "record"
    shutil.copytree(record, folder)
    corrupt(folder, ministry)
    status, document = verdict(capsys, str(folder))
    assert status == 1
    found = failures(document)
    assert any(message in item for item in found), found
    assert document["failures"] == len(found)


@pytest.fixture(scope="module")
def scratch(record: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scratch") / "record"
    shutil.copytree(record, folder)
    return folder


@given(st.data())
@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_no_bit_of_the_record_can_be_flipped_unnoticed(
    scratch: Path, capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    """PEM and JSON of the directory's own may be written in many ways; nothing else may."""
    names = sorted(
        path.relative_to(scratch).as_posix()
        for folder in ("events", "log", "receipts", "ca")
        for path in (scratch / folder).rglob("*")
        if path.is_file() and path.suffix != ".pem"
    )
    path = scratch / data.draw(st.sampled_from(names))
    good = path.read_bytes()
    flip(scratch, str(path), data.draw(st.integers(0, len(good) - 1)), 1 << data.draw(bits))
    try:
        status, _ = verdict(capsys, str(scratch))
    finally:
        path.write_bytes(good)
    assert status == 1


bits = st.integers(0, 7)


@given(st.data())
@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_whatever_stands_in_a_file_there_is_a_verdict(
    scratch: Path, capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    names = sorted(
        path.relative_to(scratch).as_posix() for path in scratch.rglob("*") if path.is_file()
    )
    path = scratch / data.draw(st.sampled_from(names))
    good = path.read_bytes()
    start = data.draw(st.integers(0, len(good)))
    path.write_bytes(good[:start] + data.draw(st.binary(max_size=40)) + good[start + 3 :])
    try:
        status, _ = verdict(capsys, str(scratch))
    finally:
        path.write_bytes(good)
    assert status in (0, 1)
