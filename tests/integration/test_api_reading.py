"""What can be read, where and by whom: the API's GETs, the public and the operator's listener."""

import json
from pathlib import Path

import pytest
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families

from kms.api import answer_schemas as answers
from kms.tlog.checkpoint import parse_checkpoint
from kms.tlog.notes import VerifierKey, parse_note, verify_note
from kms.tlog.receipt import verify_receipt
from kms.tlog.tiles import decode_entries, entries_path, tile_path
from kms.wire import unb64
from tests.support.api import TENANT, site
from tests.support.flow import enrol, new_device

pytestmark = pytest.mark.anyio


async def test_certificates_are_found_by_owner_and_paged(tmp_path: Path):
    async with site(tmp_path) as made:
        for user, device in (("ada", "phone"), ("ada", "tablet"), ("bob", "watch")):
            await enrol(made.world, new_device(made.world, user, device))
        session = made.caller("messenger")
        seen: list[str] = []
        after: str | None = None
        while True:
            query = {"user": "ada", "limit": "3"} | ({"after": after} if after else {})
            page = await session.get("/v1/certificates", params=query)
            document = answers.CertificatesAnswer.model_validate_json(page.content)
            seen += [item.serial for item in document.certificates]
            assert all(item.user == "ada" for item in document.certificates)
            after = document.next
            if after is None:
                break
        assert seen == sorted(set(seen))
        assert len(seen) == 4
        one = (await session.get(f"/v1/certificates/{seen[0]}")).json()
        assert x509.load_der_x509_certificate(unb64(one["certificate"])).serial_number == int(
            seen[0], 16
        )
        for query, count in (
            ({"device": "phone"}, 2),
            ({"principal": "messenger"}, 1),
            ({"status": "revoked"}, 0),
            ({"user": "nobody"}, 0),
            ({"user": "ada", "device": "watch"}, 0),
        ):
            page = await session.get("/v1/certificates", params=query)
            assert len(page.json()["certificates"]) == count


async def test_devices_of_a_user_are_paged(tmp_path: Path):
    async with site(tmp_path) as made:
        for device in ("a", "b", "c"):
            await enrol(made.world, new_device(made.world, "ada@x", device))
        session = made.caller("messenger")
        first = (await session.get("/v1/users/ada@x/devices?limit=2")).json()
        answers.DevicesAnswer.model_validate(first)
        assert [item["device"] for item in first["devices"]] == ["a", "b"]
        second = (await session.get(f"/v1/users/ada%40x/devices?after={first['next']}")).json()
        assert [item["device"] for item in second["devices"]] == ["c"]
        assert second["next"] is None
        one = await session.get("/v1/devices/a")
        answers.DeviceDocument.model_validate_json(one.content)
        assert (await session.get("/v1/users/nobody/devices")).status_code == 404
        assert (await session.get("/v1/devices/nothing")).status_code == 404


async def test_events_receipts_and_entries_prove_each_other(tmp_path: Path):
    async with site(tmp_path) as made:
        await enrol(made.world, new_device(made.world, "ada.lovelace", "phone"))
        auditor, messenger = made.caller("auditor"), made.caller("messenger")
        log = answers.LogAnswer.model_validate_json((await auditor.get("/v1/log")).content)
        key = VerifierKey.parse(log.vkey)
        leaves: dict[int, bytes] = {}
        after = -1
        while len(leaves) < log.size:
            page = await auditor.get("/v1/events", params={"after": after, "limit": 10})
            document = answers.EventsAnswer.model_validate_json(page.content)
            leaves |= {item.index: unb64(item.leaf) for item in document.events}
            after = document.next if document.next is not None else after
        assert sorted(leaves) == list(range(log.size))
        for index in (0, log.size // 2, log.size - 1):
            got = await auditor.get(f"/v1/events/{index}/receipt")
            receipt = answers.Receipt.model_validate_json(got.content)
            assert receipt.status == "final"
            verify_receipt((receipt.text or "").encode(), leaves[index], [key], log.origin)
        bundle = await auditor.get(f"/v1/log/1/{entries_path(0, log.size)}")
        assert bundle.headers["content-type"] == "application/octet-stream"
        assert decode_entries(bundle.content, log.size) == [leaves[n] for n in range(log.size)]
        current = await auditor.get(f"/v1/log/current/{entries_path(0, log.size)}")
        assert current.content == bundle.content
        own = (await messenger.get("/v1/events")).json()["events"]
        assert 0 < len(own) < log.size
        one = await messenger.get(f"/v1/events/{own[0]['index']}")
        answers.EventDocument.model_validate_json(one.content)
        assert one.json() == own[0]
        assert b"ada.lovelace" not in b"".join(leaves.values())


async def test_names_are_for_those_concerned_and_not_for_auditors(tmp_path: Path):
    async with site(tmp_path) as made:
        await enrol(made.world, new_device(made.world, "ada.lovelace", "phone"))
        index = (await made.caller("auditor").get("/v1/log")).json()["size"] - 1

        async def names(who: str) -> set[str]:
            event = (await made.caller(who).get(f"/v1/events/{index}")).json()
            listed = await made.caller(who).get(f"/v1/events?after={index - 1}")
            assert listed.json()["events"] == [event]
            return {opening["value"] for opening in event["openings"]}

        assert await names("auditor") == set()
        for who in ("officer", "messenger"):
            assert await names(who) == {TENANT, "messenger", "ada.lovelace", "phone"}


async def test_what_is_not_in_the_log_is_not_found(tmp_path: Path):
    async with site(tmp_path) as made:
        auditor = made.caller("auditor")
        size = (await auditor.get("/v1/log")).json()["size"]
        for path in (
            f"/v1/events/{size}",
            f"/v1/events/{size}/receipt",
            f"/v1/log/current/{entries_path(0, size + 1)}",
            "/v1/log/current/tile/entries/000",
            "/v1/log/current/tile/entries/0",
            "/v1/log/current/tile/entries/x000/000",
            "/v1/log/current/tile/entries/../0/000",
            "/v1/log/2/tile/entries/000.p/1",
            f"/v1/log/999999999/{entries_path(0, size)}",
            f"/v1/log/9999999999/{entries_path(0, size)}",
            "/v1/log/current/tile/entries/" + "x999/" * 9 + "999",
        ):
            assert (await auditor.get(path)).status_code == 404, path
        for path in ("/v1/events/-1", "/v1/events/x", "/v1/events/99999999999999999999"):
            assert (await auditor.get(path)).status_code == 422, path
        assert (await auditor.get("/v1/log/0/tile/entries/000")).status_code == 422


async def test_authorities_with_their_crls(tmp_path: Path):
    async with site(tmp_path) as made:
        got = await made.caller("messenger").get("/v1/authorities")
        document = answers.AuthoritiesAnswer.model_validate_json(got.content)
        assert [item.name for item in document.authorities] == ["root", "people", "infrastructure"]
        assert all(item.crl is not None for item in document.authorities)


async def test_queries_are_as_strict_as_bodies(tmp_path: Path):
    async with site(tmp_path) as made:
        session = made.caller("messenger")
        for path, field in (
            ("/v1/certificates?limit=0", "limit"),
            ("/v1/certificates?limit=101", "limit"),
            ("/v1/certificates?limit=ten", "limit"),
            ("/v1/certificates?status=orphaned", "status"),
            ("/v1/certificates?status=x", "status"),
            ("/v1/certificates?after=XYZ", "after"),
            ("/v1/certificates?usr=ada", "usr"),
            ("/v1/certificates?user=a%00b", "user"),
            ("/v1/events?after=-2", "after"),
            ("/v1/users/ada/devices?after=a/b", "after"),
            ("/v1/users/a%20b/devices", "user"),
            ("/v1/certificates/ABCDEF", "serial"),
            ("/v1/certificates/abc", "serial"),
        ):
            answer = await session.get(path)
            assert (answer.status_code, answer.json()["field"]) == (422, field), path
            assert answer.headers["content-type"] == "application/problem+json"


async def test_the_public_listener_shows_signed_things_only(tmp_path: Path):
    async with site(tmp_path) as made:
        await enrol(made.world, new_device(made.world, "ada", "phone"))
        reader = made.reader()
        for name in ("root", "people", "infrastructure"):
            certificate = await reader.get(f"/pki/{name}.cer")
            assert certificate.headers["content-type"] == "application/pkix-cert"
            issuer = x509.load_der_x509_certificate(certificate.content)
            crl = await reader.get(f"/pki/{name}.crl")
            assert crl.headers["content-type"] == "application/pkix-crl"
            assert x509.load_der_x509_crl(crl.content).issuer == issuer.subject
        checkpoint = await reader.get("/log/checkpoint")
        key = VerifierKey.parse(made.world.report.vkey)
        verify_note(parse_note(checkpoint.content), [key])
        size = parse_checkpoint(parse_note(checkpoint.content).text).size
        assert (await reader.get("/log/1/checkpoint")).content == checkpoint.content
        tile = await reader.get("/log/" + tile_path(0, 0, size))
        assert len(tile.content) == 32 * size
        assert (await reader.get("/log/1/" + tile_path(0, 0, size))).content == tile.content
        for path in (
            "/log/" + tile_path(0, 0),
            "/log/" + tile_path(0, 0, size + 1),
            "/log/" + tile_path(1, 0, 1),
            "/log/" + entries_path(0, size),
            "/log/tile/0/0",
            "/log/2/checkpoint",
            "/log/99999999999999999999/checkpoint",
            f"/log/{'9' * 5000}/checkpoint",
            f"/log/{'9' * 5000}/" + tile_path(0, 0),
            "/log/01/checkpoint",
            "/log/0/checkpoint",
            "/log/-1/checkpoint",
            "/log/\u0661/checkpoint",
            "/log/tile/0/" + "x999/" * 12 + "999",
            "/log/1/tile/63/" + "x999/" * 12 + "999.p/1",
            "/pki/people",
            "/pki/nobody.cer",
            "/pki/nobody.crl",
            "/v1/events",
            "/metrics",
            "/",
        ):
            missing = await reader.get(path)
            assert (missing.status_code, missing.json()["type"]) == (
                404,
                "urn:sovereign-kms:problem:not-found",
            ), path
        assert (await reader.post("/log/checkpoint")).status_code == 405


async def test_full_tiles_may_be_kept_for_ever_and_heads_may_not(tmp_path: Path):
    async with site(tmp_path) as made:
        officer = made.caller("officer")
        while (await officer.get("/v1/log")).json()["size"] < 256:
            for _ in range(50):
                await made.services.crls.publish("root")
        reader = made.reader()
        full = await reader.get("/log/tile/0/000")
        assert (len(full.content), full.status_code) == (8192, 200)
        assert "immutable" in full.headers["cache-control"]
        for path in ("/log/checkpoint", "/pki/people.crl", "/log/tile/0/000.p/10"):
            assert "immutable" not in (await reader.get(path)).headers["cache-control"]


async def test_the_operator_sees_health_and_metrics(tmp_path: Path):
    async with site(tmp_path) as made:
        await enrol(made.world, new_device(made.world, "ada", "phone"))
        await made.caller("messenger").get("/v1/users/ada/devices")
        monitor = made.monitor()
        assert (await monitor.get("/healthz")).text == "ok\n"
        ready = await monitor.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (200, True)
        assert {item["name"] for item in ready.json()["checks"]} >= {"signer", "ledger", "log"}
        text = (await monitor.get("/metrics")).text
        families = {item.name: item for item in text_string_to_metric_families(text)}
        size = families["kms_log_signed_size"].samples[0].value
        assert size == made.services.core.sequencer.signed_size
        assert "ada" not in text
        assert 'route="/v1/users/{user}/devices"' in text


async def test_not_ready_says_why(tmp_path: Path):
    async with site(tmp_path) as made:
        made.world.clock.advance(days=30)
        ready = await made.monitor().get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        failed = [item["name"] for item in ready.json()["checks"] if not item["ok"]]
        assert failed == ["crls"]


async def test_the_description_is_there_for_callers(tmp_path: Path):
    async with site(tmp_path) as made:
        assert (await made.caller(None).get("/openapi.json")).status_code == 401
        got = await made.caller("messenger").get("/openapi.json")
        assert json.loads(got.content)["openapi"].startswith("3.1")
        for path in ("/docs", "/redoc", "/docs/oauth2-redirect"):
            assert (await made.caller("messenger").get(path)).status_code == 404


async def test_one_tenant_named_or_all(tmp_path: Path):
    async with site(tmp_path) as made:
        officer = made.caller("officer")
        everyone = (await officer.get("/v1/principals")).json()
        answers.PrincipalsAnswer.model_validate(everyone)
        assert {item["tenant"] for item in everyone["principals"]} == {
            "authority",
            "ministry",
            "other",
        }
        ministry = (await officer.get("/v1/principals", params={"tenant": TENANT})).json()
        assert [item["name"] for item in ministry["principals"]] == ["messenger"]
        tenants = await officer.get("/v1/tenants")
        answers.TenantsAnswer.model_validate_json(tenants.content)
