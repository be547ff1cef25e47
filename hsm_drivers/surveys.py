"""What a PKCS#11 module says of itself and its tokens before anybody logs in.

Read by `hsm_drivers.pkcs11.survey` in a process of its own, which loads the module; these are the
values that cross.
"""

from dataclasses import dataclass
from enum import StrEnum

import msgspec

MAX_SURVEY = 1 << 20
"""Largest survey, in bytes of JSON: a module with 64 slots of 400 mechanisms stays below."""


class SurveyError(Exception):
    """A survey that is none; the message says what came instead."""


class PinState(StrEnum):
    """What the token tells of the user PIN (flags of CK_TOKEN_INFO, PKCS#11 3.1, 3.2)."""

    SOUND = "sound"
    COUNT_LOW = "count-low"
    """At least one wrong PIN since the last right one."""
    FINAL_TRY = "final-try"
    LOCKED = "locked"
    TO_BE_CHANGED = "to-be-changed"
    NOT_SET = "not-set"


@dataclass(frozen=True, slots=True)
class MechanismFacts:
    """A mechanism that the token offers.

    Attributes:
        number: CKM number.
        name: Its name in the standard without `CKM_`, or `0x…`.
        smallest: Smallest key; bits or bytes as the mechanism has it.
        largest: Largest key.
    """

    number: int
    name: str
    smallest: int
    largest: int


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """CK_TOKEN_INFO, as far as operators and the self-test need it.

    Attributes:
        slot: CK_SLOT_ID now; modules number slots anew.
        serial: May be empty: opencryptoki's soft token has none.
        sessions: Most sessions at once; None for no limit or none that is told.
        open_sessions: Sessions of this application; None where it is not told.
        free_private: Bytes left for private objects; None where it is not told.
        shortest_pin: Characters.
        longest_pin: Characters.
    """

    slot: int
    label: str
    manufacturer: str
    model: str
    serial: str
    hardware: str
    firmware: str
    pin: PinState
    login_required: bool
    write_protected: bool
    sessions: int | None
    open_sessions: int | None
    free_private: int | None
    shortest_pin: int
    longest_pin: int
    mechanisms: tuple[MechanismFacts, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """A module and its initialised tokens; `cryptoki` is the version of PKCS#11 that it says."""

    module: str
    manufacturer: str
    description: str
    version: str
    cryptoki: str
    tokens: tuple[TokenFacts, ...]

    def labelled(self, label: str) -> tuple[TokenFacts, ...]:
        """The tokens of that label; one, if all is well."""
        return tuple(token for token in self.tokens if token.label == label)


def encode(survey: Survey) -> bytes:
    """As JSON."""
    return msgspec.json.encode(survey)


def decode(document: bytes) -> Survey:
    """Undo `encode`.

    Raises:
        SurveyError: These bytes are no survey.
    """
    if len(document) > MAX_SURVEY:
        raise SurveyError(f"a survey of more than {MAX_SURVEY} bytes")
    try:
        return msgspec.json.decode(document, type=Survey)
    except msgspec.MsgspecError as error:
        raise SurveyError(f"no survey: {error}") from error
