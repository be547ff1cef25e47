"""/v1/kem-slots as clients call it: shapes, batches, tenants, and the forms that senders use."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kms.api import key_answers
from kms.api import slot_answers as answers
from kms.api.turns import class_of
from kms.device.sealing import MAX_MESSAGE, seal_envelope, seal_message
from kms.device.slots import SlotVersion, verify_slot
from kms.domain.records import Role
from kms.services.slots.verbs import SLOT_VERBS
from kms.services.turns import CallClass
from kms.wire import b64, unb64
from pki.cms import detached, parse_envelope
from tests.support.api import TENANT, Session, Site, site
from tests.support.slots import CONTEXT, Slots

pytestmark = pytest.mark.anyio

SLOT = "/v1/kem-slots/archive"


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Site]:
    async with site(tmp_path) as built:
        await good(built.caller("messenger"), "/v1/kem-slots", {"name": "archive"}, 201)
        yield built


async def good(session: Session, path: str, body: Any = None, status: int = 200) -> dict[str, Any]:
    answer = await session.post(path, body)
    assert answer.status_code == status, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def problem(session: Session, path: str, body: Any = None) -> tuple[int, str]:
    answer = await session.post(path, body)
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


async def version(made: Site) -> SlotVersion:
    document = (await made.caller("messenger").get(f"{SLOT}/public")).json()
    answers.PublicSlotAnswer.model_validate(document)
    expectations, now = Slots(made.world).expectations(), made.world.clock.now()
    return verify_slot(document, "archive", expectations, now)[0]


def asked(sealed: bytes, context: bytes = CONTEXT) -> dict[str, str]:
    return {"ciphertext": b64(sealed), "context": b64(context)}


async def test_a_whole_life(made: Site):
    owner, officer = made.caller("messenger"), made.caller("officer")
    shown = (await owner.get(SLOT)).json()
    answers.SlotShownAnswer.model_validate(shown)
    assert (shown["slot"], shown["settings"]["log_uses"]) == ("archive", "every")
    recipient = (await version(made)).recipient
    envelope = seal_envelope([recipient], b"an object", CONTEXT)
    opened = await good(owner, f"{SLOT}/open", asked(envelope))
    answers.SlotUsed.model_validate(opened)
    assert unb64(opened["plaintext"]) == b"an object"
    changed = await good(owner, f"{SLOT}/rotate", status=201)
    key_answers.KeyChangedAnswer.model_validate(changed)
    for step in ("suspend", "resume", "deactivate"):
        changed = await good(
            owner,
            f"{SLOT}/{step}",
            {"version": 2, **({"confirm": "archive"} if step == "deactivate" else {})},
        )
        key_answers.KeyChangedAnswer.model_validate(changed)
    body = {"tenant": TENANT, "reason": "court order 7 O 12/26"}
    key_answers.KeyChangedAnswer.model_validate(await good(officer, f"{SLOT}/hold", body))
    held = (await owner.get(SLOT)).json()
    answers.SlotShownAnswer.model_validate(held)
    assert held["held"]["reason"] == "court order 7 O 12/26"
    assert await problem(owner, f"{SLOT}/destroy", {"confirm": "archive"}) == (409, "legal-hold")
    await good(officer, f"{SLOT}/release", body)
    assert await problem(owner, f"{SLOT}/destroy", {"confirm": "x"}) == (
        422,
        "confirmation-missing",
    )
    await good(owner, f"{SLOT}/destroy", {"confirm": "archive"})
    await good(owner, f"{SLOT}/cancel-destruction")
    lost = await good(owner, f"{SLOT}/compromise", {"version": 1, "confirm": "archive"})
    key_answers.KeyCompromisedAnswer.model_validate(lost)
    assert await problem(owner, f"{SLOT}/open", asked(envelope)) == (409, "key-compromised")
    uses = (await owner.get(f"{SLOT}/uses")).json()
    key_answers.KeyUsesAnswer.model_validate(uses)
    (use,) = uses["uses"]
    assert json.loads(base64.b64decode(use["leaf"]))["detail"]["sha256"] == opened["sha256"]


async def test_forms_of_all_sizes_in_one_batch(made: Site):
    owner, recipient = made.caller("messenger"), (await version(made)).recipient
    small, message = (
        seal_envelope([recipient], b"small", CONTEXT),
        seal_message(recipient, bytes(MAX_MESSAGE), CONTEXT),
    )
    body = {"items": [asked(small), {"ciphertext": "%"}, asked(message), asked(small, b"other")]}
    told = await good(owner, f"{SLOT}/open", body)
    answers.SlotUsedBatch.model_validate(told)
    assert [item["status"] for item in told["results"]] == [200, 422, 200, 422]
    large = seal_envelope([recipient], bytes(1 << 20), CONTEXT)
    assert (await problem(owner, f"{SLOT}/open", asked(large)))[0] in {400, 413}
    apart = detached(large)
    assert await problem(owner, f"{SLOT}/open", asked(apart)) == (422, "ciphertext-malformed")
    told = await good(owner, f"{SLOT}/unwrap", asked(apart))
    answers.SlotUsed.model_validate(told)
    assert parse_envelope(large).decrypt(unb64(told["content_key"])) == bytes(1 << 20)


async def test_shared_secrets_for_forms_of_ones_own(made: Site):
    fresh = (await version(made)).recipient.encapsulate()
    body = {"ciphertext": b64(fresh.ciphertext)}
    told = await good(made.caller("messenger"), f"{SLOT}/decapsulate", body)
    answers.SlotUsed.model_validate(told)
    assert unb64(told["shared_secret"]) == fresh.secret


async def test_others_see_and_open_nothing(made: Site):
    sealed = asked(seal_envelope([(await version(made)).recipient], b"x", CONTEXT))
    await made.register(TENANT, "colleague", Role.MESSAGING_SERVER)
    for name, verb in [("stranger", "open"), ("stranger", "unwrap"), ("stranger", "rotate")]:
        body = sealed if verb in SLOT_VERBS else None
        assert await problem(made.caller(name), f"{SLOT}/{verb}", body) == (404, "not-found")
    for name in ("colleague", "auditor", "officer"):
        body = sealed | ({"tenant": TENANT} if name != "colleague" else {})
        status, _ = await problem(made.caller(name), f"{SLOT}/open", body)
        assert status == 403
    for path in (SLOT, f"{SLOT}/public", f"{SLOT}/uses"):
        assert (await made.caller("stranger").get(path)).status_code == 404
    assert (await made.caller("colleague").get(f"{SLOT}/public")).status_code == 200
    permission = {"principal": "colleague", "operations": ["decapsulate"]}
    await good(made.caller("messenger"), f"{SLOT}/permit", permission)
    assert await good(made.caller("colleague"), f"{SLOT}/open", sealed)
    assert [item["key"] for item in (await slots_of(made, "colleague"))] == ["archive"]
    assert await slots_of(made, "stranger") == []


async def slots_of(made: Site, name: str) -> list[dict[str, Any]]:
    page = (await made.caller(name).get("/v1/kem-slots")).json()
    key_answers.KeysAnswer.model_validate(page)
    found: list[dict[str, Any]] = page["keys"]
    return found


async def test_keys_and_slots_keep_apart(made: Site):
    owner = made.caller("messenger")
    assert await problem(owner, "/v1/keys", {"name": "k", "purpose": "kem"}) == (
        422,
        "invalid-request",
    )
    await good(owner, "/v1/keys", {"name": "k", "purpose": "mac"}, 201)
    assert (await owner.get("/v1/kem-slots/k")).status_code == 404
    assert (await owner.get("/v1/keys/archive")).status_code == 404
    assert await problem(owner, "/v1/kem-slots", {"name": "k"}) == (409, "conflict")
    assert [item["key"] for item in (await slots_of(made, "messenger"))] == ["archive"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "../x"},
        {"name": "s", "slot": "Archive!"},
        {"name": "s", "algorithm": "ML-KEM-1024"},
        {"name": "s", "algorithm": "no-such"},
        {"name": "s", "protection": "device"},
        {"name": "s", "token": "no-such"},
        {"name": "s", "settings": {"overlap_days": -1}},
        {"name": "s", "settings": {"rotation_days": 10**9}},
        {"name": "s", "settings": {"originator_days": 4000}},
        {"name": "s", "settings": {"log_uses": "sometimes"}},
        {"name": "s", "activates": "2020-01-01T00:00:00Z"},
        {"name": "s", "private_key": "x"},
    ],
)
async def test_what_is_no_order_is_refused(made: Site, body: dict[str, Any]):
    status, name = await problem(made.caller("messenger"), "/v1/kem-slots", body)
    assert status == 422
    assert name in {"invalid-request", "algorithm-refused"}


async def test_uses_have_places_of_their_own():
    for verb in SLOT_VERBS:
        assert class_of("POST", f"{SLOT}/{verb}") is CallClass.KEY_USE
    assert class_of("POST", f"{SLOT}/compromise") is CallClass.REVOCATION
    assert class_of("POST", f"{SLOT}/hold") is CallClass.ADMINISTRATION
