"""Answers that can be given again, byte for byte.

An answer is stored with the commit that it reports, before the checkpoint that covers it exists.
So it is stored as a *specification*: the JSON document, in which a receipt is only
`{"$receipt": n}`, the n-th event of the unit. Rendering puts the receipts in; first answer and
replay go through the same function, so they are the same bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from kms.domain.records import LogId
from kms.tlog.receipt import format_receipt
from kms.tlog.tiles import NodeCache
from kms.tlog.tree import inclusion_proof

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP handler sends: status and exact JSON body."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class AnswerSpec:
    """An answer before its receipts are known."""

    status: int
    document: dict[str, Any]

    def encode(self) -> bytes:
        """Bytes to store."""
        return _encoder.encode([self.status, self.document])

    @staticmethod
    def decode(data: bytes) -> "AnswerSpec":
        """Undo `encode`."""
        status, document = msgspec.json.decode(data)
        return AnswerSpec(status, document)


def receipt_slot(ordinal: int) -> dict[str, int]:
    """Stands for the receipt of the unit's n-th event."""
    return {"$receipt": ordinal}


@dataclass(frozen=True, slots=True)
class Covered:
    """The signed checkpoint that covers a unit, and how to prove against it.

    `note` None means that the signer was away (revocations only): receipts say `pending`.
    """

    log: LogId
    first_index: int
    size: int
    note: bytes | None
    nodes: NodeCache

    def receipt(self, ordinal: int) -> dict[str, Any]:
        """JSON form of the receipt of the n-th event."""
        return receipt_document(
            self.log, self.first_index + ordinal, self.size, self.note, self.nodes
        )


def receipt_document(
    log: LogId, index: int, size: int, note: bytes | None, nodes: NodeCache
) -> dict[str, Any]:
    """A receipt as answers carry it: `text` is the exact tlog-proof."""
    if note is None:
        return {"status": "pending", "log": log, "index": index, "text": None}
    text = format_receipt(index, inclusion_proof(index, size, nodes), note)
    return {"status": "final", "log": log, "index": index, "text": text.decode()}


def render(spec: AnswerSpec, covered: Covered | None) -> Answer:
    """The exact answer; `covered` None where the call made no event."""
    document = spec.document
    if covered is not None:
        document = _fill(document, covered.receipt)
    return Answer(spec.status, _encoder.encode(document))


def _fill(value: Any, receipt: Callable[[int], dict[str, Any]]) -> Any:
    if isinstance(value, dict):
        if "$receipt" in value:
            return receipt(value["$receipt"])
        return {key: _fill(item, receipt) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, receipt) for item in value]
    return value
