"""The command line's client: what it sends again, what it believes, what it says."""

import ssl
from pathlib import Path

import httpx
import pytest

from kms.cli.client import ATTEMPTS, MAX_ANSWER, ApiClient, open_api
from kms.cli.errors import (
    MalformedAnswerError,
    RefusedError,
    UnreachableError,
    UsageProblemError,
)
from kms.config import ClientSettings
from tests.support.cli import SERVER, FakeService, problem


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def api(service: FakeService) -> ApiClient:
    runtime = service.runtime
    settings = ClientSettings(SERVER, Path(), Path(), Path())
    return runtime.client(runtime.api(settings), "my-key")


@pytest.mark.parametrize("retry", ["same", "later"])
def test_a_refusal_that_may_pass_is_tried_again_under_the_same_key(
    service: FakeService, api: ApiClient, retry: str
) -> None:
    service.on(
        "POST", "/v1/tenants", problem("log-unavailable", 503, "away", retry=retry), {"a": 1}
    )
    assert api.post("/v1/tenants", {"tenant": "m"}) == {"a": 1}
    assert service.keys() == ["my-key", "my-key"]
    first, second = service.bodies()
    assert first == second == {"tenant": "m"}


def test_a_refusal_for_good_is_not_tried_again(service: FakeService, api: ApiClient) -> None:
    service.on("POST", "/x", problem("weak-key", 422, "too short", retry="never", field="csr"))
    with pytest.raises(RefusedError) as caught:
        api.post("/x", {})
    assert (caught.value.field, caught.value.status) == ("csr", 422)
    assert len(service.requests) == 1


def test_patience_ends(service: FakeService, api: ApiClient) -> None:
    service.on("GET", "/x", problem("overloaded", 503, "busy", retry="later"))
    with pytest.raises(RefusedError):
        api.get("/x")
    assert len(service.requests) == ATTEMPTS
    assert service.slept == [0.2, 0.4, 0.8, 1.6]


def test_retry_after_is_kept_to_within_reason(service: FakeService, api: ApiClient) -> None:
    later = problem("still-running", 409, "wait", retry="later")
    later.headers["Retry-After"] = "3"
    much_later = problem("still-running", 409, "wait", retry="later")
    much_later.headers["Retry-After"] = "86400"
    odd = problem("still-running", 409, "wait", retry="later")
    odd.headers["Retry-After"] = "Sat, 21 Nov 2026 12:00:00 GMT"
    service.on("GET", "/x", later, much_later, odd, {})
    api.get("/x")
    assert service.slept == [3, 10, 0.8]


def test_a_lost_connection_is_tried_again(service: FakeService, api: ApiClient) -> None:
    service.on("POST", "/x", httpx.ReadError("gone"), httpx.ConnectError("refused"), {"ok": True})
    assert api.post("/x", {}) == {"ok": True}
    assert service.keys() == ["my-key"] * 3


def test_a_certificate_that_does_not_verify_is_not_tried_again(
    service: FakeService, api: ApiClient
) -> None:
    error = httpx.ConnectError("verify failed")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed certificate")
    service.on("GET", "/x", error)
    with pytest.raises(UnreachableError, match="--trust"):
        api.get("/x")
    assert len(service.requests) == 1


def test_a_refused_client_certificate_is_said(service: FakeService, api: ApiClient) -> None:
    error = httpx.ReadError("alert")
    error.__cause__ = ssl.SSLError("tlsv13 alert certificate required")
    service.on("GET", "/x", error)
    with pytest.raises(UnreachableError, match="refuses this client's certificate"):
        api.get("/x")


def test_nobody_answers(service: FakeService, api: ApiClient) -> None:
    service.on("GET", "/x", httpx.ConnectError("connection refused"))
    with pytest.raises(UnreachableError, match=r"https://kms.test:8443 does not answer"):
        api.get("/x")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"null", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(
    service: FakeService, api: ApiClient, body: bytes
) -> None:
    service.on("GET", "/x", body)
    with pytest.raises(MalformedAnswerError):
        api.get("/x")


def test_an_endless_answer_is_refused(service: FakeService, api: ApiClient) -> None:
    service.on("GET", "/x", b"0" * (MAX_ANSWER + 1))
    with pytest.raises(MalformedAnswerError, match="exceeds"):
        api.get("/x")


def test_a_proxy_without_problem_documents(service: FakeService, api: ApiClient) -> None:
    service.on("GET", "/x", httpx.Response(502, text="Bad Gateway"), {"up": "again"})
    assert api.get("/x") == {"up": "again"}
    service.on("GET", "/y", httpx.Response(404, text="nothing here"))
    with pytest.raises(RefusedError, match="404 Not Found"):
        api.get("/y")


def test_a_listing_is_followed_to_its_end_and_no_further(
    service: FakeService, api: ApiClient
) -> None:
    pages = [{"items": [{"n": n}], "next": n if n < 3 else None} for n in (1, 2, 3)]
    service.on("GET", "/x", *pages)
    found = api.listing("/x", "items", {"of": "me", "not": None}, 100)
    assert [item["n"] for item in found.records] == [1, 2, 3]
    assert found.next is None
    queries = [dict(request.url.params) for request in service.requests]
    assert queries[0] == {"of": "me", "limit": "100"}
    assert queries[2]["after"] == "2"


def test_a_listing_stops_at_its_limit(service: FakeService, api: ApiClient) -> None:
    service.on("GET", "/x", {"items": [{}, {}], "next": 7})
    found = api.listing("/x", "items", {}, 2)
    assert (len(found.records), found.next) == (2, 7)


def test_a_listing_that_goes_in_circles_is_refused(service: FakeService, api: ApiClient) -> None:
    service.on("GET", "/x", {"items": [{}], "next": 7})
    with pytest.raises(MalformedAnswerError, match="does not go on"):
        api.listing("/x", "items", {}, 100)


def test_a_listing_of_something_else_is_refused(service: FakeService, api: ApiClient) -> None:
    service.on("GET", "/x", {"items": ["text"], "next": None})
    with pytest.raises(MalformedAnswerError, match="items"):
        api.listing("/x", "items", {}, 100)


def test_each_command_has_a_key_of_its_own(service: FakeService) -> None:
    service.on("POST", "/x", {})
    for _ in range(2):
        client = service.runtime.client(service.runtime.public(SERVER))
        client.post("/x", {})
        client.post("/x", {}, step="second")
    keys = service.keys()
    assert len(set(keys)) == 4
    assert keys[1] == f"{keys[0]}.second"


def test_files_that_are_no_certificate_are_named(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("cert", "key", "trust")]
    for path in paths:
        path.write_text("nothing")
    with pytest.raises(UsageProblemError, match="cannot be used"):
        open_api(ClientSettings(SERVER, *paths))


@pytest.mark.parametrize("url", ["kms.test:8443", "ftp://kms.test", "https://"])
def test_what_is_no_address_is_refused(service: FakeService, url: str) -> None:
    with pytest.raises(UsageProblemError, match="not the address"):
        ApiClient(service.runtime.public(url))
