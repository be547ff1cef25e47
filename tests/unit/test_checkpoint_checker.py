"""A worker that lies to its signer about the log: each lie is refused."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from hsm_drivers.errors import StatementRefusedError
from hsm_drivers.ports import (
    CheckContext,
    Head,
    KeyAttributes,
    KeyLabel,
    KeyRecord,
    Purpose,
    Statement,
)
from kms.services.checkpoint_checker import MAX_PROOF_HASHES, check_checkpoint, log_constraints
from kms.tlog.checkpoint import Checkpoint
from kms.tlog.hashing import EMPTY_ROOT, leaf_hash
from kms.tlog.tree import consistency_proof, root
from policies.decisions import Protection

NAME = "log.test.example"
ORIGIN = f"{NAME}/1"
LABEL = KeyLabel("log-1")
RECORD = KeyRecord(
    label=LABEL,
    key_id="00",
    algorithm="Ed25519",
    purposes=(Purpose.CHECKPOINT,),
    constraints={Purpose.CHECKPOINT: log_constraints(NAME)},
    protection=Protection.TOKEN,
    public_key=b"",
    attributes=KeyAttributes(
        *[True] * 3,
        extractable=False,
        never_extractable=True,
        private=True,
        on_token=True,
        sign=True,
    ),
    token="t",
    created="2026-11-21T00:00:00Z",
)
LEAVES = [leaf_hash(bytes([i])) for i in range(40)]


def node(level: int, index: int) -> bytes:
    if level == 0:
        return LEAVES[index]
    data = b"\x01" + node(level - 1, 2 * index) + node(level - 1, 2 * index + 1)
    return hashlib.sha256(data).digest()


def head(size: int, origin: str = ORIGIN) -> Head:
    return Head(origin, size, root(size, node) if size else EMPTY_ROOT)


def statement(new: Head, evidence: bytes = b"") -> Statement:
    body = Checkpoint(new.origin, new.size, new.root).body()
    return Statement(LABEL, Purpose.CHECKPOINT, body, evidence)


def after(last: Head | None) -> CheckContext:
    return CheckContext(datetime(2026, 11, 21, tzinfo=UTC), last)


def proof(old: int, new: int) -> bytes:
    return b"".join(consistency_proof(old, new, node))


@pytest.mark.parametrize(("old", "new"), [(1, 2), (3, 7), (8, 9), (7, 40), (32, 33)])
def test_a_head_that_contains_the_last_one_is_accepted(old: int, new: int):
    checked = check_checkpoint(RECORD, statement(head(new), proof(old, new)), after(head(old)))
    assert checked.head == head(new)
    assert checked.reference == str(new)


def test_the_same_head_may_be_signed_again():
    assert check_checkpoint(RECORD, statement(head(9)), after(head(9))).head == head(9)


def test_a_smaller_head_is_refused():
    with pytest.raises(StatementRefusedError, match="would hide events"):
        check_checkpoint(RECORD, statement(head(8)), after(head(9)))


def test_the_same_size_with_another_root_is_refused():
    forged = Head(ORIGIN, 9, bytes(32))
    with pytest.raises(StatementRefusedError, match="another root"):
        check_checkpoint(RECORD, statement(forged), after(head(9)))


@pytest.mark.parametrize("evidence", [b"", proof(8, 20), proof(9, 19), bytes(32), b"short"])
def test_growth_without_its_proof_is_refused(evidence: bytes):
    with pytest.raises(StatementRefusedError):
        check_checkpoint(RECORD, statement(head(20), evidence), after(head(9)))


def test_every_flipped_byte_of_a_proof_is_refused():
    good = proof(9, 20)
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1
        with pytest.raises(StatementRefusedError):
            check_checkpoint(RECORD, statement(head(20), bytes(bad)), after(head(9)))


@pytest.mark.parametrize(
    "origin",
    ["other.example/1", NAME, f"{NAME}/", f"{NAME}/x", f"{NAME}/01", f"{NAME}/-1", f"x{NAME}/1"],
)
def test_a_foreign_origin_is_refused(origin: str):
    with pytest.raises(StatementRefusedError):
        check_checkpoint(RECORD, statement(head(9, origin)), after(None))


def test_a_checkpoint_with_extensions_is_refused():
    body = Checkpoint(ORIGIN, 9, root(9, node), ("more",)).body()
    with pytest.raises(StatementRefusedError, match="more than"):
        check_checkpoint(RECORD, Statement(LABEL, Purpose.CHECKPOINT, body), after(None))


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"x" * 100_000, b"a\n1\nAAAA\n"])
def test_what_is_no_checkpoint_is_refused(body: bytes):
    with pytest.raises(StatementRefusedError):
        check_checkpoint(RECORD, Statement(LABEL, Purpose.CHECKPOINT, body), after(None))


def test_a_log_is_named_by_its_constraints():
    assert log_constraints(NAME) == {"name": NAME}


def test_a_log_whose_name_has_slashes_is_known_by_its_last_part():
    record = replace(RECORD, constraints={Purpose.CHECKPOINT: log_constraints("log.example/a")})
    last = head(9, "log.example/a/1")
    assert check_checkpoint(record, statement(last), after(None)).head == last


@pytest.mark.parametrize(
    "evidence", [b"short", proof(9, 20) + b"x", bytes(32 * (MAX_PROOF_HASHES + 1))]
)
@pytest.mark.parametrize("size", [0, 9])
def test_evidence_is_a_bounded_list_of_hashes(evidence: bytes, size: int):
    with pytest.raises(StatementRefusedError, match="not a list of hashes"):
        check_checkpoint(RECORD, statement(head(20), evidence), after(head(size)))


def test_an_empty_log_may_grow_by_anything():
    most = bytes(32 * MAX_PROOF_HASHES)
    assert MAX_PROOF_HASHES == 128
    for evidence in (b"", most):
        checked = check_checkpoint(RECORD, statement(head(20), evidence), after(head(0)))
        assert checked.head == head(20)


def test_a_log_of_one_leaf_grows_by_what_holds_it_only():
    check_checkpoint(RECORD, statement(head(20), proof(1, 20)), after(head(1)))
    with pytest.raises(StatementRefusedError):
        check_checkpoint(RECORD, statement(head(20), proof(2, 20)), after(head(1)))
