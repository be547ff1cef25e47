"""/v1/keys as clients call it: shapes of answers, repetition, batches, tenants, private keys."""

import base64
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from kms.api import key_answers as answers
from kms.api.turns import class_of
from kms.domain.key_records import Key
from kms.domain.records import Role
from kms.services.keys.verbs import VERBS
from kms.services.turns import CallClass
from kms.wire import b64
from tests.support.api import TENANT, Session, Site, site

pytestmark = pytest.mark.anyio


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Site]:
    async with site(tmp_path) as built:
        yield built


async def good(session: Session, path: str, body: Any = None, status: int = 200) -> dict[str, Any]:
    answer = await session.post(path, body)
    assert answer.status_code == status, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def problem(session: Session, path: str, body: Any = None) -> tuple[int, str]:
    answer = await session.post(path, body)
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


async def create(session: Session, name: str, purpose: str, **more: Any) -> dict[str, Any]:
    body = {"name": name, "purpose": purpose, **more}
    return await good(session, "/v1/keys", body, 201)


async def test_a_whole_life_by_its_owner(made: Site):
    owner = made.caller("messenger")
    made_key = await create(owner, "k", "encryption", settings={"log_uses": "count"})
    answers.KeyChangedAnswer.model_validate(made_key)
    body = {"plaintext": b64(b"text"), "associated": b64(b"room")}
    sealed = await good(owner, "/v1/keys/k/encrypt", body)
    answers.KeyUsed.model_validate(sealed)
    rotated = await good(owner, "/v1/keys/k/rotate", status=201)
    assert [item["state"] for item in rotated["versions"]] == ["deactivated", "active"]
    opened = await good(
        owner,
        "/v1/keys/k/decrypt",
        {"ciphertext": sealed["ciphertext"], "associated": b64(b"room")},
    )
    assert opened == {"version": 1, "plaintext": b64(b"text")}
    for step, state in [("suspend", "suspended"), ("resume", "active"), ("deactivate", None)]:
        changed = await good(
            owner,
            f"/v1/keys/k/{step}",
            {"version": 2, **({"confirm": "k"} if step == "deactivate" else {})},
        )
        answers.KeyChangedAnswer.model_validate(changed)
        assert changed["versions"][1]["state"] == (state or "deactivated")
    answers.KeyTouches.model_validate((await owner.get("/v1/keys/k/touches")).json())
    lost = await good(owner, "/v1/keys/k/compromise", {"version": 1, "confirm": "k"})
    answers.KeyCompromisedAnswer.model_validate(lost)
    assert await problem(owner, "/v1/keys/k/destroy", {"confirm": "j"}) == (
        422,
        "confirmation-missing",
    )
    await good(owner, "/v1/keys/k/destroy", {"confirm": "k"})
    await good(owner, "/v1/keys/k/cancel-destruction")
    shown = (await owner.get("/v1/keys/k")).json()
    answers.KeyShownAnswer.model_validate(shown)
    uses = (await owner.get("/v1/keys/k/uses")).json()
    answers.KeyUsesAnswer.model_validate(uses)
    told = [json.loads(base64.b64decode(item["leaf"]))["detail"] for item in uses["uses"]]
    assert [item["operation"] for item in told] == ["encrypt", "decrypt"]
    listed = (await owner.get("/v1/keys")).json()
    answers.KeysAnswer.model_validate(listed)
    assert [item["key"] for item in listed["keys"]] == ["k"]


async def test_a_creation_is_repeated_and_answered_with_the_same_bytes(made: Site):
    owner = made.caller("messenger")
    body = {"name": "k", "purpose": "signing"}
    first = await owner.post("/v1/keys", body, key="once")
    again = await owner.post("/v1/keys", body, key="once")
    assert first.content == again.content
    assert len(made.world.ledger.find(Key, tenant=TENANT)) == 1
    assert await problem(owner, "/v1/keys", body) == (409, "conflict")


@pytest.mark.parametrize(
    ("purpose", "verb", "item", "back", "field"),
    [
        ("signing", "sign", {"message": "aGk="}, "verify", "signature"),
        ("mac", "mac", {"message": "aGk="}, "verify-mac", "mac"),
        ("encryption", "encrypt", {"plaintext": "aGk="}, "decrypt", "ciphertext"),
        ("encryption", "data-key", {"plain": True}, "decrypt", "wrapped"),
        ("wrapping", "wrap", {"plaintext": "aGk="}, "unwrap", "wrapped"),
        ("encryption", "encrypt", {"plaintext": "aGk="}, "rewrap", "ciphertext"),
    ],
)
async def test_every_use_takes_one_item_or_many(
    made: Site, purpose: str, verb: str, item: dict[str, Any], back: str, field: str
):
    owner = made.caller("messenger")
    await create(owner, "k", purpose)
    one = await good(owner, f"/v1/keys/k/{verb}", item)
    many = await good(owner, f"/v1/keys/k/{verb}", {"items": [item, {"nonsense": 1}, item]})
    answers.KeyUsedBatch.model_validate(many)
    assert [result["status"] for result in many["results"]] == [200, 422, 200]
    given = {"ciphertext": one[field]} if back in {"decrypt", "unwrap", "rewrap"} else item
    if back in {"verify", "verify-mac"}:
        given = {**item, field: one[field]}
    told = await good(owner, f"/v1/keys/k/{back}", {"items": [given, given]})
    answers.KeyUsedBatch.model_validate(told)
    assert [result["status"] for result in told["results"]] == [200, 200]
    body = told["results"][0]["body"]
    expected = {"valid": True, "plaintext": one.get("plain", "aGk=")}
    assert all(body[name] == expected[name] for name in body if name in expected)


async def test_uses_need_no_idempotency_key_and_state_changes_do(made: Site):
    owner = made.caller("messenger")
    await create(owner, "k", "mac")
    headers = [("content-type", "application/json")]
    used = await owner.raw("POST", "/v1/keys/k/mac", b'{"message":"aGk="}', headers)
    assert used.status_code == 200
    refused = await owner.raw("POST", "/v1/keys/k/suspend", b"{}", headers)
    assert refused.json()["type"].endswith(":idempotency-key-missing")


async def test_batches_are_bounded(made: Site):
    owner = made.caller("messenger")
    await create(owner, "k", "mac")
    for items in ([], [{"message": ""}] * 1001, {}, None):
        assert await problem(owner, "/v1/keys/k/mac", {"items": items}) == (422, "invalid-request")
    assert await problem(owner, "/v1/keys/k/mac", {"items": [], "more": 1}) == (
        422,
        "invalid-request",
    )
    large = {"message": b64(bytes((48 << 10) + 1))}
    status, name = await problem(owner, "/v1/keys/k/mac", large)
    assert (status, name) in {(422, "invalid-request"), (400, "malformed-json")}


async def test_another_tenants_key_is_not_there(made: Site):
    await create(made.caller("messenger"), "k", "mac")
    stranger = made.caller("stranger")
    for path in ("/v1/keys/k", "/v1/keys/k/uses", "/v1/keys/k/touches"):
        assert (await stranger.get(path)).status_code == 404
        assert (await stranger.get(f"{path}?tenant={TENANT}")).status_code == 404
    for verb in ("mac", "verify-mac", "encrypt"):
        item = {"message": "aGk=", "mac": "aGk="} if "mac" in verb else {"plaintext": "aGk="}
        item = {name: item[name] for name in item if verb != "mac" or name == "message"}
        for body in (item, {**item, "tenant": TENANT}):
            assert await problem(stranger, f"/v1/keys/k/{verb}", body) == (404, "not-found")
    for step in ("rotate", "suspend", "compromise", "cancel-destruction"):
        named = {"confirm": "k"} if step == "compromise" else {}
        assert await problem(stranger, f"/v1/keys/k/{step}", {"tenant": TENANT, **named}) == (
            404,
            "not-found",
        )


async def test_what_has_no_way_back_takes_the_name_and_recovery_an_officer(made: Site):
    owner, officer = made.caller("messenger"), made.caller("officer")
    await create(owner, "k", "mac")
    for step in ("deactivate", "compromise"):
        path = f"/v1/keys/k/{step}"
        assert await problem(owner, path, {"confirm": "j"}) == (422, "confirmation-missing")
        assert (await problem(owner, path, {}))[0] == 422
    await good(owner, "/v1/keys/k/compromise", {"confirm": "k"})
    until = {"until": "2026-12-01T00:00:00Z", "tenant": TENANT}
    assert (await problem(owner, "/v1/keys/k/recover", until))[0] == 403
    changed = await good(officer, "/v1/keys/k/recover", until)
    assert changed["versions"][0]["recover_until"] == until["until"]


async def test_auditors_read_no_keys_and_officers_use_none_unasked(made: Site):
    await create(made.caller("messenger"), "k", "mac")
    auditor, officer = made.caller("auditor"), made.caller("officer")
    assert (await auditor.get(f"/v1/keys?tenant={TENANT}")).status_code == 403
    assert await problem(auditor, "/v1/keys/k/mac", {"message": "", "tenant": TENANT}) == (
        403,
        "forbidden",
    )
    assert await problem(officer, "/v1/keys/k/mac", {"message": "", "tenant": TENANT}) == (
        403,
        "operation-not-permitted",
    )
    await good(officer, "/v1/keys/k/suspend", {"tenant": TENANT})


async def test_permission_for_a_neighbour(made: Site):
    owner = made.caller("messenger")
    await made.register(TENANT, "neighbour", Role.MESSAGING_SERVER)
    neighbour = made.caller("neighbour")
    await create(owner, "k", "mac")
    assert (await neighbour.get("/v1/keys")).json()["keys"] == []
    denied = (403, "operation-not-permitted")
    assert await problem(neighbour, "/v1/keys/k/mac", {"message": ""}) == denied
    given = await good(
        owner, "/v1/keys/k/permit", {"principal": "neighbour", "operations": ["mac"]}
    )
    answers.KeyPermittedAnswer.model_validate(given)
    await good(neighbour, "/v1/keys/k/mac", {"message": ""})
    assert await problem(neighbour, "/v1/keys/k/rotate") == denied


async def test_no_use_takes_a_private_key(made: Site):
    """P1 holds for the new fields, too: wrapping is for secret keys, not for people's."""
    owner = made.caller("messenger")
    await create(owner, "w", "wrapping")
    await create(owner, "e", "encryption")
    await create(owner, "s", "signing")
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    for path, field in [
        ("w/wrap", "plaintext"),
        ("e/encrypt", "plaintext"),
        ("e/encrypt", "associated"),
        ("s/sign", "message"),
        ("e/decrypt", "ciphertext"),
    ]:
        refused = (422, "private-key-material")
        assert await problem(owner, f"/v1/keys/{path}", {field: b64(der)}) == refused
        assert await problem(owner, f"/v1/keys/{path}", {"items": [{field: b64(der)}]}) == refused


async def test_random_bytes(made: Site):
    owner = made.caller("messenger")
    sizes = (1, 32, 4096)
    drawn = [await good(owner, "/v1/keys:random", {"size": size}) for size in sizes]
    assert [len(base64.b64decode(item["random"])) for item in drawn] == list(sizes)
    assert drawn[1] != await good(owner, "/v1/keys:random", {"size": 32})
    assert await problem(owner, "/v1/keys:random", {"size": 4097}) == (422, "invalid-request")


async def test_kem_slots_are_not_made_here(made: Site):
    order = {"name": "slot", "purpose": "kem"}
    refused = await problem(made.caller("messenger"), "/v1/keys", order)
    assert refused == (422, "invalid-request")


def test_uses_have_places_of_their_own():
    for verb in VERBS:
        assert class_of("POST", f"/v1/keys/{secrets.token_hex(4)}/{verb}") is CallClass.KEY_USE
    assert class_of("POST", "/v1/keys:random") is CallClass.KEY_USE
    for step in ("suspend", "deactivate", "compromise"):
        assert class_of("POST", f"/v1/keys/k/{step}") is CallClass.REVOCATION
    for path in ("/v1/keys", "/v1/keys/k/rotate", "/v1/keys/k/destroy"):
        assert class_of("POST", path) is CallClass.ADMINISTRATION
