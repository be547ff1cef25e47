"""What a renewal may build on: a good identity certificate, and keys that nobody called broken."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from kms.domain.records import (
    Certificate,
    CertificateStatus,
    DeviceId,
    Enrolment,
    Event,
    Fingerprint,
    Reason,
    TenantId,
)
from kms.services.errors import KeyReusedError
from kms.services.ports import Ledger
from kms.services.reads import Reads
from pki.profiles import bundle_profiles
from policies.algorithms import Kind

IDENTITY_SLOTS = tuple(
    sorted(
        {
            slot.name
            for bundle in bundle_profiles().values()
            for slot in bundle.slots
            if slot.kind is Kind.SIGNATURE
        }
    )
)
"""Slots that identify a device, of any bundle: a renewal may move it to another one."""


def identity_to_follow(ledger: Ledger, tenant: TenantId, device: DeviceId) -> str | None:
    """SHA-256 (hex) of the device's newest good identity certificate; None if it has none.

    The log tells which is the newest: two that were ordered in one second begin in the same one.
    """
    good = _good_identities(ledger, tenant, device)
    if len(good) > 1:
        places = {
            event.event: (event.log, event.index)
            for event in ledger.find(Event, tenant=tenant, event=tuple(item.event for item in good))
        }
        good.sort(key=lambda item: places[item.event])
    return good[-1].sha256 if good else None


def still_followed(ledger: Ledger, enrolment: Enrolment) -> bool:
    """Whether the certificate that a renewal's transcript names is still good."""
    previous = json.loads(enrolment.transcript)["previous"]
    good = _good_identities(ledger, enrolment.tenant, enrolment.device)
    return any(item.sha256 == previous for item in good)


@dataclass(frozen=True, slots=True)
class SlotKey:
    """A slot's key as it is to be registered; `fingerprints` are those of its components."""

    slot: str
    spki: bytes
    fingerprints: tuple[str, ...]


def refuse_reuse(
    reads: Reads,
    ledger: Ledger,
    tenant: TenantId,
    device: DeviceId,
    keys: Iterable[SlotKey],
    *,
    renewing: bool,
) -> None:
    """A component may be registered once in a tenant; a renewal may keep its own key.

    Raises:
        KeyReusedError: Registered already, standing twice here, or broken.
    """
    seen: set[str] = set()
    for key in keys:
        for fingerprint in key.fingerprints:
            stored = reads.get(Fingerprint, tenant, fingerprint)
            kept = (
                stored is not None
                and renewing
                and stored.owner == f"{device}/{key.slot}"
                and may_keep(ledger, tenant, device, key.slot, key.spki)
            )
            if fingerprint in seen or (stored is not None and not kept):
                raise KeyReusedError(
                    "the key, or a component of it, is registered already; make a new one",
                    field=f"slots.{key.slot}.public_key",
                )
            seen.add(fingerprint)


def may_keep(ledger: Ledger, tenant: TenantId, device: DeviceId, slot: str, spki: bytes) -> bool:
    """Whether a renewal may keep this key of its own.

    It must be certified and good now, and none of its certificates may ever have been revoked
    because the key was compromised.
    """
    own = [
        item
        for item in ledger.find(Certificate, tenant=tenant, device=device, slot=slot)
        if spki in item.der
    ]
    broken = any(item.reason is Reason.KEY_COMPROMISE for item in own)
    return not broken and any(item.status is CertificateStatus.GOOD for item in own)


def _good_identities(ledger: Ledger, tenant: TenantId, device: DeviceId) -> list[Certificate]:
    good = CertificateStatus.GOOD
    return ledger.find(Certificate, tenant=tenant, device=device, slot=IDENTITY_SLOTS, status=good)
