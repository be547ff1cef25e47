"""Judges a log head before the signer signs or cosigns it (DESIGN section 3).

Same size with another root: never. Smaller: never. Larger: only with a proof that it contains the
last one signed. Cosigned is what was signed, nothing else: that the signer itself sees to
(`hsm_drivers.memory.Draft.confirm`).
"""

from datetime import timedelta

from hsm_drivers.errors import StatementRefusedError
from hsm_drivers.ports import CheckContext, Checked, Head, KeyRecord, Purpose, Statement
from kms.tlog.checkpoint import parse_checkpoint
from kms.tlog.errors import FormatError, ProofError, SignatureError
from kms.tlog.hashing import HASH_SIZE
from kms.tlog.notes import read_ml_dsa_cosigned
from kms.tlog.proofs import verify_consistency

MAX_PROOF_HASHES = 128
MAX_SKEW = timedelta(minutes=5)
"""How far a cosignature's time may lie from the signer's clock: it waits its turn, nothing more."""


def log_constraints(name: str) -> dict[str, str]:
    """Constraints of a log key: its name, of which every origin is `<name>/<epoch>`."""
    return {"name": name}


def check_checkpoint(record: KeyRecord, statement: Statement, context: CheckContext) -> Checked:
    """A `StatementChecker` for checkpoints.

    Raises:
        StatementRefusedError: The note is not a checkpoint of this log, or does not grow it.
    """
    try:
        checkpoint = parse_checkpoint(statement.message)
    except FormatError as error:
        raise StatementRefusedError(f"not a checkpoint: {error}") from error
    _check_origin(record, Purpose.CHECKPOINT, checkpoint.origin)
    if checkpoint.extensions:
        raise StatementRefusedError("the checkpoint carries more than origin, size and root")
    if context.head is not None:
        _check_growth(context.head, checkpoint.size, checkpoint.root, statement.evidence)
    new = Head(checkpoint.origin, checkpoint.size, checkpoint.root)
    return Checked(reference=str(checkpoint.size), head=new)


def check_cosignature(record: KeyRecord, statement: Statement, context: CheckContext) -> Checked:
    """A `StatementChecker` for what the log's own ML-DSA-44 cosigner signs.

    Raises:
        StatementRefusedError: It is of another log, by another name, or at another time than now.
    """
    try:
        checkpoint, time, cosigner = read_ml_dsa_cosigned(statement.message)
    except (FormatError, SignatureError) as error:
        raise StatementRefusedError(f"not to be cosigned: {error}") from error
    _check_origin(record, Purpose.COSIGNATURE, checkpoint.origin)
    if cosigner != checkpoint.origin:
        raise StatementRefusedError("the log's own cosigner goes by the log's name (C2SP)")
    if abs(time - context.now.timestamp()) > MAX_SKEW.total_seconds():
        raise StatementRefusedError("it is not of this moment by the signer's clock")
    if statement.evidence:
        raise StatementRefusedError("a cosignature needs no evidence")
    head = Head(checkpoint.origin, checkpoint.size, checkpoint.root)
    return Checked(reference=f"{checkpoint.size}@{time}", head=head)


def _check_origin(record: KeyRecord, purpose: Purpose, origin: str) -> None:
    name = record.constraints[purpose]["name"]
    prefix, _, epoch = origin.rpartition("/")
    if prefix != name or not epoch.isdecimal() or str(int(epoch)) != epoch:
        raise StatementRefusedError(f"origin {origin!r} is not an epoch of {name!r}")


def _check_growth(head: Head, size: int, root: bytes, evidence: bytes) -> None:
    if size < head.size:
        raise StatementRefusedError(
            f"a head of size {head.size} was signed; one of size {size} would hide events"
        )
    if size == head.size:
        if root != head.root:
            raise StatementRefusedError(f"another root was signed for size {size}")
        return
    count, rest = divmod(len(evidence), HASH_SIZE)
    if rest or count > MAX_PROOF_HASHES:
        raise StatementRefusedError("the consistency proof is not a list of hashes")
    proof = [evidence[i * HASH_SIZE : (i + 1) * HASH_SIZE] for i in range(count)]
    if head.size == 0:
        return
    try:
        verify_consistency(head.size, size, proof, head.root, root)
    except ProofError as error:
        raise StatementRefusedError(
            f"size {size} is not shown to contain the signed size {head.size}: {error}"
        ) from error
