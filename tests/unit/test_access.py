"""From a client certificate to a principal: every reason for which nobody stands behind it."""

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from kms.domain.authorisation import Action, Caller
from kms.domain.records import (
    SYSTEM_TENANT,
    Certificate,
    CertificateStatus,
    EventId,
    Principal,
    Role,
    Serial,
    Standing,
    Tenant,
    TenantId,
)
from kms.services import access as module
from kms.services.access import Access
from kms.services.core import Core
from kms.services.errors import (
    AccessError,
    CertificateRevokedError,
    NotFoundError,
    UnauthenticatedError,
    UnknownPrincipalError,
)
from pki.chains import certificate_info
from tests.support.authority import Authority, spki
from tests.support.rows import Rows
from tests.support.services import SteppingClock

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
END = datetime(2026, 12, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 22, tzinfo=UTC)
MINISTRY, OTHER = TenantId("ministry"), TenantId("other")
URI = "https://id.ministry.example/principals/messenger"
MESSENGER = Caller(MINISTRY, "messenger", Role.MESSAGING_SERVER, ("device",))
OFFICER = Caller(SYSTEM_TENANT, "alice", Role.OFFICER, ())


@cache
def certificate(serial: int = 0x1234, uri: str = URI) -> bytes:
    authority = Authority.create("infrastructure", None, 1, BEGIN)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return authority.issue(spki(key), uri, serial, BEGIN, END)


def issued(der: bytes, **other: Any) -> Certificate:
    record = Certificate(
        tenant=MINISTRY,
        authority="infrastructure",
        serial=Serial(certificate_info(der).serial),
        generation=1,
        profile="messaging-server",
        profile_version=1,
        algorithm="ECDSA-P256",
        user=None,
        device=None,
        slot=None,
        principal="messenger",
        der=der,
        sha256=hashlib.sha256(der).hexdigest(),
        tbs_sha256="",
        not_before=BEGIN,
        not_after=END,
        status=CertificateStatus.GOOD,
        event=EventId("e"),
    )
    return replace(record, **other)


PRINCIPAL = Principal(
    MINISTRY, "messenger", URI, MESSENGER.role, MESSENGER.bundles, Standing.ACTIVE, EventId("e")
)
TENANT = Tenant(MINISTRY, "id.ministry.example", Standing.ACTIVE, EventId("e"))


@dataclass
class Door:
    """Access over a ledger of these rows."""

    rows: Rows
    clock: SteppingClock
    access: Access


def door(*rows: Any) -> Door:
    clock, ledger = SteppingClock(NOW), Rows(list(rows))
    core = SimpleNamespace(ledger=ledger, clock=clock)
    return Door(ledger, clock, Access(cast("Core", core)))


def test_a_certificate_in_good_standing_names_its_principal():
    made = door(issued(certificate()), PRINCIPAL, TENANT)
    assert made.access.authenticate(certificate()) == MESSENGER


@pytest.mark.parametrize("presented", [None, b"", b"\x30\x00"])
def test_nothing_readable_is_nobody(presented: bytes | None):
    with pytest.raises(UnauthenticatedError):
        door(issued(certificate()), PRINCIPAL, TENANT).access.authenticate(presented)


@pytest.mark.parametrize(
    "other",
    [{"authority": "people"}, {"serial": Serial("1235")}, {"sha256": "00" * 32}],
)
def test_a_certificate_that_was_not_issued_here_is_nobody(other: dict[str, Any]):
    with pytest.raises(UnauthenticatedError):
        door(issued(certificate(), **other), PRINCIPAL, TENANT).access.authenticate(certificate())


def test_a_namesake_in_another_tenant_does_not_hide_a_certificate():
    twin = issued(certificate(), tenant=OTHER, sha256="00" * 32)
    made = door(twin, issued(certificate()), PRINCIPAL, TENANT)
    assert made.access.authenticate(certificate()) == MESSENGER


@pytest.mark.parametrize("status", set(CertificateStatus) - {CertificateStatus.GOOD})
def test_a_revoked_certificate_is_refused(status: CertificateStatus):
    made = door(issued(certificate(), status=status), PRINCIPAL, TENANT)
    with pytest.raises(CertificateRevokedError):
        made.access.authenticate(certificate())


def test_a_certificate_counts_from_its_first_moment_to_its_last():
    second = timedelta(seconds=1)
    for moment, good in (
        (BEGIN - second, False),
        (BEGIN, True),
        (END, True),
        (END + second, False),
    ):
        made = door(issued(certificate()), PRINCIPAL, TENANT)
        made.clock.moment = moment
        if good:
            assert made.access.authenticate(certificate()) == MESSENGER
            continue
        with pytest.raises(CertificateRevokedError):
            made.access.authenticate(certificate())


@pytest.mark.parametrize(
    "rows",
    [
        (TENANT,),
        (TENANT, replace(PRINCIPAL, uri=f"{URI}/x")),
        (TENANT, replace(PRINCIPAL, standing=Standing.REVOKED)),
        (TENANT, PRINCIPAL, replace(PRINCIPAL, tenant=OTHER)),
        (PRINCIPAL,),
        (PRINCIPAL, replace(TENANT, tenant=OTHER)),
        (PRINCIPAL, replace(TENANT, standing=Standing.REVOKED)),
    ],
)
def test_one_active_principal_of_an_active_tenant_must_be_named(rows: tuple[Any, ...]):
    with pytest.raises(UnknownPrincipalError):
        door(issued(certificate()), *rows).access.authenticate(certificate())


class Monotonic:
    """What `time.monotonic` says."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Monotonic:
    made = Monotonic()
    monkeypatch.setattr(module, "time", made)
    return made


def test_who_was_known_is_asked_for_again_after_a_second(stopwatch: Monotonic):
    made = door(issued(certificate()), PRINCIPAL, TENANT)
    made.access.authenticate(certificate())
    asked = made.rows.asked
    made.rows.rows.clear()
    stopwatch.seconds += 0.99
    assert made.access.authenticate(certificate()) == MESSENGER
    assert made.rows.asked == asked
    stopwatch.seconds += 0.01
    with pytest.raises(UnauthenticatedError):
        made.access.authenticate(certificate())


def test_who_was_known_does_not_outlive_the_certificate(stopwatch: Monotonic):
    made = door(issued(certificate()), PRINCIPAL, TENANT)
    made.access.authenticate(certificate())
    made.clock.moment = END
    assert made.access.authenticate(certificate()) == MESSENGER
    made.clock.moment = END + timedelta(seconds=1)
    with pytest.raises(CertificateRevokedError):
        made.access.authenticate(certificate())


def test_a_revocation_counts_at_once_where_it_is_told(stopwatch: Monotonic):
    made = door(issued(certificate()), PRINCIPAL, TENANT)
    made.access.authenticate(certificate())
    made.rows.rows.clear()
    made.access.forget()
    with pytest.raises(UnauthenticatedError):
        made.access.authenticate(certificate())


def test_only_so_many_are_known_and_the_oldest_are_forgotten(
    stopwatch: Monotonic, monkeypatch: pytest.MonkeyPatch
):
    assert module.CACHE == 4096
    monkeypatch.setattr(module, "CACHE", 2)
    ders = [certificate(serial) for serial in (1, 2, 3)]
    made = door(*map(issued, ders), PRINCIPAL, TENANT)

    def asked(which: int) -> int:
        before = made.rows.asked
        made.access.authenticate(ders[which])
        return made.rows.asked - before

    assert asked(0)
    assert asked(1)
    stopwatch.seconds += 1
    assert asked(0)  # checked anew: no longer the oldest
    assert asked(2)  # the third takes the place of the second
    assert not asked(0)
    assert not asked(2)
    assert asked(1)


def test_a_role_may_do_what_the_table_says():
    access = door().access
    access.require(MESSENGER, Action.ENROL)
    with pytest.raises(AccessError):
        access.require(MESSENGER, Action.MANAGE_PRINCIPALS)
    with pytest.raises(AccessError):
        access.require(OFFICER, Action.ENROL)


def test_a_request_is_about_a_tenant_that_the_caller_reaches():
    access = door(TENANT, replace(TENANT, tenant=OTHER)).access
    assert access.tenant(MESSENGER, None) == MINISTRY
    assert access.tenant(MESSENGER, "ministry") == MINISTRY
    assert access.tenant(OFFICER, None) == SYSTEM_TENANT
    assert access.tenant(OFFICER, "authority") == SYSTEM_TENANT
    assert access.tenant(OFFICER, "ministry") == MINISTRY
    for who, named in ((MESSENGER, "other"), (MESSENGER, "authority"), (OFFICER, "none")):
        with pytest.raises(NotFoundError) as error:
            access.tenant(who, named)
        assert error.value.field == "tenant"
