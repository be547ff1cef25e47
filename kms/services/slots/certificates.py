"""Certificates of KEM slots: proven, made and committed together with the key (P5).

The private half cannot sign. The signer made it, and shows that it holds it by getting a fresh
secret out of a ciphertext; then the infrastructure authority certifies it. Serial and validity are
reserved before anything is signed, so that the same work comes back to the same certificate.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from hsm_drivers.errors import HsmError
from hsm_drivers.operations import Decapsulate
from hsm_drivers.ports import KeyRecord
from kms.domain.key_records import Key, KeyVersion
from kms.domain.records import (
    Certificate,
    CertificateStatus,
    Reason,
    Reservation,
    Serial,
    Tenant,
)
from kms.services.core import INFRASTRUCTURE, ActiveAuthority, Core, prepare, sign_all
from kms.services.errors import AlgorithmRefusedError, SignerUnavailableError, UnavailableError
from kms.services.ports import Change, Delete, EventDraft, Insert, Replace
from kms.wire import Committed, EventType, LeafCertificate, serial_hex
from pki.certificates import CertificateRequest, Issued, Prepared
from pki.encapsulation import encapsulate
from pki.errors import PkiError, ProfileError, ProofError
from pki.keys import PublicKey, parse_public_key
from pki.names import Subject, slot_uri
from pki.profiles import certificate_profile
from policies.algorithms import algorithm

PROFILE = "kem-slot"
_KEEP = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class SlotCertificate:
    """A signed certificate on its way to its commit."""

    key: Key
    algorithm: str
    authority: ActiveAuthority
    reservation: Reservation
    prepared: Prepared
    issued: Issued
    policy: str
    rule: str

    @property
    def serial(self) -> Serial:
        """As the version's record has it."""
        return self.reservation.serial

    @property
    def leaf(self) -> LeafCertificate:
        """As the event of the version's birth has it."""
        return LeafCertificate(INFRASTRUCTURE, self.serial, PROFILE, None, self.issued.sha256)

    def changes(self, event: EventDraft) -> list[Change]:
        """What is committed with that event; a conflict if the reservation ended meanwhile."""
        profile = certificate_profile(PROFILE)
        record = Certificate(
            tenant=self.key.tenant,
            authority=INFRASTRUCTURE,
            serial=self.serial,
            generation=self.authority.record.generation,
            profile=profile.name,
            profile_version=profile.version,
            algorithm=self.algorithm,
            user=None,
            device=None,
            slot=None,
            principal=None,
            der=self.issued.der,
            sha256=self.issued.sha256,
            tbs_sha256=self.prepared.tbs_sha256,
            not_before=self.reservation.not_before,
            not_after=self.reservation.not_after,
            status=CertificateStatus.GOOD,
            event=event.event,
            policy=self.policy,
            rule=self.rule,
        )
        reservation = self.reservation
        return [Replace(reservation, expected=reservation), Insert(record), Delete(reservation)]


class SlotCertifier:
    """Certifies versions of KEM slots that the signer has just made."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def certify(
        self, key: Key, version: int, made: KeyRecord, begins: datetime, rule: str
    ) -> SlotCertificate:
        """Have the key proven and certify it.

        Args:
            key: The slot.
            version: Of the slot.
            made: The signer's record of it.
            begins: When it is to be active; it is sealed to for the originator's days from then.
            rule: Of the policy, which decided that it may be made.

        Raises:
            AlgorithmRefusedError: Slots have no keys of this algorithm.
            SignerUnavailableError: The signer is away, or does not hold the key.
        """
        public = _public_key(made)
        await self._prove(made, public)
        reservation = self._reserve(key, made, begins)
        authority = self._core.authorities[INFRASTRUCTURE]
        owner = self._core.ledger.get(Tenant, key.tenant)
        domain = "" if owner is None else owner.identity_domain
        request = CertificateRequest(
            profile=certificate_profile(PROFILE),
            serial=int(reservation.serial, 16),
            not_before=reservation.not_before,
            not_after=reservation.not_after,
            subject=Subject(key.key, domain),
            key=public,
            uris=(slot_uri(domain, key.key, version),),
        )
        prepared = prepare(authority, request)
        (signature,) = await sign_all(self._core.signer, [prepared.statement])
        issued, policy = prepared.complete(signature), self._core.policy.hash
        return SlotCertificate(
            key, made.algorithm, authority, reservation, prepared, issued, policy, rule
        )

    async def _prove(self, made: KeyRecord, public: PublicKey) -> None:
        try:
            ciphertext, secret = encapsulate(public)
        except ProofError as error:
            raise AlgorithmRefusedError(str(error), field="algorithm") from error
        try:
            (answer,) = await self._core.keys.use([Decapsulate(made.label, ciphertext)])
        except HsmError as error:
            raise SignerUnavailableError(f"the signer is away: {error}") from error
        if isinstance(answer, HsmError):
            raise SignerUnavailableError(f"the signer did not open the challenge: {answer}")
        if not hmac.compare_digest(answer[0], secret):
            raise SignerUnavailableError("the signer does not hold the private half of its key")

    def _reserve(self, key: Key, made: KeyRecord, begins: datetime) -> Reservation:
        scope: dict[str, Any] = {
            "tenant": key.tenant,
            "principal": "",
            "route": PROFILE,
            "idempotency_key": str(made.label),
        }
        now, changes = self._core.clock.now(), list[Change]()
        for stored in self._core.ledger.find(Reservation, limit=1, **scope):
            if stored.expires > now:
                return stored
            changes.append(Delete(stored))
        start = now - self._core.limits.backdate
        ends = begins + timedelta(days=key.originator_days)
        longest = start + certificate_profile(PROFILE).validity
        issuer = self._core.authorities[INFRASTRUCTURE].issuer
        fresh = Reservation(
            key.tenant,
            INFRASTRUCTURE,
            Serial(serial_hex(int.from_bytes(self._core.ids.identifier(), "big"))),
            principal="",
            route=PROFILE,
            idempotency_key=str(made.label),
            not_before=start,
            not_after=min(ends, longest, issuer.not_after),
            expires=now + _KEEP,
        )
        if self._core.ledger.reserve([*changes, Insert(fresh)]) is not None:
            raise UnavailableError("the same request is being answered; try again")
        return fresh


def revocations(
    core: Core, actor: str, versions: Sequence[KeyVersion], reason: Reason
) -> tuple[list[Change], list[EventDraft]]:
    """What revokes the certificates of these versions, as far as they have any in force."""
    good = [
        found
        for item in versions
        if item.certificate is not None
        for found in core.ledger.find(
            Certificate,
            tenant=item.tenant,
            authority=INFRASTRUCTURE,
            serial=item.certificate,
            status=CertificateStatus.GOOD,
        )
    ]
    if not good:
        return [], []
    event = core.events.draft(
        EventType.CERTIFICATE_REVOKED,
        core.clock.now(),
        good[0].tenant,
        {Committed.ACTOR: actor},
        certificates=[
            LeafCertificate(item.authority, item.serial, item.profile, item.slot, item.sha256)
            for item in good
        ],
        detail={"reason": reason.value},
    )
    revoked: dict[str, Any] = {
        "status": CertificateStatus.REVOKED,
        "revoked_by": event.event,
        "revoked_at": event.time,
        "reason": reason,
    }
    return [Replace(replace(item, **revoked), expected=item) for item in good], [event]


def _public_key(made: KeyRecord) -> PublicKey:
    row = algorithm(made.algorithm)
    try:
        certificate_profile(PROFILE).key_usage(row)
        return parse_public_key(made.public_key, row)
    except ProfileError as error:
        raise AlgorithmRefusedError(str(error), field="algorithm") from error
    except PkiError as error:
        raise SignerUnavailableError(f"the signer made a key that is none: {error}") from error
