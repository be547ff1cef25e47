"""Keys that live on several tokens: how they come there, and which of them make a signature."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from hsm_drivers.errors import HsmError, StatementRefusedError, TokenFailureError, UnsupportedError
from hsm_drivers.making import bare
from hsm_drivers.ports import (
    Driver,
    KeyAttributes,
    KeyLabel,
    KeyRecord,
    Purpose,
    Replica,
    Replication,
    Statement,
)
from hsm_drivers.state import SignerState
from hsm_drivers.tokens import Tokens
from hsm_drivers.verification import Verification
from policies.decisions import Protection

_CHALLENGE = b"sovereign-kms/replica/v1\x00"
"""Begins what a replica signs to show that its private half is the key's: no statement does."""
_ALONE = frozenset({Purpose.CHECKPOINT, Purpose.COSIGNATURE})


def signing_places(record: KeyRecord) -> tuple[str, ...]:
    """Tokens that make its signatures: of a log's key and a cosigner only the first.

    A log has one active signer; a replica of its key waits until `moved` makes it that.
    """
    return record.places[:1] if _ALONE & set(record.purposes) else record.places


class Replicas:
    """Replicas of the keys that sign statements; for a signer in ceremony mode."""

    def __init__(
        self, tokens: Tokens, state: SignerState, now: Callable[[], datetime], *, ceremony: bool
    ) -> None:
        self._tokens = tokens
        self._state = state
        self._now = now
        self._ceremony = ceremony

    def add(
        self, label: KeyLabel, token: str, how: Replication, trusted: KeyLabel | None
    ) -> KeyRecord:
        """Take a further token into a key's record; asked again, the record as it is.

        Raises:
            UnsupportedError: Not in ceremony mode; else as `replicated`.
        """
        record = self._record(label)
        if token not in record.places:
            record = replicated(self._tokens, record, token, how, trusted, self._now)
            self._state.add(record)
        return bare(record)

    def move(self, label: KeyLabel, token: str) -> KeyRecord:
        """Make a replica the one active place of a log's key; the memory of heads stays here.

        Raises:
            UnsupportedError: Not in ceremony mode, or not a log's key.
            StatementRefusedError: The token holds no replica.
        """
        record = self._record(label)
        if not _ALONE & set(record.purposes):
            raise UnsupportedError(f"key {label!r} is no log's: all its places make signatures")
        if record.home != token:
            record = moved(record, token, self._now)
            self._state.add(record)
        return bare(record)

    def _record(self, label: KeyLabel) -> KeyRecord:
        if not self._ceremony:
            raise UnsupportedError("replicas are made and moved in a ceremony only")
        return self._state.record(label)


def replicated(
    tokens: Tokens,
    record: KeyRecord,
    token: str,
    how: Replication,
    trusted: KeyLabel | None,
    now: Callable[[], datetime],
) -> KeyRecord:
    """The record with a replica on a further token, which has shown that it holds the key.

    Args:
        tokens: Both of them are there.
        record: Of a key that is held whole.
        token: Name of the further one.
        how: By the maker's own means, which were used before; or by transfer, here and now.
        trusted: The wrapping key that both tokens hold, for a transfer.
        now: Clock.

    Raises:
        StatementRefusedError: It is there already, or is held in parts.
        UnsupportedError: No such token, or the key cannot be transferred.
        TokenFailureError: What the token holds is another key, or could leave it.
        HsmError: As the drivers say.
    """
    if token in record.places:
        raise StatementRefusedError(f"key {record.label!r} is on that token already")
    if record.components or not record.public_key:
        raise StatementRefusedError(
            f"key {record.label!r} is wrapped, held in parts, or secret: such keys have no replicas"
        )
    there = tokens.driver(token)
    if how is Replication.TRANSFER:
        key_id, attributes = _transferred(tokens.driver(record.home), there, record, trusted)
    else:
        key_id, attributes = "", there.attributes(record.label)
    try:
        _refuse_unsafe(there, record, attributes)
        _refuse_other(there, record)
    except HsmError:
        if how is Replication.TRANSFER:
            there.destroy(record.label)  # ours, and unfit
        raise
    added = now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    replica = Replica(token, key_id, how, attributes, added)
    return replace(record, replicas=(*record.replicas, replica))


def moved(record: KeyRecord, token: str, now: Callable[[], datetime]) -> KeyRecord:
    """The record of a log's key with another token as its one active place.

    Raises:
        StatementRefusedError: The token holds no replica of it.
    """
    found = next((each for each in record.replicas if each.token == token), None)
    if found is None:
        raise StatementRefusedError(
            f"key {record.label!r} has no replica on that token: `kms key replicate` first"
        )
    added = now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    old = Replica(record.home, record.key_id, found.how, record.attributes, added)
    others = tuple(each for each in record.replicas if each is not found)
    return replace(
        record,
        home=token,
        key_id=found.key_id,
        attributes=found.attributes,
        replicas=(old, *others),
    )


def _transferred(
    here: Driver, there: Driver, record: KeyRecord, trusted: KeyLabel | None
) -> tuple[str, KeyAttributes]:
    if trusted is None:
        raise StatementRefusedError("a transfer needs the trusted wrapping key that both hold")
    if record.protection is not Protection.TRANSFERABLE:
        raise UnsupportedError(
            f"key {record.label!r} was made so that it never leaves its token; use the maker's"
            " own means, or make a transferable key"
        )
    wrapped = here.export_key(record.label, trusted)
    return there.import_key(record.label, record.algorithm, trusted, wrapped, record.public_key)


def _refuse_unsafe(there: Driver, record: KeyRecord, attributes: KeyAttributes) -> None:
    leaves = attributes.extractable and not attributes.wrap_with_trusted
    if not attributes.sensitive or leaves or not attributes.on_token:
        raise TokenFailureError(
            f"token {there.name!r} holds {record.label!r} with attributes that would let it leave"
            f" ({attributes}); destroy it there"
        )


def _refuse_other(there: Driver, record: KeyRecord) -> None:
    """The public half is read; the private half signs what was never signed before."""
    same = there.public_key(record.label) == record.public_key
    message = _CHALLENGE + secrets.token_bytes(32)
    if same:
        statement = Statement(record.label, record.purposes[0], message)
        signed = {0: (statement, there.sign(record.label, message))}
        same = not Verification().find_wrong(record, signed)
    if not same:
        raise TokenFailureError(
            f"what token {there.name!r} holds as {record.label!r} is another key; nothing was"
            " recorded"
        )
