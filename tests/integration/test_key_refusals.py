"""What a key's life must not come to, whatever order things happen in."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hsm_drivers.errors import DestructionBegunError, StatementRefusedError, TokenUnavailableError
from hsm_drivers.ports import KeyLabel
from kms.domain.authorisation import Caller
from kms.domain.key_records import Key, KeyReservation, KeyVersion
from kms.domain.records import Event
from kms.services import errors
from kms.services.keys import upkeep as key_upkeep
from kms.services.keys.orders import KeyOrder
from kms.services.keys.verbs import VERBS, Item
from kms.wire import unb64
from policies.key_life import KeyPurpose, KeyState, Step
from tests.support.services import OFFICER, SERVER, TENANT, World, world

pytestmark = pytest.mark.anyio

DAY = timedelta(days=1)
NAME = "k"


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as service:
        yield service


async def create(made: World, name: str = NAME, **order: Any) -> None:
    purpose = order.pop("purpose", KeyPurpose.ENCRYPTION)
    wanted = KeyOrder(name, purpose, **order)
    await made.services.keys.orders.create(made.call("keys", name, name), TENANT, wanted)


async def rotate(made: World, name: str = NAME, after: timedelta | None = None) -> None:
    at = None if after is None else made.clock.now() + after
    request = made.call("rotate", [name, str(made.clock.now())], who=OFFICER)
    await made.services.keys.orders.rotate(request, TENANT, name, at)


async def step(made: World, step: Step, version: int | None = None) -> None:
    request = made.call(step, [NAME, version], who=OFFICER)
    await made.services.keys.steps.step(request, TENANT, NAME, step, version)


async def destroy(made: World, version: int | None = None) -> None:
    request = made.call("destroy", [NAME, version], who=OFFICER)
    schedule = made.services.keys.destruction.schedule
    await schedule(request, TENANT, NAME, version, NAME, None)


async def compromise(made: World, who: Caller = OFFICER, **until: Any) -> None:
    request = made.call("compromise", NAME, who=who)
    take = made.services.keys.steps.compromise
    await take(request, TENANT, NAME, None, None, until.get("until"))


async def recover(made: World, until: timedelta, who: Caller = OFFICER) -> None:
    at = made.clock.now() + until
    request = made.call("recover", str(at), who=who)
    await made.services.keys.steps.recover(request, TENANT, NAME, None, at)


async def one(made: World, verb: str, **parts: Any) -> dict[str, Any]:
    use = made.services.keys.use.run
    (told,) = await use(SERVER, TENANT, NAME, VERBS[verb], [Item(**parts)])
    if isinstance(told, errors.KmsError):
        raise told
    return told


def states(made: World, name: str = NAME) -> list[KeyState]:
    return [item.state for item in made.ledger.find(KeyVersion, tenant=TENANT, key=name)]


def details(made: World, kind: str) -> list[dict[str, Any]]:
    return [json.loads(item.leaf)["detail"] for item in made.ledger.find(Event, type=kind)]


async def test_what_is_to_be_destroyed_is_not_activated_meanwhile(made: World):
    await create(made)
    await rotate(made, after=3 * DAY)
    await destroy(made, 2)
    made.clock.advance(days=3)
    assert await made.services.keys.upkeep.carry_out_due() == 0
    request = made.call("activate", NAME, who=OFFICER)
    with pytest.raises(errors.KeyStateError, match="cancel it first"):
        await made.services.keys.steps.activate(request, TENANT, NAME, 2)
    made.clock.advance(days=4)
    assert await made.services.keys.upkeep.carry_out_due() == 1
    assert states(made) == [KeyState.ACTIVE, KeyState.DESTROYED]
    await one(made, "encrypt", plaintext=b"x")


async def test_a_cancelled_destruction_lets_it_be_activated_after_all(made: World):
    await create(made)
    await rotate(made, after=3 * DAY)
    await destroy(made, 2)
    made.clock.advance(days=3)
    request = made.call("cancel", NAME, who=OFFICER)
    await made.services.keys.destruction.cancel(request, TENANT, NAME, 2)
    assert await made.services.keys.upkeep.carry_out_due() == 1
    assert states(made) == [KeyState.DEACTIVATED, KeyState.ACTIVE]


async def test_an_illegal_task_neither_reaches_the_signer_nor_ends_the_round(
    made: World, monkeypatch: pytest.MonkeyPatch
):
    """A ledger that says what it must not: an active version whose destruction is due."""
    await create(made)
    await create(made, "later", activates=made.clock.now() + 2 * DAY)
    (item,) = made.ledger.find(KeyVersion, tenant=TENANT, key=NAME)
    book = made.services.keys.upkeep._reach.book
    doomed = made.clock.now() + DAY

    def lying(key: Key) -> Any:
        found = book(key)
        return found.schedule(1, doomed) if key.key == NAME else found

    monkeypatch.setattr(made.services.keys.upkeep._reach, "book", lying)
    found = made.ledger.get(Key, TENANT, NAME)
    assert found is not None
    made.ledger.reserve([key_upkeep.Replace(lying(found).key, expected=found)])
    made.clock.advance(days=2)
    with pytest.raises(errors.StateError, match="cannot take the step 'destroy'"):
        await made.services.keys.upkeep.carry_out_due()
    assert states(made, "later") == [KeyState.ACTIVE]
    assert item.label in {str(record.label) for record in await made.signer.keys()}


async def test_keys_that_fail_do_not_starve_the_others(
    made: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(key_upkeep, "PAGE", 2)
    soon, later = made.clock.now() + DAY, made.clock.now() + 2 * DAY
    for number in range(5):
        await create(made, f"bad{number}", purpose=KeyPurpose.MAC, activates=soon)
    await create(made, "good", purpose=KeyPurpose.MAC, activates=later)
    made.clock.advance(days=2)
    upkeep = made.services.keys.upkeep
    does = upkeep._do

    async def failing(book: Any, due: Any) -> None:
        if book.key.key != "good":
            raise ZeroDivisionError
        await does(book, due)

    monkeypatch.setattr(upkeep, "_do", failing)
    with pytest.raises(errors.StateError):
        await upkeep.carry_out_due()
    assert states(made, "good") == [KeyState.ACTIVE]


async def test_officers_alone_let_a_compromised_key_open_and_later_too(made: World):
    await create(made)
    data = unb64((await one(made, "encrypt", plaintext=b"text"))["ciphertext"])
    with pytest.raises(errors.OperationNotPermittedError):
        await compromise(made, who=SERVER, until=made.clock.now() + DAY)
    with pytest.raises(errors.KeyStateError):
        await recover(made, DAY)
    await compromise(made, who=SERVER)
    with pytest.raises(errors.KeyCompromisedError):
        await one(made, "decrypt", ciphertext=data)
    with pytest.raises(errors.OperationNotPermittedError):
        await recover(made, DAY, who=SERVER)
    for wrong in (timedelta(0), timedelta(days=3651)):
        with pytest.raises(errors.InputError):
            await recover(made, wrong)
    await recover(made, DAY)
    await recover(made, 2 * DAY)
    made.clock.advance(days=1)
    assert (await one(made, "decrypt", ciphertext=data))["version"] == 1
    with pytest.raises(errors.KeyCompromisedError):
        await one(made, "encrypt", plaintext=b"x")
    made.clock.advance(days=1)
    with pytest.raises(errors.KeyCompromisedError):
        await one(made, "decrypt", ciphertext=data)
    told = [item["until"] for item in details(made, "key.recovery-allowed")]
    assert told == ["2026-11-22T12:00:00Z", "2026-11-23T12:00:00Z"]


async def test_no_hold_on_what_has_begun_to_go(made: World, monkeypatch: pytest.MonkeyPatch):
    """The signer is asked first; only where it is away the hold is placed all the same."""
    await create(made)
    await step(made, Step.DEACTIVATE)
    await destroy(made)
    holds = made.services.slots.holds
    monkeypatch.setattr(holds, "_reach", made.services.keys.lookup._reach)
    answers: list[Exception] = [DestructionBegunError("gone"), TokenUnavailableError("away")]

    async def cancel(_: object, label: KeyLabel) -> None:
        raise answers.pop(0)

    monkeypatch.setattr(type(made.signer), "cancel_destruction", cancel)
    with pytest.raises(errors.KeyStateError, match="has begun"):
        await holds.place(made.call("hold", 1, who=OFFICER), TENANT, NAME, "court")
    assert not details(made, "key.held")
    await holds.place(made.call("hold", 2, who=OFFICER), TENANT, NAME, "court")
    assert len(details(made, "key.held")) == 1


async def test_a_hold_that_comes_too_late_does_not_hide_the_destruction(
    made: World, monkeypatch: pytest.MonkeyPatch
):
    await create(made)
    await step(made, Step.DEACTIVATE)
    await destroy(made)
    made.clock.advance(days=7)
    holds, destroys = made.services.slots.holds, made.signer.destroy
    monkeypatch.setattr(holds, "_reach", made.services.keys.lookup._reach)

    async def away(_: object, label: KeyLabel) -> None:
        raise TokenUnavailableError("away")

    async def destroy_slowly(label: KeyLabel) -> tuple[str, ...]:
        gone = await destroys(label)
        await holds.place(made.call("hold", 1, who=OFFICER), TENANT, NAME, "court")
        return gone

    monkeypatch.setattr(type(made.signer), "cancel_destruction", away)
    monkeypatch.setattr(made.services.core.keys, "destroy", destroy_slowly, raising=True)
    assert await made.services.keys.upkeep.carry_out_due() == 1
    assert states(made) == [KeyState.DESTROYED]
    assert len(details(made, "key.held")) == 1


async def test_a_resumed_version_does_not_stand_beside_its_successor(made: World):
    await create(made)
    await step(made, Step.SUSPEND)
    await rotate(made)
    with pytest.raises(errors.KeyStateError, match="version 2 has succeeded version 1"):
        await step(made, Step.RESUME, 1)
    await step(made, Step.DEACTIVATE, 1)
    assert states(made) == [KeyState.DEACTIVATED, KeyState.ACTIVE]


@pytest.mark.parametrize("at", [timedelta(seconds=-1), timedelta(days=3651), timedelta(days=10**6)])
async def test_an_activation_that_nobody_can_mean_is_refused(made: World, at: timedelta):
    with pytest.raises(errors.InputError, match="activates"):
        await create(made, activates=made.clock.now() + at)
    await create(made)
    with pytest.raises(errors.InputError, match="activates"):
        await rotate(made, after=at)


async def test_nothing_is_not_a_message(made: World):
    await create(made, purpose=KeyPurpose.SIGNING)
    with pytest.raises(errors.InputError, match="message or a digest"):
        await one(made, "sign")
    await one(made, "sign", message=b"")


async def lose_commits(made: World, monkeypatch: pytest.MonkeyPatch, work: Any) -> None:
    async def lost(*_: object, **__: object) -> Any:
        raise errors.LogUnavailableError("lost")

    with monkeypatch.context() as patched:
        patched.setattr(type(made.services.core.sequencer), "commit", lost)
        with pytest.raises(errors.LogUnavailableError):
            await work


async def test_a_used_up_label_does_not_end_rotation(made: World, monkeypatch: pytest.MonkeyPatch):
    """The version was made and its commit lost; by now the signer refuses its label for good."""
    await create(made)
    await lose_commits(made, monkeypatch, rotate(made))
    generate = made.signer.generate
    burnt = [item.label for item in await made.signer.keys() if item.label.endswith("-2")]

    async def refusing(spec: Any) -> Any:
        if spec.label in burnt:
            raise StatementRefusedError("was made before; labels are never used again")
        return await generate(spec)

    monkeypatch.setattr(made.services.core.keys, "generate", refusing)
    await rotate(made)
    made.clock.advance(days=1)
    await rotate(made)
    labels = [item.label for item in made.ledger.find(KeyVersion, tenant=TENANT, key=NAME)]
    assert [label.rpartition("-")[2] for label in labels] == ["1", "3", "4"]
    assert await made.services.keys.upkeep.reconcile() == 1
    assert [item["label"] for item in details(made, "key.orphaned")] == burnt
    made.clock.advance(days=8)
    assert await made.services.keys.upkeep.reconcile() == 1
    assert [item.get("destroyed_on") for item in details(made, "key.orphaned")] == [None, ["main"]]
    assert made.ledger.find(KeyReservation) == []


async def test_what_a_late_retry_leaves_behind_is_an_orphan(
    made: World, monkeypatch: pytest.MonkeyPatch
):
    """The same request an hour later makes another key; the first one does not stay for good."""
    await lose_commits(made, monkeypatch, create(made))
    made.clock.advance(hours=2)
    await create(made)
    assert await made.services.keys.upkeep.reconcile() == 1
    (orphan,) = details(made, "key.orphaned")
    (kept,) = made.ledger.find(KeyVersion, tenant=TENANT, key=NAME)
    assert orphan["label"] != kept.label
