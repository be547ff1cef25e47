"""Malformed and oversized requests over the wire: a clear 4xx, nothing changed, counted."""

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator

import pytest

from tests.support.calling import JSON, LOST, Client
from tests.support.running import MESSENGER, OFFICER, Home, Service
from tests.support.watching import changing_nothing, check_refusal, post_refused, refusing

ORDERS, BATCH = "/v1/enrolments", "/v1/enrolments:batch"
PROOFS = f"/v1/enrolments/{'0' * 32}/proofs"
IDEMPOTENCY = "Idempotency-Key"


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.home, MESSENGER) as made:
        yield made


def order(home: Home, **changes: object) -> dict[str, object]:
    """A good order, but for the changes."""
    return {**home.device("ada", "phone").request("device-identity"), **changes}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"not json",
        b'{"a": 1} {"b": 2}',
        b'{"user": "a", "user": "b"}',
        b'{"user": NaN}',
        b'{"user": Infinity}',
        b'{"user": "\xff"}',
        b'\xef\xbb\xbf{"user": "a"}',
        '{"user": "a"}'.encode("utf-16"),
        b'{"user": "\\ud800"}',
        b"[" * 100 + b"]" * 100,
        b"[" * 200_000,
        b'{"n": ' + b"9" * 5_000 + b"}",
        b"{'user': 'a'}",
        b'{"user": "a",}',
        b"\x00",
    ],
)
def test_what_is_no_strict_json(service: Service, client: Client, body: bytes):
    for path in (ORDERS, BATCH, PROOFS, "/v1/enrolments:batch-proofs"):
        post_refused(service, client, path, body, "malformed-json", None)


@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b"1", b"true", b""])
def test_json_that_is_no_object(service: Service, client: Client, body: bytes):
    field = {BATCH: "items"}
    for path in (ORDERS, BATCH, PROOFS):
        with refusing(service, "invalid-request"):
            answer = client.post(path, body)
        assert answer.problem == "invalid-request"
        assert answer.status == 422
        assert answer.field is None or answer.field in {"user", "proofs", field.get(path)}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"extra": 1}, "extra"),
        ({"user": None}, "user"),
        ({"user": ""}, "user"),
        ({"user": "a" * 129}, "user"),
        ({"user": "böse"}, "user"),
        ({"user": "ada\n"}, "user"),
        ({"user": "../root"}, "user"),
        ({"user": ["ada"]}, "user"),
        ({"device": "a b"}, "device"),
        ({"device": "x" * 65}, "device"),
        ({"device": 7}, "device"),
        ({"bundle": ""}, "bundle"),
        ({"bundle": "device/identity"}, "bundle"),
        ({"purpose": "steal"}, "purpose"),
        ({"slots": []}, "slots"),
        ({"slots": {}}, "slots"),
        ({"slots": "identity"}, "slots"),
        ({"slots": [{}]}, "slots[0].name"),
        ({"slots": [None]}, "slots[0]"),
        ({"slots": [{"name": "identity", "algorithm": "Ed25519"}]}, "slots[0].public_key"),
    ],
)
def test_members_that_are_wrong(
    service: Service, client: Client, changes: dict[str, object], field: str
):
    body = order(service.home, **changes)
    post_refused(service, client, ORDERS, body, "invalid-request", field)


@pytest.mark.parametrize(
    "text",
    ["", "!", "AAA", "AA==\n", "AAA=AAAA", "AB==", "a-_b", "AAAA====", "ÄÖÜ=", " AAAA", "AAAA "],
)
def test_base64_that_is_not(service: Service, client: Client, text: str):
    slot = {"name": "identity", "algorithm": "Ed25519", "public_key": text}
    body = order(service.home, slots=[slot])
    post_refused(service, client, ORDERS, body, "invalid-request", "slots[0].public_key")
    body = {"proofs": {"identity": text}}
    post_refused(service, client, PROOFS, body, "invalid-request", "proofs.identity")


def test_unknown_members_deep_inside_and_their_names(service: Service, client: Client):
    slot = {"name": "identity", "algorithm": "Ed25519", "public_key": "AAAA", "<script>": 1}
    body = order(service.home, slots=[slot])
    answer = post_refused(service, client, ORDERS, body, "invalid-request", "slots[0].*")
    assert b"script" not in answer.body


def test_oversized_bodies(service: Service, client: Client):
    limit = service.home.settings.limits.max_body_bytes
    body = json.dumps({"items": ["x" * limit]}).encode()
    assert limit < len(body) < 2 * limit
    post_refused(service, client, BATCH, body, "body-too-large", None)
    with refusing(service, "body-too-large"):
        # So much that nobody reads it to its end: the connection may end while it is sent.
        with contextlib.suppress(*LOST):
            check_refusal(client.post(BATCH, b"x" * (8 * limit)), "body-too-large")
        client.close()


def test_batches_of_a_wrong_size(service: Service, client: Client):
    for items in ([], [{}] * 1001):
        for path in (BATCH, "/v1/enrolments:batch-proofs"):
            post_refused(service, client, path, {"items": items}, "invalid-request", "items")


def test_one_bad_item_does_not_sink_a_batch(service: Service, client: Client):
    device = service.home.device("bob", "tablet")
    items = [{}, device.request("device-identity"), {"user": 1}, 7]
    before = service.metric("kms_refusals_total", problem="invalid-request")
    answer = client.post(BATCH, {"items": items})
    assert answer.status == 200
    assert [item["status"] for item in answer.document["results"]] == [422, 201, 422, 422]
    problem = answer.document["results"][2]["problem"]
    assert problem["field"] in {"device", "bundle", "slots", "user"}
    assert service.metric("kms_refusals_total", problem="invalid-request") == before + 3


def test_idempotency_keys(service: Service, client: Client):
    body = json.dumps(order(service.home)).encode()
    with refusing(service, "idempotency-key-missing"):
        answer = client.send("POST", ORDERS, body, {"Content-Type": JSON})
    check_refusal(answer, "idempotency-key-missing", IDEMPOTENCY)
    for key in ("", "two words", "x" * 129, "naïve"):
        with refusing(service, "invalid-request"):
            answer = client.post(ORDERS, body, **{IDEMPOTENCY: key})
        check_refusal(answer, "invalid-request", IDEMPOTENCY)
    first = client.post(ORDERS, order(service.home), "a-key")
    assert first.status == 201
    with refusing(service, "idempotency-key-reused"):
        answer = client.post(ORDERS, order(service.home), "a-key")
    check_refusal(answer, "idempotency-key-reused", IDEMPOTENCY)


def test_what_is_not_declared_or_not_offered(service: Service, client: Client):
    body = json.dumps(order(service.home)).encode()
    for declared in ("text/plain", "application/x-www-form-urlencoded", ""):
        with refusing(service, "unsupported-media-type"):
            answer = client.post(ORDERS, body, **{"Content-Type": declared})
        check_refusal(answer, "unsupported-media-type")
    for method in ("PUT", "DELETE", "PATCH"):
        with changing_nothing(service):
            answer = client.send(method, ORDERS, None, {IDEMPOTENCY: "k"})
        check_refusal(answer, "method-not-allowed")
    for path in ("/", "/v2/enrolments", "/v1/enrolments/", "/v1//enrolments", "/metrics", "/%00"):
        with changing_nothing(service):
            answer = client.post(path, {})
        assert 400 <= answer.status < 500
        assert answer.problem
    with refusing(service, "invalid-request"):
        answer = client.post(f"{ORDERS}?user=ada", body)
    check_refusal(answer, "invalid-request")
    with refusing(service, "invalid-request"):
        answer = client.send("GET", "/v1/log", b"{}", {"Content-Type": JSON})
    check_refusal(answer, "invalid-request")


def test_paths_and_queries_that_are_wrong(service: Service):
    with Client(service.home, OFFICER) as officer:
        for path, field in {
            "/v1/certificates?limit=0": "limit",
            "/v1/certificates?limit=101": "limit",
            "/v1/certificates?limit=x": "limit",
            "/v1/certificates?colour=red": "colour",
            "/v1/certificates?status=fine": "status",
            "/v1/certificates/XYZ": "serial",
            "/v1/users/a%20b/devices": "user",
            "/v1/devices/%2e%2e%2f": "device",
            "/v1/events?after=-2": "after",
            "/v1/events/99999999999999999999": "index",
            "/v1/events/-1": "index",
            "/v1/log/0/tile/entries/000": "epoch",
        }.items():
            with changing_nothing(service):
                answer = officer.get(path)
            assert answer.problem in {"invalid-request", "not-found"}, path
            assert 400 <= answer.status < 500, path
            assert answer.problem == "not-found" or answer.field == field, answer.body


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /v1/log HTTP/1.1\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 40_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
    ],
)
def test_what_is_no_http(service: Service, head: bytes, status: int):
    with changing_nothing(service), _connection(service) as connection:
        connection.sendall(head)
        answer = b""
        while part := connection.recv(65536):
            answer += part
            if b"\r\n\r\n" in answer and answer.endswith(b"}"):
                break
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert b"application/problem+json" in answer


def _connection(service: Service) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=service.home.trust)
    context.load_cert_chain(*service.home.client(MESSENGER))
    plain = socket.create_connection(("127.0.0.1", service.home.port("api")), timeout=10)
    return context.wrap_socket(plain, server_hostname="127.0.0.1")
