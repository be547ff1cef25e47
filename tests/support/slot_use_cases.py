"""Use cases of KEM slots, arranged as those of `tests.support.use_cases`."""

import secrets

from kms.device.encapsulation import parse_slot_key
from kms.device.sealing import Recipient, seal_message
from kms.domain.key_records import Key, KeyVersion, LogUses
from kms.services.keys.orders import KeyOrder, KeySettings
from kms.services.keys.verbs import Item
from kms.services.slots.verbs import OPEN
from policies.key_life import KeyPurpose
from tests.support.services import OFFICER, SERVER, TENANT, World
from tests.support.use_cases import Act, covers, once

REASON = "court order 7 O 12/26"


def _creating(made: World, name: str) -> Act:
    request = made.call("kem-slots", name)
    order = KeyOrder(name, KeyPurpose.KEM, "archive", settings=KeySettings(log_uses=LogUses.EVERY))
    create = made.services.slots.orders.create
    return once(made, request, lambda: create(request, TENANT, order))


async def _slot(made: World) -> str:
    name = secrets.token_hex(6)
    await _creating(made, name)()
    return name


@covers("keys.orders.create")
async def create_slot(made: World) -> Act:
    """With its challenge and its certificate."""
    return _creating(made, secrets.token_hex(6))


@covers("keys.use.run")
async def open_message(made: World) -> Act:
    name = await _slot(made)
    key = made.ledger.get(Key, TENANT, name)
    version = made.ledger.get(KeyVersion, TENANT, name, 1)
    assert key is not None
    assert version is not None
    kem, raw = parse_slot_key(version.public_key)
    sealed = seal_message(Recipient(key.key_id, 1, kem, raw, b""), b"a message")

    async def act() -> object:
        (opened,) = await made.services.slots.use.run(
            SERVER, TENANT, name, OPEN, [Item(ciphertext=sealed)]
        )
        return repr(opened).encode()

    return act


@covers("slots.holds.place")
async def place_hold(made: World) -> Act:
    return _placing(made, await _slot(made))


@covers("slots.holds.release")
async def release_hold(made: World) -> Act:
    name = await _slot(made)
    await _placing(made, name)()
    request, release = made.call("release", name, who=OFFICER), made.services.slots.holds.release
    return once(made, request, lambda: release(request, TENANT, name, REASON))


def _placing(made: World, name: str) -> Act:
    request, place = made.call("hold", name, who=OFFICER), made.services.slots.holds.place
    return once(made, request, lambda: place(request, TENANT, name, REASON))


@covers("slots.documents.public", "slots.documents.held")
async def serve_slot(made: World) -> Act:
    name, documents = await _slot(made), made.services.slots.documents

    async def act() -> object:
        assert documents.held(SERVER, TENANT, name) is None
        served = await documents.public(SERVER, TENANT, name)
        return [item["version"] for item in served["versions"]]

    return act
