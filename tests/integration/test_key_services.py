"""Keys of clients through the use cases: made, used, aged, destroyed; over the signer's twin."""

import hashlib
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hsm_drivers.errors import BadCiphertextError
from hsm_drivers.operations import Decrypt
from hsm_drivers.ports import KeyLabel
from kms.domain.authorisation import Caller
from kms.domain.key_records import Key, KeyReservation, KeyVersion, LogUses
from kms.domain.records import Event, Role, TenantId
from kms.services import errors
from kms.services.errors import KmsError
from kms.services.keys.orders import KeyOrder, KeySettings
from kms.services.keys.reach import MANAGE
from kms.services.keys.verbs import VERBS, Item
from kms.wire import b64, unb64
from policies.key_life import KeyPurpose, KeyState, Operation, Step
from tests.support.services import OFFICER, SERVER, TENANT, World, decoded, world

pytestmark = pytest.mark.anyio

DAY = timedelta(days=1)


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as service:
        yield service


async def create(
    made: World, name: str, purpose: KeyPurpose, who: Caller = SERVER, **order: Any
) -> dict[str, Any]:
    request = made.call("keys", name, who=who)
    answer = await made.services.keys.orders.create(
        request, TENANT, KeyOrder(name, purpose, **order)
    )
    return decoded(answer)


async def use(
    made: World, name: str, verb: str, *items: Item, who: Caller = SERVER
) -> list[dict[str, Any] | KmsError]:
    return await made.services.keys.use.run(who, TENANT, name, VERBS[verb], items)


async def one(
    made: World, name: str, verb: str, item: Item | None = None, who: Caller = SERVER, **parts: Any
) -> dict[str, Any]:
    (told,) = await use(made, name, verb, item or Item(**parts), who=who)
    if isinstance(told, KmsError):
        raise told
    return told


async def step(made: World, name: str, step: Step, version: int | None = None) -> dict[str, Any]:
    request = made.call(step, name, who=OFFICER)
    return decoded(await made.services.keys.steps.step(request, TENANT, name, step, version))


async def rotate(made: World, name: str) -> dict[str, Any]:
    request = made.call("rotate", name, who=OFFICER)
    return decoded(await made.services.keys.orders.rotate(request, TENANT, name, None))


def events(made: World) -> list[tuple[str, dict[str, Any]]]:
    found = made.ledger.find(Event)
    return [(item.type, json.loads(item.leaf)) for item in found if item.type.startswith("key.")]


async def test_a_key_is_made_by_purpose_and_its_creator_may_do_everything(made: World):
    answer = await create(made, "vault", KeyPurpose.ENCRYPTION)
    assert [item["state"] for item in answer["versions"]] == ["active"]
    assert answer["versions"][0]["protection"] == "token"
    kinds = [kind for kind, leaf in events(made) if (leaf["detail"] or {}).get("key")]
    assert kinds == ["key.created", "key.generated", "key.activated", "key.permitted"]
    assert all(receipt["status"] == "final" for receipt in answer["receipts"])
    shown = made.services.keys.lookup.key(SERVER, TENANT, "vault")
    assert shown["permitted"] == ["data-key", "decrypt", "encrypt", MANAGE]
    assert not made.ledger.find(KeyReservation)


@pytest.mark.parametrize(
    ("purpose", "there", "back"),
    [
        (KeyPurpose.ENCRYPTION, ("encrypt", "plaintext", "ciphertext"), ("decrypt", "plaintext")),
        (KeyPurpose.WRAPPING, ("wrap", "plaintext", "wrapped"), ("unwrap", "plaintext")),
    ],
)
async def test_what_is_sealed_opens_also_after_a_rotation(
    made: World, purpose: KeyPurpose, there: tuple[str, str, str], back: tuple[str, str]
):
    await create(made, "k", purpose)
    sealed = unb64((await one(made, "k", there[0], plaintext=b"sixteen bytes ok"))[there[2]])
    await rotate(made, "k")
    opened = await one(made, "k", back[0], ciphertext=sealed)
    assert (unb64(opened[back[1]]), opened["version"]) == (b"sixteen bytes ok", 1)
    newer = unb64((await one(made, "k", there[0], plaintext=b"x"))[there[2]])
    assert (await one(made, "k", back[0], ciphertext=newer))["version"] == 2


async def test_signatures_and_macs_are_verified_with_the_version_that_made_them(made: World):
    await create(made, "s", KeyPurpose.SIGNING)
    await create(made, "m", KeyPurpose.MAC)
    for name, verb, check, field in [
        ("s", "sign", "verify", "signature"),
        ("m", "mac", "verify-mac", "mac"),
    ]:
        proof = unb64((await one(made, name, verb, message=b"hello"))[field])
        await rotate(made, name)
        right = await one(made, name, check, message=b"hello", version=1, **{field: proof})
        other = await one(made, name, check, message=b"hello", version=2, **{field: proof})
        wrong = await one(made, name, check, message=b"hellO", version=1, **{field: proof})
        assert (right["valid"], other["valid"], wrong["valid"]) == (True, False, False)


async def test_a_digest_stands_for_a_large_message(made: World):
    await create(made, "s", KeyPurpose.SIGNING)
    large = b"much" * 1_000_000
    digest = hashlib.sha256(large).digest()
    signature = unb64((await one(made, "s", "sign", digest=digest))["signature"])
    assert (await one(made, "s", "verify", message=large, signature=signature))["valid"]
    assert (await one(made, "s", "verify", digest=digest, signature=signature))["valid"]
    with pytest.raises(errors.InputError, match="signs digests of sha256"):
        await one(made, "s", "sign", digest=digest + b"\x00")
    await create(made, "e", KeyPurpose.SIGNING, algorithm="Ed25519")
    with pytest.raises(errors.InputError, match="only ECDSA"):
        await one(made, "e", "sign", digest=digest)


async def test_data_keys_come_wrapped_and_plain_or_wrapped_only(made: World):
    await create(made, "k", KeyPurpose.ENCRYPTION)
    both = await one(made, "k", "data-key", size=32, plain=True, associated=b"room")
    opened = await one(made, "k", "decrypt", ciphertext=unb64(both["wrapped"]), associated=b"room")
    assert opened["plaintext"] == both["plain"]
    assert len(unb64(both["plain"])) == 32
    assert "plain" not in await one(made, "k", "data-key", size=16)


async def test_rewrapping_moves_to_the_current_version(made: World):
    await create(made, "k", KeyPurpose.ENCRYPTION)
    old = unb64((await one(made, "k", "encrypt", plaintext=b"p", associated=b"a"))["ciphertext"])
    await rotate(made, "k")
    new = await one(made, "k", "rewrap", ciphertext=old, associated=b"a")
    assert new["version"] == 2
    opened = await one(made, "k", "decrypt", ciphertext=unb64(new["ciphertext"]), associated=b"a")
    assert (unb64(opened["plaintext"]), opened["version"]) == (b"p", 2)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


async def test_whatever_is_wrong_with_a_ciphertext_has_its_own_name(made: World):
    await create(made, "k", KeyPurpose.ENCRYPTION)
    await create(made, "other", KeyPurpose.ENCRYPTION)
    data = unb64((await one(made, "k", "encrypt", plaintext=b"text"))["ciphertext"])
    wrong: dict[bytes, type[KmsError]] = {
        b"": errors.CiphertextMalformedError,
        data[:40]: errors.CiphertextMalformedError,
        flipped(data, 0): errors.CiphertextMalformedError,
        flipped(data, 3): errors.CiphertextOfAnotherKeyError,
        flipped(data, 20): errors.KeyVersionUnknownError,
        flipped(data, 25): errors.CiphertextRefusedError,
        flipped(data, len(data) - 1): errors.CiphertextRefusedError,
        data[:-1]: errors.CiphertextRefusedError,
        data + b"\x00": errors.CiphertextRefusedError,
    }
    told = await use(made, "k", "decrypt", *(Item(ciphertext=item) for item in wrong))
    assert [type(item) for item in told] == list(wrong.values())
    with pytest.raises(errors.CiphertextOfAnotherKeyError):
        await one(made, "other", "decrypt", ciphertext=data)
    with pytest.raises(errors.CiphertextRefusedError):
        await one(made, "k", "decrypt", ciphertext=data, associated=b"x")


async def test_a_bad_item_never_sinks_the_rest(made: World):
    await create(made, "k", KeyPurpose.ENCRYPTION)
    data = unb64((await one(made, "k", "encrypt", plaintext=b"text"))["ciphertext"])
    items = [Item(ciphertext=data), Item(ciphertext=data[:-1]), Item(ciphertext=data)]
    first, second, third = await use(made, "k", "decrypt", *items)
    assert isinstance(second, errors.CiphertextRefusedError)
    assert first == third == {"version": 1, "plaintext": b64(b"text")}


async def test_a_version_moved_to_another_is_refused(made: World):
    """The version in front is authenticated: it cannot be changed to another that exists."""
    await create(made, "k", KeyPurpose.ENCRYPTION)
    data = unb64((await one(made, "k", "encrypt", plaintext=b"text"))["ciphertext"])
    await rotate(made, "k")
    moved = data[:17] + (2).to_bytes(4, "big") + data[21:]
    with pytest.raises(errors.CiphertextRefusedError):
        await one(made, "k", "decrypt", ciphertext=moved)


async def test_what_the_token_authenticates_is_what_the_wire_format_says(made: World):
    """Header, tenant and the caller's data: bound, each of them, to what is sealed."""
    await create(made, "k", KeyPurpose.ENCRYPTION)
    given = {"plaintext": b"text", "associated": b"room"}
    data = unb64((await one(made, "k", "encrypt", **given))["ciphertext"])
    (version,) = made.ledger.find(KeyVersion, tenant=TENANT)
    tenant = TENANT.encode()
    bound = data[:21] + len(tenant).to_bytes(2, "big") + tenant + b"room"
    other = data[:21] + len(tenant).to_bytes(2, "big") + b"MINISTRY" + b"room"
    label = KeyLabel(version.label)
    right, *wrong = await made.signer.use(
        [Decrypt(label, data[21:], aad) for aad in (bound, bound[21:], other, bound[:21], b"room")]
    )
    assert right == (b"text",)
    assert all(isinstance(item, BadCiphertextError) for item in wrong)


async def test_states_forbid_what_they_forbid(made: World):
    await create(made, "k", KeyPurpose.ENCRYPTION)
    data = unb64((await one(made, "k", "encrypt", plaintext=b"text"))["ciphertext"])
    await step(made, "k", Step.SUSPEND)
    for verb, item in [("encrypt", Item(plaintext=b"x")), ("decrypt", Item(ciphertext=data))]:
        with pytest.raises(errors.KeySuspendedError):
            await one(made, "k", verb, item)
    await step(made, "k", Step.RESUME)
    await one(made, "k", "encrypt", plaintext=b"x")
    await step(made, "k", Step.DEACTIVATE)
    with pytest.raises(errors.KeyDeactivatedError):
        await one(made, "k", "encrypt", plaintext=b"x")
    assert (await one(made, "k", "decrypt", ciphertext=data))["plaintext"] == b64(b"text")
    with pytest.raises(errors.KeyStateError, match="no version of the key is suspended"):
        await step(made, "k", Step.RESUME)
    made.clock.advance(days=1825)
    with pytest.raises(errors.KeyExpiredError):
        await one(made, "k", "decrypt", ciphertext=data)


async def test_the_signer_protects_with_no_version_that_was_succeeded(made: World):
    await create(made, "k", KeyPurpose.ENCRYPTION)
    await rotate(made, "k")
    records = {str(item.label): item for item in await made.signer.keys()}
    old, new = made.ledger.find(KeyVersion, tenant=TENANT, key="k")
    assert records[old.label].operations == (Operation.DECRYPT,)
    assert Operation.ENCRYPT in records[new.label].operations


async def test_compromise_stops_all_use_and_tells_what_it_touches(made: World):
    await create(made, "k", KeyPurpose.ENCRYPTION)
    data = unb64((await one(made, "k", "encrypt", plaintext=b"text"))["ciphertext"])
    await rotate(made, "k")
    request = made.call("compromise", "k", who=OFFICER)
    steps = made.services.keys.steps
    answer = decoded(await steps.compromise(request, TENANT, "k", 1, None, None))
    assert [item["version"] for item in answer["touches"]["versions"]] == [1]
    assert [item["state"] for item in answer["versions"]] == ["compromised", "active"]
    with pytest.raises(errors.KeyCompromisedError):
        await one(made, "k", "decrypt", ciphertext=data)
    request = made.call("compromise", "k2", who=OFFICER)
    until = made.clock.now() + DAY
    await steps.compromise(request, TENANT, "k", 2, None, until)
    with pytest.raises(errors.KeyCompromisedError):
        await one(made, "k", "encrypt", plaintext=b"x")


async def test_an_officer_may_let_a_compromised_key_open_for_a_while(made: World):
    await create(made, "k", KeyPurpose.ENCRYPTION)
    data = unb64((await one(made, "k", "encrypt", plaintext=b"text"))["ciphertext"])
    request = made.call("compromise", "k", who=OFFICER)
    until = made.clock.now() + DAY
    await made.services.keys.steps.compromise(request, TENANT, "k", None, None, until)
    assert (await one(made, "k", "decrypt", ciphertext=data))["version"] == 1
    made.clock.advance(days=1)
    with pytest.raises(errors.KeyCompromisedError):
        await one(made, "k", "decrypt", ciphertext=data)


async def schedule(
    made: World, name: str, confirm: str | None = None, version: int | None = None, **at: Any
) -> dict[str, Any]:
    request = made.call("destroy", name, who=OFFICER)
    confirmation = name if confirm is None else confirm
    answer = await made.services.keys.destruction.schedule(
        request, TENANT, name, version, confirmation, at.get("at")
    )
    return decoded(answer)


async def test_destruction_takes_a_name_a_delay_and_can_be_cancelled(made: World):
    await create(made, "k", KeyPurpose.MAC)
    with pytest.raises(errors.ConfirmationError):
        await schedule(made, "k", confirm="K")
    with pytest.raises(errors.KeyStateError, match="deactivate it first"):
        await schedule(made, "k")
    await step(made, "k", Step.DEACTIVATE)
    with pytest.raises(errors.InputError):
        await schedule(made, "k", at=made.clock.now() + DAY)
    answer = await schedule(made, "k")
    assert answer["versions"][0]["destroys"] == "2026-11-28T12:00:00Z"
    made.clock.advance(days=6)
    assert await made.services.keys.upkeep.carry_out_due() == 0
    request = made.call("cancel", "k", who=OFFICER)
    await made.services.keys.destruction.cancel(request, TENANT, "k", None)
    made.clock.advance(days=2)
    assert await made.services.keys.upkeep.carry_out_due() == 0
    await schedule(made, "k")
    made.clock.advance(days=7)
    assert await made.services.keys.upkeep.carry_out_due() == 1
    shown = made.services.keys.lookup.key(OFFICER, TENANT, "k")
    assert shown["versions"][0]["state"] == "destroyed"
    assert all(item["destroyed"] for item in shown["replicas"])
    assert [item for item in await made.signer.keys() if item.operations] == []
    (leaf,) = [leaf for kind, leaf in events(made) if kind == "key.destroyed"]
    assert leaf["detail"]["tokens"] == ["main"]
    with pytest.raises(errors.KeyDestroyedError):
        await one(made, "k", "verify-mac", message=b"x", mac=bytes(32))


async def test_keys_age_by_themselves(made: World):
    """Rotation, deactivation of what overlaps, and destruction after retention, all on schedule."""
    settings = KeySettings(rotation_days=90, overlap_days=10, retention_days=30)
    await create(made, "k", KeyPurpose.ENCRYPTION, settings=settings)
    upkeep = made.services.keys.upkeep

    def states() -> list[str]:
        found = made.ledger.find(KeyVersion, tenant=TENANT, key="k")
        return [item.state.value for item in found]

    assert await upkeep.carry_out_due() == 0
    made.clock.advance(days=90)
    assert await upkeep.carry_out_due() == 1
    assert states() == ["active", "active"]
    assert (await one(made, "k", "encrypt", plaintext=b"x"))["version"] == 2
    made.clock.advance(days=10)
    await upkeep.carry_out_due()
    assert states() == ["deactivated", "active"]
    made.clock.advance(days=30)
    await upkeep.carry_out_due()
    made.clock.advance(days=7)
    await upkeep.carry_out_due()
    assert states() == ["destroyed", "active"]


async def test_activation_on_schedule(made: World):
    at = made.clock.now() + DAY
    await create(made, "k", KeyPurpose.MAC, activates=at)
    with pytest.raises(errors.KeyNotActiveError):
        await one(made, "k", "mac", message=b"x")
    assert await made.services.keys.upkeep.carry_out_due() == 0
    made.clock.advance(days=1)
    assert await made.services.keys.upkeep.carry_out_due() == 1
    await one(made, "k", "mac", message=b"x")


async def test_tenants_and_principals_without_permission_get_nowhere(made: World):
    await create(made, "k", KeyPurpose.MAC)
    stranger = Caller(TenantId("other"), "messenger", Role.MESSAGING_SERVER, ())
    with pytest.raises(errors.NotFoundError):
        await one(made, "k", "mac", message=b"x", who=stranger)
    neighbour = Caller(TENANT, "neighbour", Role.MESSAGING_SERVER, ())
    for who in (neighbour, OFFICER):
        with pytest.raises(errors.OperationNotPermittedError):
            await one(made, "k", "mac", message=b"x", who=who)
    with pytest.raises(errors.OperationNotPermittedError):
        made.services.keys.lookup.uses(neighbour, TENANT, "k")
    assert made.services.keys.lookup.keys(neighbour, TENANT).items == []
    with pytest.raises(errors.WrongPurposeError):
        await one(made, "k", "encrypt", plaintext=b"x")


async def test_permissions_are_given_and_taken(made: World):
    await create(made, "k", KeyPurpose.MAC)
    register = made.services.principals.add_principal
    request = made.call("principals", "reader", who=OFFICER)
    await register(request, TENANT, "reader", Role.MESSAGING_SERVER, [])
    reader = Caller(TENANT, "reader", Role.MESSAGING_SERVER, ())
    permit = made.services.keys.orders.permit
    await permit(made.call("p", 1, who=SERVER), TENANT, "k", "reader", ["verify-mac"])
    assert not (await one(made, "k", "verify-mac", message=b"x", mac=b"y", who=reader))["valid"]
    with pytest.raises(errors.OperationNotPermittedError):
        await one(made, "k", "mac", message=b"x", who=reader)
    await permit(made.call("p", 2, who=SERVER), TENANT, "k", "reader", [])
    with pytest.raises(errors.OperationNotPermittedError):
        await one(made, "k", "verify-mac", message=b"x", mac=b"y", who=reader)
    with pytest.raises(errors.InputError):
        await permit(made.call("p", 3, who=SERVER), TENANT, "k", "reader", ["sign"])
    with pytest.raises(errors.NotFoundError):
        await permit(made.call("p", 4, who=SERVER), TENANT, "k", "nobody", ["mac"])


@pytest.mark.parametrize(("policy", "expected"), [("none", 0), ("count", 1), ("every", 3)])
async def test_uses_are_logged_as_the_key_says(made: World, policy: str, expected: int):
    settings = KeySettings(log_uses=LogUses(policy))
    await create(made, "k", KeyPurpose.MAC, settings=settings)
    await use(made, "k", "mac", *(Item(message=bytes([at])) for at in range(3)))
    found = [leaf["detail"] for kind, leaf in events(made) if kind == "key.used"]
    assert len(found) == expected
    assert sum(sum(item["uses"].values()) for item in found) == (3 if expected else 0)
    assert len(made.services.keys.lookup.uses(SERVER, TENANT, "k").events) == expected


async def test_the_log_names_keys_by_their_ids_alone(made: World):
    await create(made, "very-secret-name", KeyPurpose.MAC)
    await rotate(made, "very-secret-name")
    assert b"very-secret" not in b"".join(item.leaf for item in made.ledger.find(Event))
    (key,) = made.ledger.find(Key, tenant=TENANT)
    assert all(
        leaf["detail"]["key"] == key.key_id
        for kind, leaf in events(made)
        if kind.startswith("key.") and "key" in leaf["detail"]
    )


async def test_what_the_policy_refuses_is_not_made(made: World):
    for order in [
        {"algorithm": "RSA-2048"},
        {"algorithm": "nonsense"},
        {"algorithm": "AES-256-GCM"},
        {"algorithm": "ECDSA-P256", "protection": "wrapped"},
    ]:
        with pytest.raises((errors.AlgorithmRefusedError, errors.InputError)):
            await create(made, "k", KeyPurpose.SIGNING, **order)
    assert made.ledger.find(KeyReservation) == []


async def test_post_quantum_keys_are_wrapped_where_the_token_lacks_them(made: World):
    answer = await create(
        made, "pq", KeyPurpose.SIGNING, algorithm="ML-DSA-65", protection="wrapped"
    )
    version = answer["versions"][0]
    assert (version["algorithm"], version["protection"]) == ("ML-DSA-65", "wrapped")
    signature = unb64((await one(made, "pq", "sign", message=b"m"))["signature"])
    assert (await one(made, "pq", "verify", message=b"m", signature=signature))["valid"]


async def test_names_are_given_once(made: World):
    await create(made, "k", KeyPurpose.MAC)
    with pytest.raises(errors.StateError):
        await create(made, "k", KeyPurpose.SIGNING)
    for name in ("", ".", "a b", "x" * 65):
        with pytest.raises(errors.InputError):
            await create(made, name, KeyPurpose.MAC)


async def test_an_orphan_is_logged_and_destroyed(made: World, monkeypatch: pytest.MonkeyPatch):
    """The commit is lost and nobody comes back: the key does not stay on the token."""

    async def lost(*_: object, **__: object) -> Any:
        raise errors.LogUnavailableError("lost")

    with monkeypatch.context() as patched:
        patched.setattr(type(made.services.core.sequencer), "commit", lost)
        with pytest.raises(errors.LogUnavailableError):
            await create(made, "k", KeyPurpose.MAC)
    upkeep = made.services.keys.upkeep
    assert await upkeep.reconcile() == 0
    (left,) = [item for item in await made.signer.keys() if item.operations]
    made.clock.advance(hours=2)
    assert await upkeep.reconcile() == 1
    assert [leaf["detail"]["label"] for kind, leaf in events(made) if kind == "key.orphaned"] == [
        left.label
    ]
    made.clock.advance(days=8)
    assert await upkeep.reconcile() == 1
    assert [item for item in await made.signer.keys() if item.operations] == []
    assert made.ledger.find(KeyReservation) == []
    await create(made, "k", KeyPurpose.MAC)


async def test_a_state_is_a_key_state(made: World):
    await create(made, "k", KeyPurpose.MAC)
    (version,) = made.ledger.find(KeyVersion, tenant=TENANT)
    assert version.state is KeyState.ACTIVE
