"""What enrolled devices leave in a ledger, as large as what the service leaves.

A pattern is read from a ledger in which the service has enrolled a batch. What is made from it has
fresh names, keys and random bytes of the same lengths, and events as the service drafts them.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from places import BenchError

from kms.domain.records import (
    Certificate,
    CertificateStatus,
    Device,
    DeviceId,
    Enrolment,
    EnrolmentId,
    EnrolmentStatus,
    Fingerprint,
    Idempotent,
    Reason,
    Serial,
    Standing,
    User,
    UserId,
)
from kms.services.events import EventFactory
from kms.services.ports import EventDraft, Insert, Ledger, Replace, Unit
from kms.wire import Committed, EventType, LeafCertificate

_ROUTE = "batch-proofs"


@dataclass(frozen=True, slots=True)
class Pattern:
    """Records of a device that the service enrolled, and its share of the stored answers."""

    enrolment: Enrolment
    certificate: Certificate
    fingerprint: Fingerprint
    answer: Idempotent
    answer_bytes: int


def learn(ledger: Ledger) -> Pattern:
    """The pattern of a ledger whose newest enrolments came in one batch, one slot each.

    Raises:
        BenchError: There is no such batch.
    """
    answers = ledger.find(Idempotent, order=("created",), descending=True, limit=200)
    batches = [item for item in answers if _ROUTE in item.route and item.events > 1]
    done = ledger.find(Enrolment, status=EnrolmentStatus.COMPLETED, bundle="device-identity")
    if not batches or not done:
        raise BenchError("the service has enrolled no batch to learn from")
    answer, enrolment = batches[0], done[-1]
    (certificate,) = ledger.find(Certificate, tenant=enrolment.tenant, device=enrolment.device)
    (name,) = enrolment.slots[0]["fingerprints"]
    fingerprint = ledger.get(Fingerprint, enrolment.tenant, name)
    if fingerprint is None:
        raise BenchError("an enrolled key has no fingerprint")
    share = len(answer.answer) // answer.events
    return Pattern(enrolment, certificate, fingerprint, answer, share)


@dataclass(frozen=True, slots=True)
class Made:
    """A device's enrolment before its proofs, and what they add; `events` in order."""

    enrolment: Enrolment
    user: User
    device: Device
    certificate: Certificate
    fingerprint: Fingerprint
    events: tuple[EventDraft, ...]


def make_device(pattern: Pattern, events: EventFactory, *, revoked: bool = False) -> Made:
    """A device of a user of its own; one that was revoked again, if wanted."""
    name, old = secrets.token_hex(8), pattern.enrolment
    key = secrets.token_hex(32)
    enrolment = replace(
        old,
        enrolment=EnrolmentId(secrets.token_hex(16)),
        user=UserId(f"user-{name}@bench.example"),
        device=DeviceId(f"device-{name}"),
        transcript=secrets.token_bytes(len(old.transcript)),
        slots=({**old.slots[0], "fingerprints": [key]},),
        status=EnrolmentStatus.PENDING,
    )
    certificate = _certificate(pattern.certificate, enrolment)
    drafts = [_event(events, EventType.DEVICE_ENROLLED, enrolment, certificate)]
    certificate = replace(certificate, event=drafts[0].event)
    if revoked:
        drafts.append(_event(events, EventType.DEVICE_REVOKED, enrolment, certificate))
        certificate = _revoked(certificate, drafts[1])
    standing = Standing.REVOKED if revoked else Standing.ACTIVE
    owner = f"{enrolment.device}/{old.slots[0]['name']}"
    return Made(
        enrolment=enrolment,
        user=User(old.tenant, enrolment.user, Standing.ACTIVE, drafts[0].event),
        device=Device(
            old.tenant, enrolment.device, enrolment.user, old.bundle, standing, drafts[0].event
        ),
        certificate=certificate,
        fingerprint=replace(pattern.fingerprint, fingerprint=key, owner=owner),
        events=tuple(drafts),
    )


def completing(pattern: Pattern, group: Sequence[Made]) -> Unit:
    """What proving these pending enrolments in one call commits."""
    changes: list[Insert | Replace] = []
    for item in group:
        completed = replace(item.enrolment, status=EnrolmentStatus.COMPLETED)
        changes += [*_kept(item), Replace(completed, expected=item.enrolment)]
    return Unit(tuple(changes), _events(group), stored_answer(pattern, len(group)))


def enrolled(pattern: Pattern, group: Sequence[Made], *, recent: bool) -> Unit:
    """The same as it stands afterwards; without what is deleted after a week, unless `recent`."""
    changes = [change for item in group for change in _kept(item)]
    if recent:
        changes += [
            Insert(replace(item.enrolment, status=EnrolmentStatus.COMPLETED)) for item in group
        ]
    answer = stored_answer(pattern, len(group)) if recent else None
    return Unit(tuple(changes), _events(group), answer)


def stored_answer(pattern: Pattern, devices: int) -> Idempotent:
    """The record of a call, with an answer as long as the service's for so many devices."""
    return replace(
        pattern.answer,
        idempotency_key=secrets.token_hex(16),
        body_sha256=secrets.token_hex(32),
        answer=secrets.token_bytes(pattern.answer_bytes * devices),
    )


def _kept(item: Made) -> list[Insert]:
    records = (item.user, item.device, item.certificate, item.fingerprint)
    return [Insert(record) for record in records]


def _events(group: Sequence[Made]) -> tuple[EventDraft, ...]:
    return tuple(event for item in group for event in item.events)


def _certificate(old: Certificate, enrolment: Enrolment) -> Certificate:
    der = secrets.token_bytes(len(old.der))
    return replace(
        old,
        serial=Serial(secrets.token_hex(len(old.serial) // 2)),
        user=enrolment.user,
        device=enrolment.device,
        der=der,
        sha256=hashlib.sha256(der).hexdigest(),
        tbs_sha256=secrets.token_hex(32),
    )


def _revoked(certificate: Certificate, event: EventDraft) -> Certificate:
    return replace(
        certificate,
        status=CertificateStatus.REVOKED,
        revoked_by=event.event,
        revoked_at=event.time,
        reason=Reason.CESSATION_OF_OPERATION,
    )


def _event(
    events: EventFactory, kind: EventType, enrolment: Enrolment, certificate: Certificate
) -> EventDraft:
    """As `kms.services` drafts it."""
    values = {
        Committed.ACTOR: enrolment.principal,
        Committed.USER: str(enrolment.user),
        Committed.DEVICE: str(enrolment.device),
    }
    slot = enrolment.slots[0]
    named = LeafCertificate(
        certificate.authority,
        certificate.serial,
        certificate.profile,
        certificate.slot,
        certificate.sha256,
    )
    told: dict[str, Any] = {"detail": {"reason": Reason.CESSATION_OF_OPERATION.value}}
    if kind is EventType.DEVICE_ENROLLED:
        policy = {"hash": certificate.policy, "rules": {slot["name"]: certificate.rule}}
        told = {"policy": policy, "detail": {"bundle": enrolment.bundle}}
    time = certificate.not_before
    return events.draft(kind, time, enrolment.tenant, values, certificates=[named], **told)
