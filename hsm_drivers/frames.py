"""What passes between the signer and its clients: frames of MessagePack over a Unix socket.

A frame is its length in four bytes, big-endian, and that many bytes of one tagged message. A
client numbers its requests as it likes; the answer carries the number back. Both sides refuse
unknown fields, wrong types and anything larger than the limits here, by closing the connection.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from hsm_drivers.errors import BY_CODE, HsmError
from hsm_drivers.framing import (
    HEADER,
    MAX_FRAME,
    FrameBuffer,
    FrameError,
    checked_size,
    decode,
    encode,
)
from hsm_drivers.journal import MAX_BATCH
from hsm_drivers.operations import ServiceCall, SignDigest, SignMessage
from hsm_drivers.ports import (
    Component,
    JournalEntry,
    JournalSeal,
    KeyAttributes,
    KeyLabel,
    KeyRecord,
    Operation,
    Purpose,
    Replication,
    SignerHealth,
    Statement,
    TokenStatus,
)

__all__ = ["HEADER", "MAX_FRAME", "FrameBuffer", "FrameError", "checked_size", "encode"]

MAX_PAGE = 10_000
"""Most journal entries in one answer."""

MAX_CALLS = 1_000
"""Most service calls in one request: what is urgent waits for them."""
MAX_RECORDS = 500
"""Most key records in one answer."""
MAX_SIGNATURE = 5_120
"""Bytes; of ML-DSA-87, with what stands around it on the wire."""

_OVERHEAD = 256
"""Bytes of a statement on the wire besides message and evidence, at most."""


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: Annotated[int, Meta(ge=0, le=2**63 - 1)]


class StatementFrame(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """A `ports.Statement`."""

    key: KeyLabel
    purpose: Purpose
    message: bytes
    evidence: bytes


class Sign(_Message, frozen=True, tag="sign"):
    """Sign a batch."""

    statements: Annotated[list[StatementFrame], Meta(max_length=MAX_BATCH)]


class ReadKeys(_Message, frozen=True, tag="keys"):
    """Read a page of the records: those after the one of that label, empty for the first page."""

    after: KeyLabel = KeyLabel("")
    limit: Annotated[int, Meta(ge=0, le=MAX_RECORDS)] = MAX_RECORDS


class ReadAttributes(_Message, frozen=True, tag="attributes"):
    """Read a key's attributes from the token."""

    label: KeyLabel


class ReadJournal(_Message, frozen=True, tag="journal"):
    """Read a page of the journal."""

    after: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    limit: Annotated[int, Meta(ge=0, le=MAX_PAGE)]


class SealJournal(_Message, frozen=True, tag="seal"):
    """Sign what the journal holds, with a log's key."""

    label: KeyLabel


class ReadHealth(_Message, frozen=True, tag="health"):
    """Ask the token whether it is there."""


class Generate(_Message, frozen=True, tag="generate"):
    """Make a key; a `ports.KeySpec`."""

    label: KeyLabel
    algorithm: str
    purposes: tuple[Purpose, ...]
    constraints: dict[Purpose, dict[str, Any]]
    ceremony_only: tuple[Purpose, ...]
    operations: tuple[Operation, ...] = ()
    token: str = ""
    components: tuple[Component, ...] = ()


class Use(_Message, frozen=True, tag="use"):
    """Make a batch of calls with service keys."""

    calls: Annotated[list[ServiceCall], Meta(max_length=MAX_CALLS)]


class ReadTokens(_Message, frozen=True, tag="tokens"):
    """Ask how the tokens are."""


class Narrow(_Message, frozen=True, tag="narrow"):
    """Leave a service key these operations alone."""

    label: KeyLabel
    operations: tuple[Operation, ...]


class ScheduleDestruction(_Message, frozen=True, tag="schedule-destruction"):
    """Let a service key be destroyed from then on."""

    label: KeyLabel
    at: Annotated[datetime, Meta(tz=True)]


class CancelDestruction(_Message, frozen=True, tag="cancel-destruction"):
    """Let a service key stay."""

    label: KeyLabel


class Destroy(_Message, frozen=True, tag="destroy"):
    """Destroy a service key that is due."""

    label: KeyLabel


class Replicate(_Message, frozen=True, tag="replicate"):
    """Take a further token into a key's record; answered with `Generated`."""

    label: KeyLabel
    token: str
    how: Replication
    trusted: KeyLabel | None


class Move(_Message, frozen=True, tag="move"):
    """Make a replica the active place of a log's key; answered with `Generated`."""

    label: KeyLabel
    token: str


class Refusal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An `HsmError`, by its code."""

    code: str
    message: str


class Failed(_Message, frozen=True, tag="failed"):
    """The request as a whole came to an error."""

    error: Refusal


class Signed(_Message, frozen=True, tag="signed"):
    """Signature or error for each statement, in order."""

    outcomes: list[bytes | Refusal]


class Done(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=0
):
    """A call's answer."""

    answer: tuple[bytes, ...]


class Undone(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """A call's error."""

    error: Refusal


class Used(_Message, frozen=True, tag="used"):
    """Answer or error for each call, in order."""

    outcomes: list[Done | Undone]


class TokensRead(_Message, frozen=True, tag="tokens-read"):
    """Answer to `ReadTokens`."""

    tokens: list[TokenStatus]


class Changed(_Message, frozen=True, tag="changed"):
    """What was to be changed of a key is changed."""


class Destroyed(_Message, frozen=True, tag="destroyed"):
    """Answer to `Destroy`: the names of the tokens that held the key."""

    tokens: tuple[str, ...]


class KeysRead(_Message, frozen=True, tag="keys-read"):
    """Answer to `ReadKeys`."""

    records: list[KeyRecord]
    more: bool = False


class AttributesRead(_Message, frozen=True, tag="attributes-read"):
    """Answer to `ReadAttributes`."""

    attributes: KeyAttributes


class JournalRead(_Message, frozen=True, tag="journal-read"):
    """Answer to `ReadJournal`."""

    entries: list[JournalEntry]


class JournalSealed(_Message, frozen=True, tag="sealed"):
    """Answer to `SealJournal`."""

    seal: JournalSeal


class HealthRead(_Message, frozen=True, tag="health-read"):
    """Answer to `ReadHealth`."""

    health: SignerHealth


class Generated(_Message, frozen=True, tag="generated"):
    """Answer to `Generate`."""

    record: KeyRecord


Request = (
    Sign
    | ReadKeys
    | ReadAttributes
    | ReadJournal
    | ReadHealth
    | Generate
    | SealJournal
    | Use
    | ReadTokens
    | Narrow
    | ScheduleDestruction
    | CancelDestruction
    | Destroy
    | Replicate
    | Move
)
Answer = (
    Failed
    | Signed
    | KeysRead
    | AttributesRead
    | JournalRead
    | HealthRead
    | Generated
    | JournalSealed
    | Used
    | TokensRead
    | Changed
    | Destroyed
)

_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def decode_request(body: bytes) -> Request:
    """A frame's body as a request.

    Raises:
        FrameError: It is none.
    """
    return decode(_requests, body)


def decode_answer(body: bytes) -> Answer:
    """A frame's body as an answer.

    Raises:
        FrameError: It is none.
    """
    return decode(_answers, body)


def parts(statements: Sequence[Statement]) -> Iterator[list[StatementFrame]]:
    """Cut a batch into those that fit a frame; a statement that fits none stands alone."""
    part: list[StatementFrame] = []
    room = MAX_FRAME
    for statement in statements:
        size = len(statement.message) + len(statement.evidence) + _OVERHEAD
        if part and (size > room or len(part) == MAX_BATCH):
            yield part
            part, room = [], MAX_FRAME
        room -= size
        part.append(
            StatementFrame(statement.key, statement.purpose, statement.message, statement.evidence)
        )
    if part:
        yield part


def call_parts(calls: Sequence[ServiceCall]) -> Iterator[list[ServiceCall]]:
    """Cut a batch into those that fit a frame, and whose answers do; as `parts`."""
    part: list[ServiceCall] = []
    room = MAX_FRAME
    for call in calls:
        size = _OVERHEAD + sum(
            len(value) for value in msgspec.structs.astuple(call) if isinstance(value, bytes)
        )
        if isinstance(call, SignMessage | SignDigest):
            size = max(size, MAX_SIGNATURE)
        if part and (size > room or len(part) == MAX_CALLS):
            yield part
            part, room = [], MAX_FRAME
        room -= size
        part.append(call)
    if part:
        yield part


def refusal(error: HsmError) -> Refusal:
    """An error for the wire."""
    return Refusal(error.code, str(error))


def raised(refused: Refusal) -> HsmError:
    """An error from the wire; an unknown code becomes the root class."""
    return BY_CODE.get(refused.code, HsmError)(refused.message)
