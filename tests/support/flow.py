"""An enrolment through the use cases, step by step, with the reference client as the device."""

import hashlib
from typing import Any

from kms.device import Device, Expectations
from kms.domain.authorisation import Caller
from kms.domain.records import EnrolmentId
from kms.services.answers import Answer
from kms.services.enrolment_orders import EnrolmentOrder, SlotOrder
from kms.services.enrolment_proofs import ProofOrder
from kms.wire import EnrolmentPurpose, unb64
from tests.support.services import SERVER, TENANT, World, decoded

SLOTS = {"identity": "ECDSA-P256", "kem": "MLKEM768-X25519"}
IDENTITY = {"identity": "ECDSA-P256"}


def expectations(made: World) -> Expectations:
    people = made.report.certificates["people"]
    return Expectations(
        origin=made.report.origin,
        authority=hashlib.sha256(people).hexdigest(),
        tenant=TENANT,
        log_vkey=made.report.vkey,
        root=made.report.certificates["root"],
    )


def new_device(made: World, user: str, device: str, slots: dict[str, str] | None = None) -> Device:
    return Device(user, device, slots or SLOTS, expectations(made))


def order_of(body: dict[str, Any]) -> EnrolmentOrder:
    return EnrolmentOrder(
        user=body["user"],
        device=body["device"],
        bundle=body["bundle"],
        purpose=EnrolmentPurpose(body["purpose"]),
        slots=tuple(
            SlotOrder(slot["name"], slot["algorithm"], unb64(slot["public_key"]))
            for slot in body["slots"]
        ),
    )


def proofs_of(enrolment: str, body: dict[str, Any]) -> ProofOrder:
    proofs = {name: unb64(text) for name, text in body["proofs"].items()}
    return ProofOrder(EnrolmentId(enrolment), proofs)


async def order(made: World, device: Device, who: Caller = SERVER) -> dict[str, Any]:
    bundle = "device" if "kem" in device.keys else "device-identity"
    body = device.request(bundle)
    request = made.call("orders", body, who=who)
    return decoded(await made.services.orders.create(request, order_of(body)))


async def prove(made: World, device: Device, answer: dict[str, Any], key: str) -> Answer:
    """The second call as a client makes it: with its Idempotency-Key."""
    body = device.prove(answer)
    proofs = proofs_of(answer["enrolment"], body)
    request = made.call("proofs", answer["enrolment"], key=key)

    async def work() -> Answer:
        return await made.services.proofs.complete(request, proofs)

    return await made.services.idempotency.once(request, work)


async def enrol(made: World, device: Device, key: str | None = None) -> dict[str, Any]:
    answer = await order(made, device)
    certified = decoded(await prove(made, device, answer, key or answer["enrolment"]))
    device.accept(certified)
    return certified
