"""`MessagingServer` against a real TLS 1.3 listener that asks for a client certificate."""

import ipaddress
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kms.device import (
    Certified,
    Device,
    MalformedAnswerError,
    MessagingServer,
    ProblemError,
    UnreachableError,
    UsageError,
)
from tests.support.enrolment_service import EnrolmentService

Answer = tuple[int, dict[str, str], bytes]
BUNDLE = {"identity": "Ed25519", "kem": "X25519"}


def problem(status: int, name: str, retry: str, **more: str) -> dict[str, Any]:
    return {"type": f"urn:sovereign-kms:problem:{name}", "status": status, "retry": retry} | more


class Listener(ThreadingHTTPServer):
    """Answers through `route`; before that, whatever `faults` holds, in order."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.service = EnrolmentService()
        self.faults: list[Answer | None] = []
        self.seen: list[tuple[str, str, str | None, Any]] = []
        self.connections = 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(folder / "trust.pem")
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Dropped connections are part of these tests."""

    def route(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/v1/enrolments":
            return self.service.begin(body)
        if path == "/v1/enrolments:batch":
            return {"results": [self._item(self._begin, item) for item in body["items"]]}
        if path == "/v1/enrolments:batch-proofs":
            return {"results": [self._item(self._finish, item) for item in body["items"]]}
        if path.endswith("/proofs"):
            return self.service.finish(path.split("/")[3], body)
        return {"revoked": path, **body}

    def _begin(self, item: dict[str, Any]) -> dict[str, Any]:
        if item["device"] == "unwanted":
            raise KeyError(item["device"])
        return self.service.begin(item)

    def _finish(self, item: dict[str, Any]) -> dict[str, Any]:
        answer = self.service.finish(item["enrolment"], {"proofs": item["proofs"]})
        if answer["device"] == "unproven":
            raise KeyError(answer["device"])
        return answer

    def _item(self, call: Callable[[Any], Any], item: Any) -> dict[str, Any]:
        try:
            return {"status": 201, "body": call(item)}
        except KeyError:
            return {"status": 409, "problem": problem(409, "conflict", "never", field="device")}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Listener

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        key = self.headers.get("Idempotency-Key")
        self.server.seen.append((self.command, self.path, key, body))
        fault = self.server.faults.pop(0) if self.server.faults else False
        if fault is None:
            self.close_connection = True
            return
        if fault:
            status, headers, content = fault
        else:
            status, headers = 201, {}
            content = json.dumps(self.server.route(self.path, body or {})).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _answer  # noqa: N815 - names that http.server looks for

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base
        """Say nothing."""


def _write_identity(folder: Path, name: str, ca: tuple[Any, Any] | None) -> tuple[Any, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, issuer_key = (ca[0].subject, ca[1]) if ca else (subject, key)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return certificate, key


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    ca = _write_identity(folder, "trust", None)
    for name in ("server", "client"):
        _write_identity(folder, name, ca)
    _write_identity(folder, "stranger", None)
    return folder


@pytest.fixture
def listener(folder: Path) -> Iterator[Listener]:
    server = Listener(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def naps() -> list[float]:
    return []


@pytest.fixture
def client(listener: Listener, folder: Path, naps: list[float]) -> Iterator[MessagingServer]:
    with connect(listener, folder, "client", naps) as server:
        yield server


def connect(listener: Listener, folder: Path, name: str, naps: list[float]) -> MessagingServer:
    return MessagingServer(
        f"https://127.0.0.1:{listener.server_address[1]}",
        folder / f"{name}.pem",
        folder / f"{name}.key",
        folder / "trust.pem",
        timeout=10,
        sleep=naps.append,
    )


def device(listener: Listener, name: str = "phone") -> Device:
    return Device("ada", name, BUNDLE, listener.service.expectations())


def refusal(status: int, retry: str, headers: dict[str, str] | None = None) -> Answer:
    document = problem(status, "some", retry, field="slots", detail="a sentence")
    return status, headers or {}, json.dumps(document).encode()


def test_two_calls_on_one_connection(listener: Listener, client: MessagingServer) -> None:
    certified = client.enrol(device(listener))
    assert [item.slot for item in certified.certificates] == ["identity", "kem"]
    assert [path for _, path, _, _ in listener.seen] == [
        "/v1/enrolments",
        f"/v1/enrolments/{certified.enrolment}/proofs",
    ]
    keys = [key for _, _, key, _ in listener.seen]
    assert None not in keys
    assert keys[0] != keys[1]
    assert listener.connections == 1


def test_many_in_two_calls_one_bad_item_sinks_nothing(
    listener: Listener, client: MessagingServer
) -> None:
    names = ["a", "unwanted", "b", "unproven", "c"]
    results = client.enrol_many([device(listener, name) for name in names])
    assert len(listener.seen) == 2
    assert [type(item) for item in results] == [
        Certified,
        ProblemError,
        Certified,
        ProblemError,
        Certified,
    ]
    assert [item.device for item in results if isinstance(item, Certified)] == ["a", "b", "c"]
    assert [item.field for item in results if isinstance(item, ProblemError)] == ["device"] * 2


def test_none_and_only_refused_items(listener: Listener, client: MessagingServer) -> None:
    assert client.enrol_many([]) == []
    (item,) = client.enrol_many([device(listener, "unwanted")])
    assert isinstance(item, ProblemError)
    assert len(listener.seen) == 1


@pytest.mark.parametrize("retry", ["same", "later"])
def test_a_retryable_refusal_is_repeated_with_the_same_key(
    listener: Listener, client: MessagingServer, naps: list[float], retry: str
) -> None:
    listener.faults = [refusal(503, retry), refusal(503, retry, {"Retry-After": "3"})]
    assert client.revoke_user("ada")["reason"] == "unspecified"
    assert len({(key, json.dumps(body)) for _, _, key, body in listener.seen}) == 1
    assert len(listener.seen) == 3
    assert naps == [0.2, 3.0]


def test_retries_are_bounded_in_number_and_length(
    listener: Listener, client: MessagingServer, naps: list[float]
) -> None:
    listener.faults = [refusal(503, "same", {"Retry-After": "86400"})] * 9
    with pytest.raises(ProblemError) as caught:
        client.revoke_device("phone", "key-compromise")
    assert len(listener.seen) == 4
    assert naps == [10.0] * 3
    assert caught.value.retry == "same"


def test_a_refusal_for_good_is_not_repeated(
    listener: Listener, client: MessagingServer, naps: list[float]
) -> None:
    listener.faults = [refusal(422, "never")]
    with pytest.raises(ProblemError, match="a sentence") as caught:
        client.enrol(device(listener))
    error = caught.value
    assert (error.type, error.status, error.field) == (
        "urn:sovereign-kms:problem:some",
        422,
        "slots",
    )
    assert len(listener.seen) == 1
    assert naps == []


def test_a_dropped_connection_is_replaced_and_the_key_kept(
    listener: Listener, client: MessagingServer
) -> None:
    client.revoke_user("ada")
    listener.faults = [None]
    client.revoke_user("bob@x", "superseded")
    assert len({key for _, path, key, _ in listener.seen if "bob" in path}) == 1
    assert listener.seen[-1][1] == "/v1/users/bob%40x/revoke"
    assert listener.connections == 2


def test_a_server_that_stays_away(listener: Listener, client: MessagingServer) -> None:
    listener.faults = [None] * 9
    with pytest.raises(UnreachableError, match="POST /v1/enrolments"):
        client.enrol(device(listener))
    assert len({key for _, _, key, _ in listener.seen}) == 1


@pytest.mark.parametrize(
    ("status", "retried"), [(502, True), (504, True), (404, False), (413, False)]
)
def test_a_refusal_without_a_problem_document(
    listener: Listener, client: MessagingServer, status: int, retried: bool
) -> None:
    listener.faults = [(status, {}, b"<html>")] * (4 if retried else 1)
    with pytest.raises(ProblemError, match="about:blank"):
        client.get("/v1/events")
    assert len(listener.seen) == (4 if retried else 1)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_answers_that_are_not_json_objects(
    listener: Listener, client: MessagingServer, body: bytes
) -> None:
    listener.faults = [(201, {}, body)]
    with pytest.raises(MalformedAnswerError):
        client.enrol(device(listener))


@pytest.mark.parametrize(
    "body",
    [
        {"results": []},
        {"results": [1]},
        {"results": [{"status": "201"}]},
        {"results": [{"status": 201}]},
        {"results": [{"status": 409, "problem": {}}]},
    ],
)
def test_batch_answers_of_another_shape(
    listener: Listener, client: MessagingServer, body: dict[str, Any]
) -> None:
    listener.faults = [(200, {}, json.dumps(body).encode())]
    try:
        (result,) = client.enrol_many([device(listener)])
    except MalformedAnswerError:
        return
    assert isinstance(result, MalformedAnswerError)


def test_strangers_are_refused_on_both_sides(
    listener: Listener, folder: Path, tmp_path: Path, naps: list[float]
) -> None:
    with (
        connect(listener, folder, "stranger", naps) as server,
        pytest.raises(UnreachableError),
    ):
        server.get("/v1/events")
    wrong_trust = MessagingServer(
        f"https://127.0.0.1:{listener.server_address[1]}",
        folder / "client.pem",
        folder / "client.key",
        folder / "stranger.pem",
        attempts=1,
    )
    with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
        wrong_trust.get("/v1/events")
    assert listener.seen == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1", "https://", "https://host/path", "host:8443", "https://host:http"]
)
def test_only_https_base_urls(folder: Path, url: str) -> None:
    with pytest.raises(UsageError, match="https://host"):
        MessagingServer(url, folder / "client.pem", folder / "client.key", folder / "trust.pem")
