"""Keys as they are made on their tokens, part by part, and destroyed there.

Each part is an object of its own: under the key's label where it is the whole key, else under that
and the part's number. A wrapped part has a key-encryption key of its own on the token, so that
destroying this one destroys every copy of the wrapped bytes, in whatever backup they are.
"""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from hsm_drivers import der, kem
from hsm_drivers.errors import (
    HsmError,
    KeyNotFoundError,
    StatementRefusedError,
    TokenFailureError,
    UnsupportedError,
)
from hsm_drivers.ports import (
    Component,
    Driver,
    HeldComponent,
    KeyAttributes,
    KeyLabel,
    KeyRecord,
    KeySpec,
)
from hsm_drivers.tokens import Tokens
from hsm_drivers.unwrapped import open_seed, seed_size
from policies.algorithms import Algorithm, Kind, UnknownAlgorithmError, algorithm
from policies.choices import KEY_ENCRYPTION
from policies.decisions import Protection

WRAPPING_PREFIX = "kek-"
"""Of the labels of key-encryption keys; no other key's begins so."""
_WEAKEST_FIRST = (Protection.WRAPPED, Protection.TRANSFERABLE, Protection.TOKEN)
_NOT_ON_TOKEN = KeyAttributes(
    local=False,
    sensitive=False,
    always_sensitive=False,
    extractable=True,
    never_extractable=False,
    private=True,
    on_token=False,
    sign=False,
)
"""What can be said of a key whose parts are all wrapped."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a key to be made.

    Attributes:
        label: Of its object on the token; of a wrapped one, of the key that wraps it.
    """

    row: Algorithm
    protection: Protection
    label: KeyLabel


def plan(spec: KeySpec) -> tuple[Part, ...]:
    """The parts of a key.

    Raises:
        UnsupportedError: An algorithm or a way of holding it is not known here.
        StatementRefusedError: The components are not those of the algorithm.
    """
    row = known(spec.algorithm)
    rows = kem.parts(row)
    components = spec.components
    if not components and len(rows) == 1:
        components = (Component(row.name, Protection.TOKEN),)
    if [part.algorithm for part in components] != [part.name for part in rows]:
        raise StatementRefusedError(
            f"the parts of {row.name} are {', '.join(part.name for part in rows)}, in this order:"
            " say of each how it is held"
        )
    labels = [spec.label] if len(rows) == 1 else [f"{spec.label}-{at}" for at in range(len(rows))]
    return tuple(map(_part, rows, components, labels))


def _part(row: Algorithm, component: Component, label: str) -> Part:
    if component.protection not in _WEAKEST_FIRST:
        raise UnsupportedError(f"no key of the signer is held as {component.protection.value}")
    if component.protection is Protection.WRAPPED:
        seed_size(row)  # or it is refused
        label = WRAPPING_PREFIX + label
    return Part(row, component.protection, KeyLabel(label))


def known(name: str) -> Algorithm:
    """The registry's row.

    Raises:
        UnsupportedError: There is none.
    """
    try:
        return algorithm(name)
    except UnknownAlgorithmError as error:
        raise UnsupportedError(str(error)) from None


def refuse_taken(driver: Driver, parts: Sequence[Part]) -> None:
    """See that none of these is on the token: what `make` undoes must be its own.

    Raises:
        TokenFailureError: One is; only an interrupted ceremony, another system or a directory put
            back to an older state explains it.
    """
    for part in parts:
        if driver.labels(part.label):
            raise TokenFailureError(
                f"token {driver.name!r} holds a key called {part.label!r} that has no record: a"
                " ceremony was interrupted, the signer's directory was put back to an older state,"
                " or it is another system's. Delete it (pkcs11-tool --delete-object) or choose"
                " another label"
            )


def make(tokens: Tokens, spec: KeySpec, now: datetime) -> KeyRecord:
    """Make all parts on the token of the spec; what was made is destroyed if one fails.

    `refuse_taken` comes first.

    Raises:
        HsmError: As the driver says; also what `plan` raises.
    """
    driver = tokens.driver(spec.token)
    parts = plan(spec)
    made: list[tuple[str, HeldComponent]] = []
    try:
        for part in parts:
            made.append(_make_part(driver, part))  # noqa: PERF401 - what was made must be known
    except BaseException:
        for part in parts[: len(made) + 1]:
            with suppress(HsmError):
                driver.destroy(part.label)
        raise
    return _record(driver, spec, now, made)


def _make_part(driver: Driver, part: Part) -> tuple[str, HeldComponent]:
    """CKA_ID and the part."""
    if part.protection is Protection.WRAPPED:
        return _make_wrapped(driver, part)
    key_id, spki, attributes = driver.generate(
        part.label, part.row.name, transferable=part.protection is Protection.TRANSFERABLE
    )
    raw = raw_key(part.row, spki)
    return key_id, HeldComponent(
        part.row.name, part.protection, part.label, raw, attributes=attributes
    )


def _make_wrapped(driver: Driver, part: Part) -> tuple[str, HeldComponent]:
    """The seed lives in this function alone, until it is wrapped."""
    key_id, _, _ = driver.generate(part.label, KEY_ENCRYPTION)
    seed = driver.random(seed_size(part.row))
    public_key = open_seed(part.row, seed).public_key
    wrapped = driver.wrap(part.label, seed)
    return key_id, HeldComponent(part.row.name, part.protection, part.label, public_key, wrapped)


def _record(
    driver: Driver, spec: KeySpec, now: datetime, made: Sequence[tuple[str, HeldComponent]]
) -> KeyRecord:
    row = known(spec.algorithm)
    held = tuple(part for _, part in made)
    whole = len(held) == 1 and not held[0].wrapped
    sign = row.kind is Kind.SIGNATURE
    attributes = next(
        (part.attributes for part in held if part.attributes), replace(_NOT_ON_TOKEN, sign=sign)
    )
    raw = b"".join(part.public_key for part in held)
    return KeyRecord(
        label=spec.label,
        key_id=made[0][0] if whole else secrets.token_hex(16),
        algorithm=row.name,
        purposes=spec.purposes,
        constraints=spec.constraints,
        protection=min((part.protection for part in held), key=_WEAKEST_FIRST.index),
        public_key=der.public_key(row, raw) if raw else b"",
        attributes=attributes,
        token=driver.name,
        created=now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        ceremony_only=spec.ceremony_only,
        operations=spec.operations,
        home=spec.token,
        components=() if whole else held,
    )


def raw_key(row: Algorithm, spki: bytes) -> bytes:
    """What stands in the BIT STRING; empty for a secret key."""
    return spki[-row.public_key_size :] if spki and row.public_key_size else b""


def bare(record: KeyRecord) -> KeyRecord:
    """The record without what is wrapped: for whoever asks."""
    parts = tuple(replace(part, wrapped=b"") for part in record.components)
    return replace(record, components=parts)


def held(record: KeyRecord) -> tuple[HeldComponent, ...]:
    """The parts of a key, also of one that is held whole."""
    if record.components:
        return record.components
    raw = raw_key(algorithm(record.algorithm), record.public_key)
    whole = HeldComponent(
        record.algorithm, record.protection, record.label, raw, attributes=record.attributes
    )
    return (whole,)


def missing(driver: Driver, record: KeyRecord) -> list[KeyLabel]:
    """Labels of the key's objects that this token does not hold.

    Raises:
        HsmError: The token is away.
    """
    return [part.label for part in held(record) if not driver.labels(part.label)]


def destroy(driver: Driver, labels: Sequence[KeyLabel]) -> None:
    """Destroy these objects; one that is gone already is fine: whoever asks has looked before.

    Raises:
        HsmError: The token is away, or one of them is still there.
    """
    for label in labels:
        with suppress(KeyNotFoundError):
            driver.destroy(label)
