"""Records as answers show them; `answer_schemas` describes the same to callers."""

from typing import Any

from kms.domain.records import Authority, Certificate, Device, Event, Principal, Tenant
from kms.services.core import Core
from kms.services.crls import Published
from kms.services.lookup import SeenEvent
from kms.wire import b64, timestamp


def tenant(record: Tenant) -> dict[str, Any]:
    """A tenant."""
    return {
        "tenant": record.tenant,
        "identity_domain": record.identity_domain,
        "standing": record.standing.value,
    }


def principal(record: Principal) -> dict[str, Any]:
    """A principal."""
    return {
        "tenant": record.tenant,
        "name": record.name,
        "role": record.role.value,
        "bundles": list(record.bundles),
        "uri": record.uri,
        "standing": record.standing.value,
    }


def device(record: Device) -> dict[str, Any]:
    """A device."""
    return {
        "user": record.user,
        "device": record.device,
        "bundle": record.bundle,
        "standing": record.standing.value,
    }


def certificate(core: Core, record: Certificate) -> dict[str, Any]:
    """A certificate, with the index of the event that issued it."""
    (issued,) = core.ledger.find(Event, tenant=record.tenant, event=record.event, limit=1)
    return {
        "tenant": record.tenant,
        "authority": record.authority,
        "serial": record.serial,
        "profile": record.profile,
        "algorithm": record.algorithm,
        "user": record.user,
        "device": record.device,
        "slot": record.slot,
        "principal": record.principal,
        "not_before": timestamp(record.not_before),
        "not_after": timestamp(record.not_after),
        "status": record.status.value,
        "revoked_at": None if record.revoked_at is None else timestamp(record.revoked_at),
        "reason": None if record.reason is None else record.reason.value,
        "sha256": record.sha256,
        "certificate": b64(record.der),
        "index": issued.index,
    }


def event(seen: SeenEvent) -> dict[str, Any]:
    """An event with the openings that still exist."""
    record = seen.event
    return {
        "index": record.index,
        "event": record.event,
        "type": record.type,
        "time": timestamp(record.time),
        "leaf": b64(record.leaf),
        "openings": seen.openings,
    }


def crl(published: Published) -> dict[str, Any]:
    """A CRL in force."""
    return {
        "number": published.number,
        "this_update": timestamp(published.record.this_update),
        "next_update": timestamp(published.record.next_update),
        "entries": published.entries,
    }


def authority(record: Authority, published: Published | None) -> dict[str, Any]:
    """An authority and its CRL."""
    return {
        "name": record.name,
        "generation": record.generation,
        "algorithm": record.algorithm,
        "issuer": record.issuer,
        "certificate": b64(record.certificate),
        "crl": None if published is None else crl(published),
    }
