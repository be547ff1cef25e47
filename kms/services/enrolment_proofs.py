"""Second call of an enrolment: verify every proof, then prepare → lint → sign → commit → answer.

All slots of a device are certified together or not at all (P5). The TBSCertificates are built from
the reservation alone, so a retry after a crash signs the identical bytes again.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import msgspec

from kms.domain.authorisation import Caller
from kms.domain.records import (
    Device,
    Enrolment,
    EnrolmentId,
    EnrolmentStatus,
    Fingerprint,
    Idempotent,
    Standing,
    Tenant,
    TenantId,
    User,
)
from kms.services.answers import Answer, AnswerSpec, receipt_slot, render
from kms.services.batching import breathe
from kms.services.claims import Claims, Held
from kms.services.core import ActiveAuthority, Core, covered, prepare, sign_all
from kms.services.enrolment_changes import (
    Certified,
    Proven,
    ProvenSlot,
    changes_of,
    key_names,
    preload_planning,
)
from kms.services.enrolment_orders import REFUSALS
from kms.services.errors import (
    BundleMismatchError,
    ChallengeExpiredError,
    ChallengeUsedError,
    KeyReusedError,
    KmsError,
    NotFoundError,
    ProofFailedError,
    RevokedError,
    StateError,
    StillRunningError,
    UnavailableError,
)
from kms.services.idempotency import Call
from kms.services.key_checks import KeyChecks
from kms.services.ports import Conflict, EventDraft, Unit
from kms.services.reads import Reads
from kms.services.renewal import SlotKey, refuse_reuse, still_followed
from kms.services.sequencer import Sealed
from kms.services.verifying import SignatureCheck
from kms.wire import (
    Committed,
    EnrolmentPurpose,
    EventType,
    LeafCertificate,
    b64,
    parse_timestamp,
    sign_message,
    unb64,
)
from pki.certificates import CertificateRequest, Issued
from pki.errors import ProofError
from pki.keys import parse_public_key
from pki.names import Subject, device_uri
from pki.possession import verify_mac
from pki.profiles import bundle_profile, certificate_profile
from policies.algorithms import algorithm

ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class ProofOrder:
    """The proofs of one enrolment: slot name to signature or MAC."""

    enrolment: EnrolmentId
    proofs: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class _Opened:
    """An enrolment that may be completed; per slot the signature to verify, or a MAC's verdict."""

    enrolment: Enrolment
    checks: tuple[SignatureCheck | ProofFailedError | None, ...]


class _Basis(msgspec.Struct, frozen=True):
    """What of a transcript must still be so when it is proven."""

    policy: str
    origin: str
    authority: str


_basis = msgspec.json.Decoder(_Basis)


class EnrolmentProofs:
    """Takes proofs, one enrolment or many a call."""

    def __init__(self, core: Core, checks: KeyChecks, claims: Claims) -> None:
        self._core = core
        self._checks = checks
        self._claims = claims

    async def complete(self, request: Call, order: ProofOrder) -> Answer:
        """Certify one device.

        Raises:
            KmsError: As the proofs are refused.
        """
        with self._claims.hold([order.enrolment]) as held:
            reads = Reads(self._core.ledger)
            opened = self._open(reads, request.caller, order)
            (refusal,) = await self._verify([opened])
            if refusal is not None:
                raise refusal
            proven = self._conclude(held, reads, opened)
            certified = await self._certify(request.caller, [proven])
            return await self._commit(request, reads, list(certified), self._single)

    async def complete_many(self, request: Call, orders: Sequence[ProofOrder | KmsError]) -> Answer:
        """Certify many devices in one commit; a refused one takes its place as a problem."""
        with self._claims.hold() as held:
            reads = Reads(self._core.ledger)
            self._preload(reads, request.caller.tenant, orders)
            opened = [self._try_open(held, reads, request.caller, order) for order in orders]
            given = [item for item in opened if not isinstance(item, KmsError)]
            refusals = iter(await self._verify(given))
            proven: list[Proven | KmsError] = []
            for at, item in enumerate(opened):
                refusal = item if isinstance(item, KmsError) else next(refusals)
                proven.append(refusal or self._try_conclude(held, reads, item))
                await breathe(at)
            good = [item for item in proven if isinstance(item, Proven)]
            certified = iter(await self._certify(request.caller, good))
            results = [item if isinstance(item, KmsError) else next(certified) for item in proven]
            return await self._commit(request, reads, results, self._batch)

    def _single(self, results: Sequence[Certified | KmsError]) -> AnswerSpec:
        (result,) = results
        if isinstance(result, KmsError):
            raise result
        return AnswerSpec.of(201, self._document(result, 0, self._chain(result.proven.authority)))

    def _batch(self, results: Sequence[Certified | KmsError]) -> AnswerSpec:
        return AnswerSpec.of(200, {"results": self._results(results)})

    def _results(self, results: Sequence[Certified | KmsError]) -> list[dict[str, Any]]:
        documents = []
        chain, ordinal = cache(self._chain), 0
        for item in results:
            if isinstance(item, KmsError):
                documents.append(self._core.describe(item))
            else:
                body = self._document(item, ordinal, chain(item.proven.authority))
                documents.append({"status": 201, "body": body})
                ordinal += 1
        return documents

    def _preload(
        self, reads: Reads, tenant: TenantId, orders: Sequence[ProofOrder | KmsError]
    ) -> None:
        """Enrolments first: they tell which users, devices and fingerprints matter."""
        ids = [order.enrolment for order in orders if isinstance(order, ProofOrder)]
        reads.preload(Enrolment, tenant, ids)
        found = [record for item in ids if (record := reads.get(Enrolment, tenant, item))]
        preload_planning(reads, tenant, found)

    def _try_open(
        self, held: Held, reads: Reads, caller: Caller, order: ProofOrder | KmsError
    ) -> _Opened | KmsError:
        if isinstance(order, KmsError):
            return order
        try:
            held.add([order.enrolment])
            return self._open(reads, caller, order)
        except REFUSALS as error:
            return error

    def _try_conclude(
        self, held: Held, reads: Reads, opened: _Opened | KmsError
    ) -> Proven | KmsError:
        if isinstance(opened, KmsError):
            return opened
        try:
            return self._conclude(held, reads, opened)
        except REFUSALS as error:
            return error

    def _open(self, reads: Reads, caller: Caller, order: ProofOrder) -> _Opened:
        """Everything about one enrolment's proofs but whether its signatures are right."""
        enrolment = reads.get(Enrolment, caller.tenant, order.enrolment)
        if enrolment is None or enrolment.principal != caller.name:
            raise NotFoundError("there is no such enrolment", field="enrolment")
        if enrolment.status is not EnrolmentStatus.PENDING:
            raise ChallengeUsedError("the enrolment was completed; its challenges are used")
        if enrolment.expires <= self._core.clock.now():
            raise ChallengeExpiredError("the enrolment has expired; order it again")
        self._refuse_overtaken(enrolment)
        names = {slot["name"] for slot in enrolment.slots}
        if set(order.proofs) != names:
            raise BundleMismatchError(
                f"one proof is needed for each of the slots {', '.join(sorted(names))}",
                field="proofs",
            )
        message = sign_message(enrolment.transcript)
        checks = [_check(slot, message, order.proofs[slot["name"]]) for slot in enrolment.slots]
        return _Opened(enrolment, tuple(checks))

    async def _verify(self, opened: Sequence[_Opened]) -> list[KmsError | None]:
        """For each enrolment, the first of its signatures that is refused."""
        every = [check for item in opened for check in item.checks]
        checks = [check for check in every if isinstance(check, SignatureCheck)]
        answers = iter(await self._core.verifier.verify(checks))
        return [_first_refusal(item, answers) for item in opened]

    def _conclude(self, held: Held, reads: Reads, opened: _Opened) -> Proven:
        """What is proven, with the certificates to sign; nobody else works on the same keys."""
        enrolment = opened.enrolment
        self._refuse_meanwhile(reads, enrolment)
        slots = tuple(self._proven(reads, enrolment, slot) for slot in enrolment.slots)
        proven = Proven(enrolment, slots)
        held.add(key_names(proven))
        return proven

    def _refuse_overtaken(self, enrolment: Enrolment) -> None:
        """What was decided under another policy, log or authority is not signed under this one."""
        basis = _basis.decode(enrolment.transcript)
        now = _Basis(
            policy=self._core.policy.hash,
            origin=self._core.events.origin,
            authority=self._authority(enrolment).issuer.authority_id,
        )
        if basis != now:
            raise ChallengeExpiredError(
                "policy, log or authority have changed since the order; order it again"
            )

    def _refuse_meanwhile(self, reads: Reads, enrolment: Enrolment) -> None:
        """What was fine at the order may not be any more; ask again before anything is signed."""
        user = reads.get(User, enrolment.tenant, enrolment.user)
        device = reads.get(Device, enrolment.tenant, enrolment.device)
        for record, field in ((user, "user"), (device, "device")):
            if record is not None and record.standing is not Standing.ACTIVE:
                raise RevokedError(f"the {field} has been revoked", field=field)
        if device is not None and device.user != enrolment.user:
            raise StateError("the device belongs to another user", field="device")
        renewing = enrolment.purpose is EnrolmentPurpose.RENEW
        if device is not None and not renewing:
            raise StateError("the device is enrolled already; renew it", field="device")
        if renewing and not still_followed(self._core.ledger, enrolment):
            raise RevokedError("the identity certificate to be renewed is not good any more")
        refuse_reuse(
            reads,
            self._core.ledger,
            enrolment.tenant,
            enrolment.device,
            (
                SlotKey(slot["name"], unb64(slot["spki"]), tuple(slot["fingerprints"]))
                for slot in enrolment.slots
            ),
            renewing=renewing,
        )

    def _proven(self, reads: Reads, enrolment: Enrolment, slot: Mapping[str, Any]) -> ProvenSlot:
        tenant = reads.get(Tenant, enrolment.tenant)
        if tenant is None or tenant.standing is not Standing.ACTIVE:
            raise RevokedError("the tenant is not active")
        key = parse_public_key(unb64(slot["spki"]), algorithm(slot["algorithm"]))
        request = CertificateRequest(
            profile=certificate_profile(slot["profile"]),
            serial=int(slot["serial"], 16),
            not_before=parse_timestamp(slot["not_before"]),
            not_after=parse_timestamp(slot["not_after"]),
            subject=Subject(enrolment.device, tenant.identity_domain),
            key=key,
            uris=(device_uri(tenant.identity_domain, enrolment.user, enrolment.device),),
        )
        return ProvenSlot(slot, key, prepare(self._authority(enrolment), request))

    def _authority(self, enrolment: Enrolment) -> ActiveAuthority:
        return self._core.authorities[bundle_profile(enrolment.bundle).authority]

    async def _certify(self, caller: Caller, proven: Sequence[Proven]) -> list[Certified]:
        """Sign everything in one batch; a crash from here on leaves orphans for the sweep."""
        statements = [slot.prepared.statement for item in proven for slot in item.slots]
        signatures = iter(await sign_all(self._core.signer, statements))
        certified = []
        for item in proven:
            issued = tuple(slot.prepared.complete(next(signatures)) for slot in item.slots)
            certified.append(Certified(item, issued, self._event(caller, item, issued)))
        return certified

    def _event(self, caller: Caller, item: Proven, issued: Sequence[Issued]) -> EventDraft:
        enrolment = item.enrolment
        renewed = enrolment.purpose is EnrolmentPurpose.RENEW
        return self._core.events.draft(
            EventType.DEVICE_RENEWED if renewed else EventType.DEVICE_ENROLLED,
            self._core.clock.now(),
            enrolment.tenant,
            {
                Committed.ACTOR: caller.name,
                Committed.USER: enrolment.user,
                Committed.DEVICE: enrolment.device,
            },
            certificates=[
                LeafCertificate(
                    authority=item.authority,
                    serial=slot.reservation["serial"],
                    profile=slot.reservation["profile"],
                    slot=slot.reservation["name"],
                    sha256=one.sha256,
                )
                for slot, one in zip(item.slots, issued, strict=True)
            ],
            policy={
                "hash": self._core.policy.hash,
                "rules": {
                    slot.reservation["name"]: slot.reservation["rule"] for slot in item.slots
                },
            },
            detail={"bundle": enrolment.bundle},
        )

    async def _commit(
        self,
        request: Call,
        reads: Reads,
        results: list[Certified | KmsError],
        spec_of: Callable[[Sequence[Certified | KmsError]], AnswerSpec],
    ) -> Answer:
        """Commit the good items in one unit; one in conflict is refused, the rest tried again.

        A user whom two requests register at once is a conflict that planning again resolves. What
        is tried again is drafted again, so that the log's times never go back.

        What is written is planned on the very reads that the refusals were decided on: who was
        revoked since then is in conflict with the plan, not part of it.
        """
        attempts = ATTEMPTS
        while attempts:
            good = [item for item in results if isinstance(item, Certified)]
            spec = spec_of(results)
            unit = Unit(
                changes=tuple(changes_of(self._core, reads, good)),
                events=tuple(item.event for item in good),
                idempotent=request.record(self._core.clock, spec.encode()),
            )
            outcome = await self._core.sequencer.commit(unit)
            if isinstance(outcome, Sealed):
                self._count(results)
                return render(spec, covered(self._core, outcome) if good else None)
            reads = Reads(self._core.ledger)
            refused = self._refused(reads, good, outcome)
            attempts -= not refused
            results = [self._again(request.caller, item, refused) for item in results]
        raise UnavailableError("other requests changed the same user; try again")

    def _again(
        self, caller: Caller, item: Certified | KmsError, refused: Mapping[EnrolmentId, KmsError]
    ) -> Certified | KmsError:
        if isinstance(item, KmsError):
            return item
        error = refused.get(item.proven.enrolment.enrolment)
        if error is not None:
            return error
        return replace(item, event=self._event(caller, item.proven, item.issued))

    def _refused(
        self, reads: Reads, items: Sequence[Certified], conflict: Conflict
    ) -> dict[EnrolmentId, KmsError]:
        """Whom the conflict, or another change, refuses; none where a new plan will do."""
        if conflict.record == Idempotent.__name__:
            raise StillRunningError("the same request was answered a moment ago; send it again")
        refused: dict[EnrolmentId, KmsError] = {}
        for item in items:
            enrolment = item.proven.enrolment
            try:
                self._refuse_conflict(enrolment, conflict)
                self._refuse_meanwhile(reads, enrolment)
            except REFUSALS as error:
                refused[enrolment.enrolment] = error
        return refused

    def _refuse_conflict(self, enrolment: Enrolment, conflict: Conflict) -> None:
        if conflict.record == Fingerprint.__name__ and any(
            conflict.key[1] in slot["fingerprints"] for slot in enrolment.slots
        ):
            raise KeyReusedError("a component key has been registered meanwhile")
        if conflict.record == Enrolment.__name__ and conflict.key[1] == enrolment.enrolment:
            raise ChallengeUsedError("the enrolment was completed meanwhile")

    def _count(self, results: Sequence[Certified | KmsError]) -> None:
        released: Counter[tuple[str, str]] = Counter()
        for item in results:
            if isinstance(item, KmsError):
                self._core.observer.refused(item.problem)
                continue
            for slot in item.proven.slots:
                if slot.key.modulus is not None:
                    self._checks.registered(slot.key.modulus)
                released[slot.reservation["profile"], slot.reservation["algorithm"]] += 1
        for (profile, name), certificates in released.items():
            self._core.observer.issued(profile, name, certificates)

    def _chain(self, authority: str) -> list[str]:
        return [b64(der) for der in self._core.authorities.chain(authority)]

    def _document(self, item: Certified, ordinal: int, chain: list[str]) -> dict[str, Any]:
        enrolment = item.proven.enrolment
        return {
            "enrolment": enrolment.enrolment,
            "user": enrolment.user,
            "device": enrolment.device,
            "certificates": [
                {
                    "slot": slot.reservation["name"],
                    "profile": slot.reservation["profile"],
                    "serial": slot.reservation["serial"],
                    "not_before": slot.reservation["not_before"],
                    "not_after": slot.reservation["not_after"],
                    "certificate": b64(issued.der),
                }
                for slot, issued in zip(item.proven.slots, item.issued, strict=True)
            ],
            "chain": chain,
            "receipt": receipt_slot(ordinal),
            "leaf": b64(item.event.leaf),
            "openings": [opening.document() for opening in item.event.openings],
        }


def _check(
    slot: Mapping[str, Any], message: bytes, proof: bytes
) -> SignatureCheck | ProofFailedError | None:
    """The signature of a slot, still to be verified, or what is wrong with its MAC."""
    if slot["mac_sha256"] is None:
        return SignatureCheck(slot["algorithm"], unb64(slot["spki"]), message, proof)
    try:
        verify_mac(slot["mac_sha256"], proof)
    except ProofError as error:
        return _failed(slot, str(error))
    return None


def _first_refusal(opened: _Opened, answers: Iterator[str | None]) -> KmsError | None:
    """The first refused slot; takes as many answers as the enrolment has signatures."""
    refused: KmsError | None = None
    for slot, check in zip(opened.enrolment.slots, opened.checks, strict=True):
        found = check if isinstance(check, ProofFailedError) else None
        if isinstance(check, SignatureCheck):
            answer = next(answers)
            found = None if answer is None else _failed(slot, answer)
        refused = refused or found
    return refused


def _failed(slot: Mapping[str, Any], why: str) -> ProofFailedError:
    return ProofFailedError(why, field=f"proofs.{slot['name']}")
