"""What the second call of an enrolment refuses: overtaken, used, foreign, revoked, unproven."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kms.domain.authorisation import Caller
from kms.domain.records import (
    Certificate,
    CertificateStatus,
    Device,
    DeviceId,
    Enrolment,
    EnrolmentId,
    EnrolmentStatus,
    EventId,
    Fingerprint,
    Idempotent,
    Role,
    Serial,
    Standing,
    Tenant,
    TenantId,
    User,
    UserId,
)
from kms.services import enrolment_proofs as module
from kms.services.claims import Claims
from kms.services.core import Core
from kms.services.enrolment_proofs import EnrolmentProofs, ProofOrder
from kms.services.errors import (
    BundleMismatchError,
    ChallengeExpiredError,
    ChallengeUsedError,
    KeyReusedError,
    KmsError,
    NotFoundError,
    ProofFailedError,
    RevokedError,
    StateError,
    StillRunningError,
)
from kms.services.key_checks import KeyChecks
from kms.services.ports import Conflict, Ledger
from kms.services.reads import Reads
from kms.services.verifying import SignatureCheck
from kms.wire import EnrolmentPurpose, b64, sign_message
from tests.support.rows import Rows
from tests.support.services import SteppingClock

NOW = datetime(2026, 11, 22, tzinfo=UTC)
MINISTRY, ADA, PHONE = TenantId("ministry"), UserId("ada"), DeviceId("phone")
MESSENGER = Caller(MINISTRY, "messenger", Role.MESSAGING_SERVER, ())
BASIS = {"policy": "p", "origin": "log/1", "authority": "a"}
MAC, SIGNATURE = b"mac", b"signature"
SLOTS: tuple[dict[str, Any], ...] = (
    {
        "name": "identity",
        "algorithm": "ECDSA-P256",
        "spki": b64(b"identity key"),
        "mac_sha256": None,
        "fingerprints": ("f1",),
    },
    {
        "name": "kem",
        "algorithm": "X25519",
        "spki": b64(b"kem key"),
        "mac_sha256": hashlib.sha256(MAC).hexdigest(),
        "fingerprints": ("f2", "f3"),
    },
)
GOOD = {"identity": SIGNATURE, "kem": MAC}
EVENT = EventId("e")


def transcript(**other: Any) -> bytes:
    return json.dumps(BASIS | {"previous": None} | other).encode()


ENROLMENT = Enrolment(
    tenant=MINISTRY,
    enrolment=EnrolmentId("1"),
    principal="messenger",
    user=ADA,
    device=PHONE,
    bundle="device",
    purpose=EnrolmentPurpose.ENROL,
    transcript=transcript(),
    slots=SLOTS,
    expires=NOW + timedelta(seconds=1),
    status=EnrolmentStatus.PENDING,
)
RENEWAL = replace(ENROLMENT, purpose=EnrolmentPurpose.RENEW, transcript=transcript(previous="old"))
USER = User(MINISTRY, ADA, Standing.ACTIVE, EVENT)
DEVICE = Device(MINISTRY, PHONE, ADA, "device", Standing.ACTIVE, EVENT)
OLD = Certificate(
    tenant=MINISTRY,
    authority="people",
    serial=Serial("01"),
    generation=1,
    profile="identity",
    profile_version=1,
    algorithm="ECDSA-P256",
    user=ADA,
    device=PHONE,
    slot="identity",
    principal=None,
    der=b"identity key",
    sha256="old",
    tbs_sha256="",
    not_before=NOW,
    not_after=NOW,
    status=CertificateStatus.GOOD,
    event=EVENT,
)


def proofs(*rows: Any) -> tuple[EnrolmentProofs, Reads]:
    ledger = cast("Ledger", Rows(list(rows)))
    people = SimpleNamespace(issuer=SimpleNamespace(authority_id=BASIS["authority"]))
    core = SimpleNamespace(
        ledger=ledger,
        clock=SteppingClock(NOW),
        policy=SimpleNamespace(hash=BASIS["policy"]),
        events=SimpleNamespace(origin=BASIS["origin"]),
        authorities={"people": people},
    )
    made = EnrolmentProofs(cast("Core", core), cast("KeyChecks", None), Claims())
    return made, Reads(ledger)


def open_(
    enrolment: Enrolment | None, given: dict[str, bytes] = GOOD, caller: Caller = MESSENGER
) -> Any:
    made, reads = proofs(*([enrolment] if enrolment else []))
    return made._open(reads, caller, ProofOrder(EnrolmentId("1"), given))


def test_an_open_enrolment_has_signatures_to_verify_and_macs_verified():
    opened = open_(ENROLMENT)
    message = sign_message(ENROLMENT.transcript)
    assert opened.enrolment == ENROLMENT
    assert opened.checks == (
        SignatureCheck("ECDSA-P256", b"identity key", message, SIGNATURE),
        None,
    )


@pytest.mark.parametrize(
    ("enrolment", "caller"),
    [
        (None, MESSENGER),
        (replace(ENROLMENT, enrolment=EnrolmentId("2")), MESSENGER),
        (ENROLMENT, replace(MESSENGER, name="another")),
        (ENROLMENT, replace(MESSENGER, tenant=TenantId("other"))),
    ],
)
def test_an_enrolment_is_nobody_elses(enrolment: Enrolment | None, caller: Caller):
    with pytest.raises(NotFoundError) as error:
        open_(enrolment, caller=caller)
    assert error.value.field == "enrolment"


@pytest.mark.parametrize("status", set(EnrolmentStatus) - {EnrolmentStatus.PENDING})
def test_an_enrolment_is_completed_once(status: EnrolmentStatus):
    with pytest.raises(ChallengeUsedError):
        open_(replace(ENROLMENT, status=status))


@pytest.mark.parametrize("expires", [NOW, NOW - timedelta(days=1)])
def test_an_enrolment_ends_at_its_moment(expires: datetime):
    with pytest.raises(ChallengeExpiredError):
        open_(replace(ENROLMENT, expires=expires))


@pytest.mark.parametrize("part", list(BASIS))
def test_what_was_decided_under_other_rules_is_ordered_again(part: str):
    with pytest.raises(ChallengeExpiredError):
        open_(replace(ENROLMENT, transcript=transcript(**{part: "another"})))


@pytest.mark.parametrize(
    "given", [{}, {"identity": b""}, {"kem": MAC}, {**GOOD, "more": b""}, {"x": b"", "y": b""}]
)
def test_there_is_one_proof_for_each_slot(given: dict[str, bytes]):
    with pytest.raises(BundleMismatchError) as error:
        open_(ENROLMENT, given)
    assert error.value.field == "proofs"


def test_another_mac_is_refused():
    check, mac = open_(ENROLMENT, GOOD | {"kem": b"another"}).checks
    assert isinstance(check, SignatureCheck)
    assert isinstance(mac, ProofFailedError)
    assert mac.field == "proofs.kem"
    assert "MAC" in str(mac)


WRONG_MAC = ProofFailedError("why", field="proofs.kem")


def refused_proof(*answers: str | None, mac: ProofFailedError | None = None) -> tuple[str, str]:
    """Field and reason of the refusal of two signatures with a MAC between them; or nothing."""
    two = tuple({**SLOTS[0], "name": name} for name in ("one", "two"))
    slots = (two[0], SLOTS[1], two[1])
    check = SignatureCheck("", b"", b"", b"")
    opened = module._Opened(replace(ENROLMENT, slots=slots), (check, mac, check))
    left = iter([*answers, "of the next enrolment"])
    refused = module._first_refusal(opened, left)
    assert list(left) == ["of the next enrolment"]
    assert refused is None or isinstance(refused, ProofFailedError)
    return ("", "") if refused is None else (refused.field or "", str(refused))


def test_the_first_wrong_proof_is_named_and_every_answer_taken():
    assert refused_proof(None, None) == ("", "")
    assert refused_proof("why", None) == ("proofs.one", "why")
    assert refused_proof(None, "why") == ("proofs.two", "why")
    assert refused_proof("why", "other") == ("proofs.one", "why")
    assert refused_proof(None, None, mac=WRONG_MAC) == ("proofs.kem", "why")
    assert refused_proof(None, "other", mac=WRONG_MAC) == ("proofs.kem", "why")
    assert refused_proof("first", "other", mac=WRONG_MAC) == ("proofs.one", "first")


def meanwhile(enrolment: Enrolment, *rows: Any) -> None:
    made, reads = proofs(*rows)
    made._refuse_meanwhile(reads, enrolment)


def test_new_people_and_renewals_go_ahead():
    meanwhile(ENROLMENT)
    meanwhile(ENROLMENT, USER)
    meanwhile(RENEWAL, USER, DEVICE, OLD)


@pytest.mark.parametrize(
    ("enrolment", "rows", "field"),
    [
        (ENROLMENT, (replace(USER, standing=Standing.REVOKED),), "user"),
        (RENEWAL, (replace(USER, standing=Standing.REVOKED), DEVICE, OLD), "user"),
        (ENROLMENT, (USER, replace(DEVICE, standing=Standing.REVOKED)), "device"),
        (RENEWAL, (USER, replace(DEVICE, standing=Standing.REVOKED), OLD), "device"),
    ],
)
def test_who_was_revoked_meanwhile_gets_nothing(
    enrolment: Enrolment, rows: tuple[Any, ...], field: str
):
    with pytest.raises(RevokedError) as error:
        meanwhile(enrolment, *rows)
    assert error.value.field == field


@pytest.mark.parametrize(
    ("enrolment", "rows"),
    [
        (ENROLMENT, (USER, DEVICE)),
        (ENROLMENT, (USER, replace(DEVICE, user=UserId("bob")))),
        (RENEWAL, (USER, replace(DEVICE, user=UserId("bob")), OLD)),
    ],
)
def test_a_device_that_was_registered_meanwhile_is_not_registered_again(
    enrolment: Enrolment, rows: tuple[Any, ...]
):
    with pytest.raises(StateError) as error:
        meanwhile(enrolment, *rows)
    assert error.value.field == "device"


@pytest.mark.parametrize(
    "rows",
    [
        (),
        (replace(OLD, status=CertificateStatus.REVOKED),),
        (replace(OLD, sha256="newer"),),
        (replace(OLD, slot="kem"),),
    ],
)
def test_a_renewal_follows_a_certificate_that_is_good_still(rows: tuple[Any, ...]):
    with pytest.raises(RevokedError):
        meanwhile(RENEWAL, USER, DEVICE, *rows)


def registered(fingerprint: str, owner: str) -> Fingerprint:
    return Fingerprint(MINISTRY, fingerprint, owner, "ecdsa")


@pytest.mark.parametrize(("fingerprint", "slot"), [("f1", "identity"), ("f3", "kem")])
def test_a_key_that_was_registered_meanwhile_is_refused(fingerprint: str, slot: str):
    with pytest.raises(KeyReusedError) as error:
        meanwhile(ENROLMENT, registered(fingerprint, "phone/identity"))
    assert error.value.field == f"slots.{slot}.public_key"


def test_a_renewal_keeps_its_own_key_and_nobody_elses():
    meanwhile(RENEWAL, USER, DEVICE, OLD, registered("f1", "phone/identity"))
    for taken in (registered("f1", "tablet/identity"), registered("f2", "phone/kem")):
        with pytest.raises(KeyReusedError):
            meanwhile(RENEWAL, USER, DEVICE, OLD, taken)


def certified(enrolment: Enrolment) -> Any:
    return SimpleNamespace(proven=SimpleNamespace(enrolment=enrolment))


def conflicts(record: str, *key: Any, rows: tuple[Any, ...] = ()) -> dict[str, type[KmsError]]:
    """Who is refused of two enrolments when that record stood in the way."""
    made, reads = proofs(*rows)
    other = replace(
        ENROLMENT, enrolment=EnrolmentId("2"), user=UserId("bob"), device=DeviceId("d"), slots=()
    )
    refused = made._refused(
        reads, [certified(ENROLMENT), certified(other)], Conflict(record, (MINISTRY, *key))
    )
    return {name: type(error) for name, error in refused.items()}


def test_a_conflict_refuses_whom_it_concerns():
    assert conflicts(Fingerprint.__name__, "f3") == {"1": KeyReusedError}
    assert conflicts(Fingerprint.__name__, "f4") == {}
    assert conflicts(Enrolment.__name__, "2") == {"2": ChallengeUsedError}
    assert conflicts(Enrolment.__name__, "f3") == {}
    assert conflicts(User.__name__, "1") == {}
    assert conflicts(User.__name__, "ada", rows=(DEVICE,)) == {"1": StateError}


def test_a_conflict_of_the_call_itself_refuses_all_of_it():
    with pytest.raises(StillRunningError):
        conflicts(Idempotent.__name__, "messenger")


@pytest.mark.parametrize(
    "tenants", [(), (Tenant(MINISTRY, "id.example", Standing.REVOKED, EVENT),)]
)
def test_a_tenant_that_is_not_active_certifies_nobody(tenants: tuple[Tenant, ...]):
    made, reads = proofs(*tenants)
    with pytest.raises(RevokedError):
        made._proven(reads, ENROLMENT, SLOTS[0])
