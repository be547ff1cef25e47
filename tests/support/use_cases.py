"""Every use case of the service as something that can be arranged, done, and done again.

`tests/faults/test_every_fault.py` lets every call of theirs to ledger and signer fail.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kms.device import Device
from kms.domain.authorisation import Caller
from kms.domain.records import (
    SYSTEM_TENANT,
    Certificate,
    DeviceId,
    Reason,
    Role,
    Serial,
    UserId,
)
from kms.services.answers import Answer
from kms.services.ceremony import activate_policy
from kms.services.crls import SERVICE
from kms.services.errors import KmsError
from kms.services.idempotency import Call
from kms.services.ports import LedgerUnavailableError
from pki.keys import infer_algorithm, parse_public_key
from policies.algorithms import Kind
from tests.support.faulty_signer import Fault, FaultySigner
from tests.support.flow import (
    IDENTITY,
    enrol,
    expectations,
    new_device,
    order,
    order_of,
    proofs_of,
)
from tests.support.services import OFFICER, TENANT, World

Act = Callable[[], Awaitable[Any]]
Arrange = Callable[[World], Awaitable[Act]]
"""Makes everything ready, afresh each time; what it answers does the work, and may be repeated."""
WAITING = timedelta(minutes=16)
"""After so long nobody can complete an enrolment any more."""


@dataclass(frozen=True, slots=True)
class UseCase:
    """One or several verbs of `Services`, `<attribute>.<method>`."""

    names: tuple[str, ...]
    arrange: Arrange


CASES: list[UseCase] = []


def covers(*names: str) -> Callable[[Arrange], Arrange]:
    """Registers a use case under the verbs that it does."""

    def register(arrange: Arrange) -> Arrange:
        CASES.append(UseCase(names, arrange))
        return arrange

    return register


def _fresh() -> str:
    return secrets.token_hex(6)


def once(made: World, request: Call, work: Callable[[], Awaitable[Answer]]) -> Act:
    """As the API does it: with the guard of its Idempotency-Key; answers the bytes."""

    async def act() -> bytes:
        return (await made.services.idempotency.once(request, work)).body

    return act


def read(work: Callable[[], Any]) -> Act:
    async def act() -> Any:
        return work()

    return act


def _device(made: World, **slots: str) -> Device:
    name = _fresh()
    return new_device(made, f"user-{name}", name, slots or None)


def _ordering(made: World, device: Device) -> Act:
    body = device.request("device")
    request = made.call("orders", body)
    return once(made, request, lambda: made.services.orders.create(request, order_of(body)))


def _proving(made: World, device: Device, answer: Mapping[str, Any]) -> Act:
    proofs = proofs_of(answer["enrolment"], device.prove(answer))
    request = made.call("proofs", answer["enrolment"])
    return once(made, request, lambda: made.services.proofs.complete(request, proofs))


async def _enrolled(made: World) -> tuple[Device, Certificate]:
    device = _device(made, **IDENTITY)
    await enrol(made, device)
    (certificate,) = made.ledger.find(Certificate, device=device.device)
    return device, certificate


@covers("orders.create", "idempotency.once")
async def order_one(made: World) -> Act:
    return _ordering(made, _device(made))


@covers("orders.create_many")
async def order_many(made: World) -> Act:
    bodies = [_device(made, **IDENTITY).request("device-identity") for _ in range(3)]
    request = made.call("orders:batch", bodies)
    orders = [order_of(body) for body in bodies]
    return once(made, request, lambda: made.services.orders.create_many(request, orders))


@covers("proofs.complete")
async def enrol_one(made: World) -> Act:
    device = _device(made)
    return _proving(made, device, await order(made, device))


@covers("proofs.complete")
async def renew(made: World) -> Act:
    device, certificate = await _enrolled(made)
    again = Device(
        device.user, device.device, IDENTITY, expectations(made), renews=certificate.sha256
    )
    return _proving(made, again, await order(made, again))


@covers("proofs.complete_many")
async def enrol_many(made: World) -> Act:
    devices = [_device(made, **IDENTITY) for _ in range(3)]
    answers = [await order(made, device) for device in devices]
    proofs = [
        proofs_of(answer["enrolment"], device.prove(answer))
        for device, answer in zip(devices, answers, strict=True)
    ]
    request = made.call("proofs:batch", answers)
    return once(made, request, lambda: made.services.proofs.complete_many(request, proofs))


def _csr() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _certifying(made: World, csr: bytes) -> Act:
    request = made.call("certificates", csr, who=OFFICER)
    issue = made.services.infrastructure.issue_for_principal
    return once(made, request, lambda: issue(request, TENANT, "messenger", csr))


@covers("infrastructure.issue_for_principal", "infrastructure.issue")
async def certify_a_principal(made: World) -> Act:
    return _certifying(made, _csr())


@covers("infrastructure.issue_for_server")
async def certify_this_server(made: World) -> Act:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    public = parse_public_key(spki, infer_algorithm(spki, Kind.SIGNATURE))
    request = made.call("tls", spki, who=SERVICE)
    issue = made.services.infrastructure.issue_for_server
    names = ["localhost"], ["127.0.0.1"]
    return once(made, request, lambda: issue(request, public, *names, timedelta(hours=72)))


@covers("principals.add_tenant")
async def add_tenant(made: World) -> Act:
    name = _fresh()
    request = made.call("tenants", name, who=OFFICER)
    add = made.services.principals.add_tenant
    return once(made, request, lambda: add(request, name, f"id.{name}.example"))


async def _principal(made: World, name: str) -> Act:
    request = made.call("principals", name, who=OFFICER)
    add = made.services.principals.add_principal
    return once(made, request, lambda: add(request, TENANT, name, Role.AUDITOR, []))


@covers("principals.add_principal")
async def add_principal(made: World) -> Act:
    return await _principal(made, _fresh())


@covers("principals.disable")
async def disable_principal(made: World) -> Act:
    name = _fresh()
    await (await _principal(made, name))()
    request = made.call("disable", name, who=OFFICER)
    disable = made.services.principals.disable
    return once(made, request, lambda: disable(request, TENANT, name))


@covers("revocation.certificate")
async def revoke_certificate(made: World) -> Act:
    _, certificate = await _enrolled(made)
    request, revoke = made.call("revoke", certificate.serial), made.services.revocation.certificate
    serial = Serial(certificate.serial)
    return once(made, request, lambda: revoke(request, TENANT, serial, Reason.SUPERSEDED))


@covers("revocation.device")
async def revoke_device(made: World) -> Act:
    device, _ = await _enrolled(made)
    request, revoke = made.call("revoke", device.device), made.services.revocation.device
    name = DeviceId(device.device)
    return once(made, request, lambda: revoke(request, TENANT, name, Reason.KEY_COMPROMISE))


@covers("revocation.user")
async def revoke_user(made: World) -> Act:
    device, _ = await _enrolled(made)
    request, revoke = made.call("revoke", device.user), made.services.revocation.user
    user = UserId(device.user)
    return once(made, request, lambda: revoke(request, TENANT, user, Reason.UNSPECIFIED))


@covers("crls.answer", "crls.publish")
async def order_list(made: World) -> Act:
    request = made.call("crl", "people", who=OFFICER)
    return once(made, request, lambda: made.services.crls.answer(request, "people"))


@covers("upkeep.publish_due", "crls.due", "crls.published", "crls.load")
async def publish_due(made: World) -> Act:
    made.clock.advance(hours=2)
    services = made.services

    async def act() -> object:
        services.crls.load()
        await services.upkeep.publish_due()
        assert services.crls.due() == []
        return None

    return act


@covers("upkeep.recover")
async def recover(made: World) -> Act:
    """A revocation was committed while the signer was away."""
    signer = _faulty(made)
    revoke = await revoke_device(made)
    signer.away = True
    await revoke()
    signer.away = False
    return made.services.upkeep.recover


@covers("upkeep.sweep", "crls.outdated")
async def sweep(made: World) -> Act:
    """Somebody's certificate was signed and lost, and nobody comes back for it."""
    device = _device(made, **IDENTITY)
    prove = _proving(made, device, await order(made, device))
    _faulty(made).fail_next("certificate", Fault.DONE)
    try:
        await prove()
    except KmsError:
        made.clock.advance(seconds=WAITING.total_seconds())
        return made.services.upkeep.sweep
    raise AssertionError("it was not lost")


@covers("upkeep.expire")
async def expire(made: World) -> Act:
    await order(made, _device(made))
    made.clock.advance(days=8)
    return read(made.services.upkeep.expire)


@covers("ceremony.activate_policy", "ceremony.commit_or_fail")
async def activate(made: World) -> Act:
    """A policy that the log knows already: nothing to do, and it has to be found out."""
    return lambda: activate_policy(made.services.core, "operator")


@covers("access.authenticate", "access.tenant", "access.forget")
async def authenticate(made: World) -> Act:
    await _certifying(made, _csr())()
    newest = made.ledger.find(Certificate, authority="infrastructure", principal="messenger")[-1]
    access = made.services.access

    def look() -> Caller:
        access.forget()
        access.tenant(OFFICER, TENANT)
        return access.authenticate(newest.der)

    return read(look)


@covers("lookup.certificate", "lookup.certificates", "lookup.devices", "lookup.device")
async def look_up_state(made: World) -> Act:
    device, certificate = await _enrolled(made)
    lookup = made.services.lookup
    return read(
        lambda: (
            lookup.certificate(TENANT, certificate.serial),
            lookup.certificates(TENANT, device=DeviceId(device.device)),
            lookup.devices(TENANT, UserId(device.user)),
            lookup.device(TENANT, DeviceId(device.device)),
        )
    )


@covers(
    "lookup.events",
    "lookup.event",
    "lookup.checkpoint",
    "lookup.tile",
    "lookup.bundle",
    "lookup.epoch",
    "lookup.receipt",
)
async def look_up_log(made: World) -> Act:
    await _enrolled(made)
    lookup, size = made.services.lookup, made.services.core.sequencer.signed_size

    async def act() -> object:
        return (
            lookup.events(TENANT),
            lookup.event(None, size - 1, openings=True),
            lookup.checkpoint(),
            lookup.tile(None, 0, 0, min(size, 256)),
            lookup.bundle(None, 0, min(size, 256)),
            lookup.epoch(None),
            await lookup.receipt(None, size - 1),
        )

    return act


@covers("principals.list_tenants", "principals.list_principals")
async def list_principals(made: World) -> Act:
    principals = made.services.principals
    return read(lambda: (principals.list_tenants(), principals.list_principals(SYSTEM_TENANT)))


@covers("readiness.checks")
async def readiness(made: World) -> Act:
    """It never raises: it says what is wrong."""

    async def act() -> object:
        checks = await made.services.readiness.checks()
        if not all(check.ok for check in checks if check.name != "crls"):
            raise LedgerUnavailableError(repr(checks))
        return [check.name for check in checks]

    return act


def _faulty(made: World) -> FaultySigner:
    assert isinstance(made.signer, FaultySigner)
    return made.signer
