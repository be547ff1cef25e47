"""Who may do what over HTTP: certificates, principals, roles and tenants, at this very moment."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from kms.api.app import FAMILIES
from kms.domain.records import SYSTEM_TENANT, Role
from kms.services.access import STALE_SECONDS
from kms.services.keys.verbs import VERBS
from kms.services.slots.verbs import SLOT_VERBS
from kms.wire import unb64
from tests.support.api import OTHER, TENANT, Site, csr_of, site
from tests.support.flow import IDENTITY, enrol, new_device

pytestmark = pytest.mark.anyio

OFFICER, AUDITOR, MESSENGER, CLERK = "officer", "auditor", "messenger", "clerk"
EVERYONE = {OFFICER, AUDITOR, MESSENGER, CLERK, "examiner"}
SERIAL = "00" * 16

ALLOWED: dict[tuple[str, str], set[str]] = {
    ("POST", "/v1/enrolments"): {MESSENGER},
    ("POST", "/v1/enrolments:batch"): {MESSENGER},
    ("POST", f"/v1/enrolments/{'0' * 32}/proofs"): {MESSENGER},
    ("POST", "/v1/enrolments:batch-proofs"): {MESSENGER},
    ("POST", "/v1/tenants"): {OFFICER},
    ("GET", "/v1/tenants"): {OFFICER},
    ("POST", "/v1/principals"): {OFFICER},
    ("GET", "/v1/principals"): {OFFICER},
    ("POST", "/v1/principals/nobody/disable"): {OFFICER},
    ("POST", "/v1/certificates"): {OFFICER},
    ("GET", "/v1/certificates"): {OFFICER, MESSENGER, CLERK},
    ("GET", f"/v1/certificates/{SERIAL}"): {OFFICER, MESSENGER, CLERK},
    ("POST", f"/v1/certificates/{SERIAL}/revoke"): {OFFICER, MESSENGER, CLERK},
    ("GET", "/v1/users/nobody/devices"): {OFFICER, MESSENGER, CLERK},
    ("POST", "/v1/users/nobody/revoke"): {OFFICER, MESSENGER, CLERK},
    ("GET", "/v1/devices/none"): {OFFICER, MESSENGER, CLERK},
    ("POST", "/v1/devices/none/revoke"): {OFFICER, MESSENGER, CLERK},
    ("GET", "/v1/events"): EVERYONE,
    ("GET", "/v1/events/999999"): EVERYONE,
    ("GET", "/v1/events/999999/receipt"): EVERYONE,
    ("GET", "/v1/log/current/tile/entries/000"): {OFFICER, AUDITOR},
    ("GET", "/v1/log"): EVERYONE,
    ("GET", "/v1/authorities"): EVERYONE,
    ("POST", "/v1/authorities/nothing/crl"): {OFFICER},
}
_STEPS = [
    *("rotate", "activate", "suspend", "resume", "deactivate", "compromise", "recover"),
    *("destroy", "cancel-destruction", "permit"),
]
_OF_KEYS = [
    *(("POST", "/v1/keys"), ("GET", "/v1/keys"), ("POST", "/v1/keys:random")),
    *(("GET", f"/v1/keys/none{part}") for part in ("", "/uses", "/touches")),
    *(("POST", f"/v1/keys/none/{verb}") for verb in (*_STEPS, *VERBS)),
    *(("POST", "/v1/kem-slots"), ("GET", "/v1/kem-slots")),
    *(("GET", f"/v1/kem-slots/none{part}") for part in ("", "/public", "/uses")),
    *(("POST", f"/v1/kem-slots/none/{verb}") for verb in (*_STEPS, *SLOT_VERBS)),
    *(("POST", f"/v1/kem-slots/none/{verb}") for verb in ("hold", "release")),
]
ALLOWED |= {call: {OFFICER, MESSENGER, CLERK} for call in _OF_KEYS}
"""What they may do with which key is the ledger's to say; none is called so here."""


async def test_the_table_of_roles_is_what_the_routes_do(tmp_path: Path):
    """A clerk is a ministry's officer, an examiner a ministry's auditor."""
    async with site(tmp_path) as made:
        await made.register(TENANT, CLERK, Role.OFFICER)
        await made.register(TENANT, "examiner", Role.AUDITOR)
        for (method, path), allowed in ALLOWED.items():
            for name in EVERYONE:
                session = made.caller(name)
                answer = await (session.get(path) if method == "GET" else session.post(path, {}))
                forbidden = answer.status_code == 403
                assert forbidden is (name not in allowed), (method, path, name, answer.text)
                if forbidden:
                    assert answer.json()["type"] == "urn:sovereign-kms:problem:forbidden"


def test_the_table_above_is_complete():
    routes = {
        (method, route.path)  # type: ignore[attr-defined]
        for family in FAMILIES
        for route in family.router.routes
        for method in route.methods  # type: ignore[attr-defined]
    }
    assert len(routes) == len(ALLOWED)


async def refused(made: Site, certificate: bytes | None) -> tuple[int, str]:
    answer = await made.presenting(certificate).get("/v1/log")
    name = "" if answer.status_code == 200 else answer.json()["type"].rpartition(":")[2]
    return answer.status_code, name


async def test_only_certificates_issued_here_to_active_principals(tmp_path: Path):
    async with site(tmp_path) as made:
        assert await refused(made, None) == (401, "unauthenticated")
        assert await refused(made, b"") == (401, "unauthenticated")
        assert await refused(made, b"\x30\x03\x02\x01\x00") == (401, "unauthenticated")
        good = made.clients[MESSENGER].der
        assert await refused(made, good[:-1] + bytes([good[-1] ^ 1])) == (401, "unauthenticated")
        assert await refused(made, _lookalike(good)) == (401, "unauthenticated")
        certified = await enrol(made.world, new_device(made.world, "ada", "phone", IDENTITY))
        device = unb64(certified["certificates"][0]["certificate"])
        assert await refused(made, device) == (401, "unauthenticated")
        root = made.services.core.authorities["root"].record.certificate
        assert await refused(made, root) == (401, "unauthenticated")
        assert await refused(made, good) == (200, "")


def _lookalike(good: bytes) -> bytes:
    """Names, serial and URI of a real certificate under another key and signature."""
    real = x509.load_der_x509_certificate(good)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(real.subject)
        .issuer_name(real.issuer)
        .public_key(key.public_key())
        .serial_number(real.serial_number)
        .not_valid_before(real.not_valid_before_utc)
        .not_valid_after(real.not_valid_after_utc)
    )
    for extension in real.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


async def test_a_stranger_certificate_is_refused(tmp_path: Path):
    async with site(tmp_path) as made:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "officer")])
        now = datetime.now(UTC)
        own = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        own_der = own.public_bytes(Encoding.DER)
        assert await refused(made, own_der) == (401, "unauthenticated")


async def test_a_revoked_certificate_stops_working_on_an_open_connection(tmp_path: Path):
    async with site(tmp_path) as made:
        messenger, officer = made.caller(MESSENGER), made.caller(OFFICER)
        assert (await messenger.get("/v1/log")).status_code == 200
        listed = await officer.get("/v1/certificates", params={"principal": MESSENGER})
        serial = listed.json()["certificates"][0]["serial"]
        gone = await officer.post(f"/v1/certificates/{serial}/revoke", {"reason": "superseded"})
        assert gone.status_code == 200
        answer = await messenger.get("/v1/log")
        assert (answer.status_code, answer.json()["type"]) == (
            403,
            "urn:sovereign-kms:problem:certificate-revoked",
        )


async def test_an_expired_certificate_stops_working(tmp_path: Path):
    async with site(tmp_path) as made:
        messenger = made.caller(MESSENGER)
        assert (await messenger.get("/v1/log")).status_code == 200
        made.world.clock.advance(days=3650)
        answer = await messenger.get("/v1/log")
        assert answer.json()["type"].endswith(":certificate-revoked")


async def test_a_disabled_principal_stops_at_once(tmp_path: Path):
    async with site(tmp_path) as made:
        messenger, officer = made.caller(MESSENGER), made.caller(OFFICER)
        assert (await messenger.get("/v1/log")).status_code == 200
        path = f"/v1/principals/{MESSENGER}/disable"
        assert (await officer.post(path, {"tenant": TENANT})).status_code == 200
        answer = await messenger.get("/v1/log")
        assert answer.json()["type"].endswith(":unknown-principal")
        assert STALE_SECONDS <= 1.0


async def test_tenants_cannot_see_each_other(tmp_path: Path):
    async with site(tmp_path) as made:
        stranger, officer = made.caller("stranger"), made.caller(OFFICER)
        certified = await enrol(made.world, new_device(made.world, "ada", "phone", IDENTITY))
        serial = certified["certificates"][0]["serial"]
        index = certified["receipt"]["index"]
        for path in (
            f"/v1/certificates/{serial}",
            "/v1/users/ada/devices",
            "/v1/devices/phone",
            f"/v1/events/{index}",
            f"/v1/events/{index}/receipt",
            f"/v1/certificates?tenant={TENANT}",
            f"/v1/users/ada/devices?tenant={TENANT}",
            f"/v1/events?tenant={TENANT}",
            f"/v1/events?tenant={SYSTEM_TENANT}",
            "/v1/certificates?tenant=no-such-tenant",
        ):
            assert (await stranger.get(path)).status_code == 404, path
        for path, body in (
            (f"/v1/certificates/{serial}/revoke", {}),
            (f"/v1/certificates/{serial}/revoke", {"tenant": TENANT}),
            ("/v1/users/ada/revoke", {}),
            ("/v1/users/ada/revoke", {"tenant": TENANT}),
            ("/v1/devices/phone/revoke", {"tenant": TENANT}),
        ):
            assert (await stranger.post(path, body)).status_code == 404, path
        assert (await stranger.get("/v1/certificates")).json()["certificates"][0]["tenant"] == OTHER
        events = (await stranger.get("/v1/events")).json()["events"]
        assert {item["tenant"] for event in events for item in event["openings"]} == {OTHER}
        assert (await officer.get(f"/v1/certificates/{serial}")).json()["status"] == "good"
        devices = await officer.get("/v1/users/ada/devices", params={"tenant": TENANT})
        assert devices.json()["devices"][0]["device"] == "phone"


async def test_only_the_authority_revokes_infrastructure(tmp_path: Path):
    async with site(tmp_path) as made:
        messenger = made.caller(MESSENGER)
        listed = await messenger.get("/v1/certificates", params={"principal": MESSENGER})
        own = listed.json()["certificates"][0]["serial"]
        assert (await messenger.post(f"/v1/certificates/{own}/revoke")).status_code == 403
        certified = await enrol(made.world, new_device(made.world, "ada", "phone", IDENTITY))
        serial = certified["certificates"][0]["serial"]
        assert (await messenger.post(f"/v1/certificates/{serial}/revoke")).status_code == 200


async def test_a_csr_decides_nothing_but_the_key(tmp_path: Path):
    async with site(tmp_path) as made:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = csr_of(key).public_bytes(Encoding.PEM).decode()
        body = {"tenant": TENANT, "name": MESSENGER, "csr": pem}
        answer = await made.caller(OFFICER).post("/v1/certificates", body)
        assert answer.status_code == 201
        made_for = x509.load_der_x509_certificate(unb64(answer.json()["certificate"]))
        assert "anything" not in made_for.subject.rfc4514_string()
        assert await refused(made, made_for.public_bytes(Encoding.DER)) == (200, "")
