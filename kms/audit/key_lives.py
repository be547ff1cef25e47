"""Replaying the lives of keys: legal steps, allowed uses, no end without its schedule. Pure.

The states, transitions and usage periods are those of `policies.key_life`, which the service goes
by; the log alone is judged here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from kms import wire
from kms.audit.details import in_age
from kms.audit.findings import Check, event
from kms.wire import EventType
from policies.decisions import Protection, Question, Use, decide
from policies.key_life import (
    MAX_DAYS,
    OPERATIONS,
    TRANSITIONS,
    Cryptoperiods,
    IllegalStepError,
    KeyPurpose,
    KeyState,
    Life,
    Operation,
    Step,
    follow,
)
from policies.policy import Policy

UNDER_WAY = timedelta(minutes=1)
"""A use may have been decided before a step that the log tells of first: no longer than this."""
_STEPS = {
    EventType.KEY_SUSPENDED: Step.SUSPEND,
    EventType.KEY_RESUMED: Step.RESUME,
    EventType.KEY_DEACTIVATED: Step.DEACTIVATE,
}
_LONGEST_DELAY = MAX_DAYS * 86_400
_KEY_ID = re.compile(r"[0-9a-f]{32}")
_NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_MANAGE = "manage"
_VERSION_LABELS = "s-"
"""Keys with a life alone are labelled so."""


@dataclass(slots=True)
class _Version:
    """One version, as far as the log has told."""

    label: str
    tokens: set[str]
    state: KeyState = KeyState.PRE_ACTIVATION
    since: datetime | None = None
    activates: datetime | None = None
    originator_end: datetime | None = None
    recipient_end: datetime | None = None
    recover_until: datetime | None = None
    destroys: datetime | None = None

    def life(self) -> Life:
        return Life(
            self.state,
            self.activates,
            self.originator_end,
            self.recipient_end,
            self.recover_until,
        )


@dataclass(slots=True)
class _Key:
    """One key, as far as the log has told."""

    purpose: KeyPurpose
    periods: Cryptoperiods
    versions: list[_Version] = field(default_factory=list)
    held: bool = False


class KeyLives:
    """The keys between two events; tells `check` what could not be."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._keys: dict[str, _Key] = {}
        self._acts: dict[EventType, Callable[[int, wire.Leaf], None]] = {
            EventType.KEY_CREATED: self._created,
            EventType.KEY_GENERATED: self._generated,
            EventType.KEY_ORPHANED: self._orphaned,
            EventType.KEY_ACTIVATED: self._activated,
            EventType.KEY_SUSPENDED: self._stepped,
            EventType.KEY_RESUMED: self._stepped,
            EventType.KEY_DEACTIVATED: self._stepped,
            EventType.KEY_COMPROMISED: self._compromised,
            EventType.KEY_RECOVERY_ALLOWED: self._recovery_allowed,
            EventType.KEY_DESTRUCTION_SCHEDULED: self._scheduled,
            EventType.KEY_DESTRUCTION_CANCELLED: self._cancelled,
            EventType.KEY_DESTROYED: self._destroyed,
            EventType.KEY_REPLICATED: self._replicated,
            EventType.KEY_PERMITTED: self._permitted,
            EventType.KEY_HELD: self._held,
            EventType.KEY_RELEASED: self._held,
            EventType.KEY_USED: self._used,
        }

    def step(self, index: int, leaf: wire.Leaf) -> None:
        """One event; those of other things are passed over."""
        act = self._acts.get(leaf.type)
        if act is None:
            return
        try:
            act(index, leaf)
        except wire.WireError as error:
            self._check.fail(event(index), str(error))

    def _created(self, index: int, leaf: wire.Leaf) -> None:
        detail = leaf.detail or {}
        key_id, periods = detail["key"], periods_of(detail["settings"])
        if not _KEY_ID.fullmatch(key_id) or detail["purpose"] not in set(KeyPurpose):
            self._check.fail(event(index), "creates no key: its id or purpose is none")
        elif periods is None:
            self._check.fail(event(index), f"key {key_id}: these are no usage periods")
        elif key_id in self._keys:
            self._check.fail(event(index), f"key {key_id} was created before")
        else:
            self._keys[key_id] = _Key(KeyPurpose(detail["purpose"]), periods)

    def _generated(self, index: int, leaf: wire.Leaf) -> None:
        """A version of a key with a life; authorities' and logs' keys name no key id."""
        detail = leaf.detail or {}
        if detail.get("key") is None:
            self._outside(index, leaf)
            return
        key = self._key(index, detail)
        if key is None:
            return
        number, tokens = detail.get("version"), detail.get("tokens")
        expected = len(key.versions) + 1
        self._expect(number == expected, index, f"version {expected} of the key was to follow")
        label = str(detail.get("label"))
        fits = re.fullmatch(f"s-{detail['key']}-[1-9][0-9]{{0,9}}", label)
        fresh = fits and all(label != item.label for item in key.versions)
        message = f"is not labelled s-{detail['key']} and a number of its own"
        self._expect(fresh, index, message)
        purposes = detail.get("purposes")
        self._expect(purposes == [key.purpose], index, f"is not for {key.purpose}, as its key is")
        certified = len(leaf.certificates) == (1 if key.purpose is KeyPurpose.KEM else 0)
        message = "slots are born with their certificate, and no other keys with any"
        self._expect(certified, index, message)
        key.versions.append(_Version(label, set(tokens or ["main"])))
        _moment(leaf, "activates")

    def _outside(self, index: int, leaf: wire.Leaf) -> None:
        """Nothing of its life could be followed: no key that has one is born without a key id."""
        message = "is born with a certificate, but of no key"
        self._expect(not leaf.certificates, index, message)
        outside = not (leaf.detail or {})["label"].startswith(_VERSION_LABELS)
        self._expect(outside, index, "is labelled as a version, but of no key")

    def _orphaned(self, index: int, leaf: wire.Leaf) -> None:
        label = (leaf.detail or {})["label"]
        known = any(item.label == label for key in self._keys.values() for item in key.versions)
        self._expect(not known, index, f"calls {label} an orphan, whose birth the log tells")

    def _activated(self, index: int, leaf: wire.Leaf) -> None:
        found = self._take(index, leaf, Step.ACTIVATE)
        if found is None:
            return
        key, version = found
        doomed = version.destroys is not None
        self._expect(not doomed, index, "activates what is scheduled for destruction")
        version.activates = leaf.time
        version.originator_end = key.periods.originator_end(leaf.time)
        version.recipient_end = key.periods.recipient_end(leaf.time)
        told = tuple(_moment(leaf, name) for name in ("originator_end", "recipient_end"))
        right = told == (version.originator_end, version.recipient_end)
        self._expect(right, index, "its usage periods are not those of its key")

    def _stepped(self, index: int, leaf: wire.Leaf) -> None:
        self._take(index, leaf, _STEPS[leaf.type])

    def _compromised(self, index: int, leaf: wire.Leaf) -> None:
        found = self._take(index, leaf, Step.COMPROMISE)
        since = _moment(leaf, "since")
        self._expect(since and since <= leaf.time, index, "was not compromised in the future")
        if found is not None:
            found[1].recover_until = _moment(leaf, "recover_until")

    def _recovery_allowed(self, index: int, leaf: wire.Leaf) -> None:
        found = self._version(index, leaf)
        if found is None:
            return
        version, until = found[1], _moment(leaf, "until")
        compromised = version.state is KeyState.COMPROMISED
        self._expect(compromised, index, f"allows recovery with what is {version.state}")
        self._expect(
            until and until > leaf.time, index, "allows recovery until a time that is over"
        )
        version.recover_until = until

    def _scheduled(self, index: int, leaf: wire.Leaf) -> None:
        found = self._version(index, leaf)
        if found is None:
            return
        key, version = found
        at = _moment(leaf, "at")
        legal = (version.state, Step.DESTROY) in TRANSITIONS
        self._expect(legal, index, f"schedules the destruction of what is {version.state}")
        self._expect(not key.held, index, "schedules a destruction that a legal hold blocks")
        self._expect_delay(index, leaf, at)
        version.destroys = at

    def _expect_delay(self, index: int, leaf: wire.Leaf, at: datetime | None) -> None:
        """The time to cancel is the delay that the event names, counted from when it was asked."""
        seconds = (leaf.detail or {})["delay_seconds"]
        if not 0 <= seconds <= _LONGEST_DELAY:
            self._check.fail(event(index), f"{seconds} seconds are no delay")
            return
        kept = at and at + UNDER_WAY >= leaf.time + timedelta(seconds=seconds)
        self._expect(kept, index, f"leaves less than its delay of {seconds} seconds to cancel")
        if seconds == 0:
            self._check.notes.append(f"event {index}: nobody had time to cancel this destruction")

    def _cancelled(self, index: int, leaf: wire.Leaf) -> None:
        found = self._version(index, leaf)
        if found is not None:
            scheduled = found[1].destroys is not None
            self._expect(scheduled, index, "cancels a destruction that was not scheduled")
            found[1].destroys = None

    def _destroyed(self, index: int, leaf: wire.Leaf) -> None:
        found = self._take(index, leaf, Step.DESTROY)
        if found is None:
            return
        key, version = found
        due = version.destroys
        self._expect(due is not None, index, "destroys what was not scheduled for destruction")
        early = due is not None and leaf.time < due
        self._expect(not early, index, f"destroys before its time, {due}")
        self._expect(not key.held, index, "destroys what a legal hold keeps")
        missing = version.tokens - set((leaf.detail or {})["tokens"])
        message = f"is not destroyed on {', '.join(sorted(missing))}"
        self._expect(not missing, index, message)

    def _replicated(self, index: int, leaf: wire.Leaf) -> None:
        detail = leaf.detail or {}
        for key in self._keys.values():
            for version in key.versions:
                if version.label == detail["label"]:
                    gone = version.state.gone
                    self._expect(not gone, index, "replicates a key that is destroyed")
                    version.tokens.add(detail["token"])

    def _permitted(self, index: int, leaf: wire.Leaf) -> None:
        key, detail = self._key(index, leaf.detail or {}), leaf.detail or {}
        if key is not None:
            offered = {_MANAGE, *OPERATIONS[key.purpose]}
            fits = all(item in offered for item in detail["operations"])
            self._expect(fits, index, f"permits what keys for {key.purpose} do not do")

    def _held(self, index: int, leaf: wire.Leaf) -> None:
        key, holds = self._key(index, leaf.detail or {}), leaf.type is EventType.KEY_HELD
        if key is not None:
            what = "holds what is held" if holds else "releases what is not held"
            self._expect(key.held is not holds, index, what)
            key.held = holds

    def _used(self, index: int, leaf: wire.Leaf) -> None:
        detail = leaf.detail or {}
        key = self._key(index, detail)
        if key is None:
            return
        operation = _operation(key.purpose, detail["operation"])
        if operation is None:
            self._check.fail(event(index), f"keys for {key.purpose} do not do this")
            return
        for name in detail["uses"]:
            number = int(name) if re.fullmatch(r"[1-9][0-9]{0,9}", name) else 0
            if not 0 < number <= len(key.versions):
                self._check.fail(event(index), "uses a version whose birth the log does not tell")
                continue
            self._judge_use(index, leaf.time, number, key.versions[number - 1], operation)

    def _judge_use(
        self, index: int, at: datetime, number: int, version: _Version, operation: Operation
    ) -> None:
        """What was begun before the last step may be told after it, unless the key is gone."""
        refusal = version.life().refusal(operation, at)
        fresh = version.since is not None and at - version.since <= UNDER_WAY
        if refusal is None or (fresh and not version.state.gone):
            return
        if version.life().refusal(operation, at - UNDER_WAY) is None:
            return  # its usage period has ended just now
        self._check.fail(event(index), f"{operation} with version {number}, which is {refusal}")

    def _take(self, index: int, leaf: wire.Leaf, step: Step) -> tuple[_Key, _Version] | None:
        found = self._version(index, leaf)
        if found is None:
            return None
        version = found[1]
        try:
            version.state = follow(version.state, step)
        except IllegalStepError as error:
            self._check.fail(event(index), str(error))
            return None
        version.since = leaf.time
        return found

    def _version(self, index: int, leaf: wire.Leaf) -> tuple[_Key, _Version] | None:
        detail = leaf.detail or {}
        key = self._key(index, detail)
        if key is None:
            return None
        if not 0 < detail["version"] <= len(key.versions):
            self._check.fail(event(index), "is of a version whose birth the log does not tell")
            return None
        return key, key.versions[detail["version"] - 1]

    def _key(self, index: int, detail: Mapping[str, Any]) -> _Key | None:
        key = self._keys.get(str(detail["key"]))
        if key is None:
            self._check.fail(event(index), "is of a key whose creation the log does not tell")
        return key

    def _expect(self, condition: object, index: int, message: str) -> None:
        self._check.expect(condition, event(index), message)


def periods_of(settings: Mapping[str, Any]) -> Cryptoperiods | None:
    """The usage periods that `key.created` tells; None if they are none."""
    days = [settings.get(name) for name in ("originator_days", "recipient_days")]
    if not all(type(item) is int and 0 <= item <= MAX_DAYS for item in days):
        return None
    try:
        return Cryptoperiods(*(int(item or 0) for item in days))
    except ValueError:
        return None


def rules_of(leaf: wire.Leaf, created: Mapping[str, Any], policy: Policy) -> dict[str, set[str]]:
    """Algorithm to the rules of that policy that allow the version that was born, decided again.

    Args:
        leaf: A `key.generated` of a key with a life.
        created: Detail of the key's `key.created`.
        policy: The one that the event names.
    """
    detail = leaf.detail or {}
    name, protection = detail["algorithm"], detail["protection"]
    periods = periods_of(created["settings"])
    if periods is None or protection not in set(Protection):
        return {name: set()}
    try:
        planned = _moment(leaf, "activates")
    except wire.WireError:
        return {name: set()}  # the check of the history says so
    kem = created["purpose"] == KeyPurpose.KEM
    use, slot = (Use.KEM_SLOT, created["slot"]) if kem else (Use.KEY, created["purpose"])
    rules = set()
    for at in (planned or leaf.time, leaf.time):
        ends = periods.recipient_end(at) or _NEVER
        decision = decide(policy, Question(use, slot, name, Protection(protection), at, ends))
        if decision.allowed:
            rules.add(decision.rule)
    return {name: rules}


def _operation(purpose: KeyPurpose, name: str) -> Operation | None:
    """The operation whose usage period a logged use falls under."""
    if purpose is KeyPurpose.KEM:
        return Operation.DECAPSULATE
    known = Operation.DECRYPT if name == "rewrap" else name
    return Operation(known) if known in OPERATIONS[purpose] else None


def _moment(leaf: wire.Leaf, name: str) -> datetime | None:
    """A time of the detail; None where it is null or missing.

    Raises:
        WireError: It is no time.
    """
    text = (leaf.detail or {}).get(name)
    if text is None:
        return None
    if not isinstance(text, str):
        raise wire.WireError(f"{leaf.type}: {name} is no time")
    moment = wire.parse_timestamp(text)
    if not in_age(moment):
        raise wire.WireError(f"{leaf.type}: {name} is of no year that a log can tell of")
    return moment
