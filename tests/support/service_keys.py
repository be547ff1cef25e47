"""Service keys for tests: specs by a number, senders, and an in-process signer to hold them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm_drivers.core import SignerCore, whole
from hsm_drivers.errors import HsmError
from hsm_drivers.making import raw_key
from hsm_drivers.operations import ServiceCall
from hsm_drivers.ports import (
    Component,
    Driver,
    KeyLabel,
    KeyRecord,
    KeySpec,
    Operation,
    TokenStatus,
)
from hsm_drivers.service.keyring import ServiceLimits
from hsm_drivers.state import SignerState
from hsm_drivers.tokens import SingleToken
from kms.device.encapsulation import KEMS
from policies.algorithms import Kind, Scheme, algorithm
from policies.decisions import Protection
from tests.support.signer import CHECKERS

START = datetime(2026, 11, 22, 12, tzinfo=UTC)
DELAY = timedelta(days=7)
OPERATIONS = {
    Kind.SIGNATURE: (Operation.SIGN,),
    Kind.MAC: (Operation.MAC, Operation.VERIFY_MAC),
    Kind.CIPHER: (Operation.ENCRYPT, Operation.DECRYPT, Operation.DATA_KEY),
    Kind.WRAP: (Operation.WRAP, Operation.UNWRAP),
    Kind.KEM: (Operation.DECAPSULATE,),
}


def label(number: int, version: int = 1) -> KeyLabel:
    return KeyLabel(f"s-{number:032x}-{version}")


def spec(
    number: int,
    name: str,
    *held: Protection,
    token: str = "",
    operations: tuple[Operation, ...] | None = None,
) -> KeySpec:
    """A key of that algorithm; `held` says how each of its parts is, if not on the token."""
    row = algorithm(name)
    names = row.components or (name,)
    protections = held or ((Protection.TOKEN,) * len(names) if row.hybrid else ())
    parts = tuple(
        Component(part, protection)
        for part, protection in zip(names, protections, strict=bool(protections))
    )
    allowed = OPERATIONS[row.kind] if operations is None else operations
    return KeySpec(label(number), name, (), {}, operations=allowed, token=token, components=parts)


def encapsulated(record: KeyRecord) -> tuple[bytes, bytes]:
    """Ciphertext and secret, as a sender makes them who knows the public key alone."""
    row = algorithm(record.algorithm)
    sender = next(kem for kem in KEMS if kem.name == record.algorithm)
    made = sender.encapsulate(raw_key(row, record.public_key))
    return made.ciphertext, made.secret


def diffie_hellman(record: KeyRecord) -> bytes:
    """A sender's point for a key that is no ML-KEM."""
    row = algorithm(record.algorithm)
    if row.scheme is Scheme.DHKEM_X:
        return x25519.X25519PrivateKey.generate().public_key().public_bytes_raw()
    curve = ec.SECP256R1() if row.classical_bits == 128 else ec.SECP384R1()
    own = ec.generate_private_key(curve).public_key()
    return own.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


class SeveralTokens(SingleToken):
    """Drivers of this process by their names; no pool."""

    def __init__(self, drivers: dict[str, Driver]) -> None:
        super().__init__(drivers[""])
        self.drivers = drivers

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.drivers)

    def driver(self, token: str) -> Driver:
        return self.drivers[token]

    def statuses(self) -> list[TokenStatus]:
        return [SingleToken(driver).statuses()[0] for driver in self.drivers.values()]


class Clock:
    """Tells the time that it is set to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@contextlib.contextmanager
def a_core(
    directory: Path,
    driver: Driver | SingleToken,
    *,
    now: Callable[[], datetime] = lambda: START,
    limits: ServiceLimits | None = None,
) -> Iterator[SignerCore]:
    """A signer in service, over a state directory that outlives it."""
    tokens = driver if isinstance(driver, SingleToken) else SingleToken(driver)
    limits = limits or ServiceLimits(DELAY)
    with SignerState(directory) as state:
        yield SignerCore(tokens, CHECKERS, state, now=now, limits=limits)


def use(core: SignerCore, *calls: ServiceCall) -> list[tuple[bytes, ...] | HsmError]:
    return whole(core.service.using(calls))


def answers(outcomes: Sequence[tuple[bytes, ...] | HsmError]) -> list[tuple[bytes, ...]]:
    """All of them, or the first error."""
    made = []
    for outcome in outcomes:
        if isinstance(outcome, HsmError):
            raise outcome
        made.append(outcome)
    return made
