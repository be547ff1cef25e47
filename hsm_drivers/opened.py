"""The wrapped private keys that a batch needs: opened by their tokens once, gone with the batch."""

import hmac
from collections.abc import Generator, Iterable

from hsm_drivers.calls import UnwrapCall
from hsm_drivers.errors import BadCiphertextError, HsmError, TokenFailureError
from hsm_drivers.ports import HeldComponent, KeyLabel, KeyRecord
from hsm_drivers.tokens import Job, Tokens
from hsm_drivers.unwrapped import Unwrapped, open_seed
from policies.algorithms import algorithm

Opened = dict[KeyLabel, Unwrapped | HsmError]
"""By the label of the key that wraps it."""


def open_wrapped(tokens: Tokens, records: Iterable[KeyRecord]) -> Generator[None, None, Opened]:
    """Have the tokens unwrap what these keys hold wrapped; a failed one is its own error."""
    wanted = {
        part.label: (part, Job(record.places, UnwrapCall(part.label, part.wrapped)))
        for record in records
        for part in record.components
        if part.wrapped
    }
    if not wanted:
        return {}
    seeds = yield from tokens.perform([job for _, job in wanted.values()])
    return {
        part.label: _opened(part, seed)
        for (part, _), seed in zip(wanted.values(), seeds, strict=True)
    }


def _opened(part: HeldComponent, seed: bytes | HsmError) -> Unwrapped | HsmError:
    """The key, if it is the one that the record speaks of; else the fault is none of the caller."""
    if isinstance(seed, BadCiphertextError):
        return TokenFailureError(
            f"what the record has of an {part.algorithm} key was not wrapped by {part.label!r}"
        )
    if isinstance(seed, HsmError):
        return seed
    try:
        key = open_seed(algorithm(part.algorithm), seed)
    except HsmError as error:
        return error
    if not hmac.compare_digest(key.public_key, part.public_key):
        return TokenFailureError(
            f"what {part.label!r} unwraps to is not the {part.algorithm} key of its record"
        )
    return key


def opened(keys: Opened, part: HeldComponent) -> Unwrapped:
    """One of them.

    Raises:
        HsmError: It could not be opened.
    """
    key = keys[part.label]
    if isinstance(key, HsmError):
        raise key
    return key
