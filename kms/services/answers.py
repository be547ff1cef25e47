"""Answers that can be given again, byte for byte.

An answer is stored with the commit that it reports, before the checkpoint that covers it exists.
So it is stored as a *specification*: the JSON document, in which a receipt is only
`{"$receipt":n}`, the n-th event of the unit. Rendering puts the receipts in; first answer and
replay go through the same function, so they are the same bytes.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kms.domain.records import LogId
from kms.tlog.receipt import format_receipt
from kms.tlog.tiles import NodeCache
from kms.tlog.tree import Ranges, inclusion_proof

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(tuple[int, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP handler sends: status and exact JSON body."""

    status: int
    body: bytes


_RECEIPT = re.compile(rb'\{"\$receipt":([0-9]+)\}')
"""Where a receipt belongs. No text can look like this: in JSON its quotes would be escaped."""


@dataclass(frozen=True, slots=True)
class AnswerSpec:
    """An answer before its receipts are known: status and JSON, encoded once."""

    status: int
    template: bytes = field(repr=False)

    @staticmethod
    def of(status: int, document: dict[str, Any]) -> "AnswerSpec":
        """The specification of a document."""
        return AnswerSpec(status, _encoder.encode(document))

    def encode(self) -> bytes:
        """Bytes to store: a JSON array of status and document."""
        return b"[%d,%b]" % (self.status, self.template)

    @staticmethod
    def decode(data: bytes) -> "AnswerSpec":
        """Undo `encode`."""
        status, template = _decoder.decode(data)
        return AnswerSpec(status, bytes(template))


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
    ranges: Ranges = field(default_factory=dict, init=False, repr=False, compare=False)

    def receipt(self, ordinal: int) -> dict[str, Any]:
        """JSON form of the receipt of the n-th event."""
        index = self.first_index + ordinal
        return receipt_document(self.log, index, self.size, self.note, self.nodes, self.ranges)


def receipt_document(
    log: LogId,
    index: int,
    size: int,
    note: bytes | None,
    nodes: NodeCache,
    ranges: Ranges | None = None,
) -> dict[str, Any]:
    """A receipt as answers carry it: `text` is the exact tlog-proof."""
    if note is None:
        return {"status": "pending", "log": log, "index": index, "text": None}
    text = format_receipt(index, inclusion_proof(index, size, nodes, ranges), note)
    return {"status": "final", "log": log, "index": index, "text": text.decode()}


def render(spec: AnswerSpec, covered: Covered | None) -> Answer:
    """The exact answer; `covered` None where the call made no event."""
    if covered is None:
        return Answer(spec.status, spec.template)
    return Answer(
        spec.status,
        _RECEIPT.sub(lambda found: _encoder.encode(covered.receipt(int(found[1]))), spec.template),
    )
