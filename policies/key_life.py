"""The life of a key: its states, what may follow what, and what may be done with it when.

SP 800-57 part 1 revision 5: states and transitions are section 7, cryptoperiods and the two usage
periods section 5.3. Where that leaves a choice, the stricter one is taken: a key is deactivated
before it is destroyed, and one that is suspended does nothing at all.

Pure: a decision depends on nothing but its arguments, so that an auditor comes to the same one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType


class KeyPurpose(StrEnum):
    """What a key of the service is for; whoever wants one says this, and not an algorithm."""

    SIGNING = "signing"
    MAC = "mac"
    ENCRYPTION = "encryption"
    """Of data, and of data keys."""
    WRAPPING = "wrapping"
    KEM = "kem"


class Operation(StrEnum):
    """What is done with a key; the first five protect, the others undo and check."""

    SIGN = "sign"
    MAC = "mac"
    ENCRYPT = "encrypt"
    WRAP = "wrap"
    DATA_KEY = "data-key"
    VERIFY = "verify"
    """With the public key alone: no token takes part."""
    VERIFY_MAC = "verify-mac"
    DECRYPT = "decrypt"
    UNWRAP = "unwrap"
    DECAPSULATE = "decapsulate"

    @property
    def originates(self) -> bool:
        """Whether it applies protection (originator usage) or processes what was protected."""
        return self in _ORIGINATING


_ORIGINATING = frozenset(
    {Operation.SIGN, Operation.MAC, Operation.ENCRYPT, Operation.WRAP, Operation.DATA_KEY}
)

OPERATIONS: Mapping[KeyPurpose, tuple[Operation, ...]] = MappingProxyType(
    {
        KeyPurpose.SIGNING: (Operation.SIGN, Operation.VERIFY),
        KeyPurpose.MAC: (Operation.MAC, Operation.VERIFY_MAC),
        KeyPurpose.ENCRYPTION: (Operation.ENCRYPT, Operation.DATA_KEY, Operation.DECRYPT),
        KeyPurpose.WRAPPING: (Operation.WRAP, Operation.UNWRAP),
        KeyPurpose.KEM: (Operation.DECAPSULATE,),
    }
)
"""A key has one purpose (SP 800-57 part 1, 5.2), and these operations."""


class KeyState(StrEnum):
    """SP 800-57 part 1, 7; what was destroyed may turn out to have been compromised."""

    PRE_ACTIVATION = "pre-activation"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    DEACTIVATED = "deactivated"
    COMPROMISED = "compromised"
    DESTROYED = "destroyed"
    DESTROYED_COMPROMISED = "destroyed-compromised"

    @property
    def gone(self) -> bool:
        """Whether no token holds the key any more."""
        return self in {KeyState.DESTROYED, KeyState.DESTROYED_COMPROMISED}


class Step(StrEnum):
    """What leads from one state to another."""

    ACTIVATE = "activate"
    SUSPEND = "suspend"
    RESUME = "resume"
    DEACTIVATE = "deactivate"
    COMPROMISE = "compromise"
    DESTROY = "destroy"


TRANSITIONS: Mapping[tuple[KeyState, Step], KeyState] = MappingProxyType(
    {
        (KeyState.PRE_ACTIVATION, Step.ACTIVATE): KeyState.ACTIVE,
        (KeyState.PRE_ACTIVATION, Step.COMPROMISE): KeyState.COMPROMISED,
        (KeyState.PRE_ACTIVATION, Step.DESTROY): KeyState.DESTROYED,
        (KeyState.ACTIVE, Step.SUSPEND): KeyState.SUSPENDED,
        (KeyState.ACTIVE, Step.DEACTIVATE): KeyState.DEACTIVATED,
        (KeyState.ACTIVE, Step.COMPROMISE): KeyState.COMPROMISED,
        (KeyState.SUSPENDED, Step.RESUME): KeyState.ACTIVE,
        (KeyState.SUSPENDED, Step.DEACTIVATE): KeyState.DEACTIVATED,
        (KeyState.SUSPENDED, Step.COMPROMISE): KeyState.COMPROMISED,
        (KeyState.DEACTIVATED, Step.COMPROMISE): KeyState.COMPROMISED,
        (KeyState.DEACTIVATED, Step.DESTROY): KeyState.DESTROYED,
        (KeyState.COMPROMISED, Step.DESTROY): KeyState.DESTROYED_COMPROMISED,
        (KeyState.DESTROYED, Step.COMPROMISE): KeyState.DESTROYED_COMPROMISED,
    }
)
"""Every legal transition; whatever is not here is refused."""


class IllegalStepError(ValueError):
    """The key's state does not allow the step; the message names both."""


def follow(state: KeyState, step: Step) -> KeyState:
    """The state after the step.

    Raises:
        IllegalStepError: The table has no such transition.
    """
    after = TRANSITIONS.get((state, step))
    if after is None:
        raise IllegalStepError(f"a key that is {state} cannot take the step {step.value!r}")
    return after


class Refusal(StrEnum):
    """Why an operation is not allowed now."""

    NOT_YET_ACTIVE = "not-yet-active"
    SUSPENDED = "suspended"
    DEACTIVATED = "deactivated"
    EXPIRED = "expired"
    """The usage period of such operations is over."""
    COMPROMISED = "compromised"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True)
class Life:
    """What decides on the use of one version of a key; times are aware.

    Attributes:
        state: Its state.
        activates: From when it may be used, whatever its state says.
        originator_end: When protecting with it ends; None for never.
        recipient_end: When undoing and checking with it ends; None for never.
        recover_until: Until when a compromised key still opens what was sealed for it, where an
            officer said so; None for not at all.
    """

    state: KeyState
    activates: datetime | None
    originator_end: datetime | None = None
    recipient_end: datetime | None = None
    recover_until: datetime | None = None

    def refusal(self, operation: Operation, at: datetime) -> Refusal | None:
        """Why the operation is not allowed at that moment; None where it is.

        Originator usage takes an active key within its originator usage period. Recipient usage
        goes on after deactivation until its own period ends.
        """
        if operation.originates:
            return self._originating(at)
        return self._receiving(at)

    def _originating(self, at: datetime) -> Refusal | None:
        if self.state is KeyState.ACTIVE:
            if self.activates is None or at < self.activates:
                return Refusal.NOT_YET_ACTIVE
            return Refusal.EXPIRED if _over(self.originator_end, at) else None
        return _REFUSED[self.state]

    def _receiving(self, at: datetime) -> Refusal | None:
        if self.state is KeyState.COMPROMISED:
            recovering = self.recover_until is not None and at < self.recover_until
            return None if recovering else Refusal.COMPROMISED
        if self.state not in {KeyState.ACTIVE, KeyState.DEACTIVATED}:
            return _REFUSED[self.state]
        if self.activates is None or at < self.activates:
            return Refusal.NOT_YET_ACTIVE
        return Refusal.EXPIRED if _over(self.recipient_end, at) else None


_REFUSED: Mapping[KeyState, Refusal] = MappingProxyType(
    {
        KeyState.PRE_ACTIVATION: Refusal.NOT_YET_ACTIVE,
        KeyState.SUSPENDED: Refusal.SUSPENDED,
        KeyState.DEACTIVATED: Refusal.DEACTIVATED,
        KeyState.COMPROMISED: Refusal.COMPROMISED,
        KeyState.DESTROYED: Refusal.DESTROYED,
        KeyState.DESTROYED_COMPROMISED: Refusal.DESTROYED,
    }
)


def _over(end: datetime | None, at: datetime) -> bool:
    return end is not None and at >= end


def remaining(operations: tuple[Operation, ...], state: KeyState) -> tuple[Operation, ...]:
    """Of a key's operations, those that its state leaves to it for good.

    A signer is told of these alone: an active key may be suspended and resumed, but from what is
    deactivated or compromised nothing protects again.
    """
    if state.gone:
        return ()
    if state in {KeyState.DEACTIVATED, KeyState.COMPROMISED}:
        return tuple(item for item in operations if not item.originates)
    return operations


MAX_DAYS = 36_500
"""Longest period: a century."""


@dataclass(frozen=True, slots=True)
class Cryptoperiods:
    """How long a key is used from its activation on, in days; 0 for no end.

    Attributes:
        originator_days: For protecting.
        recipient_days: For undoing and checking; never shorter than the other.

    Raises:
        ValueError: Out of range, or the recipient's ends before the originator's.
    """

    originator_days: int
    recipient_days: int

    def __post_init__(self) -> None:
        for days in (self.originator_days, self.recipient_days):
            if not 0 <= days <= MAX_DAYS:
                raise ValueError(f"a usage period has 0 to {MAX_DAYS} days, not {days}")
        endless = self.originator_days == 0
        if self.recipient_days and (endless or self.recipient_days < self.originator_days):
            raise ValueError("what is protected could not be read: recipient_days is too short")

    def originator_end(self, activates: datetime) -> datetime | None:
        """When originator usage of a key that was activated then ends."""
        return _after(activates, self.originator_days)

    def recipient_end(self, activates: datetime) -> datetime | None:
        """When recipient usage of it ends."""
        return _after(activates, self.recipient_days)


def _after(moment: datetime, days: int) -> datetime | None:
    return moment + timedelta(days=days) if days else None


CRYPTOPERIODS: Mapping[KeyPurpose, Cryptoperiods] = MappingProxyType(
    {
        KeyPurpose.SIGNING: Cryptoperiods(730, 1825),
        KeyPurpose.MAC: Cryptoperiods(730, 1825),
        KeyPurpose.ENCRYPTION: Cryptoperiods(730, 1825),
        KeyPurpose.WRAPPING: Cryptoperiods(730, 1825),
        KeyPurpose.KEM: Cryptoperiods(730, 3650),
    }
)
"""Where nothing else is asked for. SP 800-57 part 1, table 1: originator usage of up to two years
(a private signature key one to three), recipient usage three years beyond; longer for archives,
which are opened years later.
"""

MAX_ORIGINATOR_DAYS = 1096
"""Longest originator usage that may be asked for: three years, the longest of that table."""
