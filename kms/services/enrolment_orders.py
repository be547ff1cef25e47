"""First call of an enrolment: decide each slot, reserve serials and validity, hand out challenges.

Nothing is certified here and no event is logged: a reservation changes no trust.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kms.domain.authorisation import Caller
from kms.domain.records import (
    Device,
    DeviceId,
    Enrolment,
    EnrolmentId,
    EnrolmentStatus,
    Fingerprint,
    Standing,
    Tenant,
    TenantId,
    User,
    UserId,
)
from kms.services.answers import Answer, AnswerSpec, render
from kms.services.batching import breathe
from kms.services.core import ActiveAuthority, Core
from kms.services.errors import (
    AccessError,
    AlgorithmRefusedError,
    BundleMismatchError,
    InputError,
    InvalidKeyError,
    KmsError,
    RevokedError,
    StateError,
    UnavailableError,
    UnknownBundleError,
    WeakKeyError,
)
from kms.services.idempotency import Call
from kms.services.key_checks import KeyChecks
from kms.services.ports import Conflict, Insert, Unit
from kms.services.reads import Reads
from kms.services.renewal import SlotKey, identity_to_follow, refuse_reuse
from kms.wire import (
    EnrolmentPurpose,
    Transcript,
    TranscriptSlot,
    b64,
    hpke_info,
    is_device,
    is_user,
    kem_mac,
    serial_hex,
    timestamp,
)
from pki.errors import ProfileError
from pki.keys import PublicKey, fingerprints
from pki.possession import seal
from pki.profiles import BundleProfile, BundleSlot, bundle_profile, certificate_profile
from policies.algorithms import Kind
from policies.decisions import Decision, Protection, Question, Use, decide

REFUSALS = (InputError, AccessError, StateError)
"""What refuses one item of a batch; anything else fails the call."""


@dataclass(frozen=True, slots=True)
class SlotOrder:
    """One key of an order; `spki` is SubjectPublicKeyInfo DER as submitted."""

    name: str
    algorithm: str
    spki: bytes


@dataclass(frozen=True, slots=True)
class EnrolmentOrder:
    """What a messaging server asks for on behalf of a device."""

    user: UserId
    device: DeviceId
    bundle: str
    purpose: EnrolmentPurpose
    slots: tuple[SlotOrder, ...]


@dataclass(frozen=True, slots=True)
class DecidedSlot:
    """A slot that policy, key checks and profile allow."""

    slot: BundleSlot
    key: PublicKey
    decision: Decision
    not_after: datetime
    fingerprints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DecidedOrder:
    """An order that is fine in itself.

    Attributes:
        order: The order.
        authority: That certifies its bundle.
        slots: Decided, in the bundle's order.
        previous: SHA-256 (hex) of the certificate that a renewal follows.
    """

    order: EnrolmentOrder
    authority: ActiveAuthority
    slots: tuple[DecidedSlot, ...]
    previous: str | None

    def fingerprints(self) -> list[str]:
        """Fingerprints of every component of every key."""
        return [name for slot in self.slots for name in slot.fingerprints]


class EnrolmentOrders:
    """Takes orders, one or many a call."""

    def __init__(self, core: Core, checks: KeyChecks) -> None:
        self._core = core
        self._checks = checks

    async def create(self, request: Call, order: EnrolmentOrder) -> Answer:
        """Reserve one enrolment.

        Raises:
            KmsError: As the order is refused.
        """
        reads = Reads(self._core.ledger)
        decided = self._decide(reads, request.caller, order)
        record, document = self._reserve(reads, request.caller, decided)
        spec = AnswerSpec.of(201, document)
        return await self._commit(request, [record], spec)

    async def create_many(
        self, request: Call, orders: Sequence[EnrolmentOrder | KmsError]
    ) -> Answer:
        """Reserve many; a refused one takes its place in the results as a problem."""
        reads = Reads(self._core.ledger)
        self._preload(reads, request.caller.tenant, orders)
        decided = []
        for at, order in enumerate(orders):
            decided.append(self._try_decide(reads, request.caller, order))
            await breathe(at)
        reads.preload(
            Fingerprint,
            request.caller.tenant,
            (
                name
                for item in decided
                if isinstance(item, DecidedOrder)
                for name in item.fingerprints()
            ),
        )
        records: list[Enrolment] = []
        results: list[dict[str, Any]] = []
        for at, item in enumerate(decided):
            try:
                if isinstance(item, KmsError):
                    raise item
                record, document = self._reserve(reads, request.caller, item)
            except REFUSALS as error:
                self._core.observer.refused(error.problem)
                results.append(self._core.describe(error))
            else:
                records.append(record)
                results.append({"status": 201, "body": document})
            await breathe(at)
        return await self._commit(request, records, AnswerSpec.of(200, {"results": results}))

    def _preload(
        self, reads: Reads, tenant: TenantId, orders: Sequence[EnrolmentOrder | KmsError]
    ) -> None:
        good = [order for order in orders if isinstance(order, EnrolmentOrder)]
        reads.preload(User, tenant, (order.user for order in good))
        reads.preload(Device, tenant, (order.device for order in good))

    def _try_decide(
        self, reads: Reads, caller: Caller, order: EnrolmentOrder | KmsError
    ) -> DecidedOrder | KmsError:
        if isinstance(order, KmsError):
            return order
        try:
            return self._decide(reads, caller, order)
        except REFUSALS as error:
            return error

    async def _commit(self, request: Call, records: list[Enrolment], spec: AnswerSpec) -> Answer:
        unit = Unit(
            changes=tuple(Insert(record) for record in records),
            idempotent=request.record(self._core.clock, spec.encode()),
        )
        outcome = await self._core.sequencer.commit(unit)
        if isinstance(outcome, Conflict):
            raise UnavailableError("the same request was answered a moment ago; send it again")
        return render(spec, None)

    def _decide(self, reads: Reads, caller: Caller, order: EnrolmentOrder) -> DecidedOrder:
        """Everything that can be said of an order without looking at other devices' keys."""
        if not is_user(order.user):
            raise InputError("a user id is 1 to 128 of A-Z a-z 0-9 . _ @ : + = -", field="user")
        if not is_device(order.device):
            raise InputError("a device id is 1 to 64 of A-Z a-z 0-9 . _ -", field="device")
        bundle = self._bundle(caller, order.bundle)
        previous = self._standing(reads, caller.tenant, order)
        authority = self._core.authorities[bundle.authority]
        limit = authority.issuer.not_after
        slots = self._decide_slots(order, bundle, self._core.clock.now(), limit)
        return DecidedOrder(order, authority, slots, previous)

    def _reserve(
        self, reads: Reads, caller: Caller, decided: DecidedOrder
    ) -> tuple[Enrolment, dict[str, Any]]:
        now, order = self._core.clock.now(), decided.order
        refuse_reuse(
            reads,
            self._core.ledger,
            caller.tenant,
            order.device,
            (SlotKey(item.slot.name, item.key.spki, item.fingerprints) for item in decided.slots),
            renewing=order.purpose is EnrolmentPurpose.RENEW,
        )
        expires = now + self._core.limits.enrolment_ttl
        transcript = Transcript(
            origin=self._core.events.origin,
            authority=decided.authority.issuer.authority_id,
            tenant=caller.tenant,
            enrolment=self._core.ids.identifier().hex(),
            purpose=order.purpose,
            user=order.user,
            device=order.device,
            bundle=order.bundle,
            policy=self._core.policy.hash,
            nonce=self._core.ids.random(32),
            expires=expires,
            slots=tuple(
                TranscriptSlot(item.slot.name, item.key.algorithm.name, item.key.spki)
                for item in decided.slots
            ),
            previous=decided.previous,
        )
        return self._record(caller, decided, transcript, now)

    def _record(
        self,
        caller: Caller,
        decided: DecidedOrder,
        transcript: Transcript,
        now: datetime,
    ) -> tuple[Enrolment, dict[str, Any]]:
        encoded, order = transcript.encode(), decided.order
        slots = [self._slot(item, encoded, now) for item in decided.slots]
        record = Enrolment(
            tenant=caller.tenant,
            enrolment=EnrolmentId(transcript.enrolment),
            principal=caller.name,
            user=order.user,
            device=order.device,
            bundle=order.bundle,
            purpose=order.purpose,
            transcript=encoded,
            slots=tuple(slots),
            expires=transcript.expires,
            status=EnrolmentStatus.PENDING,
        )
        document = {
            "enrolment": transcript.enrolment,
            "expires": timestamp(transcript.expires),
            "transcript": b64(encoded),
            "policy": {
                "hash": self._core.policy.hash,
                "rules": {item.slot.name: item.decision.rule for item in decided.slots},
            },
            "challenges": {
                slot["name"]: slot["sealed"] for slot in slots if slot["sealed"] is not None
            },
        }
        return record, document

    def _slot(self, item: DecidedSlot, transcript: bytes, now: datetime) -> dict[str, Any]:
        """The reservation of one slot; only the hash of a challenge's answer is kept."""
        sealed: bytes | None = None
        mac_sha256: str | None = None
        if item.key.algorithm.kind is Kind.KEM:
            secret = self._core.ids.random(32)
            sealed = seal(item.key, hpke_info(transcript), secret)
            mac = kem_mac(secret, item.slot.name, transcript, sealed)
            mac_sha256 = hashlib.sha256(mac).hexdigest()
        serial = int.from_bytes(self._core.ids.identifier(), "big")
        return {
            "name": item.slot.name,
            "algorithm": item.key.algorithm.name,
            "spki": b64(item.key.spki),
            "fingerprints": list(item.fingerprints),
            "profile": item.slot.profile,
            "serial": serial_hex(serial),
            "not_before": timestamp(now - self._core.limits.backdate),
            "not_after": timestamp(item.not_after),
            "rule": item.decision.rule,
            "sealed": None if sealed is None else b64(sealed),
            "mac_sha256": mac_sha256,
        }

    def _bundle(self, caller: Caller, name: str) -> BundleProfile:
        if name not in caller.bundles:
            raise UnknownBundleError(
                f"the bundle profile must be one of {', '.join(sorted(caller.bundles))}",
                field="bundle",
            )
        try:
            bundle = bundle_profile(name)
        except ProfileError as error:
            raise UnknownBundleError(str(error), field="bundle") from error
        if self._core.authorities.get(bundle.authority) is None:
            raise UnknownBundleError(
                f"bundle {name!r} is certified by the authority {bundle.authority!r}, which this"
                " service does not have",
                field="bundle",
            )
        return bundle

    def _standing(self, reads: Reads, tenant_id: TenantId, order: EnrolmentOrder) -> str | None:
        """Refuse revoked tenants, users and devices; answer the certificate to be renewed."""
        tenant = reads.get(Tenant, tenant_id)
        if tenant is None or tenant.standing is not Standing.ACTIVE:
            raise RevokedError("the tenant is not active")
        user = reads.get(User, tenant_id, order.user)
        if user is not None and user.standing is not Standing.ACTIVE:
            raise RevokedError("the user is revoked", field="user")
        device = reads.get(Device, tenant_id, order.device)
        if device is None:
            if order.purpose is EnrolmentPurpose.RENEW:
                raise StateError("there is no such device to renew; enrol it", field="device")
            return None
        if device.user != order.user:
            raise StateError("the device belongs to another user", field="device")
        if device.standing is not Standing.ACTIVE:
            raise RevokedError("the device is revoked; enrol under a new id", field="device")
        if order.purpose is EnrolmentPurpose.ENROL:
            raise StateError("the device is enrolled already; renew it", field="device")
        follows = identity_to_follow(self._core.ledger, tenant_id, order.device)
        if follows is None:
            raise StateError("the device has no good identity certificate", field="device")
        return follows

    def _decide_slots(
        self, order: EnrolmentOrder, bundle: BundleProfile, now: datetime, limit: datetime
    ) -> tuple[DecidedSlot, ...]:
        """Each slot of the bundle, once, in the profile's order."""
        given = {slot.name: (index, slot) for index, slot in enumerate(order.slots)}
        wanted = [slot.name for slot in bundle.slots]
        if len(given) != len(order.slots) or sorted(given) != sorted(wanted):
            raise BundleMismatchError(
                f"bundle {bundle.name!r} has exactly the slots {', '.join(wanted)}", field="slots"
            )
        return tuple(
            self._decide_slot(*given[slot.name], slot, now, limit) for slot in bundle.slots
        )

    def _decide_slot(
        self, index: int, order: SlotOrder, slot: BundleSlot, now: datetime, limit: datetime
    ) -> DecidedSlot:
        validity = certificate_profile(slot.profile).validity
        not_after = min(now - self._core.limits.backdate + validity, limit)
        decision = decide(
            self._core.policy,
            Question(Use.SLOT, slot.name, order.algorithm, Protection.DEVICE, now, not_after),
        )
        if not decision.allowed:
            raise AlgorithmRefusedError(decision.reason, field=f"slots[{index}].algorithm")
        try:
            key = self._checks.accept(order.spki, order.algorithm, slot.kind)
        except (InvalidKeyError, WeakKeyError, AlgorithmRefusedError) as error:
            error.field = f"slots[{index}].{error.field or 'public_key'}"
            raise
        return DecidedSlot(slot, key, decision, not_after, fingerprints(key))
