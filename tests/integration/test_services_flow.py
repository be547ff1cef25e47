"""The main flow through the use cases, driven by the reference client, over in-memory ports."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from hsm_drivers.ports import StatementSigner
from kms.device import Device, TranscriptMismatchError
from kms.domain.records import Device as Device_
from kms.domain.records import Enrolment, Event, Idempotent, Reason, UserId
from kms.services import upkeep
from kms.services.answers import Answer
from kms.services.errors import (
    AlgorithmRefusedError,
    ChallengeExpiredError,
    ChallengeUsedError,
    InputError,
    KeyReusedError,
    NotFoundError,
    ProofFailedError,
    RevokedError,
    StateError,
)
from kms.wire import unb64
from policies.policy import load, shipped
from tests.support.books import check_books
from tests.support.flow import (
    IDENTITY,
    SLOTS,
    enrol,
    expectations,
    new_device,
    order,
    proofs_of,
    prove,
)
from tests.support.services import TENANT, decoded, world

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("identity", "kem"),
    [
        ("ECDSA-P256", "MLKEM768-X25519"),
        ("Ed25519", "MLKEM1024-P384"),
        ("ML-DSA-65", "MLKEM768-X25519"),
    ],
)
async def test_a_device_is_enrolled_and_believes_the_answer(
    tmp_path: Path, identity: str, kem: str
):
    async with world(tmp_path) as made:
        device = Device("ada", "phone", {"identity": identity, "kem": kem}, expectations(made))
        certified = await enrol(made, device)
        assert [item["slot"] for item in certified["certificates"]] == ["identity", "kem"]
        assert certified["receipt"]["status"] == "final"


async def test_a_classical_kem_alone_is_refused_and_leaves_nothing(tmp_path: Path):
    async with world(tmp_path) as made:
        before = made.ledger.head()
        device = Device(
            "ada", "phone", {"identity": "ECDSA-P256", "kem": "X25519"}, expectations(made)
        )
        with pytest.raises(AlgorithmRefusedError):
            await order(made, device)
        assert made.ledger.head() == before


async def test_a_log_key_that_the_policy_does_not_allow_is_never_made(tmp_path: Path):
    allowed = b'use = "log"\nalgorithms = ["Ed25519"]'
    source = shipped().source
    assert allowed in source
    other = load(source.replace(allowed, b'use = "log"\nalgorithms = ["ECDSA-P256"]'))
    signers: list[StatementSigner] = []

    def seen(signer: StatementSigner) -> StatementSigner:
        signers.append(signer)
        return signer

    with pytest.raises(AlgorithmRefusedError, match="log"):
        async with world(tmp_path, wrap_signer=seen, policy=other):
            pass
    assert await signers[0].keys() == []


async def test_proofs_are_single_use_and_bound_to_their_transcript(tmp_path: Path):
    async with world(tmp_path) as made:
        first = Device("ada", "phone", SLOTS, expectations(made))
        second = Device("ada", "tablet", SLOTS, expectations(made))
        one, two = await order(made, first), await order(made, second)
        good, other = first.prove(one), second.prove(two)
        with pytest.raises(ProofFailedError):
            await made.services.proofs.complete(
                made.call("p", 1), proofs_of(one["enrolment"], other)
            )
        await made.services.proofs.complete(made.call("p", 2), proofs_of(one["enrolment"], good))
        with pytest.raises(ChallengeUsedError):
            await made.services.proofs.complete(
                made.call("p", 3), proofs_of(one["enrolment"], good)
            )
        made.clock.advance(minutes=11)
        with pytest.raises(ChallengeExpiredError):
            await made.services.proofs.complete(
                made.call("p", 4), proofs_of(two["enrolment"], other)
            )


async def test_a_key_cannot_be_registered_twice(tmp_path: Path):
    async with world(tmp_path) as made:
        device = Device("ada", "phone", SLOTS, expectations(made))
        await enrol(made, device)
        device.device = "tablet"
        with pytest.raises(KeyReusedError):
            await order(made, device)


async def test_a_revoked_person_has_no_good_certificate_and_cannot_come_back(tmp_path: Path):
    async with world(tmp_path) as made:
        for name in ("phone", "tablet"):
            await enrol(made, Device("ada", name, SLOTS, expectations(made)))
        request = made.call("revoke", {"user": "ada"})
        answer = decoded(
            await made.services.revocation.user(
                request, TENANT, UserId("ada"), Reason.KEY_COMPROMISE
            )
        )
        assert len(answer["revoked"]) == 4
        published = await made.services.crls.publish("people")
        assert published.entries == 4
        with pytest.raises(RevokedError):
            await order(made, Device("ada", "watch", SLOTS, expectations(made)))


async def test_the_same_call_gives_the_same_bytes_again(tmp_path: Path):
    async with world(tmp_path) as made:
        device = Device("ada", "phone", SLOTS, expectations(made))
        answer = await order(made, device)
        body = device.prove(answer)
        proofs = proofs_of(answer["enrolment"], body)
        request = made.call("proofs", body, key="once")

        async def work() -> Answer:
            return await made.services.proofs.complete(request, proofs)

        first = await made.services.idempotency.once(request, work)
        await enrol(made, Device("bob", "phone-2", SLOTS, expectations(made)))
        again = await made.services.idempotency.once(request, work)
        assert again == first


async def test_two_devices_of_a_new_user_at_once_are_both_enrolled(tmp_path: Path):
    async with world(tmp_path) as made:
        devices = [new_device(made, "ada", f"phone-{i}", IDENTITY) for i in range(4)]
        answers = [await order(made, device) for device in devices]
        await asyncio.gather(
            *(
                prove(made, device, answer, answer["enrolment"])
                for device, answer in zip(devices, answers, strict=True)
            )
        )
        assert made.ledger.count(Device_, user="ada") == 4
        await check_books(made)


@pytest.mark.parametrize("name", [".", ".."])
async def test_names_of_places_are_no_ids(tmp_path: Path, name: str):
    async with world(tmp_path) as made:
        device = new_device(made, "ada", "phone", IDENTITY)
        device.device = name
        with pytest.raises(InputError) as refused:
            await order(made, device)
        assert refused.value.field == "device"


async def test_the_log_never_goes_back_in_time(tmp_path: Path):
    async with world(tmp_path) as made:
        await enrol(made, new_device(made, "ada", "phone", IDENTITY))
        made.clock.advance(hours=-1)
        await enrol(made, new_device(made, "ada", "tablet", IDENTITY))
        times = [event.time for event in made.ledger.find(Event)]
        assert times == sorted(times)


async def test_stored_answers_and_finished_enrolments_are_deleted_in_time(tmp_path: Path):
    async with world(tmp_path) as made:
        device = new_device(made, "ada", "phone", IDENTITY)
        answer = await order(made, device)
        await prove(made, device, answer, "once")
        made.clock.advance(days=6, hours=23)
        made.services.upkeep.expire()
        first = await prove(made, device, answer, "once")
        assert first.status == 201
        made.clock.advance(days=1)
        assert made.services.upkeep.expire() > 0
        with pytest.raises(NotFoundError):
            await prove(made, device, answer, "once")
        assert made.ledger.count(Idempotent, principal="messenger") == 0


async def test_expiry_reads_what_is_over_and_only_a_little_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(upkeep, "DELETE_PAGE", 2)
    async with world(tmp_path) as made:
        for number in range(5):
            await order(made, new_device(made, "ada", f"old-{number}", IDENTITY))
        made.clock.advance(days=8)
        await order(made, new_device(made, "ada", "fresh", IDENTITY))
        read: list[list[Any]] = []
        find = made.ledger.find

        def watched(*arguments: Any, **named: Any) -> list[Any]:
            read.append(find(*arguments, **named))
            return read[-1]

        monkeypatch.setattr(made.ledger, "find", watched)
        made.services.upkeep.expire()
        assert max(map(len, read)) == 2
        assert [item.device for item in find(Enrolment)] == ["fresh"]
        read.clear()
        assert made.services.upkeep.expire() == 0
        assert not any(read), "stored answers may have megabytes each"


async def test_a_device_is_renewed_with_new_keys_and_knows_what_it_follows(tmp_path: Path):
    async with world(tmp_path) as made:
        first = await enrol(made, new_device(made, "ada", "phone"))
        made.clock.advance(days=30)
        with pytest.raises(StateError):
            await order(made, new_device(made, "ada", "phone"))
        identity = unb64(first["certificates"][0]["certificate"])
        follows = hashlib.sha256(identity).hexdigest()
        again = Device("ada", "phone", SLOTS, expectations(made), renews=follows)
        renewed = await enrol(made, again)
        assert renewed["certificates"][0]["serial"] != first["certificates"][0]["serial"]
        newest = made.ledger.find(Event, descending=True, limit=1)[0]
        assert newest.type == "device.renewed"
        await check_books(made)


async def test_a_device_refuses_to_follow_another_certificate(tmp_path: Path):
    async with world(tmp_path) as made:
        await enrol(made, new_device(made, "ada", "phone"))
        stranger = Device("ada", "phone", SLOTS, expectations(made), renews="00" * 32)
        answer = await order(made, stranger)
        with pytest.raises(TranscriptMismatchError):
            stranger.prove(answer)


async def test_renewals_of_one_second_follow_each_other(tmp_path: Path):
    async with world(tmp_path) as made:
        answer = await enrol(made, new_device(made, "ada", "phone", IDENTITY))
        for _ in range(8):
            der = unb64(answer["certificates"][0]["certificate"])
            follows = hashlib.sha256(der).hexdigest()
            again = Device("ada", "phone", IDENTITY, expectations(made), renews=follows)
            answer = await enrol(made, again)


async def test_nothing_is_renewed_that_was_never_enrolled(tmp_path: Path):
    async with world(tmp_path) as made:
        device = Device("ada", "phone", SLOTS, expectations(made), renews="00" * 32)
        with pytest.raises(StateError):
            await order(made, device)
