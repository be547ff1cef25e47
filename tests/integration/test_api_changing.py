"""Calls that change state besides enrolment: registering, certifying, revoking, publishing."""

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from kms.api import answer_schemas as answers
from kms.wire import b64
from tests.support.api import TENANT, Session, Site, csr_of, site
from tests.support.flow import IDENTITY, enrol, new_device

pytestmark = pytest.mark.anyio


async def twice(session: Session, path: str, body: Any) -> tuple[int, bytes]:
    """A call and its repetition give the same bytes."""
    first = await session.post(path, body, key="once")
    again = await session.post(path, body, key="once")
    assert again.content == first.content
    assert again.status_code == first.status_code
    return first.status_code, first.content


async def test_a_tenant_a_principal_its_certificate_and_its_end(tmp_path: Path):
    async with site(tmp_path) as made:
        officer = made.caller("officer")
        status, body = await twice(
            officer, "/v1/tenants", {"tenant": "navy", "identity_domain": "id.navy.example"}
        )
        assert status == 201
        answers.TenantAnswer.model_validate_json(body)
        order = {"tenant": "navy", "name": "hub", "role": "messaging-server", "bundles": ["device"]}
        status, body = await twice(officer, "/v1/principals", order)
        assert status == 201
        answers.PrincipalAnswer.model_validate_json(body)
        csr = csr_of(ec.generate_private_key(ec.SECP256R1()))
        request = {"tenant": "navy", "name": "hub", "csr": b64(csr.public_bytes(Encoding.DER))}
        status, body = await twice(officer, "/v1/certificates", request)
        assert status == 201
        issued = answers.IssuedAnswer.model_validate_json(body)
        assert (issued.tenant, issued.name) == ("navy", "hub")
        status, body = await twice(officer, "/v1/principals/hub/disable", {"tenant": "navy"})
        assert status == 200
        answers.DisabledAnswer.model_validate_json(body)
        late = await officer.post("/v1/certificates", request)
        assert late.json()["type"].endswith(":revoked")


async def test_names_are_taken_once(tmp_path: Path):
    async with site(tmp_path) as made:
        officer = made.caller("officer")
        for path, body in (
            ("/v1/tenants", {"tenant": TENANT, "identity_domain": "id.new.example"}),
            ("/v1/tenants", {"tenant": "new", "identity_domain": "id.other.example"}),
            ("/v1/principals", {"tenant": TENANT, "name": "messenger", "role": "auditor"}),
        ):
            answer = await officer.post(path, body)
            assert (answer.status_code, answer.json()["type"]) == (
                409,
                "urn:sovereign-kms:problem:conflict",
            )


async def test_what_cannot_be_registered(tmp_path: Path):
    async with site(tmp_path) as made:
        officer = made.caller("officer")
        before = made.world.ledger.head()
        for path, body, field in (
            ("/v1/tenants", {"tenant": "a/b", "identity_domain": "x.example"}, "tenant"),
            ("/v1/tenants", {"tenant": "ab", "identity_domain": "-.example"}, "identity_domain"),
            ("/v1/tenants", {"tenant": "ab"}, "identity_domain"),
            ("/v1/principals", {"name": "x", "role": "king"}, "role"),
            ("/v1/principals", {"name": "x", "role": "messaging-server"}, "tenant"),
            ("/v1/principals", {"name": "x", "role": "auditor", "bundles": ["device"]}, "bundles"),
            ("/v1/certificates", {"name": "officer", "csr": "nonsense!"}, "csr"),
            ("/v1/certificates", {"name": "officer", "csr": "AAAA"}, "csr"),
            ("/v1/certificates", {"name": "officer", "csr": "-----BEGIN X"}, "csr"),
            ("/v1/certificates", {"name": "officer", "csr": "A" * 40_000}, "csr"),
        ):
            answer = await officer.post(path, body)
            assert (answer.status_code, answer.json()["field"]) == (422, field), (path, body)
        missing = {"name": "nobody", "csr": "AAAA"}
        assert (await officer.post("/v1/certificates", missing)).status_code == 404
        query = await officer.post("/v1/tenants?tenant=x", {})
        assert query.status_code == 422
        assert made.world.ledger.head() == before


async def revoked_serials(made: Site) -> set[int]:
    crl = x509.load_der_x509_crl((await made.reader().get("/pki/people.crl")).content)
    return {entry.serial_number for entry in crl}


async def test_revoking_a_person_reaches_every_device_and_the_public_list(tmp_path: Path):
    async with site(tmp_path) as made:
        for device in ("phone", "tablet"):
            await enrol(made.world, new_device(made.world, "ada", device))
        messenger = made.caller("messenger")
        status, body = await twice(
            messenger, "/v1/users/ada/revoke", {"reason": "affiliation-changed"}
        )
        assert status == 200
        answer = answers.RevocationAnswer.model_validate_json(body)
        assert len(answer.revoked) == 4
        assert answer.receipt.status == "final"
        listed = (await messenger.get("/v1/certificates?user=ada&status=revoked")).json()
        assert {item["reason"] for item in listed["certificates"]} == {"affiliation-changed"}
        devices = (await messenger.get("/v1/users/ada/devices")).json()["devices"]
        assert {item["standing"] for item in devices} == {"revoked"}
        published = await made.caller("officer").post("/v1/authorities/people/crl")
        assert published.status_code == 201
        crl = answers.CrlAnswer.model_validate_json(published.content)
        assert (crl.authority, crl.entries) == ("people", 4)
        assert await revoked_serials(made) == {int(item.serial, 16) for item in answer.revoked}


async def test_revoking_a_device_leaves_the_others(tmp_path: Path):
    async with site(tmp_path) as made:
        for device in ("phone", "tablet"):
            await enrol(made.world, new_device(made.world, "ada", device, IDENTITY))
        messenger = made.caller("messenger")
        status, body = await twice(messenger, "/v1/devices/phone/revoke", {})
        assert status == 200
        assert answers.RevocationAnswer.model_validate_json(body).device == "phone"
        listed = (await messenger.get("/v1/certificates?user=ada")).json()["certificates"]
        assert {item["device"]: item["status"] for item in listed} == {
            "phone": "revoked",
            "tablet": "good",
        }


async def test_an_empty_body_is_an_empty_object(tmp_path: Path):
    async with site(tmp_path) as made:
        certified = await enrol(made.world, new_device(made.world, "ada", "phone", IDENTITY))
        serial = certified["certificates"][0]["serial"]
        path = f"/v1/certificates/{serial}/revoke"
        answer = await made.caller("messenger").post(path)
        assert answer.status_code == 200
        parsed = answers.RevocationAnswer.model_validate_json(answer.content)
        assert (parsed.reason.value, parsed.serial) == ("unspecified", serial)


async def test_crls_are_for_the_authority_and_need_a_key(tmp_path: Path):
    async with site(tmp_path) as made:
        officer = made.caller("officer")
        assert (await officer.post("/v1/authorities/nobody/crl")).status_code == 404
        bare = await officer.raw("POST", "/v1/authorities/people/crl", b"", [])
        assert bare.json()["type"].endswith(":idempotency-key-missing")
        first = (await officer.post("/v1/authorities/people/crl")).json()
        second = (await officer.post("/v1/authorities/people/crl")).json()
        assert second["number"] == first["number"] + 1
