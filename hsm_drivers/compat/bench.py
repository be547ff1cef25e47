"""What trials work with: test keys that do not outlive them, steps that are judged, rates."""

import itertools
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from hsm_drivers.compat.report import Outcome, Step
from hsm_drivers.errors import (
    BadCiphertextError,
    HsmError,
    KeyNotFoundError,
    TokenFailureError,
    UnsupportedError,
)
from hsm_drivers.ports import Driver, KeyAttributes, KeyLabel
from hsm_drivers.vendor import code_of

MARK = "compat-test-"
"""What the labels of all test keys begin with; nothing else may be called so."""


class DisagreementError(Exception):
    """The token answered, and wrongly; the message says in what."""


@dataclass(frozen=True, slots=True)
class TestKey:
    """A key of the self-test, as the token made it."""

    __test__ = False  # no test of ours, whatever pytest thinks

    label: KeyLabel
    spki: bytes
    attributes: KeyAttributes
    make_ms: float


class Bench:
    """A token under test. Keys have a random mark, so that two runs never meet.

    Attributes:
        driver: The token.
    """

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._prefix = f"{MARK}{secrets.token_hex(4)}"
        self._made: list[KeyLabel] = []
        self._numbers = itertools.count()

    def label(self) -> KeyLabel:
        """A label that no key has; noted before the key is made: an abort may come between."""
        label = KeyLabel(f"{self._prefix}-{next(self._numbers)}")
        self._made.append(label)
        return label

    def make(self, algorithm: str, *, transferable: bool = False) -> TestKey:
        """Make a key.

        Raises:
            HsmError: As `KeyStore.generate`.
        """
        label, begun = self.label(), time.perf_counter()
        _, spki, attributes = self.driver.generate(label, algorithm, transferable=transferable)
        return TestKey(label, spki, attributes, 1000 * (time.perf_counter() - begun))

    def destroy(self, label: KeyLabel) -> str:
        """Destroy a key and look that nothing of it is found.

        Raises:
            DisagreementError: It is still there.
            HsmError: As `KeyStore.destroy`.
        """
        self.driver.destroy(label)
        self._made.remove(label)
        if label in self.driver.labels():
            raise DisagreementError("the key is listed still")
        try:
            self.driver.attributes(label)
        except KeyNotFoundError:
            return "gone: neither listed nor found"
        raise DisagreementError("the key can be read still")

    def sweep(self) -> tuple[str, ...]:
        """Destroy what is left; answers the labels of what could not be."""
        kept = []
        for label in self._made:
            try:
                self.driver.destroy(label)
            except KeyNotFoundError:
                continue
            except HsmError:
                kept.append(str(label))
        self._made = [KeyLabel(label) for label in kept]
        return tuple(kept)


def step(what: str, work: Callable[[], str]) -> Step:
    """Do it; its value is the detail of a step that went well."""
    try:
        return Step(what, Outcome.GOOD, work())
    except DisagreementError as error:
        return Step(what, Outcome.BAD, str(error))
    except UnsupportedError as error:
        return Step(what, Outcome.LACKING, str(error), code_of(error))
    except HsmError as error:
        return Step(what, Outcome.BAD, str(error), code_of(error))


def refused(
    what: str,
    work: Callable[[], object],
    wanted: tuple[type[HsmError], ...] = (BadCiphertextError, TokenFailureError),
) -> Step:
    """Ask for what must not be done."""
    try:
        work()
    except wanted as error:
        return Step(what, Outcome.GOOD, f"refused: {error}", code_of(error))
    except HsmError as error:
        said = f"refused as {error.code}, where {wanted[0].code} was due: {error}"
        return Step(what, Outcome.BAD, said, code_of(error))
    return Step(what, Outcome.BAD, "it was done")


def rate(work: Callable[[], object], seconds: float) -> float:
    """How often a second it is done, one after the other, for about so long."""
    begun = time.perf_counter()
    count, now = 0, begun
    while now < begun + seconds:
        work()
        count += 1
        now = time.perf_counter()
    return count / (now - begun)


def agree(*, that: bool, otherwise: str) -> None:
    """Go on if it holds.

    Raises:
        DisagreementError: With the sentence.
    """
    if not that:
        raise DisagreementError(otherwise)
