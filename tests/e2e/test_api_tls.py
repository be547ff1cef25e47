"""TLS as strangers meet it: openssl, curl and gnutls-cli against the real listeners."""

import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from kms.device import Device, MessagingServer
from tests.support.api import TENANT
from tests.support.flow import IDENTITY, expectations
from tests.support.tls_site import Running, device_certificate, key_pem, pem, running

REQUEST = "GET /v1/log HTTP/1.1\r\nHost: kms\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("tls")) as made:
        yield made


def s_client(made: Running, *options: str, send: str = REQUEST) -> str:
    """Everything that `openssl s_client` says after sending a request."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{made.ports['api']}"]
    command += ["-CAfile", str(made.folder / "trust.pem"), "-quiet", "-ign_eof", *options]
    done = subprocess.run(
        command, input=send.encode(), check=False, capture_output=True, timeout=20
    )
    return (done.stdout + done.stderr).decode(errors="replace")


def identity(made: Running, name: str) -> list[str]:
    chain = str(made.folder / f"{name}.pem")
    return ["-cert", chain, "-cert_chain", chain, "-key", str(made.folder / f"{name}.key")]


def curl(
    made: Running, path: str, *options: str, name: str | None = "messenger"
) -> tuple[int, str]:
    """Exit status and output of curl; the HTTP status is its last line."""
    command = ["curl", "-sS", "--max-time", "15", "-w", "\n%{http_code}"]
    command += ["--cacert", str(made.folder / "trust.pem"), made.url + path, *options]
    if name is not None:
        command += ["--cert", str(made.folder / f"{name}.pem")]
        command += ["--key", str(made.folder / f"{name}.key")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    return done.returncode, done.stdout + done.stderr


def gnutls_cli(made: Running, *options: str) -> str:
    """As `s_client`; it ends a connection as soon as its input ends, so that is kept open."""
    command = ["gnutls-cli", "--x509cafile", str(made.folder / "trust.pem"), *options]
    command += ["--x509certfile", str(made.folder / "messenger.pem")]
    command += ["--x509keyfile", str(made.folder / "messenger.key")]
    command += ["--port", str(made.ports["api"]), "127.0.0.1"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(REQUEST.encode())
        process.stdin.flush()
        output = process.stdout.read()
    return output.decode(errors="replace")


def served(made: Running) -> float:
    """How many requests have reached the API's application."""
    return sum(
        sample.value
        for family in made.site.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "kms_http_request_duration_seconds_count"
        and sample.labels["listener"] == "api"
    )


@pytest.fixture
def unheard(server: Running) -> Iterator[None]:
    """Whatever the test does, no request may reach the application."""
    before = served(server)
    yield
    assert served(server) == before


def test_strangers_tools_get_an_answer(server: Running):
    assert "HTTP/1.1 200 OK" in s_client(server, *identity(server, "messenger"))
    status, output = curl(server, "/v1/log")
    assert (status, output.splitlines()[-1]) == (0, "200")
    assert json.loads(output.splitlines()[0])["log"] == 1
    output = gnutls_cli(server)
    assert "HTTP/1.1 200 OK" in output
    assert "TLS1.3" in output


@pytest.mark.usefixtures("unheard")
def test_no_certificate_no_answer(server: Running):
    output = s_client(server)
    assert "HTTP/1.1" not in output
    assert "alert certificate required" in output
    assert curl(server, "/v1/log", name=None)[0] != 0


def foreign(folder: Path, like: bytes) -> list[str]:
    """Names, serial and URI of a real certificate, from a CA of the same name but another key."""
    real = x509.load_der_x509_certificate(like)
    ca, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
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
    der = builder.sign(ca, hashes.SHA256()).public_bytes(Encoding.DER)
    (folder / "foreign.pem").write_bytes(pem(der))
    (folder / "foreign.key").write_bytes(key_pem(key))
    return ["-cert", str(folder / "foreign.pem"), "-key", str(folder / "foreign.key")]


@pytest.mark.usefixtures("unheard")
def test_a_foreign_cas_certificate_does_not_pass(server: Running):
    options = foreign(server.folder, server.site.clients["messenger"].der)
    output = s_client(server, *options)
    assert "HTTP/1.1" not in output
    assert "alert decrypt error" in output  # the name is right, the signature is not


@pytest.mark.usefixtures("unheard")
def test_a_devices_certificate_does_not_pass(server: Running):
    """It comes from the same root; only the infrastructure authority is trusted."""
    der, key = server.do(lambda: device_certificate(server.site))
    server.write("device", der, key)
    assert "HTTP/1.1" not in s_client(server, *identity(server, "device"))


@pytest.mark.usefixtures("unheard")
def test_the_servers_own_certificate_is_no_clients(server: Running):
    assert "HTTP/1.1" not in s_client(server, *identity(server, "server"))


def test_an_expired_certificate_does_not_pass(tmp_path: Path):
    age = timedelta(days=400)
    with running(tmp_path, age=age) as aged:
        aged.site.world.clock.moment += age
        aged.renew_server()
        output = s_client(aged, *identity(aged, "messenger"))
        assert "HTTP/1.1" not in output
        assert "alert certificate expired" in output
        assert served(aged) == 0


@pytest.mark.usefixtures("unheard")
def test_tls_1_2_is_refused(server: Running):
    output = s_client(server, "-tls1_2", *identity(server, "messenger"))
    assert "HTTP/1.1" not in output
    assert "alert protocol version" in output
    assert "Fatal error" in gnutls_cli(server, "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.2")
    assert curl(server, "/v1/log", "--tls-max", "1.2")[0] != 0


def test_nothing_can_be_resumed(server: Running):
    session = server.folder / "session.pem"
    output = s_client(server, *identity(server, "messenger"), "-sess_out", str(session), "-msg")
    assert "HTTP/1.1 200 OK" in output
    assert "NewSessionTicket" not in output
    assert not session.exists()
    context = ssl.create_default_context(cafile=server.folder / "trust.pem")
    context.load_cert_chain(server.folder / "messenger.pem", server.folder / "messenger.key")
    with (
        socket.create_connection(("127.0.0.1", server.ports["api"])) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(REQUEST.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        assert connection.session is None or not connection.session.has_ticket
        assert not connection.session_reused


def client(server: Running, name: str) -> HTTPSConnection:
    context = ssl.create_default_context(cafile=server.folder / "trust.pem")
    context.load_cert_chain(server.folder / f"{name}.pem", server.folder / f"{name}.key")
    return HTTPSConnection("127.0.0.1", server.ports["api"], context=context, timeout=10)


def get(connection: HTTPSConnection, path: str) -> tuple[int, bytes]:
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def peer(connection: HTTPSConnection) -> bytes:
    found = connection.sock.getpeercert(binary_form=True)
    assert found
    return bytes(found)


def test_the_server_certificate_is_swapped_under_open_connections(server: Running):
    old = client(server, "messenger")
    assert get(old, "/v1/log")[0] == 200
    before = peer(old)
    renewed = server.renew_server()
    fresh = client(server, "messenger")
    assert get(fresh, "/v1/log")[0] == 200
    assert peer(fresh) == renewed != before
    assert get(old, "/v1/log")[0] == 200
    assert peer(old) == before
    assert "HTTP/1.1 200" in s_client(server, "-servername", "x", *identity(server, "messenger"))
    for connection in (old, fresh):
        connection.close()


def test_a_broken_renewal_leaves_the_old_certificate(server: Running):
    (server.folder / "broken.pem").write_text("not a certificate")
    with pytest.raises(OSError, match="PEM"):
        server.tls.replace(server.folder / "broken.pem", server.folder / "server.key")
    with pytest.raises(OSError, match="MISMATCH"):
        server.tls.replace(server.folder / "server.pem", server.folder / "messenger.key")
    assert curl(server, "/v1/log")[0] == 0


def test_revocation_reaches_an_open_keep_alive_connection(server: Running):
    doomed = server.certify(TENANT, "messenger", file="doomed")
    connection = client(server, "doomed")
    assert get(connection, "/v1/log")[0] == 200
    socket_before = connection.sock
    serial = f"{x509.load_der_x509_certificate(doomed.der).serial_number:x}"
    serial = serial.zfill(len(serial) + len(serial) % 2)
    officer = client(server, "officer")
    officer.request(
        "POST",
        f"/v1/certificates/{serial}/revoke",
        b"{}",
        {"Content-Type": "application/json", "Idempotency-Key": "revoke-doomed"},
    )
    assert officer.getresponse().status == 200
    status, body = get(connection, "/v1/log")
    assert connection.sock is socket_before
    assert (status, json.loads(body)["type"]) == (
        403,
        "urn:sovereign-kms:problem:certificate-revoked",
    )
    for each in (connection, officer):
        each.close()


def test_the_reference_client_enrols_over_this_very_tls(server: Running):
    folder = server.folder
    device = Device("bob", "laptop", IDENTITY, expectations(server.site.world))
    with MessagingServer(
        server.url, folder / "messenger.pem", folder / "messenger.key", folder / "trust.pem"
    ) as service:
        assert service.enrol(device, "device-identity").device == "laptop"
        many = [
            Device("bob", f"d{n}", IDENTITY, expectations(server.site.world)) for n in range(20)
        ]
        results = service.enrol_many(many, "device-identity")
        assert all(not isinstance(item, Exception) for item in results)


def test_client_certificate_headers_are_not_believed(server: Running):
    """RFC 9440 headers count only where a trusted proxy is configured; here none is."""
    officer = (server.folder / "officer.pem").read_text()
    body = "".join(officer.split("-----")[2].split())
    status, output = curl(server, "/v1/tenants", "-H", f"Client-Cert: :{body}:")
    assert status == 0
    assert output.splitlines()[-1] == "403"


def test_the_other_listeners_are_plain_and_keep_to_themselves(server: Running):
    for name, path, expected in (
        ("public", "/log/checkpoint", "200"),
        ("public", "/metrics", "404"),
        ("public", "/v1/log", "404"),
        ("operator", "/metrics", "200"),
        ("operator", "/readyz", "200"),
        ("operator", "/v1/log", "404"),
    ):
        url = f"http://127.0.0.1:{server.ports[name]}{path}"
        command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", url]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
        assert done.stdout == expected, (name, path)
