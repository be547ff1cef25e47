"""Service keys in the signer: made, narrowed, destroyed after a delay, and used in between.

Whoever has taken over the worker can use these keys as its clients could. What they cannot do
stands here, out of the worker's reach: use a key for what was taken from it, take from it what
opens and checks, destroy one before the delay is over by the signer's clock or long after it, make
more than a few in an hour, or touch a key that signs statements; that one has its record elsewhere
and is not found here.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import msgspec

from hsm_drivers import making
from hsm_drivers.errors import (
    DestructionBegunError,
    HsmError,
    KeyNotFoundError,
    RateExceededError,
    StatementRefusedError,
    TokenFailureError,
)
from hsm_drivers.operations import ServiceCall
from hsm_drivers.ports import (
    KeyLabel,
    KeyRecord,
    KeySpec,
    Operation,
    ServiceStatus,
    TokenStatus,
)
from hsm_drivers.rates import HOUR, Bucket
from hsm_drivers.service.store import Destroyed, Held, Making, ServiceStore, label_of
from hsm_drivers.service.use import ServiceUse, Using
from hsm_drivers.tokens import Tokens
from policies.algorithms import Kind

_log = logging.getLogger(__name__)

_LABEL = re.compile(r"s-[0-9a-f]{32}-[0-9]{1,10}")
RESERVED_PREFIXES = ("s-", making.WRAPPING_PREFIX)
"""How no label of a key begins that signs statements."""
_CLOCKS_DIFFER = timedelta(minutes=5)
"""How much earlier than by the signer's clock the worker may think that a delay is over."""
_LAPSE = timedelta(days=30)
"""How long after its time a schedule still holds, or as long as the delay if that is longer: one
that nobody has come for is old, and may be an intruder's who left it for another day."""
_DOES: Mapping[Kind, frozenset[Operation]] = {
    Kind.SIGNATURE: frozenset({Operation.SIGN}),
    Kind.MAC: frozenset({Operation.MAC, Operation.VERIFY_MAC}),
    Kind.CIPHER: frozenset({Operation.ENCRYPT, Operation.DECRYPT, Operation.DATA_KEY}),
    Kind.WRAP: frozenset({Operation.WRAP, Operation.UNWRAP}),
    Kind.KEM: frozenset({Operation.DECAPSULATE}),
    Kind.HASH: frozenset(),
}
"""What keys of a kind can do."""


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What the operator has set.

    Attributes:
        destruction_delay: From asking for a destruction to the first moment it is carried out.
        keys_per_hour: Service keys made at once, and in every hour after that.
    """

    destruction_delay: timedelta = timedelta(days=7)
    keys_per_hour: int = 1_000


class ServiceKeyring:
    """The service keys of one signer; one call at a time, from one thread."""

    def __init__(
        self,
        tokens: Tokens,
        store: ServiceStore,
        now: Callable[[], datetime],
        limits: ServiceLimits,
    ) -> None:
        """Take the parts; see to what a crash has left (`recover`).

        Args:
            tokens: What keys live on.
            store: What is kept of them.
            now: Clock, aware.
            limits: As the operator has set them.
        """
        self._tokens = tokens
        self._store = store
        self._now = now
        self._limits = limits
        self._use = ServiceUse(tokens, store)
        self._bucket = Bucket(limits.keys_per_hour, self._left_now(), time.monotonic())
        self.recover()

    def using(self, calls: Sequence[ServiceCall]) -> Using:
        """As `ports.ServiceKeys.use`, with the pauses of `SignerCore.signing`."""
        return self._use.using(calls)

    def records(self) -> list[KeyRecord]:
        """Records of the keys that serve."""
        return [
            replace(entry.record, destroys=_moment(entry.destroy_at) if entry.destroy_at else "")
            for entry in self._store
            if isinstance(entry, Held) and not entry.destroying
        ]

    def status(self) -> ServiceStatus:
        """Numbers for the metrics."""
        self._bucket.refill(time.monotonic())
        return ServiceStatus(
            keys=sum(isinstance(entry, Held) for entry in self._store),
            unfinished=tuple(label_of(entry) for entry in self._unfinished()),
            keys_per_hour=self._bucket.limit,
            keys_left=int(self._bucket.left),
            calls=tuple(
                (operation, made, self._use.failed[operation])
                for operation, made in self._use.made.items()
            ),
            scheduled=sum(
                isinstance(entry, Held) and entry.destroy_at is not None for entry in self._store
            ),
        )

    def generate(self, spec: KeySpec) -> KeyRecord:
        """Make a key; asked again with the same spec, answer the record of the one that was made.

        Raises:
            StatementRefusedError: The label is no service key's or was used for another one, or
                the algorithm does not do these operations.
            RateExceededError: Enough were made in this hour.
            HsmError: As the token says.
        """
        parts = self._planned(spec)
        known = self._store.get(spec.label)
        if isinstance(known, Held) and not known.destroying and _same(spec, known.record):
            return making.bare(known.record)
        if isinstance(known, Held | Destroyed):
            raise StatementRefusedError(
                f"a key called {spec.label!r} was made before; labels are never used again"
            )
        if known is not None:
            self._unmake(known)
        self._take_one()
        making.refuse_taken(self._tokens.driver(spec.token), parts)
        objects = tuple(part.label for part in parts)
        self._store.put(Making(1, spec.label, spec.token, objects))
        record = self._made(spec)
        _log.info(
            "service key %s made: %s, %s, on token %r, for %s",
            spec.label,
            spec.algorithm,
            record.protection.value,
            record.token,
            ", ".join(spec.operations),
        )
        return making.bare(record)

    def narrow(self, label: KeyLabel, operations: Sequence[Operation]) -> None:
        """As `ports.ServiceKeys.narrow`."""
        entry = self._store.held(label)
        added = set(operations) - set(entry.record.operations)
        if added:
            raise StatementRefusedError(
                f"service key {label!r} does not {', '.join(sorted(added))} now, and what a key may"
                " do never grows"
            )
        kept = {item for item in entry.record.operations if not item.originates}
        if kept - set(operations):
            raise StatementRefusedError(
                f"service key {label!r} keeps {', '.join(sorted(kept))}: what opens and checks goes"
                " with the key alone"
            )
        left = tuple(item for item in entry.record.operations if item in operations)
        self._store.put(_with(entry, record=replace(entry.record, operations=left)))
        _log.info("service key %s narrowed to: %s", label, ", ".join(left) or "nothing")

    def schedule_destruction(self, label: KeyLabel, at: datetime) -> None:
        """As `ports.ServiceKeys.schedule_destruction`."""
        entry = self._store.held(label)
        earliest = self._now() + self._limits.destruction_delay
        if at.tzinfo is None or at < earliest - _CLOCKS_DIFFER:
            raise StatementRefusedError(
                f"service key {label!r} is not destroyed before {_moment(earliest)}:"
                f" {self._limits.destruction_delay} from now by the signer's clock"
                " (signer.destruction_days)"
            )
        self._store.put(_with(entry, destroy_at=at))
        _log.info("service key %s is to be destroyed at %s", label, _moment(at))

    def cancel_destruction(self, label: KeyLabel) -> None:
        """As `ports.ServiceKeys.cancel_destruction`; nothing happens if none was scheduled."""
        entry = self._known(label)
        if isinstance(entry, Destroyed):
            raise DestructionBegunError(f"service key {label!r} was destroyed")
        if entry.destroying:
            self._refuse_begun(entry.record)
        if entry.destroy_at is not None:
            self._store.put(_with(entry, destroy_at=None, destroying=False))
            _log.info("service key %s is not to be destroyed any more", label)

    def destroy(self, label: KeyLabel) -> tuple[str, ...]:
        """As `ports.ServiceKeys.destroy`.

        Once it has begun the key serves no more, and after a crash, or where a token went away in
        between, asking again destroys what is left of it.
        """
        entry = self._known(label)
        return entry.tokens if isinstance(entry, Destroyed) else self._destroy(entry)

    def recover(self) -> None:
        """Remove what half-made keys left on tokens; those whose token is away wait."""
        for entry in self._unfinished():
            try:
                self._unmake(entry)
            except HsmError as error:
                _log.warning("service key %s was not made whole: %s", entry.label, error)

    def tokens(self) -> list[TokenStatus]:
        """As `ports.ServiceKeys.tokens`."""
        return self._tokens.statuses()

    def _planned(self, spec: KeySpec) -> tuple[making.Part, ...]:
        if not _LABEL.fullmatch(spec.label):
            raise StatementRefusedError(
                f"{spec.label[:80]!r} is no label of a service key: s-, 32 hex digits, -, a number"
            )
        row = making.known(spec.algorithm)
        if spec.purposes or spec.ceremony_only or not spec.operations:
            raise StatementRefusedError("a service key has operations and signs no statements")
        if len(set(spec.operations)) < len(spec.operations):
            raise StatementRefusedError("an operation is named twice")
        cannot = set(spec.operations) - _DOES[row.kind]
        if cannot:
            raise StatementRefusedError(f"{row.name} keys do not {', '.join(sorted(cannot))}")
        return making.plan(spec)

    def _made(self, spec: KeySpec) -> KeyRecord:
        """Made and recorded, or neither; a crash in between leaves the entry that says so."""
        try:
            record = making.make(self._tokens, spec, self._now())
            self._store.put(Held(1, record, self._now()))
        except BaseException:
            entry = self._store.get(spec.label)
            if isinstance(entry, Making):
                self._give_up(entry)
            raise
        return record

    def _give_up(self, entry: Making) -> None:
        try:
            self._unmake(entry)
        except HsmError as error:
            _log.warning("service key %s was not made whole: %s", entry.label, error)

    def _unmake(self, entry: Making) -> None:
        making.destroy(self._tokens.driver(entry.token), entry.objects)
        self._store.drop(entry.label)
        _log.info("what was left of the service key %s is removed", entry.label)

    def _destroy(self, entry: Held) -> tuple[str, ...]:
        label, record = entry.record.label, entry.record
        if not entry.destroying:
            self._refuse_not_due(entry)
            self._refuse_not_there(record)
            self._store.put(_with(entry, destroying=True))
        self._use.forget(label)
        failed = [error for token in record.places if (error := self._wipe(token, record))]
        if failed:
            raise failed[0]
        gone = Destroyed(1, label, record.key_id, record.algorithm, record.places, self._now())
        self._store.put(gone)
        _log.info("service key %s is destroyed on %d tokens", label, len(gone.tokens))
        return gone.tokens

    def _known(self, label: KeyLabel) -> Held | Destroyed:
        entry = self._store.get(label)
        if entry is None or isinstance(entry, Making):
            raise KeyNotFoundError(f"the signer has no service key called {label!r}")
        return entry

    def _refuse_not_due(self, entry: Held) -> None:
        label, due, now = entry.record.label, entry.destroy_at, self._now()
        if due is None or now < due:
            when = "not scheduled" if due is None else _moment(due)
            raise StatementRefusedError(f"the destruction of {label!r} is not due: {when}")
        if now > due + max(_LAPSE, self._limits.destruction_delay):
            raise StatementRefusedError(
                f"the destruction of {label!r} was due at {_moment(due)}, too long ago: schedule it"
                " anew"
            )

    def _refuse_not_there(self, record: KeyRecord) -> None:
        """Of a token that never had the key nobody may believe that it was destroyed there."""
        for token in record.places:
            driver = self._tokens.driver(token)
            lacks = making.missing(driver, record)
            if lacks:
                raise TokenFailureError(
                    f"token {driver.name!r} does not hold {', '.join(lacks)}: it is not the token"
                    " that the key was made on, or was emptied; connect the right one, or put back"
                    " its backup. Nothing was destroyed"
                )

    def _refuse_begun(self, record: KeyRecord) -> None:
        """Only a look at all of its tokens tells that no part of the key is gone yet."""
        for token in record.places:
            lacks = making.missing(self._tokens.driver(token), record)
            if lacks:
                raise DestructionBegunError(
                    f"the destruction of {record.label!r} has begun: {', '.join(lacks)} is gone,"
                    " and what is left of the key is of no use"
                )

    def _wipe(self, token: str, record: KeyRecord) -> HsmError | None:
        """Destroy a key on one of its tokens; answers why not."""
        try:
            making.destroy(self._tokens.driver(token), [part.label for part in making.held(record)])
        except HsmError as error:
            return error
        return None

    def _unfinished(self) -> Iterator[Making]:
        return (entry for entry in self._store if isinstance(entry, Making))

    def _take_one(self) -> None:
        self._bucket.refill(time.monotonic())
        if self._bucket.take(1):
            raise RateExceededError(
                f"{self._bucket.limit} service keys are made in an hour; the next in"
                f" {self._bucket.wait():.0f} s. Find out who asks for so many, and only then set"
                " signer.service_keys_per_hour higher"
            )

    def _left_now(self) -> int:
        """What the last hour left; a restart fills no bucket."""
        since = self._now() - timedelta(seconds=HOUR)
        made = sum(isinstance(entry, Held) and entry.made_at >= since for entry in self._store)
        return max(0, self._limits.keys_per_hour - made)


def _same(spec: KeySpec, record: KeyRecord) -> bool:
    """Whether the key was made for this very spec: its answer got lost."""
    parts = [(part.row.name, part.protection, part.label) for part in making.plan(spec)]
    held = [(part.algorithm, part.protection, part.label) for part in making.held(record)]
    return (spec.algorithm, spec.token, set(spec.operations), parts) == (
        record.algorithm,
        record.home,
        set(record.operations),
        held,
    )


def _with(entry: Held, **changes: object) -> Held:
    return msgspec.structs.replace(entry, **changes)


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
