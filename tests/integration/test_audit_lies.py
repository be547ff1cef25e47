"""Certificates logged as what they are not: signed, matched, and caught by their own content.

Each record holds in every respect but the one that is wrong.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from kms.audit.forms import FORMS
from kms.device import SlotKey
from kms.wire import Committed, EventType, LeafCertificate
from pki.profiles import CertificateProfile, certificate_profiles
from tests.support.auditing import relog, verify
from tests.support.authority import spki
from tests.support.ministry import DOMAIN, SYSTEM, TENANT, USAGES, Ministry, busy_ministry

CLIENT, SERVER, MESSAGING = USAGES["officer"], USAGES["tls-server"], USAGES["device-identity"]
EVE = f"https://{DOMAIN}/users/eve/devices/eve-new"
OFFICER = "https://id.authority.example/principals/officer-9"
HOST = [x509.DNSName("kms.example")]

Lie = Callable[[Ministry], object]


@pytest.fixture
def ministry() -> Ministry:
    made = busy_ministry()
    made.register(SYSTEM)
    return made


def certify(
    ministry: Ministry,
    profile: str,
    uri: str,
    *,
    true: str = "",
    authority: str = "infrastructure",
    kind: EventType = EventType.CERTIFICATE_ISSUED,
    slot: str | None = None,
    tenant: str = SYSTEM,
    name: str = "officer-9",
    **how: Any,
) -> int:
    """Log a certificate of the profile `true` (or with other `usages`, `names`) as `profile`."""
    change = {"usages": USAGES.get(true or profile, []), **how}
    own = ministry.cas[authority].issue
    ministry.cas[authority].issue = lambda *given, **named: own(  # type: ignore[method-assign]
        *given, **{**named, **change}
    )
    public_key = spki(ec.generate_private_key(ec.SECP256R1()).public_key())
    logged, der = ministry.issue(authority, profile, slot, public_key, uri)
    ministry.cas[authority].issue = own  # type: ignore[method-assign]
    values = {Committed.USER: name}
    if slot is not None:
        values |= {Committed.USER: "eve", Committed.DEVICE: "eve-new"}
    rule = "identity-elliptic" if slot else "infrastructure-elliptic"
    index = ministry.event(
        kind,
        tenant,
        values,
        certificates=[logged],
        policy={"hash": ministry.policy, "rules": {slot or profile: rule}},
    )
    path = f"clients/{index}.pem"
    ministry.pem(path, der)
    ministry.list(path, logged, "ECDSA-P256", index, values[Committed.USER], None)
    return index


def found_in(
    ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[str]]:
    status, found, _ = verify(ministry.write(tmp_path / "record"), capsys=capsys)
    return status, found


def officer(ministry: Ministry, role: str = "officer") -> None:
    ministry.event(
        EventType.PRINCIPAL_REGISTERED,
        SYSTEM,
        {Committed.USER: "officer-9"},
        detail={"role": role},
    )


@pytest.mark.parametrize("opened", [True, False])
def test_every_profile_as_it_should_be(
    ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str], opened: bool
) -> None:
    for role in ("officer", "auditor", "messaging-server"):
        officer(ministry, role)
        certify(ministry, role, OFFICER)
    certify(ministry, "tls-server", "", name="tls-server", names=HOST)
    ministry.openings = ministry.openings if opened else {}
    assert found_in(ministry, tmp_path, capsys) == (0, [])


@pytest.mark.parametrize("profile", certificate_profiles().values(), ids=lambda item: item.name)
def test_the_auditor_expects_what_the_service_issues(profile: CertificateProfile) -> None:
    form = FORMS[profile.name]
    assert (form.authorities, form.usages) == (profile.authorities, profile.extended_key_usages)
    assert (form.uri is not None) == profile.uris.admits(1)


def beside(**how: Any) -> Lie:
    return lambda m: certify(m, "officer", OFFICER, **how)


def people_certify(profile: str, **how: Any) -> Lie:
    """What eve gets after she was revoked, in an event that is not looked at for her."""
    return lambda m: certify(
        m, profile, EVE, authority="people", tenant=TENANT, true="device-identity", **how
    )


LIES: dict[str, tuple[Lie, str]] = {
    "a revoked person's device as a principal": (
        people_certify("officer", name="eve"),
        "'people' issues no certificates of profile 'officer'",
    ),
    "a revoked person's device outside an enrolment": (
        people_certify("device-identity", slot="identity"),
        "certificate.issued issues no certificates of profile 'device-identity'",
    ),
    "a person's device by the other authority": (
        lambda m: certify(
            m, "officer", EVE, true="device-identity", tenant=TENANT, name="officer-9"
        ),
        "its names are not those of profile 'officer'",
    ),
    "an officer as a server": (
        lambda m: certify(m, "tls-server", OFFICER, true="officer", names=None),
        "its names are not those of profile 'tls-server'",
    ),
    "an officer's rights in a server's certificate": (
        lambda m: certify(m, "tls-server", "", usages=CLIENT, names=HOST),
        "its extended key usages are not those of profile 'tls-server'",
    ),
    "a server as an officer": (
        beside(usages=SERVER, names=HOST),
        "its extended key usages are not those of profile 'officer'",
    ),
    "both at once": (
        beside(usages=CLIENT + SERVER),
        "its extended key usages are not those of profile 'officer'",
    ),
    "no usage": (
        beside(usages=[]),
        "its extended key usages are not those of profile 'officer'",
    ),
    "an officer with a host's name": (
        beside(names=[x509.UniformResourceIdentifier(OFFICER), *HOST]),
        "its names are not those of profile 'officer'",
    ),
    "an officer who speaks for people": (
        beside(usages=CLIENT + MESSAGING),
        "its extended key usages are not those of profile 'officer'",
    ),
    "another principal's name": (
        beside(name="officer-1"),
        "does not name user 'officer-1', as event",
    ),
    "a principal of an enrolment": (
        lambda m: certify(m, "officer", OFFICER, kind=EventType.DEVICE_ENROLLED),
        "device.enrolled issues no certificates of profile 'officer'",
    ),
    "a principal in a slot": (
        beside(slot="identity"),
        "a certificate of profile 'officer' fills no slot 'identity'",
    ),
    "no known profile": (
        lambda m: certify(m, "minister", OFFICER, true="officer"),
        "there is no profile 'minister'",
    ),
    "another role": (
        lambda m: (officer(m, "auditor"), certify(m, "officer", OFFICER)),
        "certifies the auditor 'officer-9' as officer",
    ),
    "a CA below another": (
        lambda m: m.found_authority("shadow", "people"),
        "'people' issues no certificates of profile 'issuing-ca'",
    ),
    "certificates in an event that issues none": (
        lambda m: m.event(
            EventType.CEREMONY_STEP,
            SYSTEM,
            {},
            certificates=[LeafCertificate("people", "01", "officer", None, "00" * 32)],
            detail={"step": "closed", "plan_sha256": "00" * 32},
        ),
        "ceremony.step holds certificates; it has none to hold",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_certificate_that_is_not_what_the_log_says(
    name: str, ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lie, message = LIES[name]
    lie(ministry)
    status, found = found_in(ministry, tmp_path, capsys)
    assert status == 1
    assert any(message in item for item in found), found


# --- whose people ------------------------------------------------------------------------------


def enrol(
    ministry: Ministry, tenant: str, *domains: str, user: str = "ada", device: str = "ada-new"
) -> int:
    """Enrol a device under a domain for each slot, logged for a tenant."""
    made = []
    for (slot, algorithm), domain in zip(
        {"identity": "ECDSA-P256", "kem": "MLKEM768-X25519"}.items(), domains, strict=False
    ):
        public_key = SlotKey.generate(algorithm).public_key
        uri = f"https://{domain}/users/{user}/devices/{device}"
        logged, der = ministry.issue("people", f"device-{slot}", slot, public_key, uri)
        ministry.pem(f"devices/{user}/{device}/{slot}.pem", der)
        made.append((algorithm, logged))
    rules = {"identity": "identity-elliptic", "kem": "kem-hybrid"}
    index = ministry.event(
        EventType.DEVICE_ENROLLED,
        tenant,
        {Committed.USER: user, Committed.DEVICE: device},
        certificates=[logged for _, logged in made],
        policy={
            "hash": ministry.policy,
            "rules": {item.slot: rules[item.slot] for _, item in made},
        },
    )
    for algorithm, logged in made:
        path = f"devices/{user}/{device}/{logged.slot}.pem"
        ministry.list(path, logged, algorithm, index, user, device)
    ministry.files[f"receipts/{user}/{device}.tlog-proof"] = ministry.log.receipt(index)
    ministry.devices[device] = user, [logged for _, logged in made]
    return index


DEFENCE = "id.defence.example"


def two_ministries(ministry: Ministry) -> int:
    return ministry.register("defence", DEFENCE)


@pytest.mark.parametrize("opened", [True, False])
def test_two_ministries_each_with_its_own_people(
    ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str], opened: bool
) -> None:
    two_ministries(ministry)
    enrol(ministry, "defence", DEFENCE, DEFENCE)
    ministry.openings = ministry.openings if opened else {}
    assert found_in(ministry, tmp_path, capsys) == (0, [])


def only_failure(found: list[str], message: str) -> bool:
    """The same failure for every certificate concerned, and no other."""
    return bool(found) and all(message in item for item in found)


@pytest.mark.parametrize("domain", [DOMAIN, "id.elsewhere.example"])
def test_people_of_another_ministry(
    ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str], domain: str
) -> None:
    two_ministries(ministry)
    index = enrol(ministry, "defence", domain, domain)
    status, found = found_in(ministry, tmp_path, capsys)
    assert status == 1
    message = f"{domain!r} is no domain of tenant 'defence' registered before event {index}"
    assert only_failure(found, message), found


def test_a_registration_that_is_not_opened_may_be_any_tenants(
    ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del ministry.openings[two_ministries(ministry)]
    enrol(ministry, "defence", DEFENCE, DEFENCE)
    assert found_in(ministry, tmp_path, capsys) == (0, [])


def test_people_of_no_ministry_are_found_without_openings(
    ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = enrol(ministry, "defence", DEFENCE, DEFENCE)
    two_ministries(ministry)
    ministry.openings = {}
    status, found = found_in(ministry, tmp_path, capsys)
    assert status == 1
    message = f"{DEFENCE!r} is no domain of any tenant registered before event {index}"
    assert only_failure(found, message), found


def test_two_ministries_in_one_enrolment_are_found_without_openings(
    ministry: Ministry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_ministries(ministry)
    enrol(ministry, TENANT, DOMAIN, DEFENCE)
    ministry.openings = {}
    status, found = found_in(ministry, tmp_path, capsys)
    assert status == 1
    assert only_failure(found, f"names the domain {DEFENCE!r}, another of event"), found


@pytest.mark.parametrize("detail", [{}, {"identity_domain": 7}, {"identity_domain": "a/b"}])
def test_a_tenant_without_domain(
    ministry: Ministry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    detail: dict[str, Any],
) -> None:
    index = two_ministries(ministry)
    relog(ministry, index, lambda _: {"detail": detail})
    status, found = found_in(ministry, tmp_path, capsys)
    assert status == 1
    assert only_failure(found, f"history: event {index}: tells no identity_domain"), found


@pytest.mark.parametrize(
    ("tenant", "domain", "message"),
    [
        ("defence", DOMAIN, f"registers '{DOMAIN}', the domain of event"),
        (TENANT, DEFENCE, f"registers tenant '{TENANT}' again, after event"),
    ],
)
def test_a_domain_or_tenant_registered_twice(
    ministry: Ministry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tenant: str,
    domain: str,
    message: str,
) -> None:
    ministry.register(tenant, domain)
    status, found = found_in(ministry, tmp_path, capsys)
    assert status == 1
    assert only_failure(found, message), found
