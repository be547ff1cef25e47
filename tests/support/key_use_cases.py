"""Use cases of clients' keys, arranged as those of `tests.support.use_cases`."""

import secrets
from contextlib import suppress
from datetime import timedelta
from typing import Any

from kms.domain.key_records import Key, LogUses
from kms.domain.records import Role
from kms.services.errors import KeyStateError
from kms.services.keys.orders import KeyOrder, KeySettings
from kms.services.keys.verbs import VERBS, Item
from kms.wire import unb64
from policies.key_life import KeyPurpose, Step
from tests.support.faulty_signer import Fault, FaultySigner
from tests.support.services import OFFICER, SERVER, TENANT, World
from tests.support.use_cases import Act, covers, once, read


async def _key(made: World, purpose: KeyPurpose = KeyPurpose.ENCRYPTION, **settings: Any) -> str:
    name = secrets.token_hex(6)
    await _creating(made, name, purpose, **settings)()
    return name


def _creating(made: World, name: str, purpose: KeyPurpose, **settings: Any) -> Act:
    request = made.call("keys", name)
    order = KeyOrder(name, purpose, settings=KeySettings(**settings))
    create = made.services.keys.orders.create
    return once(made, request, lambda: create(request, TENANT, order))


def _stepping(made: World, name: str, step: Step) -> Act:
    request, take = made.call(step, name, who=OFFICER), made.services.keys.steps.step
    return once(made, request, lambda: take(request, TENANT, name, step, None))


def _scheduling(made: World, name: str) -> Act:
    request, schedule = made.call("destroy", name), made.services.keys.destruction.schedule
    return once(made, request, lambda: schedule(request, TENANT, name, None, name, None))


@covers("keys.orders.create")
async def create_key(made: World) -> Act:
    return _creating(made, secrets.token_hex(6), KeyPurpose.SIGNING)


@covers("keys.orders.rotate")
async def rotate_key(made: World) -> Act:
    name = await _key(made)
    request, rotate = made.call("rotate", name), made.services.keys.orders.rotate
    return once(made, request, lambda: rotate(request, TENANT, name, None))


@covers("keys.orders.permit")
async def permit_key(made: World) -> Act:
    name, principal = await _key(made), secrets.token_hex(6)
    add = made.services.principals.add_principal
    registering = made.call("principals", principal, who=OFFICER)
    await add(registering, TENANT, principal, Role.MESSAGING_SERVER, [])
    request, permit = made.call("permit", name), made.services.keys.orders.permit
    return once(made, request, lambda: permit(request, TENANT, name, principal, ["decrypt"]))


@covers("keys.steps.activate")
async def activate_key(made: World) -> Act:
    name = secrets.token_hex(6)
    ordering = made.call("keys", name)
    later = made.clock.now().replace(year=2030)
    order = KeyOrder(name, KeyPurpose.MAC, activates=later)
    await made.services.keys.orders.create(ordering, TENANT, order)
    request, activate = made.call("activate", name), made.services.keys.steps.activate
    return once(made, request, lambda: activate(request, TENANT, name, None))


@covers("keys.steps.step")
async def deactivate_key(made: World) -> Act:
    return _stepping(made, await _key(made), Step.DEACTIVATE)


@covers("keys.steps.compromise", "keys.steps.touches", "keys.steps.managed")
async def compromise_key(made: World) -> Act:
    name, steps = await _key(made), made.services.keys.steps
    request = made.call("compromise", name)
    steps.touches(steps.managed(SERVER, TENANT, name), [1])
    return once(made, request, lambda: steps.compromise(request, TENANT, name, None, None, None))


@covers("keys.steps.recover")
async def recover_key(made: World) -> Act:
    name, steps = await _key(made), made.services.keys.steps
    losing = made.call("compromise", name)
    await steps.compromise(losing, TENANT, name, None, None, None)
    until = made.clock.now() + timedelta(days=1)
    request = made.call("recover", name, who=OFFICER)
    return once(made, request, lambda: steps.recover(request, TENANT, name, None, until))


@covers("keys.destruction.schedule")
async def schedule_destruction(made: World) -> Act:
    name = await _key(made)
    await _stepping(made, name, Step.DEACTIVATE)()
    return _scheduling(made, name)


@covers("keys.destruction.cancel")
async def cancel_destruction(made: World) -> Act:
    name = await _key(made)
    await _stepping(made, name, Step.DEACTIVATE)()
    await _scheduling(made, name)()
    request, cancel = made.call("cancel", name), made.services.keys.destruction.cancel
    return once(made, request, lambda: cancel(request, TENANT, name, None))


@covers("keys.upkeep.carry_out_due", "keys.destruction.carry_out")
async def destroy_due(made: World) -> Act:
    name = await _key(made)
    await _stepping(made, name, Step.DEACTIVATE)()
    await _scheduling(made, name)()
    made.clock.advance(days=7)
    return _until_nothing_is_due(made)


@covers("keys.upkeep.carry_out_due", "keys.orders.rotate_due", "keys.destruction.schedule_due")
async def rotate_due(made: World) -> Act:
    for key in made.ledger.find(Key, tenant=TENANT):  # or those made before would rotate, too
        with suppress(KeyStateError):
            await _stepping(made, key.key, Step.DEACTIVATE)()
    await _key(made, rotation_days=1, retention_days=1)
    made.clock.advance(days=1)
    await made.services.keys.upkeep.carry_out_due()
    made.clock.advance(days=1)
    return _until_nothing_is_due(made)


def _until_nothing_is_due(made: World) -> Act:
    async def act() -> object:
        await made.services.keys.upkeep.carry_out_due()
        assert await made.services.keys.upkeep.carry_out_due() == 0
        return None

    return act


@covers("keys.upkeep.reconcile")
async def reconcile(made: World) -> Act:
    """The signer missed that a key was deactivated."""
    name = await _key(made)
    assert isinstance(made.signer, FaultySigner)
    made.signer.fail_next("narrow", Fault.NOT_DONE)
    await _stepping(made, name, Step.DEACTIVATE)()
    return made.services.keys.upkeep.reconcile


@covers("keys.use.run")
async def use_key(made: World) -> Act:
    """Logged, so that the answer waits for the log; another ciphertext each time."""
    name = await _key(made, log_uses=LogUses.COUNT)
    use, verbs = made.services.keys.use, VERBS

    async def act() -> object:
        (sealed,) = await use.run(SERVER, TENANT, name, verbs["encrypt"], [Item(plaintext=b"x")])
        assert isinstance(sealed, dict)
        item = Item(ciphertext=unb64(sealed["ciphertext"]))
        (opened,) = await use.run(SERVER, TENANT, name, verbs["decrypt"], [item])
        return repr(opened).encode()

    return act


@covers("keys.use.random")
async def draw_random(made: World) -> Act:
    async def act() -> object:
        return len((await made.services.keys.use.random(32))["random"])

    return act


@covers("keys.lookup.keys", "keys.lookup.key", "keys.lookup.uses")
async def look_up_keys(made: World) -> Act:
    name, lookup = await _key(made), made.services.keys.lookup
    return read(
        lambda: (
            lookup.keys(SERVER, TENANT),
            lookup.key(SERVER, TENANT, name),
            lookup.uses(SERVER, TENANT, name),
        )
    )
