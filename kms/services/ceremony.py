"""The birth of an authority: log key first, then policy, root and the CAs below it.

Later ceremonies add authorities, and a cosigner of the log, to what there is. Every step is an
event in the log that the first step opens. A ceremony that was interrupted is continued by holding
it again: what the ledger holds already is not made twice, and a key that was made but not yet
recorded is found by its label.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_drivers.ports import KeyLabel, KeyRecord, StatementSigner
from kms.domain.key_records import Key
from kms.domain.records import (
    SYSTEM_TENANT,
    Authority,
    Certificate,
    CertificateStatus,
    Epoch,
    Event,
    LogId,
    PolicyVersion,
    Serial,
    Standing,
    Tenant,
)
from kms.services.ceremony_keys import key_changes, key_detail
from kms.services.ceremony_plan import AuthorityPlan, Plan
from kms.services.core import ROOT, Core, sign_all
from kms.services.cosigner import COSIGNER_PURPOSE
from kms.services.crls import Crls
from kms.services.errors import AlgorithmRefusedError, KmsError, StateError
from kms.services.keys.specs import authority_spec, find_key, make_log_key
from kms.services.ports import Change, Conflict, EventDraft, Insert, Ledger, Replace, Unit
from kms.tlog.notes import vkey
from kms.wire import Committed, EventType, LeafCertificate, serial_hex
from pki.authorities import prepare_root, prepare_subordinate
from pki.certificates import Issued, Prepared
from pki.chains import certificate_info
from pki.keys import parse_public_key
from pki.names import Subject
from policies.algorithms import algorithm
from policies.decisions import Protection, Question, Use, decide
from policies.policy import Policy

FIRST_LOG = LogId(1)


@dataclass(frozen=True, slots=True)
class CeremonyReport:
    """What a ceremony leaves: for officers to compare and to publish."""

    origin: str
    vkey: str
    cosigner_vkey: str | None
    checkpoint: bytes
    keys: tuple[KeyRecord, ...]
    certificates: Mapping[str, bytes]


class Ceremony:
    """Holds one ceremony over a signer in ceremony mode.

    Args:
        core: Ports; its authorities may be empty, its log is the one that `open_log` opened.
        plan: What to make.
        officers: Who is present; at least two.
        progress: Told each step in a sentence.
    """

    def __init__(
        self, core: Core, plan: Plan, officers: Sequence[str], progress: Callable[[str], None]
    ) -> None:
        if len(set(officers)) < 2:
            raise StateError("a ceremony needs two different officers", field="officer")
        self._core = core
        self._plan = plan
        self._officers = tuple(officers)
        self._progress = progress

    async def hold(self, epoch: Epoch) -> CeremonyReport:
        """Carry out the plan.

        Raises:
            KmsError: A step failed; hold the ceremony again to continue.
        """
        await self._begin(epoch)
        await self._present()
        await self._activate_policy()
        await self._register_authority_tenant()
        return await self._make(epoch)

    async def extend(self, epoch: Epoch) -> CeremonyReport:
        """Add what the plan names to a home that had its first ceremony.

        Raises:
            KmsError: A step failed; do it again to continue.
        """
        await self._present()
        await self._activate_policy()
        return await self._make(epoch)

    async def _make(self, epoch: Epoch) -> CeremonyReport:
        await self._log_cosigner()
        for item in self._plan.authorities:
            await self._authority(item)
        await self._publish_crls()
        await self._step("closed")
        return await self._report(epoch)

    async def _begin(self, epoch: Epoch) -> None:
        """Event 0 is the birth of the log key."""
        head = self._core.ledger.head()
        if head is None or head.size == 0:
            record = await self._key_record(KeyLabel(self._plan.log_label))
            detail = {**key_detail(record), "vkey": epoch.vkey}
            event = self._draft(EventType.LOG_OPENED, detail=detail)
            await self._commit(key_changes(self._core, record, "log", event), event)
            self._progress(f"log {epoch.origin} opened by its own key's birth")

    async def _present(self) -> None:
        for officer in self._officers:
            await self._step("officer-present", officer)

    async def _step(self, step: str, officer: str | None = None) -> None:
        detail = {"step": step, "plan_sha256": self._plan.sha256}
        await self._commit([], self._draft(EventType.CEREMONY_STEP, officer, detail=detail))

    async def _activate_policy(self) -> None:
        if await activate_policy(self._core, self._officers[0]):
            self._progress(f"policy {self._core.policy.name} activated")

    async def _register_authority_tenant(self) -> None:
        if self._core.ledger.get(Tenant, SYSTEM_TENANT) is not None:
            return
        domain = self._plan.identity_domain
        event = self._draft(EventType.TENANT_REGISTERED, detail={"identity_domain": domain})
        tenant = Tenant(SYSTEM_TENANT, self._plan.identity_domain, Standing.ACTIVE, event.event)
        await self._commit([Insert(tenant)], event)

    async def _log_cosigner(self) -> None:
        """Its birth: every head that covers this event is cosigned, whatever came before."""
        cosigner = self._core.sequencer.cosigner
        if cosigner is None or self._logged(cosigner.key):
            return
        record = await self._key_record(cosigner.key)
        detail = {**key_detail(record), "vkey": cosigner.vkey.text()}
        event = self._draft(EventType.KEY_GENERATED, detail=detail)
        await self._commit(key_changes(self._core, record, COSIGNER_PURPOSE, event), event)
        self._progress(f"the log is cosigned by {cosigner.key}, {record.algorithm}")

    def _logged(self, label: KeyLabel) -> bool:
        return self._core.ledger.get(Key, SYSTEM_TENANT, str(label)) is not None

    async def _authority(self, item: AuthorityPlan) -> None:
        if self._core.authorities.get(item.name) is not None:
            return
        self._refuse_by_policy(item)
        record = await self._authority_key(item)
        prepared = self._prepare(item, record)
        (signature,) = await sign_all(self._core.signer, [prepared.statement])
        issued = prepared.complete(signature)
        await self._record_authority(item, record, prepared, issued)
        self._progress(f"{item.name} authority created, certificate {issued.sha256[:16]}…")

    def _refuse_by_policy(self, item: AuthorityPlan) -> None:
        now = self._core.clock.now()
        decision = decide(
            self._core.policy,
            Question(
                Use.AUTHORITY, None, item.algorithm, item.protection, now, now + item.validity
            ),
        )
        if not decision.allowed:
            raise AlgorithmRefusedError(f"{item.name}: {decision.reason}")

    async def _authority_key(self, item: AuthorityPlan) -> KeyRecord:
        spec = authority_spec(item, self._subordinates(item))
        record = await find_key(self._core.signer, spec, item.protection)
        if record is None:
            record = await self._core.signer.generate(spec)
        if not self._logged(spec.label):
            event = self._draft(EventType.KEY_GENERATED, detail=key_detail(record))
            changes = key_changes(self._core, record, "authority", event)
            await self._commit(changes, event)
            self._progress(_birth(record))
        return record

    def _subordinates(self, item: AuthorityPlan) -> list[Subject]:
        """Whom this authority may certify as an authority: only the root, only those planned."""
        if item.name != ROOT:
            return []
        return [other.subject for other in self._plan.authorities if other.name != ROOT]

    def _prepare(self, item: AuthorityPlan, record: KeyRecord) -> Prepared:
        key = parse_public_key(record.public_key, algorithm(item.algorithm))
        serial = int.from_bytes(self._core.ids.identifier(), "big")
        start = self._core.clock.now() - self._core.limits.backdate
        if item.name == ROOT:
            return prepare_root(
                record.label,
                item.subject,
                key,
                serial=serial,
                not_before=start,
                not_after=start + item.validity,
            )
        root = self._core.authorities[ROOT].issuer
        return prepare_subordinate(
            root,
            item.name,
            item.subject,
            key,
            serial=serial,
            not_before=max(start, root.not_before),
            not_after=min(start + item.validity, root.not_after),
            base_url=self._core.authorities.base_url,
        )

    async def _record_authority(
        self, item: AuthorityPlan, record: KeyRecord, prepared: Prepared, issued: Issued
    ) -> None:
        profile = "root-ca" if item.name == ROOT else "issuing-ca"
        serial = serial_hex(issued.serial)
        event = self._draft(
            EventType.AUTHORITY_CREATED,
            certificates=[LeafCertificate(ROOT, serial, profile, None, issued.sha256)],
            detail={"name": item.name, "generation": 1},
        )
        authority = Authority(
            tenant=SYSTEM_TENANT,
            name=item.name,
            generation=1,
            key=record.label,
            algorithm=item.algorithm,
            certificate=issued.der,
            issuer=ROOT,
            standing=Standing.ACTIVE,
            event=event.event,
        )
        certificate = _authority_certificate(authority, serial, profile, prepared, issued)
        await self._commit([Insert(authority), Insert(certificate)], event)
        self._core.authorities.add(authority)

    async def _publish_crls(self) -> None:
        crls = Crls(self._core)
        crls.load()
        for authority in self._core.authorities.all():
            if crls.published(authority.record.name) is None:
                await crls.publish(authority.record.name)
                self._progress(f"first CRL of {authority.record.name} published")

    async def _report(self, epoch: Epoch) -> CeremonyReport:
        head = self._core.ledger.head()
        size = 0 if head is None else head.size
        note = await self._core.sequencer.note_for(epoch.log, size)
        authorities = self._core.authorities.all()
        return CeremonyReport(
            origin=epoch.origin,
            vkey=epoch.vkey,
            cosigner_vkey=self._core.sequencer.cosigner_vkey,
            checkpoint=note,
            keys=tuple(key for key in await self._core.signer.keys() if key.purposes),
            certificates={item.record.name: item.record.certificate for item in authorities},
        )

    async def _key_record(self, label: KeyLabel) -> KeyRecord:
        for record in await self._core.signer.keys():
            if record.label == label:
                return record
        raise StateError(f"the signer has no key {label!r}")

    def _draft(self, kind: EventType, officer: str | None = None, **parts: Any) -> EventDraft:
        actor = officer or " and ".join(self._officers)
        return self._core.events.draft(
            kind, self._core.clock.now(), SYSTEM_TENANT, {Committed.ACTOR: actor}, **parts
        )

    async def _commit(self, changes: Sequence[Change], event: EventDraft) -> None:
        await commit_or_fail(self._core, changes, event)


async def open_log(
    ledger: Ledger,
    signer: StatementSigner,
    plan: Plan,
    executor: Executor,
    policy: Policy,
    now: datetime,
) -> Epoch:
    """Make the log key, unless the token has it, and begin the first epoch.

    Raises:
        AlgorithmRefusedError: The policy allows no such log key now.
        HsmError: The token failed or the signer is not in ceremony mode.
    """
    record = await make_log_key(signer, plan, policy, now)
    origin = f"{plan.log_name}/{FIRST_LOG}"
    epoch = Epoch(FIRST_LOG, origin, str(record.label), log_vkey(origin, record))
    await asyncio.get_running_loop().run_in_executor(
        executor, lambda: ledger.open_log(epoch.log, epoch.origin, epoch.key, epoch.vkey)
    )
    return epoch


async def activate_policy(core: Core, actor: str) -> bool:
    """Log the policy in force, unless the log has it; answer whether it was new."""
    known = core.ledger.find(PolicyVersion, tenant=SYSTEM_TENANT)
    if _newest_policy(core, known) == core.policy.hash:
        return False
    event = core.events.draft(
        EventType.POLICY_ACTIVATED,
        core.clock.now(),
        SYSTEM_TENANT,
        {Committed.ACTOR: actor},
        detail={"name": core.policy.name, "hash": core.policy.hash},
    )
    record = PolicyVersion(
        SYSTEM_TENANT, core.policy.hash, core.policy.name, core.policy.source, event.event
    )
    stored = next((item for item in known if item.policy == core.policy.hash), None)
    change = Insert(record) if stored is None else Replace(record, expected=stored)
    await commit_or_fail(core, [change], event)
    return True


def _newest_policy(core: Core, known: Sequence[PolicyVersion]) -> str | None:
    """The policy that was activated last: a log may go from A to B and back to A."""
    places = {}
    for item in known:
        (event,) = core.ledger.find(Event, tenant=SYSTEM_TENANT, event=item.event, limit=1)
        places[event.log, event.index] = item.policy
    return places[max(places)] if places else None


async def commit_or_fail(core: Core, changes: Sequence[Change], event: EventDraft) -> None:
    """Commit one event of a local command.

    Raises:
        KmsError: A conflict, or the log is not to be had.
    """
    outcome = await core.sequencer.commit(Unit(tuple(changes), (event,)))
    if isinstance(outcome, Conflict):
        raise StateError(f"{event.type}: the ledger holds another {outcome.record} already")


def _birth(record: KeyRecord) -> str:
    if record.protection is Protection.WRAPPED:
        how = f"is wrapped under a key of token {record.token}"
    else:
        how = f"was born on token {record.token}"
    return f"key {record.label} ({record.algorithm}) {how}"


def log_vkey(origin: str, record: KeyRecord) -> str:
    """Verifier key of a log from its key record."""
    public = load_der_public_key(record.public_key)
    if not isinstance(public, Ed25519PublicKey):
        raise KmsError("a log key is an Ed25519 key")
    return vkey(origin, public.public_bytes_raw())


def _authority_certificate(
    authority: Authority, serial: str, profile: str, prepared: Prepared, issued: Issued
) -> Certificate:
    read = certificate_info(issued.der)
    return Certificate(
        tenant=SYSTEM_TENANT,
        authority=ROOT,
        serial=Serial(serial),
        generation=1,
        profile=profile,
        profile_version=1,
        algorithm=authority.algorithm,
        user=None,
        device=None,
        slot=None,
        principal=authority.name,
        der=issued.der,
        sha256=issued.sha256,
        tbs_sha256=prepared.tbs_sha256,
        not_before=read.not_before,
        not_after=read.not_after,
        status=CertificateStatus.GOOD,
        event=authority.event,
    )
