"""Receipts: a leaf's place in the log, verifiable offline (C2SP tlog-proof)."""

from collections.abc import Sequence
from dataclasses import dataclass

from kms.tlog.checkpoint import Checkpoint, parse_checkpoint
from kms.tlog.encoding import MAX_NUMBER, b64, decimal, unb64, unb64_hash
from kms.tlog.errors import FormatError, ProofError, SignatureError
from kms.tlog.hashing import HASH_SIZE, leaf_hash
from kms.tlog.notes import MAX_NOTE, VerifierKey, parse_note, verify_note
from kms.tlog.proofs import verify_inclusion

MAX_EXTRA = 65_535
"""Largest extra data in bytes."""
MAX_RECEIPT = MAX_NOTE + 2 * MAX_EXTRA
_HEADER = "c2sp.org/tlog-proof@v1"
_EXTRA = "extra "
_INDEX = "index "
_MAX_PROOF = 63


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt as it was read: nothing about it is verified.

    Attributes:
        index: Place of the leaf, from 0.
        proof: Its audit path, the sibling first.
        checkpoint_note: The signed checkpoint, verbatim.
        extra: Data that nothing authenticates.
    """

    index: int
    proof: tuple[bytes, ...]
    checkpoint_note: bytes
    extra: bytes | None = None


def format_receipt(
    index: int, proof: Sequence[bytes], checkpoint_note: bytes, extra: bytes | None = None
) -> bytes:
    """The receipt's bytes.

    Raises:
        FormatError: A value that cannot stand in a receipt.
    """
    if not 0 <= index <= MAX_NUMBER:
        raise FormatError(f"no leaf has the index {index}")
    if len(proof) > _MAX_PROOF or any(len(item) != HASH_SIZE for item in proof):
        raise FormatError(f"a proof has at most {_MAX_PROOF} hashes of {HASH_SIZE} bytes")
    if extra is not None and not 0 < len(extra) <= MAX_EXTRA:
        raise FormatError(f"extra data has 1 to {MAX_EXTRA} bytes, not {len(extra)}")
    lines = [_HEADER]
    if extra is not None:
        lines.append(_EXTRA + b64(extra))
    lines.append(f"{_INDEX}{index}")
    lines += map(b64, proof)
    return "".join(f"{line}\n" for line in lines).encode() + b"\n" + checkpoint_note


def parse_receipt(data: bytes) -> Receipt:
    """Read a receipt; bounded by `MAX_RECEIPT`. The checkpoint is left as it is.

    Raises:
        FormatError: Not a receipt.
    """
    if len(data) > MAX_RECEIPT:
        raise FormatError(f"a receipt of {len(data)} bytes is larger than {MAX_RECEIPT}")
    head, separator, note = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError("the receipt has foreign characters before its checkpoint") from error
    if not separator or lines.pop(0) != _HEADER:
        raise FormatError(f"a receipt begins with {_HEADER!r} and holds a checkpoint")
    extra = None
    if lines and lines[0].startswith(_EXTRA):
        extra = unb64(lines.pop(0).removeprefix(_EXTRA), "the receipt's extra data")
        if not extra:
            raise FormatError("the receipt has an extra line without data")
    if not lines or not lines[0].startswith(_INDEX):
        raise FormatError("the receipt has no index line where it belongs")
    index = decimal(lines.pop(0).removeprefix(_INDEX), "the receipt's index")
    if len(lines) > _MAX_PROOF:
        raise FormatError(f"the receipt's proof has more than {_MAX_PROOF} hashes")
    proof = tuple(unb64_hash(line, f"hash {at} of the proof") for at, line in enumerate(lines))
    return Receipt(index, proof, note, extra)


def verify_receipt(
    receipt: bytes, leaf: bytes, keys: Sequence[VerifierKey], origin: str
) -> Checkpoint:
    """Check that the leaf's exact bytes stand in the log of that origin; offline.

    The log itself must have signed, under its origin as key name; cosigners alone do not do.

    Args:
        receipt: As `format_receipt` makes it.
        leaf: The exact leaf.
        keys: The log's key, and of cosigners those that are trusted.
        origin: Which log.

    Returns:
        The checkpoint that covers the leaf.

    Raises:
        FormatError: The receipt or its checkpoint is malformed.
        SignatureError: The log's key did not sign the checkpoint, or a known key did wrongly.
        ProofError: The leaf is not where the receipt says, or the checkpoint is another log's.
    """
    parsed = parse_receipt(receipt)
    note = parse_note(parsed.checkpoint_note)
    if origin not in verify_note(note, keys):
        raise SignatureError(f"the checkpoint is not signed by the log {origin!r}")
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != origin:
        raise ProofError(f"the checkpoint is of the log {checkpoint.origin!r}, not {origin!r}")
    leaf_digest = leaf_hash(leaf)
    verify_inclusion(leaf_digest, parsed.index, checkpoint.size, parsed.proof, checkpoint.root)
    return checkpoint
