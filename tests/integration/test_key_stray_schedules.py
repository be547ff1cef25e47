"""Destructions that somebody asked the signer for behind the ledger's back come to nothing."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from hsm_drivers.errors import StatementRefusedError
from hsm_drivers.ports import KeyLabel
from kms.domain.key_records import KeyReservation, KeyVersion
from kms.services import errors
from kms.services.keys.orders import KeyOrder, KeySettings
from kms.services.keys.verbs import VERBS, Item
from policies.key_life import KeyPurpose, Step
from tests.support.services import OFFICER, SERVER, TENANT, World, world

pytestmark = pytest.mark.anyio

DELAY = timedelta(days=7)


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as service:
        yield service


async def a_key(made: World, name: str) -> KeyLabel:
    order = KeyOrder(name, KeyPurpose.MAC, settings=KeySettings())
    await made.services.keys.orders.create(made.call("keys", name), TENANT, order)
    (version,) = made.ledger.find(KeyVersion, tenant=TENANT, key=name)
    return KeyLabel(version.label)


async def scheduled(made: World, name: str, **at: Any) -> None:
    request = made.call("step", name, who=OFFICER)
    await made.services.keys.steps.step(request, TENANT, name, Step.DEACTIVATE, None)
    request = made.call("destroy", name, who=OFFICER)
    await made.services.keys.destruction.schedule(request, TENANT, name, None, name, at.get("at"))


async def listed(made: World) -> dict[str, str]:
    """What the signer would destroy, and from when on."""
    return {item.label: item.destroys for item in await made.signer.keys() if item.destroys}


async def test_an_intruders_schedule_is_undone_and_told(made: World) -> None:
    keys = made.services.keys
    labels = [await a_key(made, f"k{number}") for number in range(3)]
    for label in labels:
        await made.signer.schedule_destruction(label, made.clock.now() + DELAY)
    assert await keys.upkeep.reconcile() == 0, "it may be about to be committed"
    with capture_logs() as told:
        assert await keys.upkeep.reconcile() == 3
    strays = [line for line in told if line["event"] == "key.stray-destruction"]
    assert [(line["log_level"], line["label"]) for line in strays] == [
        ("error", label) for label in sorted(labels)
    ]
    assert await listed(made) == {}
    assert await keys.upkeep.reconcile() == 0
    made.clock.advance(days=8)
    with pytest.raises(StatementRefusedError, match="not scheduled"):
        await made.signer.destroy(labels[0])
    (served,) = await keys.use.run(SERVER, TENANT, "k0", VERBS["mac"], [Item(message=b"x")])
    assert not isinstance(served, errors.KmsError)


async def test_what_the_ledger_scheduled_stays(made: World) -> None:
    label = await a_key(made, "k")
    await scheduled(made, "k")
    before = await listed(made)
    assert list(before) == [label]
    for _ in range(3):
        assert await made.services.keys.upkeep.reconcile() == 0
    assert await listed(made) == before
    made.clock.advance(days=7)
    assert await made.services.keys.upkeep.carry_out_due() == 1


async def test_what_was_moved_forward_is_moved_back(made: World) -> None:
    label = await a_key(made, "k")
    due = made.clock.now() + timedelta(days=90)
    await scheduled(made, "k", at=due)
    before = await listed(made)
    await made.signer.schedule_destruction(label, made.clock.now() + DELAY)
    for _ in range(2):
        await made.services.keys.upkeep.reconcile()
    assert await listed(made) == before


async def test_less_than_the_delay_is_left(made: World) -> None:
    """The signer would not take the ledger's moment: it goes, and carrying out begins anew."""
    label = await a_key(made, "k")
    await scheduled(made, "k", at=made.clock.now() + timedelta(days=9))
    await made.signer.schedule_destruction(label, made.clock.now() + DELAY)
    made.clock.advance(days=3)
    for _ in range(2):
        await made.services.keys.upkeep.reconcile()
    assert await listed(made) == {}


async def test_orphans_are_destroyed_all_the_same(
    made: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: object, **__: object) -> Any:
        raise errors.LogUnavailableError("lost")

    with monkeypatch.context() as patched:
        patched.setattr(type(made.services.core.sequencer), "commit", lost)
        with pytest.raises(errors.LogUnavailableError):
            await a_key(made, "k")
    made.clock.advance(hours=2)
    for _ in range(4):
        await made.services.keys.upkeep.reconcile()
    assert len(await listed(made)) == 1
    made.clock.advance(days=8)
    await made.services.keys.upkeep.reconcile()
    assert [item for item in await made.signer.keys() if item.operations] == []
    assert made.ledger.find(KeyReservation) == []
