"""KEM slots through the use cases: sealed to by whoever verifies them, opened whole, aged, held."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hsm_drivers.errors import HsmError, TokenUnavailableError
from hsm_drivers.operations import Decapsulate
from kms.audit.findings import Failure
from kms.audit.names import Names
from kms.audit.replay import check_events, replay
from kms.device.encapsulation import KEMS
from kms.device.sealing import Recipient, seal_envelope, seal_message
from kms.domain.authorisation import Caller
from kms.domain.key_records import Key
from kms.domain.records import (
    SYSTEM_TENANT,
    Certificate,
    Event,
    LogId,
    Reservation,
    Role,
    TenantId,
)
from kms.services import errors
from kms.services.errors import KmsError
from kms.services.keys.orders import KeyOrder
from kms.services.keys.verbs import Item
from kms.services.slots.verbs import DECAPSULATE
from kms.wire import canonical, unb64
from policies.key_life import KeyPurpose, Step
from policies.policy import shipped
from tests.support.services import OFFICER, SERVER, TENANT, decoded, world
from tests.support.slots import CONTEXT, NAME, OBJECT, ClassicalToken, Slots
from tests.support.unsealing import PrivateKem

pytestmark = pytest.mark.anyio

HYBRIDS = ["MLKEM768-X25519", "MLKEM1024-P384", "MLKEM768-P256"]
STRANGER = Caller(TenantId("other"), "messenger", Role.MESSAGING_SERVER, ())
COLLEAGUE = Caller(TENANT, "colleague", Role.MESSAGING_SERVER, ())


@pytest.fixture
async def slots(tmp_path: Path) -> AsyncIterator[Slots]:
    async with world(tmp_path) as made:
        yield Slots(made)


def refusals(told: list[dict[str, Any] | KmsError]) -> list[str]:
    return [item.problem if isinstance(item, KmsError) else "" for item in told]


# --- made, served, opened --------------------------------------------------------------------


@pytest.mark.parametrize("token", ["post-quantum", "classical"])
@pytest.mark.parametrize("name", HYBRIDS)
async def test_what_is_sealed_to_a_slot_opens(name: str, token: str, tmp_path: Path):
    driver = ClassicalToken() if token == "classical" else None
    async with world(tmp_path, driver=driver) as made:
        slots = Slots(made)
        created = await slots.create(algorithm=name)
        (version,) = await slots.versions()
        assert version.algorithm == name
        held = {
            item["algorithm"]: item["protection"] for item in created["versions"][0]["components"]
        }
        (pq,) = [part for part in held if part.startswith("ML-KEM")]
        (classical,) = [part for part in held if part != pq]
        assert held[classical] == "token"
        assert held[pq] == version.protection == ("wrapped" if driver else "token")
        assert await slots.opened(await slots.envelope()) == OBJECT
        assert await slots.opened(await slots.message()) == OBJECT
        fresh = version.recipient.encapsulate()
        (told,) = await made.services.slots.use.run(
            SERVER, TENANT, NAME, DECAPSULATE, [Item(ciphertext=fresh.ciphertext)]
        )
        assert isinstance(told, dict)
        assert unb64(told["shared_secret"]) == fresh.secret


async def test_the_hybrid_is_taken_where_nobody_names_an_algorithm(slots: Slots):
    created = await slots.create()
    assert created["versions"][0]["algorithm"] == "MLKEM768-X25519"


@pytest.mark.parametrize("name", ["ML-KEM-768", "ML-KEM-1024", "X25519", "ECDH-P256", "Ed25519"])
async def test_the_policy_demands_hybrids(slots: Slots, name: str):
    with pytest.raises(errors.AlgorithmRefusedError):
        await slots.create(algorithm=name)
    assert not slots.made.ledger.find(Key, tenant=TENANT)


@pytest.mark.parametrize("name", ["ML-KEM-768", "ML-KEM-1024"])
async def test_pure_ones_are_made_where_a_policy_asks(name: str, tmp_path: Path):
    async with world(tmp_path, policy=shipped("post-quantum-2026")) as made:
        slots = Slots(made)
        await slots.create(algorithm=name)
        assert await slots.opened(await slots.envelope()) == OBJECT
        with pytest.raises(errors.AlgorithmRefusedError):
            await slots.create("another", algorithm="X25519")


async def test_every_opening_is_on_the_record_before_it_is_answered(slots: Slots):
    created = await slots.create()
    sealed = [await slots.envelope(), await slots.message(), b"\x30"]
    told = await slots.open(*sealed)
    assert refusals(told) == ["", "", "ciphertext-malformed"]
    leaves = [json.loads(leaf) for leaf in slots.events("key.used")]
    assert [leaf["detail"]["operation"] for leaf in leaves] == ["open", "open"]
    assert [leaf["detail"]["sha256"] for leaf in leaves] == [item["sha256"] for item in told[:2]]
    assert {leaf["detail"]["key"] for leaf in leaves} == {created["key_id"]}
    assert NAME.encode() not in b"".join(slots.events("key.used"))
    size = slots.made.services.core.sequencer.signed_size
    assert size == slots.made.ledger.head().size  # type: ignore[union-attr]


async def test_birth_and_certificate_are_one_event(slots: Slots):
    created = await slots.create()
    (leaf,) = [json.loads(item) for item in slots.events("key.generated") if b"kem-slot" in item]
    (logged,) = leaf["certificates"]
    found = slots.made.ledger.get(Certificate, TENANT, "infrastructure", logged["serial"])
    assert found is not None
    assert found.sha256 == logged["sha256"]
    assert created["versions"][0]["certificate"] == logged["serial"]
    assert leaf["detail"]["components"] == created["versions"][0]["components"]
    assert leaf["policy"]["rules"] == {"MLKEM768-X25519": "kem-slot-hybrid"}
    assert not slots.made.ledger.find(Reservation)


async def test_a_signer_that_does_not_hold_the_key_gets_no_certificate(tmp_path: Path):
    class Lying:
        def __init__(self, signer: Any) -> None:
            self._signer = signer

        def __getattr__(self, name: str) -> Any:
            return getattr(self._signer, name)

        async def use(self, calls: Any) -> list[tuple[bytes, ...] | HsmError]:
            assert isinstance(calls[0], Decapsulate)
            return [(bytes(32),)]

    async with world(tmp_path, wrap_signer=Lying) as made:
        with pytest.raises(errors.SignerUnavailableError, match="does not hold"):
            await Slots(made).create()
        assert not made.ledger.find(Certificate, profile="kem-slot")
        assert not made.ledger.find(Key, tenant=TENANT)


async def test_the_same_request_comes_back_to_the_same_key_and_serial(tmp_path: Path):
    class Faltering:
        """Loses the answer of the first call that it is told to lose."""

        lost = 0

        def __init__(self, signer: Any) -> None:
            self._signer = signer

        def __getattr__(self, name: str) -> Any:
            return getattr(self._signer, name)

        async def sign(self, statements: Any) -> Any:
            answers = await self._signer.sign(statements)
            if Faltering.lost:
                Faltering.lost -= 1
                raise TokenUnavailableError("the answer was lost")
            return answers

    async with world(tmp_path, wrap_signer=Faltering) as made:
        order = KeyOrder(NAME, KeyPurpose.KEM, "archive")
        create = made.services.slots.orders.create
        request = made.call("POST /v1/kem-slots", [NAME], "the-same")
        Faltering.lost = 1
        with pytest.raises(errors.SignerUnavailableError):
            await create(request, TENANT, order)
        (reserved,) = made.ledger.find(Reservation, route="kem-slot")
        answer = decoded(await create(request, TENANT, order))
        assert answer["versions"][0]["certificate"] == reserved.serial
        labels = [item.label for item in await made.signer.keys() if item.label[:2] == "s-"]
        assert labels == [f"s-{answer['key_id']}-1"]


# --- what does not fit -----------------------------------------------------------------------


async def test_whatever_is_wrong_with_one_object_sinks_no_other(slots: Slots):
    await slots.create()
    await slots.create("another")
    envelope, message = await slots.envelope(), await slots.message()
    told = await slots.open(
        envelope,
        await slots.envelope("another"),
        await slots.message("another"),
        message[:17] + b"\x00\x00\x00\x02" + message[21:],
        message[:60],
        message[:-1],
        message + b"\x00",
        envelope[:-1],
        envelope + b"\x00",
        b"",
        b"\x01" + message[1:],
        message,
    )
    assert refusals(told) == [
        "",
        "ciphertext-of-another-key",
        "ciphertext-of-another-key",
        "key-version-unknown",
        "ciphertext-malformed",
        "ciphertext-refused",
        "ciphertext-refused",
        "ciphertext-malformed",
        "ciphertext-malformed",
        "ciphertext-malformed",
        "ciphertext-malformed",
        "",
    ]


@pytest.mark.parametrize("kind", ["envelope", "message"])
async def test_no_flipped_bit_goes_unnoticed(slots: Slots, kind: str):
    await slots.create()
    sealed = await getattr(slots, kind)()
    changed = []
    for position in [*range(110), *range(110, len(sealed), 97), len(sealed) - 1]:
        for bit in (0x01, 0x80):
            item = bytearray(sealed)
            item[position] ^= bit
            changed.append(bytes(item))
    for told in await slots.open(*changed):
        assert isinstance(told, errors.InputError)


async def test_it_opens_in_its_context_alone(slots: Slots):
    await slots.create()
    for sealed in (await slots.envelope(), await slots.message()):
        for other in (b"", b"room 8", CONTEXT + b"\x00"):
            with pytest.raises(errors.CiphertextRefusedError):
                await slots.opened(sealed, context=other)


async def test_a_ciphertext_of_the_wrong_length_is_malformed(slots: Slots):
    await slots.create()
    for size in (0, 1, 1088, 1119, 1121, 1665):
        (told,) = await slots.made.services.slots.use.run(
            SERVER, TENANT, NAME, DECAPSULATE, [Item(ciphertext=bytes(size))]
        )
        assert isinstance(told, errors.CiphertextMalformedError)


async def test_an_envelope_to_a_key_that_only_claims_the_slots_identifier_does_not_open(
    slots: Slots,
):
    await slots.create()
    true = await slots.recipient()
    forged = Recipient.of(
        true.slot_key_id, true.version, PrivateKem.generate("MLKEM768-X25519").spki, true.key_id
    )
    for sealed in (
        seal_envelope([forged], OBJECT, CONTEXT),
        seal_message(forged, OBJECT, CONTEXT),
    ):
        with pytest.raises(errors.CiphertextRefusedError):
            await slots.opened(sealed)


async def test_an_envelope_to_another_algorithm_is_malformed(slots: Slots):
    await slots.create()
    true = await slots.recipient()
    for kem in KEMS:
        if kem.name == "MLKEM768-X25519":
            continue
        spki = PrivateKem.generate(kem.name).spki
        other = Recipient.of(true.slot_key_id, true.version, spki, true.key_id)
        with pytest.raises(errors.CiphertextMalformedError):
            await slots.opened(seal_envelope([other], OBJECT, CONTEXT))


async def test_only_who_is_permitted_opens_and_no_other_tenant_sees_the_slot(slots: Slots):
    await slots.create()
    sealed = await slots.envelope()
    with pytest.raises(errors.OperationNotPermittedError):
        await slots.open(sealed, who=COLLEAGUE)
    with pytest.raises(errors.OperationNotPermittedError):
        await slots.open(sealed, who=OFFICER)
    with pytest.raises(errors.NotFoundError):
        await slots.open(sealed, who=STRANGER)
    with pytest.raises(errors.NotFoundError):
        await slots.document(who=STRANGER)
    assert await slots.document(who=COLLEAGUE)  # whoever is of the tenant may seal
    with pytest.raises(errors.NotFoundError):  # a slot is no key among others
        slots.made.services.keys.lookup.key(SERVER, TENANT, NAME)


# --- a life ----------------------------------------------------------------------------------


async def test_what_is_succeeded_is_sealed_to_until_overlap_ends_and_opens_after(slots: Slots):
    await slots.create(overlap_days=3)
    old = await slots.envelope()
    await slots.rotate()
    assert [item.recipient.version for item in await slots.versions()] == [2, 1]
    await slots.upkeep(days=3, seconds=1)
    assert [item.recipient.version for item in await slots.versions()] == [2]
    assert await slots.opened(old) == OBJECT
    assert await slots.opened(await slots.envelope()) == OBJECT


async def test_slots_rotate_by_themselves(slots: Slots):
    await slots.create(rotation_days=30)
    first = await slots.versions()
    await slots.upkeep(days=30, seconds=1)
    (second,) = await slots.versions()
    assert second.recipient.version == 2
    assert second.certificate != first[0].certificate
    assert second.algorithm == first[0].algorithm


async def test_retention_ends_in_destruction_after_the_delay(slots: Slots):
    await slots.create(retention_days=10)
    sealed = await slots.envelope()
    await slots.rotate()
    await slots.upkeep(days=10, seconds=1)
    assert await slots.opened(sealed) == OBJECT
    await slots.upkeep(days=7, seconds=1)
    for data in (sealed, b"\x03" + sealed):
        (told,) = await slots.open(data)
        assert isinstance(told, KmsError)
    with pytest.raises(errors.KeyDestroyedError):
        await slots.opened(sealed)
    held = [item.label for item in await slots.made.signer.keys() if item.label[:2] == "s-"]
    assert [label[-2:] for label in held] == ["-2"]
    assert len(slots.events("key.destroyed")) == 1


async def hold(slots: Slots, verb: str, who: Caller = OFFICER) -> dict[str, Any]:
    holds = slots.made.services.slots.holds
    do = holds.place if verb == "place" else holds.release
    request = slots.made.call(f"POST {verb}", {}, who=who)
    return decoded(await do(request, TENANT, NAME, "court order 7 O 12/26"))


async def test_a_hold_blocks_destruction_whatever_was_scheduled(slots: Slots):
    await slots.create(retention_days=10)
    sealed = await slots.envelope()
    await slots.rotate()
    await slots.upkeep(days=10, seconds=1)
    assert len(slots.events("key.destruction-scheduled")) == 1
    held = await hold(slots, "place")
    assert held["hold"] is True
    assert len(slots.events("key.destruction-cancelled")) == 1
    (leaf,) = [json.loads(item) for item in slots.events("key.held")]
    assert leaf["detail"]["reason"] == "court order 7 O 12/26"
    await slots.upkeep(days=400)
    assert await slots.opened(sealed) == OBJECT
    request = slots.made.call("POST destroy", {})
    with pytest.raises(errors.LegalHoldError):
        await slots.made.services.slots.destruction.schedule(request, TENANT, NAME, 1, NAME, None)
    await hold(slots, "release")
    await slots.upkeep(seconds=1)
    assert await slots.opened(sealed) == OBJECT  # the delay begins anew
    await slots.upkeep(days=7, seconds=1)
    with pytest.raises(errors.KeyDestroyedError):
        await slots.opened(sealed)


async def test_officers_alone_hold_and_no_hold_is_placed_twice(slots: Slots):
    await slots.create()
    for verb in ("place", "release"):
        with pytest.raises(errors.OperationNotPermittedError):
            await hold(slots, verb, SERVER)
    with pytest.raises(errors.KeyStateError):
        await hold(slots, "release")
    await hold(slots, "place", Caller(SYSTEM_TENANT, "bob", Role.OFFICER, ()))
    with pytest.raises(errors.KeyStateError):
        await hold(slots, "place")
    with pytest.raises(errors.NotFoundError):
        await hold(slots, "release", Caller(TenantId("other"), "eve", Role.OFFICER, ()))


async def test_a_compromised_slot_is_not_served_and_opens_for_recovery_alone(slots: Slots):
    await slots.create()
    sealed = await slots.envelope()
    steps = slots.made.services.slots.steps
    request = slots.made.call("POST compromise", {})
    answer = decoded(await steps.compromise(request, TENANT, NAME, None, None, None))
    assert [item["serial"] for item in answer["touches"]["certificates"]]
    assert (await slots.document())["versions"] == []
    with pytest.raises(errors.KeyCompromisedError):
        await slots.opened(sealed)
    (certificate,) = slots.made.ledger.find(Certificate, tenant=TENANT, profile="kem-slot")
    assert (certificate.status, certificate.reason) == ("revoked", "key-compromise")
    assert slots.made.services.crls_wanted.get_nowait() == "infrastructure"


async def test_the_auditor_believes_all_of_it(slots: Slots):
    """The longest of lives, and what an auditor would not believe of it."""
    created = await slots.create(overlap_days=3, retention_days=10)
    sealed = await slots.envelope()
    await slots.open(sealed)
    await slots.rotate()
    await slots.upkeep(days=3, seconds=1)
    await slots.upkeep(days=10, seconds=1)
    await hold(slots, "place")
    await hold(slots, "release")
    await slots.upkeep(seconds=1)
    await slots.upkeep(days=7, seconds=1)
    (certificate,) = slots.made.ledger.find(Certificate, tenant=TENANT, status="revoked")
    assert certificate.serial == created["versions"][0]["certificate"]
    leaves = [item.leaf for item in slots.made.ledger.find(Event, log=LogId(1))]
    assert replayed(leaves) == []
    (birth,) = [
        at
        for at, leaf in enumerate(leaves)
        if certificate.serial.encode() in leaf and b"s-" in leaf
    ]
    told = json.loads(leaves[birth])
    for change in (
        {"certificates": []},
        {"certificates": [{**told["certificates"][0], "authority": "people"}]},
        {"certificates": [{**told["certificates"][0], "profile": "messaging-server"}]},
        {"certificates": [{**told["certificates"][0], "slot": "kem"}]},
    ):
        forged = canonical({**told, **change})
        assert replayed([*leaves[:birth], forged, *leaves[birth + 1 :]]), change


def replayed(leaves: list[bytes]) -> list[Failure]:
    """What an auditor finds wrong with such a log."""
    check, events = check_events(leaves, None)
    history, _ = replay(events, Names({}), {})
    return [*check.failures, *history.failures]


async def test_a_suspended_slot_does_nothing_at_all(slots: Slots):
    await slots.create()
    sealed = await slots.envelope()
    steps = slots.made.services.slots.steps
    for step in (Step.SUSPEND, Step.RESUME):
        request = slots.made.call(f"POST {step}", {})
        await steps.step(request, TENANT, NAME, step, None)
        if step is Step.SUSPEND:
            assert (await slots.document())["versions"] == []
            with pytest.raises(errors.KeySuspendedError):
                await slots.opened(sealed)
    assert await slots.opened(sealed) == OBJECT
