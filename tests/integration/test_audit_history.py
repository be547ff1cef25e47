"""A log that is signed as it should be and tells of what must not happen, or did not."""

import dataclasses
import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from kms import wire
from kms.wire import Committed, EventType, LeafCertificate
from tests.support.auditing import Misdeed, relog, verify
from tests.support.ministry import (
    DOMAIN,
    HELD,
    SYSTEM,
    TENANT,
    Ministry,
    busy_ministry,
    digest,
)
from tests.support.naive_log import NaiveLog, leaf_hash, tree_hash

# --- what may be told --------------------------------------------------------------------------


def continued(ministry: Ministry) -> None:
    """Renewal, a device revoked, a second generation, a lost CRL number, an unopened event."""
    ministry.numbers["people"] += 1
    ministry.event(EventType.CRL_ORPHANED, SYSTEM, {}, detail={"authority": "people", "number": 3})
    renew(ministry, "ada-phone")
    ministry.revoke(EventType.DEVICE_REVOKED, ["bob-phone"], "unspecified")
    second_generation(ministry)
    ministry.publish_all()
    del ministry.openings[ministry.register("defence")]


def renew(ministry: Ministry, device: str, kind: EventType = EventType.DEVICE_RENEWED) -> int:
    user, old = ministry.devices[device]
    index = ministry.enrol(user, device, {"identity": "ECDSA-P256"})
    leaf = ministry.log.leaves[index].replace(b"device.enrolled", kind.value.encode())
    ministry.log.leaves[index] = leaf
    ministry.devices[device] = user, old + ministry.devices[device][1]
    ministry.files[f"receipts/{user}/{device}.tlog-proof"] = ministry.log.receipt(index)
    # The old identity certificate stays issued, but its file gave way to the new one.
    first = next(e for e in ministry.listed if e["path"].endswith(f"{device}/identity.pem"))
    ministry.listed.remove(first)
    return index


def second_generation(ministry: Ministry, generation: int = 2) -> None:
    old = ministry.cas["people"]
    old_pem = ministry.files["ca/people.pem"]
    ministry.found_authority("people", "root")
    leaf = ministry.log.leaves[-1].replace(b'"generation":1', f'"generation":{generation}'.encode())
    ministry.log.leaves[-1] = leaf
    ministry.cas["people"] = old
    ministry.files["ca/older/people-1.pem"] = old_pem


def test_what_a_log_may_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ministry = busy_ministry()
    continued(ministry)
    folder = ministry.write(tmp_path / "record")
    claims = json.loads((folder / "summary.json").read_text()) | {"complete": False}
    (folder / "summary.json").write_text(json.dumps(claims))
    status, found, document = verify(folder, capsys=capsys)
    assert found == []
    assert status == 0
    notes = [note for check in document["checks"] for note in check["notes"]]
    assert any("1 issued certificates are not in the directory" in note for note in notes)
    assert any("1 events have no openings" in note for note in notes)


# --- what may not ------------------------------------------------------------------------------


def enrol_forbidden(ministry: Ministry) -> None:
    rules = {"identity": "identity-elliptic", "kem": "kem-hybrid"}
    ministry.enrol("ada", "ada-old", {"identity": "ECDSA-P256", "kem": "X25519"}, rules)


def other_policy(ministry: Ministry) -> None:
    ministry.policy = "ab" * 32
    ministry.enrol("ada", "ada-old", {"identity": "ECDSA-P256"})


def no_policy(ministry: Ministry) -> None:
    relog(ministry, ministry.certify_server("signal"), lambda _: {"policy": None})


def same_serial(ministry: Ministry) -> None:
    """Two certificates of one authority with one serial."""
    real = os.urandom
    serial = bytes.fromhex(ministry.devices["ada-phone"][1][0].serial)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    os.urandom = lambda size: serial if size == 16 else real(size)  # type: ignore[assignment]
    try:
        uri = f"https://{DOMAIN}/users/ada/devices/ada-twin"
        logged, der = ministry.issue("people", "device-identity", "identity", spki, uri)
    finally:
        os.urandom = real
    ministry.pem("devices/ada/ada-twin/identity.pem", der)
    log_enrolment(ministry, "ada", "ada-twin", logged)


def log_enrolment(
    ministry: Ministry, user: str, device: str, *certificates: LeafCertificate
) -> int:
    rules = {item.slot: "identity-elliptic" for item in certificates}
    index = ministry.event(
        EventType.DEVICE_ENROLLED,
        TENANT,
        {Committed.USER: user, Committed.DEVICE: device},
        certificates=certificates,
        policy={"hash": ministry.policy, "rules": rules},
    )
    ministry.files[f"receipts/{user}/{device}.tlog-proof"] = ministry.log.receipt(index)
    return index


def same_certificate_again(ministry: Ministry) -> None:
    (logged,) = ministry.devices["bob-phone"][1]
    log_enrolment(ministry, "bob", "bob-phone", logged)


def issue_device(ministry: Ministry, **how: Any) -> tuple[LeafCertificate, bytes]:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    choice = {
        "authority": "people",
        "uri": f"https://{DOMAIN}/users/ada/devices/ada-new",
        **how,
    }
    return ministry.issue(choice["authority"], "device-identity", "identity", spki, choice["uri"])


def enrol_with(ministry: Ministry, logged: LeafCertificate, der: bytes) -> None:
    ministry.pem("devices/ada/ada-new/identity.pem", der)
    log_enrolment(ministry, "ada", "ada-new", logged)


def another_name(ministry: Ministry) -> None:
    uri = f"https://{DOMAIN}/users/minister/devices/ada-new"
    enrol_with(ministry, *issue_device(ministry, uri=uri))


def name_below_another(ministry: Ministry) -> None:
    uri = f"https://{DOMAIN}/users/x/users/ada/devices/ada-new"
    enrol_with(ministry, *issue_device(ministry, uri=uri))


def by_another_authority(ministry: Ministry) -> None:
    logged, der = issue_device(ministry, authority="infrastructure")
    enrol_with(ministry, dataclasses.replace(logged, authority="people"), der)


def misdescribed_serial(ministry: Ministry) -> None:
    logged, der = issue_device(ministry)
    enrol_with(ministry, dataclasses.replace(logged, serial="00ff"), der)


def out_of_time(ministry: Ministry) -> None:
    logged, der = issue_device(ministry)
    ministry.now += timedelta(days=91)
    enrol_with(ministry, logged, der)


def secret_sub_ca(ministry: Ministry) -> None:
    """A device certificate that may sign certificates."""
    key = ec.generate_private_key(ec.SECP256R1())
    uri = f"https://{DOMAIN}/users/ada/devices/ada-new"
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ada-new")]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "people")]))
        .public_key(key.public_key())
        .serial_number(4711)
        .not_valid_before(ministry.now)
        .not_valid_after(ministry.now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
        )
    )
    made = builder.sign(ministry.cas["people"].key, hashes.SHA256())
    der = made.public_bytes(Encoding.DER)
    serial = wire.serial_hex(4711)
    logged = LeafCertificate("people", serial, "device-identity", "identity", digest(der))
    enrol_with(ministry, logged, der)


def ghost_authority(ministry: Ministry) -> None:
    """A sub-CA whose key nobody saw being born."""
    ministry.born = lambda *_: None  # type: ignore[method-assign,assignment]
    ministry.found_authority("shadow", "root")


def unsigned_authority(ministry: Ministry) -> None:
    ministry.found_authority("shadow", "people")
    relog(
        ministry,
        len(ministry.log.leaves) - 1,
        lambda leaf: {"certificates": [leaf["certificates"][0] | {"authority": "root"}]},
    )


def leave_one_good(ministry: Ministry) -> None:
    ministry.revoke(EventType.USER_REVOKED, ["ada-phone"])
    ministry.publish_all()


def unpublished(ministry: Ministry) -> None:
    """The list made a moment after a revocation leaves it out."""
    ministry.revoke(EventType.DEVICE_REVOKED, ["bob-phone"])
    ministry.revoked["people"].pop()
    ministry.now += timedelta(seconds=1)
    ministry.publish("people")


def never_published(ministry: Ministry) -> None:
    """The log goes on for longer than the list holds, and no other follows."""
    ministry.revoke(EventType.DEVICE_REVOKED, ["bob-phone"])
    ministry.now += timedelta(days=8)
    ministry.publish("root")


def orphan_delisted(ministry: Ministry) -> None:
    ministry.now += timedelta(days=91)
    ministry.revoked["people"].clear()
    ministry.publish_all()


def listed_otherwise(change: Callable[[Any, Any, Any], tuple[Any, Any, Any]]) -> Misdeed:
    def misdeed(ministry: Ministry) -> None:
        ministry.revoked["people"][1] = change(*ministry.revoked["people"][1])
        ministry.publish_all()

    return misdeed


def revoke_stranger(ministry: Ministry) -> None:
    stranger = LeafCertificate("people", "0badcafe", "device-identity", "identity", "00" * 32)
    ministry.devices["bob-phone"][1].append(stranger)
    ministry.revoke(EventType.DEVICE_REVOKED, ["bob-phone"])
    ministry.publish_all()


def revoke_otherwise(ministry: Ministry) -> None:
    (logged,) = ministry.devices["bob-phone"][1]
    ministry.devices["bob-phone"][1][0] = dataclasses.replace(logged, profile="officer")
    ministry.revoke(EventType.DEVICE_REVOKED, ["bob-phone"])
    ministry.publish_all()


def lower_number(ministry: Ministry) -> None:
    ministry.numbers["people"] = 0
    ministry.publish("people")


def orphan_number(ministry: Ministry) -> None:
    detail = {"authority": "people", "number": 3}
    ministry.event(EventType.CRL_ORPHANED, SYSTEM, {}, detail=detail)
    ministry.publish("people")


def orphan_published(ministry: Ministry) -> None:
    detail = {"authority": "people", "number": 2}
    ministry.event(EventType.CRL_ORPHANED, SYSTEM, {}, detail=detail)


def orphan_released(ministry: Ministry) -> None:
    logged, der = issue_device(ministry)
    ministry.event(
        EventType.CERTIFICATE_ORPHANED,
        SYSTEM,
        {},
        certificates=[LeafCertificate("people", logged.serial, "unknown", None, None)],
    )
    ministry.revoked["people"].append((logged.serial, ministry.now, "cessation-of-operation"))
    enrol_with(ministry, logged, der)
    ministry.publish_all()


def misnumbered_list(ministry: Ministry) -> None:
    index = ministry.publish("people")
    relog(ministry, index, lambda leaf: {"detail": leaf["detail"] | {"entries": 0}})


def back_in_time(ministry: Ministry) -> None:
    ministry.now -= timedelta(days=1)
    ministry.register("defence")


def last(ministry: Ministry, change: dict[str, Any]) -> None:
    ministry.register("defence")
    relog(ministry, len(ministry.log.leaves) - 1, lambda _: change)


def raw(leaf: bytes) -> Misdeed:
    return lambda ministry: ministry.log.append(leaf)


def loose(ministry: Ministry) -> None:
    leaf = json.loads(ministry.log.leaves[-1])
    ministry.log.leaves[-1] = json.dumps(leaf).encode()


MISDEEDS: dict[str, tuple[Misdeed, str]] = {
    "a revoked user enrols": (
        lambda m: m.enrol("eve", "eve-new"),
        "enrols user 'eve', revoked by event",
    ),
    "a revoked device enrols": (
        lambda m: (m.revoke(EventType.DEVICE_REVOKED, ["bob-phone"]), m.enrol("bob", "bob-phone")),
        "enrols device 'bob-phone', revoked by event",
    ),
    "a device changes hands": (
        lambda m: m.enrol("bob", "ada-phone"),
        "device 'ada-phone' is of user 'ada'",
    ),
    "a serial given twice": (same_serial, "was given out by event"),
    "a certificate issued twice": (same_certificate_again, "was issued before"),
    "an orphan released": (orphan_released, "is the orphan of event"),
    "a certificate in another name": (another_name, "does not name user 'ada', as event 25 does"),
    "a name below another": (
        name_below_another,
        "its names are not those of profile 'device-identity'",
    ),
    "a certificate by another CA": (by_another_authority, "not signed by the authority 'people'"),
    "a serial misdescribed": (misdescribed_serial, "event 25 says 00ff"),
    "a certificate out of time": (out_of_time, "was not valid at its event"),
    "a secret sub-CA": (secret_sub_ca, "does not create an authority; the certificate says"),
    "a CA whose key was never born": (ghost_authority, "no event tells of the birth of its key"),
    "a CA signed by another": (unsigned_authority, "not signed by the authority 'root'"),
    "a generation left out": (
        lambda m: second_generation(m, 3),
        "authority people: generation 2 was to follow",
    ),
    "an authority out of nowhere": (
        lambda m: m.event(
            EventType.CERTIFICATE_ISSUED,
            TENANT,
            {},
            certificates=[LeafCertificate("ghosts", "01", "officer", None, "00" * 32)],
            policy={"hash": m.policy, "rules": {"officer": "x"}},
        ),
        "there is no authority 'ghosts' yet",
    ),
    "an authority without certificate": (
        lambda m: m.event(
            EventType.AUTHORITY_CREATED, SYSTEM, {}, detail={"name": "x", "generation": 1}
        ),
        "an authority has exactly one certificate",
    ),
    "a certificate without hash": (
        lambda m: log_enrolment(
            m, "ada", "ada-new", LeafCertificate("people", "01", "p", "identity", None)
        ),
        "releases serial 01 without its hash",
    ),
    "two certificates for a slot": (
        lambda m: log_enrolment(
            m,
            "ada",
            "ada-new",
            LeafCertificate("people", "01", "p", "identity", "00" * 32),
            LeafCertificate("people", "02", "p", "identity", "11" * 32),
        ),
        "not exactly one certificate for each slot",
    ),
    "an enrolment of nothing": (lambda m: log_enrolment(m, "ada", "ada-new"), "issues nothing"),
    "a forbidden algorithm": (
        enrol_forbidden,
        "kem: rule 'kem-hybrid' is not what the policy says of X25519",
    ),
    "another rule": (
        lambda m: m.enrol("ada", "ada-new", {"identity": "Ed25519"}, {"identity": "default"}),
        "identity: rule 'default' is not what the policy says of Ed25519",
    ),
    "a rule left out": (
        lambda m: m.enrol("ada", "ada-new", {"identity": "Ed25519"}, {"kem": "kem-hybrid"}),
        "has rules for ['kem'], but issues ['identity']",
    ),
    "a policy not in force": (other_policy, f"policy {'ab' * 32} was not in force"),
    "no policy": (no_policy, "issues without a policy decision"),
    "a policy without hash": (
        lambda m: m.event(
            EventType.POLICY_ACTIVATED, SYSTEM, {}, detail={"name": "x", "hash": "newest"}
        ),
        "not a policy hash",
    ),
    "a person half revoked": (leave_one_good, "is still good, though its holder was revoked"),
    "a stranger revoked": (revoke_stranger, "revokes 0badcafe, never issued"),
    "a revocation misdescribed": (revoke_otherwise, "that it revokes"),
    "revoked twice": (
        lambda m: m.revoke(EventType.DEVICE_REVOKED, ["eve-phone"]),
        "again, after",
    ),
    "a revocation not on the list": (unpublished, "crls: ca/people.crl: does not list"),
    "a revocation on no list": (never_published, "crls: ca/people.crl: ran out, and no list"),
    "an orphan taken off the list": (orphan_delisted, "crls: ca/people.crl: does not list"),
    "another reason on the list": (
        listed_otherwise(lambda serial, time, _: (serial, time, "unspecified")),
        "another reason than event",
    ),
    "another date on the list": (
        listed_otherwise(lambda serial, time, why: (serial, time - timedelta(days=1), why)),
        "says otherwise",
    ),
    "a stranger on the list": (
        listed_otherwise(lambda _, time, why: ("0badcafe", time, why)),
        "lists 0badcafe, which no event revokes",
    ),
    "a list misdescribed": (misnumbered_list, "count of entries is 5, event"),
    "a list number again": (lower_number, "CRL 1 of people follows 2"),
    "a lost number used": (orphan_number, "CRL 3 of people was an orphan"),
    "a used number lost": (orphan_published, "calls CRL 2 of people an orphan"),
    "a key that can leave": (
        lambda m: m.born("x", "Ed25519", b"x", attributes=HELD | {"extractable": True}),
        "key x: extractable is not false",
    ),
    "a key that is not sensitive": (
        lambda m: m.born("x", "Ed25519", b"x", attributes={"extractable": False}),
        "key x: sensitive is not true",
    ),
    "back in time": (back_in_time, "is older than event"),
    "an event id again": (
        lambda m: last(m, {"event": json.loads(m.log.leaves[3])["event"]}),
        "has the id of event 3",
    ),
    "an event of another log": (
        lambda m: last(m, {"origin": "log.elsewhere/1"}),
        "is of the log 'log.elsewhere/1'",
    ),
    "an unknown type": (lambda m: last(m, {"type": "tea.made"}), "'tea.made' is no EventType"),
    "an unknown version": (lambda m: last(m, {"version": 2}), "is not canonical, or not of this"),
    "an unknown field": (lambda m: last(m, {"remark": "hi"}), "is not canonical, or not of this"),
    "an unknown commitment": (
        lambda m: last(m, {"commitments": {"shoe": "x"}}),
        "'shoe' is no Committed",
    ),
    "a commitment cut short": (
        lambda m: last(m, {"commitments": {"user": "AAAA"}}),
        "not a base64 hash",
    ),
    "another form of time": (
        lambda m: last(m, {"time": "2026-03-01T08:00:00+00:00"}),
        "not a time of the form",
    ),
    "detail left out": (
        lambda m: m.event(EventType.CRL_ISSUED, SYSTEM, {}, detail={"authority": "people"}),
        "crl.issued: detail 'number' is missing or malformed",
    ),
    "not canonical": (loose, "is not canonical"),
    "not JSON": (raw(b"\x00\xff"), "the leaf is not JSON"),
    "no object": (raw(b"[]"), "the leaf is not a JSON object"),
    "a lone surrogate": (raw(b'{"event":"\\ud800"}'), "events: event 25: "),
    "deep nesting": (raw(b"[" * 60_000), "the leaf is not JSON"),
    "nothing at all": (raw(b""), "the leaf is not JSON"),
    "a second opening": (
        lambda m: m.event(EventType.LOG_OPENED, SYSTEM, {}, detail={"vkey": m.log.vkey}),
        "a log is opened once",
    ),
}


@pytest.mark.parametrize("name", MISDEEDS)
def test_a_misdeed_is_found_and_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    misdeed, message = MISDEEDS[name]
    ministry = busy_ministry()
    misdeed(ministry)
    status, found, document = verify(ministry.write(tmp_path / "record"), capsys=capsys)
    assert status == 1
    assert any(message in item for item in found), found
    # The log itself is faultless: only its story is not.
    assert all(check["ok"] for check in document["checks"] if check["check"] in {"tree", "leaves"})


def test_the_birth_of_the_key_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ministry = Ministry()
    ministry.register(TENANT)
    _, found, _ = verify(ministry.write(tmp_path / "record"), capsys=capsys)
    assert "beginnings: event 0: the log does not begin with the birth of its key" in found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"public_key_sha256": "00" * 32}, "the key that was born is not the one in log.vkey"),
        ({"attributes": {"sensitive": True}}, "key log: extractable is not false"),
        ({"vkey": "log+00000000+AAAA"}, "the log was opened under another key than log.vkey"),
    ],
)
def test_the_birth_of_the_key_is_that_of_the_log(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    message: str,
) -> None:
    ministry = Ministry()
    ministry.log_birth = change
    ministry.ceremony()
    _, found, _ = verify(ministry.write(tmp_path / "record"), capsys=capsys)
    assert any(message in item for item in found)


def test_a_revocation_without_any_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ministry = Ministry()
    ministry.ceremony()
    ministry.orphan("people")
    _, found, _ = verify(ministry.write(tmp_path / "record"), capsys=capsys)
    assert "crls: ca/people.crl: 'people' has revoked certificates and never issued a CRL" in found


# --- epochs ------------------------------------------------------------------------------------


def next_epoch(ministry: Ministry, **change: Any) -> None:
    """The log goes on under a new name, and names the head it continues."""
    old = ministry.log
    ministry.log = NaiveLog("log.interior.example/2")
    ministry.log.key = old.key
    ministry.openings = {}
    kept = ministry.files.items()
    ministry.files = {name: data for name, data in kept if not name.startswith("events/")}
    root = tree_hash([leaf_hash(leaf) for leaf in old.leaves])
    previous = {"origin": old.origin, "size": len(old.leaves), "root": wire.b64(root)}
    ministry.event(EventType.LOG_CONTINUED, SYSTEM, {}, detail={"previous": previous | change})


def two_epochs(ministry: Ministry, tmp_path: Path, **change: Any) -> list[str]:
    earlier = ministry.write(tmp_path / "earlier")
    next_epoch(ministry, **change)
    ministry.enrol("ada", "ada-watch")
    ministry.revoke(EventType.DEVICE_REVOKED, ["bob-phone"])
    ministry.publish_all()
    return [str(ministry.write(tmp_path / "record")), "--earlier", str(earlier)]


def test_an_epoch_continues_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = two_epochs(busy_ministry(), tmp_path)
    status, found, document = verify(*arguments, capsys=capsys)
    assert (status, found) == (0, [])
    names = [check["check"] for check in document["checks"]]
    assert "tree of log.interior.example/1" in names
    status, found, _ = verify(arguments[0], capsys=capsys)
    assert status == 1
    assert (
        "beginnings: event 0: continues an earlier epoch; give its record with --earlier" in found
    )


def test_who_was_revoked_stays_revoked_in_the_next_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ministry = busy_ministry()
    earlier = ministry.write(tmp_path / "earlier")
    next_epoch(ministry)
    ministry.enrol("eve", "eve-watch")
    record = ministry.write(tmp_path / "record")
    _, found, _ = verify(str(record), "--earlier", str(earlier), capsys=capsys)
    assert "history: event 1: enrols user 'eve', revoked by event -4" in found


def test_events_lost_between_epochs_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = two_epochs(busy_ministry(), tmp_path, size=28, root=wire.b64(bytes(32)))
    status, found, document = verify(*arguments, capsys=capsys)
    assert (status, found) == (0, [])
    notes = [note for check in document["checks"] for note in check["notes"]]
    lost = "3 events of log.interior.example/1 were lost, or are not in the record given"
    assert lost in notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"root": wire.b64(bytes(32))}, "names another root for the 25 leaves"),
        ({"size": 24}, "names a head of 24 leaves; the earlier record has more"),
        ({"origin": "log.elsewhere/1"}, "continues 'log.elsewhere/1', not"),
        ({"size": None}, "continues 'log.interior.example/1', not"),
    ],
)
def test_an_epoch_that_continues_something_else(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    message: str,
) -> None:
    arguments = two_epochs(busy_ministry(), tmp_path, **change)
    status, found, _ = verify(*arguments, capsys=capsys)
    assert status == 1
    assert any(message in item for item in found), found


def test_an_epoch_under_another_key_or_before_another_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ministry = busy_ministry()
    earlier = ministry.write(tmp_path / "earlier")
    other = busy_ministry()
    next_epoch(other)
    record = other.write(tmp_path / "other")
    _, found, _ = verify(str(record), "--earlier", str(earlier), capsys=capsys)
    assert any("goes on under another key than the earlier epoch" in item for item in found)
    _, found, _ = verify(str(earlier), "--earlier", str(earlier), capsys=capsys)
    assert "beginnings: event 0: does not continue the earlier epoch that was given" in found
