"""Making key versions: decide → reserve a label → the signer generates → what is to be committed.

The label is in the ledger before the signer makes the key, so that a key whose commit was lost is
known for what it is: the same request comes back to it, and upkeep has what nobody comes back for
destroyed.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from hsm_drivers.errors import HsmError, RateExceededError, StatementRefusedError
from hsm_drivers.ports import Component, HeldComponent, KeyLabel, KeyRecord, KeySpec, TokenStatus
from kms.domain.key_records import (
    GENERATED,
    NEVER,
    Key,
    KeyId,
    KeyReplica,
    KeyReservation,
    KeyVersion,
)
from kms.domain.records import TenantId
from kms.services.core import Core
from kms.services.errors import (
    AlgorithmRefusedError,
    InputError,
    KmsError,
    SignerUnavailableError,
    SigningRateError,
    UnavailableError,
)
from kms.services.keys.reach import offered
from kms.services.ports import EventDraft, Insert, Replace
from kms.services.slots.certificates import SlotCertificate, SlotCertifier
from kms.wire import timestamp
from policies.algorithms import Kind, UnknownAlgorithmError, algorithm
from policies.choices import KEYS
from policies.decisions import Decision, Protection, Question, Use, decide
from policies.key_life import Cryptoperiods, KeyPurpose, KeyState, Operation

LABEL_PREFIX = "s-"
"""Of the labels of clients' keys on tokens: `s-<key id>-<version>`."""
GIVEN_UP = "given-up|"
"""Begins the work of a reservation that nobody comes back to."""
ORPHAN = "orphan|"
"""Begins the work of a reservation whose key is to be destroyed."""
_LABELS = 16
"""So many labels are tried: each was used up by an attempt of its own."""
_SECRET = frozenset({Kind.MAC, Kind.CIPHER, Kind.WRAP})
_WEAKEST_FIRST = (Protection.WRAPPED, Protection.TRANSFERABLE, Protection.TOKEN)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a version is to be made, and the decision that allows it."""

    algorithm: str
    components: tuple[Component, ...]
    protection: Protection
    decision: Decision
    begins: datetime

    @property
    def policy(self) -> dict[str, Any]:
        """As events carry it."""
        return {"hash": self.decision.policy, "rules": {self.algorithm: self.decision.rule}}


@dataclass(frozen=True, slots=True)
class Made:
    """A key that the signer holds, and the reservation that ends with its commit."""

    key: Key
    version: int
    plan: Plan
    record: KeyRecord
    reservation: KeyReservation
    certificate: SlotCertificate | None = None


class KeyMaker:
    """Makes versions of clients' keys and of KEM slots."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._slots = SlotCertifier(core)

    async def plan(self, key: Key, at: datetime) -> Plan:
        """Algorithm and protection of the key's next version.

        What the key's owner asked for, or else the first that policy and token allow: held by the
        token where it can, wrapped under a key of it where it cannot.

        Raises:
            AlgorithmRefusedError: The policy allows nothing of what is asked for.
            InputError: No token of that name, or it can hold no such key.
            SignerUnavailableError: The signer or the token is away.
        """
        status = await self._status(key.token)
        refusal: KmsError | None = None
        for name in (key.algorithm,) if key.algorithm else KEYS[KeyPurpose(key.purpose)]:
            for components in _ways(name, _asked(key), status):
                protection = _weakest(components)
                decision = decide(self._core.policy, _question(key, name, protection, at))
                if decision.allowed:
                    return Plan(name, components, protection, decision, at)
                refusal = refusal or AlgorithmRefusedError(decision.reason, field="algorithm")
        raise refusal or InputError(
            f"token {key.token or 'main'} can hold no such key; choose another token, algorithm or"
            " protection",
            field="token",
        )

    async def make(self, key: Key, version: int, plan: Plan, work: str) -> Made:
        """Have the key made; the signer answers again for what an earlier attempt made.

        Args:
            key: Need not be in the ledger yet; its id is taken from an earlier attempt's.
            version: Its number.
            plan: How.
            work: Names the attempt in the key's tenant; see `KeyReservation`.

        Raises:
            SignerUnavailableError: The signer is away; the same work may be tried again.
        """
        reservation, record = await self._generated(key, version, plan, work)
        certificate = None
        if key.purpose == KeyPurpose.KEM:
            rule = plan.decision.rule
            certificate = await self._slots.certify(key, version, record, plan.begins, rule)
        return Made(key, version, plan, record, reservation, certificate)

    async def _generated(
        self, key: Key, version: int, plan: Plan, work: str
    ) -> tuple[KeyReservation, KeyRecord]:
        """The key under the first label that the signer takes.

        Labels are never used again: one may be used up by an attempt that planned otherwise, or by
        one that was given up long ago. Upkeep has destroyed what such an attempt has left.
        """
        stored = self._stored(key.tenant, work)
        if stored is not None and stored.expires <= self._core.clock.now():
            self._give_up(stored)
        number = self._first_free(key, version)
        for label in (label_of(key, number + at) for at in range(_LABELS)):
            reservation = self._reserve(key, version, label, work)
            try:
                record = await self._core.keys.generate(_spec(key, reservation, plan))
            except StatementRefusedError as error:
                refusal = error
                self._give_up(reservation)
            except HsmError as error:
                raise unavailable(error) from error
            else:
                return reservation, record
        raise UnavailableError(f"the signer makes no key under any of its labels: {refusal}")

    def _first_free(self, key: Key, version: int) -> int:
        """The number of the first label that no version of the key has, nor an attempt given up."""
        find = self._core.ledger.find
        labels = [item.label for item in find(KeyVersion, tenant=key.tenant, key=key.key)]
        labels += [
            item.label
            for item in find(KeyReservation, tenant=key.tenant, key_id=key.key_id)
            if item.work.startswith((GIVEN_UP, ORPHAN))
        ]
        taken = [int(label.rpartition("-")[2]) for label in labels]
        return max([version, *(number + 1 for number in taken)])

    def _give_up(self, reservation: KeyReservation) -> None:
        """Leave to upkeep whatever stands behind a reservation."""
        change = given_up(reservation, self._core.clock.now())
        if self._core.ledger.reserve([change]) is not None:
            raise UnavailableError("the same request is being answered; try again")

    def key_id_of(self, tenant: TenantId, name: str, work: str) -> KeyId:
        """The id of a key to be made: that of an earlier attempt at this work, or a fresh one."""
        stored = self._stored(tenant, work)
        if stored is not None and stored.key == name and stored.expires > self._core.clock.now():
            return stored.key_id
        return KeyId(self._core.ids.random(16).hex())

    def _stored(self, tenant: TenantId, work: str) -> KeyReservation | None:
        found = self._core.ledger.find(KeyReservation, tenant=tenant, work=work, limit=1)
        return found[0] if found else None

    async def _status(self, token: str) -> TokenStatus:
        try:
            tokens = await self._core.keys.tokens()
        except HsmError as error:
            raise unavailable(error) from error
        found = next((item for item in tokens if item.name == token), None)
        if found is None:
            names = ", ".join(item.name or "main" for item in tokens)
            raise InputError(f"the tokens are {names}", field="token")
        if not found.healthy:
            raise SignerUnavailableError(f"token {token or 'main'}: {found.detail}")
        return found

    def _reserve(self, key: Key, version: int, label: str, work: str) -> KeyReservation:
        """The reservation of this work: an earlier attempt's, or a fresh one."""
        stored = self._stored(key.tenant, work)
        if stored is not None and stored.label == label:
            return stored
        fresh = KeyReservation(
            tenant=key.tenant,
            label=label,
            key=key.key,
            key_id=key.key_id,
            version=version,
            work=work,
            expires=self._core.clock.now() + KEEP_RESERVATION,
        )
        ended = [] if stored is None else [given_up(stored, self._core.clock.now())]
        if self._core.ledger.reserve([*ended, Insert(fresh)]) is not None:
            raise UnavailableError("the same request is being answered; try again")
        return fresh


KEEP_RESERVATION = timedelta(hours=1)
"""How long the same request may come back to a key that was made and never committed."""


def label_of(key: Key, number: int) -> str:
    """A label of a key on its tokens: the version's number, or a later one where that is used."""
    return f"{LABEL_PREFIX}{key.key_id}-{number}"


def given_up(reservation: KeyReservation, now: datetime) -> Replace:
    """Nobody comes back for what it names: upkeep has it destroyed, if it was made."""
    work = GIVEN_UP + reservation.label
    return Replace(replace(reservation, work=work, expires=now), expected=reservation)


def unavailable(error: HsmError) -> SignerUnavailableError:
    """The signer is away, or did not do what it was told."""
    if isinstance(error, RateExceededError):
        return SigningRateError(str(error))
    return SignerUnavailableError(f"the signer did not do it: {error}")


def _question(key: Key, name: str, protection: Protection, at: datetime) -> Question:
    """Whether such a version may be used from then on, and relied on to the end of its periods."""
    kem = key.purpose == KeyPurpose.KEM
    ends = Cryptoperiods(key.originator_days, key.recipient_days).recipient_end(at) or NEVER
    use, slot = (Use.KEM_SLOT, key.slot) if kem else (Use.KEY, key.purpose)
    return Question(use, slot, name, protection, at, ends)


def _ways(
    name: str, asked: Protection | None, status: TokenStatus
) -> Iterator[tuple[Component, ...]]:
    """How the token can hold the parts of such a key; none where it cannot."""
    try:
        row = algorithm(name)
    except UnknownAlgorithmError:
        yield (Component(name, asked or Protection.TOKEN),)  # the policy says what is wrong with it
        return
    parts = row.components or (name,)
    there = [part in status.algorithms for part in parts]
    if asked in {Protection.TOKEN, Protection.TRANSFERABLE}:
        if all(there):
            yield tuple(Component(part, asked) for part in parts)
    elif asked is Protection.WRAPPED:
        if row.kind not in _SECRET:
            yield tuple(Component(part, asked) for part in parts)
    elif asked is None and (all(there) or row.kind not in _SECRET):
        ways = [Protection.TOKEN if held else Protection.WRAPPED for held in there]
        yield tuple(map(Component, parts, ways))


def _asked(key: Key) -> Protection | None:
    return Protection(key.protection) if key.protection else None


def _weakest(components: Sequence[Component]) -> Protection:
    return min((item.protection for item in components), key=_WEAKEST_FIRST.index)


def _spec(key: Key, reservation: KeyReservation, plan: Plan) -> KeySpec:
    """What the signer is asked for; verifying takes the public key alone, and no token."""
    operations = tuple(item for item in offered(key.purpose) if item is not Operation.VERIFY)
    return KeySpec(
        label=KeyLabel(reservation.label),
        algorithm=plan.algorithm,
        purposes=(),
        constraints={},
        operations=operations,
        token=key.token,
        components=plan.components,
    )


def _component(part: HeldComponent) -> dict[str, Any]:
    return {
        "algorithm": part.algorithm,
        "protection": part.protection.value,
        "label": str(part.label),
        "sha256": sha256_of(part.public_key),
    }


def sha256_of(data: bytes) -> str:
    """Hex; of nothing: nothing."""
    return hashlib.sha256(data).hexdigest() if data else ""


def born(
    made: Made, event: EventDraft, activates: datetime | None
) -> tuple[KeyVersion, KeyReplica]:
    """A version in pre-activation, and where it lives."""
    key, record, plan = made.key, made.record, made.plan
    version = KeyVersion(
        tenant=key.tenant,
        key=key.key,
        version=made.version,
        label=str(record.label),
        algorithm=plan.algorithm,
        protection=plan.protection.value,
        components=tuple(_component(item) for item in record.components),
        public_key=record.public_key,
        state=KeyState.PRE_ACTIVATION,
        created=event.time,
        activates=activates,
        originator_end=None,
        recipient_end=None,
        deactivates=None,
        compromised=None,
        recover_until=None,
        destroys=None,
        destroyed=None,
        certificate=None if made.certificate is None else made.certificate.serial,
        policy=plan.decision.policy,
        rule=plan.decision.rule,
        event=event.event,
    )
    replica = KeyReplica(
        tenant=key.tenant,
        key=key.key,
        version=made.version,
        token=record.home,
        token_label=record.token,
        key_id=record.key_id,
        how=GENERATED,
        attributes=asdict(record.attributes),
        added=event.time,
        destroyed=None,
    )
    return version, replica


def birth_detail(made: Made, activates: datetime | None) -> dict[str, Any]:
    """What `key.generated` says of a version of a key with a life."""
    record, plan = made.record, made.plan
    return {
        "key": made.key.key_id,
        "version": made.version,
        "label": str(record.label),
        "algorithm": plan.algorithm,
        "purposes": [made.key.purpose],
        "protection": plan.protection.value,
        "components": [
            {"algorithm": item.algorithm, "protection": item.protection.value}
            for item in plan.components
        ],
        "public_key_sha256": sha256_of(record.public_key),
        "attributes": asdict(record.attributes),
        "tokens": [place or "main" for place in record.places],
        "activates": None if activates is None else timestamp(activates),
    }
