"""What certifying a device writes: its certificates, fingerprints, standing; planned, not done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kms.domain.records import (
    Certificate,
    CertificateStatus,
    Device,
    DeviceId,
    Enrolment,
    EnrolmentStatus,
    EventId,
    Fingerprint,
    Serial,
    Standing,
    TenantId,
    User,
    UserId,
)
from kms.services.core import Core
from kms.services.ports import Change, EventDraft, Insert, Replace
from kms.services.reads import Reads
from kms.wire import EnrolmentPurpose, parse_timestamp
from pki.certificates import Issued, Prepared
from pki.keys import PublicKey
from pki.profiles import bundle_profile, certificate_profile


@dataclass(frozen=True, slots=True)
class ProvenSlot:
    """A slot whose key is proven to be held, with the certificate prepared for it."""

    reservation: Mapping[str, Any]
    key: PublicKey
    prepared: Prepared


@dataclass(frozen=True, slots=True)
class Proven:
    """An enrolment whose every slot is proven."""

    enrolment: Enrolment
    slots: tuple[ProvenSlot, ...]

    @property
    def authority(self) -> str:
        """Name of the authority that certifies it."""
        return bundle_profile(self.enrolment.bundle).authority


@dataclass(frozen=True, slots=True)
class Certified:
    """An enrolment with its signed certificates and drafted event."""

    proven: Proven
    issued: tuple[Issued, ...]
    event: EventDraft


def preload_planning(reads: Reads, tenant: TenantId, enrolments: Sequence[Enrolment]) -> None:
    """Fetch at once what planning these enrolments will ask for."""
    reads.preload(User, tenant, (enrolment.user for enrolment in enrolments))
    reads.preload(Device, tenant, (enrolment.device for enrolment in enrolments))
    slots = [slot for enrolment in enrolments for slot in enrolment.slots]
    reads.preload(Fingerprint, tenant, (name for slot in slots for name in slot["fingerprints"]))


def changes_of(core: Core, reads: Reads, items: Sequence[Certified]) -> list[Change]:
    """What certifying these devices changes, planned against the ledger as it was read."""
    for tenant in {item.proven.enrolment.tenant for item in items}:
        preload_planning(reads, tenant, [item.proven.enrolment for item in items])
    changes: list[Change] = []
    users: set[tuple[TenantId, UserId]] = set()
    for item in items:
        enrolment = item.proven.enrolment
        if (enrolment.tenant, enrolment.user) not in users:
            users.add((enrolment.tenant, enrolment.user))
            changes.append(_user_change(reads, enrolment, item.event.event))
        changes.append(_device_change(reads, enrolment, item.event.event))
        completed = replace(enrolment, status=EnrolmentStatus.COMPLETED)
        changes.append(Replace(completed, expected=enrolment))
        changes.extend(Insert(record) for record in _certificates(core, item))
        changes.extend(_fingerprint_changes(reads, item))
    return changes


def _user_change(reads: Reads, enrolment: Enrolment, event: EventId) -> Change:
    """A new user, or the assurance that an old one is still as it was read."""
    user = reads.get(User, enrolment.tenant, enrolment.user)
    if user is not None:
        return Replace(user, expected=user)
    return Insert(User(enrolment.tenant, enrolment.user, Standing.ACTIVE, event))


def _device_change(reads: Reads, enrolment: Enrolment, event: EventId) -> Change:
    device = reads.get(Device, enrolment.tenant, enrolment.device)
    if device is not None:
        return Replace(replace(device, bundle=enrolment.bundle), expected=device)
    return Insert(
        Device(
            tenant=enrolment.tenant,
            device=DeviceId(enrolment.device),
            user=enrolment.user,
            bundle=enrolment.bundle,
            standing=Standing.ACTIVE,
            event=event,
        )
    )


def _fingerprint_changes(reads: Reads, item: Certified) -> list[Change]:
    enrolment = item.proven.enrolment
    changes: list[Change] = []
    for slot in item.proven.slots:
        for fingerprint in slot.reservation["fingerprints"]:
            kept = (
                enrolment.purpose is EnrolmentPurpose.RENEW
                and reads.get(Fingerprint, enrolment.tenant, fingerprint) is not None
            )
            if not kept:
                changes.append(Insert(_fingerprint(enrolment, slot, fingerprint)))
    return changes


def key_names(proven: Proven) -> set[str]:
    """Names under which the keys of an enrolment are claimed."""
    tenant = proven.enrolment.tenant
    names = [
        f"{tenant}/{name}" for slot in proven.slots for name in slot.reservation["fingerprints"]
    ]
    device = f"{tenant}/device/{proven.enrolment.device}"
    return {device, *names}


def _fingerprint(enrolment: Enrolment, slot: ProvenSlot, fingerprint: str) -> Fingerprint:
    modulus = slot.key.modulus
    return Fingerprint(
        tenant=enrolment.tenant,
        fingerprint=fingerprint,
        owner=f"{enrolment.device}/{slot.reservation['name']}",
        scheme=slot.key.algorithm.scheme.value,
        modulus=None if modulus is None else f"{modulus:x}",
    )


def _certificates(core: Core, item: Certified) -> list[Certificate]:
    enrolment = item.proven.enrolment
    authority = core.authorities[item.proven.authority].record
    return [
        Certificate(
            tenant=enrolment.tenant,
            authority=authority.name,
            serial=Serial(slot.reservation["serial"]),
            generation=authority.generation,
            profile=slot.reservation["profile"],
            profile_version=certificate_profile(slot.reservation["profile"]).version,
            algorithm=slot.reservation["algorithm"],
            user=enrolment.user,
            device=enrolment.device,
            slot=slot.reservation["name"],
            principal=None,
            der=issued.der,
            sha256=issued.sha256,
            tbs_sha256=slot.prepared.tbs_sha256,
            not_before=parse_timestamp(slot.reservation["not_before"]),
            not_after=parse_timestamp(slot.reservation["not_after"]),
            status=CertificateStatus.GOOD,
            event=item.event.event,
            policy=core.policy.hash,
            rule=slot.reservation["rule"],
        )
        for slot, issued in zip(item.proven.slots, item.issued, strict=True)
    ]
