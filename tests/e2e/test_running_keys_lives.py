"""Clients' keys in a running service with SoftHSM2: their whole life, in the log to its end."""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.calling import Client
from tests.support.running import MESSENGER, OFFICER, TENANT, Home, Service, running, wait_for

pytestmark = pytest.mark.xdist_group("running-keys-lives")  # its home is made once


@pytest.fixture(scope="module")
def service(prepared: Home, folder: Path) -> Iterator[Service]:
    """One that destroys without delay."""
    home = prepared.copy(folder / "keys")
    home.configure(destruction_days=0)
    with running(home) as made:
        yield made


@pytest.fixture
def owner(service: Service) -> Iterator[Client]:
    with Client(service.home, MESSENGER) as made:
        yield made


def good(client: Client, path: str, body: Any = None) -> dict[str, Any]:
    answer = client.post(path, {} if body is None else body)
    assert answer.status in {200, 201}, answer.body
    document: dict[str, Any] = answer.document
    return document


def b64(data: bytes) -> str:
    return b64encode(data).decode()


@pytest.mark.parametrize(
    ("purpose", "there", "back"),
    [
        ("signing", ("sign", "signature"), ("verify", "message")),
        ("mac", ("mac", "mac"), ("verify-mac", "message")),
        ("encryption", ("encrypt", "ciphertext"), ("decrypt", "plaintext")),
        ("wrapping", ("wrap", "wrapped"), ("unwrap", "plaintext")),
    ],
)
def test_every_purpose_on_the_token(
    owner: Client, purpose: str, there: tuple[str, str], back: tuple[str, str]
):
    name = f"k-{purpose}"
    made = good(owner, "/v1/keys", {"name": name, "purpose": purpose})
    assert made["versions"][0]["protection"] == "token"
    text = b64(b"a text of 24 bytes, yes!")
    given = {"message" if "message" in back[1] else "plaintext": text}
    told = good(owner, f"/v1/keys/{name}/{there[0]}", given)
    good(owner, f"/v1/keys/{name}/rotate")
    again = {"ciphertext": told[there[1]]}
    if back[1] == "message":
        again = {**given, there[1]: told[there[1]], "version": told["version"]}
    opened = good(owner, f"/v1/keys/{name}/{back[0]}", again)
    assert opened.get("valid", True) is True
    assert opened.get("plaintext", text) == text


def test_a_batch_of_a_thousand(owner: Client):
    good(owner, "/v1/keys", {"name": "many", "purpose": "encryption"})
    items = [{"plaintext": b64(str(at).encode())} for at in range(1000)]
    sealed = good(owner, "/v1/keys/many/encrypt", {"items": items})["results"]
    wanted = [{"ciphertext": item["body"]["ciphertext"]} for item in sealed]
    wanted[500] = {"ciphertext": wanted[500]["ciphertext"][:-8] + "AAAAAAA="}
    opened = good(owner, "/v1/keys/many/decrypt", {"items": wanted})["results"]
    assert [at for at, item in enumerate(opened) if item["status"] != 200] == [500]
    assert b64decode(opened[999]["body"]["plaintext"]) == b"999"


@pytest.mark.slow
def test_destroyed_and_told_so(service: Service, owner: Client):
    """Scheduled by name, carried out by the service itself, every step in the log."""
    body = {"name": "gone", "purpose": "mac", "settings": {"log_uses": "every"}}
    key_id = good(owner, "/v1/keys", body)["key_id"]
    good(owner, "/v1/keys/gone/mac", {"message": ""})
    with Client(service.home, OFFICER) as officer:
        good(officer, "/v1/keys/gone/deactivate", {"tenant": TENANT, "confirm": "gone"})
        good(officer, "/v1/keys/gone/destroy", {"tenant": TENANT, "confirm": "gone"})

    def state() -> bool:
        return bool(owner.get("/v1/keys/gone").document["versions"][0]["state"] == "destroyed")

    wait_for(state, seconds=60, why="upkeep destroys what is due")
    late = owner.post("/v1/keys/gone/verify-mac", {"message": "", "mac": ""})
    assert late.problem == "key-destroyed"
    wait_for(lambda: told_of(owner, key_id)[-1:] == ["key.destroyed"], why="the log covers it")
    assert told_of(owner, key_id) == [
        "key.created",
        "key.generated",
        "key.activated",
        "key.permitted",
        "key.used",
        "key.deactivated",
        "key.destruction-scheduled",
        "key.destroyed",
    ]


def told_of(client: Client, key_id: str) -> list[str]:
    """Types of the events of a key, in order."""
    leaves: list[dict[str, Any]] = []
    after: int | None = -1
    while after is not None:
        page = client.get(f"/v1/events?after={after}").document
        leaves += [json.loads(b64decode(item["leaf"])) for item in page["events"]]
        after = page["next"]
    return [leaf["type"] for leaf in leaves if (leaf["detail"] or {}).get("key") == key_id]


def test_keys_outlive_a_killed_signer(service: Service, owner: Client):
    good(owner, "/v1/keys", {"name": "stays", "purpose": "encryption"})
    sealed = good(owner, "/v1/keys/stays/encrypt", {"plaintext": b64(b"kept")})
    service.kill("signer")
    body = {"ciphertext": sealed["ciphertext"]}
    answer = owner.until_answered("/v1/keys/stays/decrypt", body)
    assert b64decode(answer.document["plaintext"]) == b"kept"
