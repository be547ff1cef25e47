"""Who may call the service, and what: certificates, standing, roles, tenants."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.support.calling import LOST, Answer, Client, enrol
from tests.support.clients import (
    Files,
    admit,
    certify,
    certify_briefly,
    certify_device,
    files,
    forge,
    new_key,
)
from tests.support.running import (
    AUDITOR,
    CLERK,
    COLLEAGUE,
    MESSENGER,
    OFFICER,
    OTHER_TENANT,
    STRANGER,
    TENANT,
    Home,
    Service,
    running,
    wait_for,
)
from tests.support.watching import changing_nothing, check_refusal, refusing, until_listed

BRIEFLY = 20.0
"""Seconds between a certificate's issue and its end; the service starts meanwhile."""


@pytest.fixture(scope="module")
def brief(prepared: Home, folder: Path) -> tuple[Home, Files, float]:
    """A home, and a client of it whose certificate ends soon: when, in `time.time()`."""
    home = prepared.copy(folder / "module")
    made = certify_briefly(home, folder, TENANT, COLLEAGUE, BRIEFLY)
    (certificate, *_) = x509.load_pem_x509_certificates(made[0].read_bytes())
    return home, made, certificate.not_valid_after_utc.timestamp()


@pytest.fixture(scope="module")
def service(brief: tuple[Home, Files, float]) -> Iterator[Service]:
    with running(brief[0]) as made:
        yield made


@pytest.fixture
def officer(service: Service) -> Iterator[Client]:
    with Client(service.home, OFFICER) as made:
        yield made


@pytest.fixture
def messenger(service: Service) -> Iterator[Client]:
    with Client(service.home, MESSENGER) as made:
        yield made


def refused_in_tls(service: Service, made: Files | None) -> None:
    """The handshake fails: no request of such a client is ever read."""
    with (
        changing_nothing(service),
        Client(service.home, None, files=made) as client,
        pytest.raises(LOST),
    ):
        client.get("/v1/log")


def refused_at_once(client: Client, problem: str) -> Answer:
    """An open connection that is refused within a second, whatever it did before."""
    deadline = time.monotonic() + 1.0
    while (answer := client.get("/v1/log")).status == 200:
        assert time.monotonic() < deadline, "still served after a second"
        time.sleep(0.05)
    check_refusal(answer, problem)
    return answer


def test_an_expired_certificate(service: Service, brief: tuple[Home, Files, float]):
    _, made, ends = brief
    with Client(service.home, None, files=made) as client:
        assert client.get("/v1/log").status == 200, "the machine was too slow to try it in time"
        time.sleep(max(0.0, ends - time.time() - 1.5))
        wait_for(lambda: time.time() > ends + 1, 30)
        check_refusal(client.get("/v1/log"), "certificate-revoked")
    refused_in_tls(service, made)


def test_no_certificate(service: Service):
    refused_in_tls(service, None)


def test_certificates_of_others(service: Service, tmp_path: Path):
    mine, _ = service.home.client(MESSENGER)
    leaf, ca, *_ = x509.load_pem_x509_certificates(mine.read_bytes())
    foreign = new_key()
    refused_in_tls(service, forge(tmp_path, "foreign", leaf, issuer=foreign))
    refused_in_tls(service, forge(tmp_path, "self-signed", leaf))
    fake_ca = forge(tmp_path, "ca", ca, issuer=foreign)
    fake = forge(tmp_path, "by-fake-ca", leaf, issuer=foreign)
    chain = fake[0].read_bytes() + fake_ca[0].read_bytes()
    fake[0].write_bytes(chain)
    refused_in_tls(service, fake)


def test_a_devices_certificate(service: Service, messenger: Client, tmp_path: Path):
    refused_in_tls(service, certify_device(messenger, tmp_path, "ada-burner"))


def test_the_servers_own_certificate(service: Service):
    tls = service.home.settings.tls_dir
    refused_in_tls(service, (tls / "server.pem", tls / "server.key"))


def test_a_revoked_certificate(service: Service, officer: Client, tmp_path: Path):
    made, serial = admit(officer, tmp_path, "leaky", TENANT, "messaging-server")
    other, _ = certify(officer, tmp_path, "leaky", TENANT)
    with (
        Client(service.home, None, files=made) as client,
        Client(service.home, None, files=other) as second,
    ):
        assert client.get("/v1/log").status == 200
        assert second.get("/v1/log").status == 200
        with until_listed(service, "infrastructure"):
            path = f"/v1/certificates/{serial}/revoke"
            assert officer.post(path, {"reason": "key-compromise"}).status == 200
        refused_at_once(client, "certificate-revoked")
        order = service.home.device("x", "x").request("device-identity")
        with refusing(service, "certificate-revoked"):
            check_refusal(client.post("/v1/enrolments", order), "certificate-revoked")
        assert second.get("/v1/log").status == 200, "the principal's other certificate stands"
    with Client(service.home, None, files=made) as again:
        check_refusal(again.get("/v1/log"), "certificate-revoked")
    crl = x509.load_der_x509_crl(service.public("/pki/infrastructure.crl")[1])
    assert crl.get_revoked_certificate_by_serial_number(int(serial, 16)) is not None


def test_a_disabled_principal(service: Service, officer: Client, tmp_path: Path):
    made, _ = admit(officer, tmp_path, "fired", TENANT, "messaging-server")
    with Client(service.home, None, files=made) as client:
        device = service.home.device("ada", "ada-desk")
        begun = client.post("/v1/enrolments", device.request("device-identity")).document
        assert officer.post("/v1/principals/fired/disable", {"tenant": TENANT}).status == 200
        refused_at_once(client, "unknown-principal")
        path = f"/v1/enrolments/{begun['enrolment']}/proofs"
        with refusing(service, "unknown-principal"):
            check_refusal(client.post(path, device.prove(begun)), "unknown-principal")
    with Client(service.home, None, files=made) as again:
        check_refusal(again.get("/v1/log"), "unknown-principal")


def test_an_officer_who_is_disabled_can_do_nothing(
    service: Service, officer: Client, tmp_path: Path
):
    made, _ = admit(officer, tmp_path, "mallory", "authority", "officer")
    with Client(service.home, None, files=made) as client:
        assert client.get("/v1/principals").status == 200
        assert officer.post("/v1/principals/mallory/disable", {}).status == 200
        refused_at_once(client, "unknown-principal")
        with changing_nothing(service):
            body = {"tenant": "shadow", "identity_domain": "id.shadow.example"}
            check_refusal(client.post("/v1/tenants", body), "unknown-principal")


ZEROES = "0" * 32
CALLS: dict[tuple[str, str], tuple[str, ...]] = {
    ("POST", "/v1/enrolments"): (MESSENGER,),
    ("POST", "/v1/enrolments:batch"): (MESSENGER,),
    ("POST", f"/v1/enrolments/{ZEROES}/proofs"): (MESSENGER,),
    ("POST", "/v1/enrolments:batch-proofs"): (MESSENGER,),
    ("POST", "/v1/tenants"): (OFFICER,),
    ("GET", "/v1/tenants"): (OFFICER,),
    ("POST", "/v1/principals"): (OFFICER,),
    ("GET", "/v1/principals"): (OFFICER,),
    ("POST", "/v1/principals/nobody/disable"): (OFFICER,),
    ("POST", "/v1/certificates"): (OFFICER,),
    ("GET", "/v1/certificates"): (OFFICER, CLERK, MESSENGER),
    ("GET", f"/v1/certificates/{ZEROES}"): (OFFICER, CLERK, MESSENGER),
    ("POST", f"/v1/certificates/{ZEROES}/revoke"): (OFFICER, CLERK, MESSENGER),
    ("GET", "/v1/users/nobody/devices"): (OFFICER, CLERK, MESSENGER),
    ("POST", "/v1/users/nobody/revoke"): (OFFICER, CLERK, MESSENGER),
    ("GET", "/v1/devices/nothing"): (OFFICER, CLERK, MESSENGER),
    ("POST", "/v1/devices/nothing/revoke"): (OFFICER, CLERK, MESSENGER),
    ("GET", "/v1/log/current/tile/entries/000"): (OFFICER, AUDITOR),
    ("POST", "/v1/authorities/nothing/crl"): (OFFICER,),
}


@pytest.mark.parametrize("name", [OFFICER, AUDITOR, CLERK, MESSENGER])
def test_roles(service: Service, name: str):
    """A role that may not is refused before anything else is said; one that may is not."""
    with Client(service.home, name) as client, changing_nothing(service):
        for (method, path), allowed in CALLS.items():
            answer = client.post(path, {}) if method == "POST" else client.get(path)
            if name in allowed:
                assert answer.problem != "forbidden", path
            else:
                check_refusal(answer, "forbidden")
                assert answer.status == 403


def test_only_the_authority_revokes_infrastructure(
    service: Service, messenger: Client, officer: Client
):
    found = officer.get(f"/v1/certificates?principal={COLLEAGUE}").document["certificates"]
    path = f"/v1/certificates/{found[0]['serial']}/revoke"
    with Client(service.home, CLERK) as clerk:
        for client in (messenger, clerk):
            with refusing(service, "forbidden"):
                check_refusal(client.post(path, {"reason": "unspecified"}), "forbidden")


@pytest.fixture
def ours(service: Service, messenger: Client) -> dict[str, Any]:
    """A device of the ministry's."""
    device = service.home.device("ada@ministry", f"ada-{time.time_ns()}")
    return enrol(messenger, device)


def test_other_tenants_see_nothing(service: Service, ours: dict[str, Any]):
    serial, index = ours["certificates"][0]["serial"], ours["receipt"]["index"]
    device, user = ours["device"], ours["user"]
    with Client(service.home, STRANGER) as stranger, changing_nothing(service):
        for path in (
            f"/v1/devices/{device}",
            f"/v1/devices/{device}?tenant={TENANT}",
            f"/v1/certificates/{serial}",
            f"/v1/certificates/{serial}?tenant={TENANT}",
            f"/v1/certificates?tenant={TENANT}",
            f"/v1/users/{user}/devices?tenant={TENANT}",
            f"/v1/events/{index}",
            f"/v1/events/{index}/receipt",
            f"/v1/events/{index}?tenant={TENANT}",
            f"/v1/events?tenant={TENANT}",
            "/v1/events?tenant=authority",
        ):
            check_absent(stranger.get(path))
        for path in (
            f"/v1/devices/{device}/revoke",
            f"/v1/users/{user}/revoke",
            f"/v1/certificates/{serial}/revoke",
        ):
            check_absent(stranger.post(path, {}))
            check_absent(stranger.post(path, {"tenant": TENANT}))
        check_absent(stranger.get(f"/v1/users/{user}/devices"))
        assert stranger.get(f"/v1/certificates?device={device}").document["certificates"] == []
        seen = stranger.get("/v1/events").document["events"]
        assert index not in {item["index"] for item in seen}
        assert seen, "its own registration"


def check_absent(answer: Answer) -> None:
    """As if there were no such thing: the same answer as for what does not exist."""
    assert (answer.status, answer.problem) == (404, "not-found"), answer.body


def test_absent_and_foreign_look_the_same(service: Service, ours: dict[str, Any]):
    with Client(service.home, STRANGER) as stranger:
        foreign = stranger.get(f"/v1/devices/{ours['device']}")
        absent = stranger.get("/v1/devices/never-was")
        assert foreign.body == absent.body
        foreign = stranger.get(f"/v1/devices/never-was?tenant={TENANT}")
        absent = stranger.get("/v1/devices/never-was?tenant=no-such-tenant")
        assert foreign.body == absent.body


def test_names_are_each_tenants_own(service: Service, ours: dict[str, Any]):
    """The same user and device in another tenant are others, and revoked apart."""
    device = service.home.device(ours["user"], ours["device"])
    with Client(service.home, STRANGER) as stranger, Client(service.home, MESSENGER) as client:
        theirs = stranger.post("/v1/enrolments", device.request("device-identity"))
        assert theirs.status == 201
        with until_listed(service):
            path = f"/v1/devices/{ours['device']}/revoke"
            assert client.post(path, {"reason": "superseded"}).status == 200
        assert client.get(f"/v1/devices/{ours['device']}").document["standing"] == "revoked"
        other = device.request("device-identity")
        assert stranger.post("/v1/enrolments", other).status == 201
        assert OTHER_TENANT != TENANT


def test_a_header_makes_nobody_an_officer(service: Service, tmp_path: Path):
    """RFC 9440 headers are for trusted proxies, and there is none."""
    officer, _ = service.home.client(OFFICER)
    leaf = x509.load_pem_x509_certificates(officer.read_bytes())[0]
    encoded = "".join(officer.read_text().split("-----")[2].split())
    assert leaf.subject
    with Client(service.home, MESSENGER) as client:
        for name in ("Client-Cert", "X-Client-Cert", "X-Forwarded-Client-Cert", "X-SSL-Cert"):
            headers = {name: f":{encoded}:"}
            answer = client.send("GET", "/v1/principals", None, headers)
            check_refusal(answer, "forbidden")
    made = files(tmp_path, "mine", officer.read_bytes(), new_key())
    with pytest.raises(LOST), Client(service.home, None, files=made) as thief:
        thief.get("/v1/log")
