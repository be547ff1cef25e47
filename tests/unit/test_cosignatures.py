"""The log's cosigner: what it signs, and that it follows the head which the log's key signed."""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_drivers.core import SignerCore
from hsm_drivers.errors import StatementRefusedError
from hsm_drivers.memory import Draft, SignedHead
from hsm_drivers.ports import CheckContext, Head, KeyLabel, KeyRecord, KeySpec, Purpose, Statement
from hsm_drivers.software.driver import SoftwareDriver
from hsm_drivers.state import SignerState
from hsm_drivers.tokens import SingleToken
from kms.services.checkpoint_checker import (
    MAX_SKEW,
    check_checkpoint,
    check_cosignature,
    log_constraints,
)
from kms.services.cosigner import Cosigner, cosigner_vkey
from kms.services.errors import KmsError
from kms.tlog.checkpoint import Checkpoint
from kms.tlog.errors import FormatError, SignatureError
from kms.tlog.notes import Note, ml_dsa_cosigned, read_ml_dsa_cosigned, verify_note

NAME = "log.test.example"
ORIGIN, NEXT = f"{NAME}/1", f"{NAME}/2"
NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
TIME = int(NOW.timestamp())
HEAD = Checkpoint(ORIGIN, 7, hashlib.sha256(b"seven").digest())
LOG, COSIGNER = KeyLabel("log-1"), KeyLabel("log-cosigner-1")
CHECKERS = {Purpose.CHECKPOINT: check_checkpoint, Purpose.COSIGNATURE: check_cosignature}


# --- the message ----------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [0, 1, TIME, (1 << 63) - 1])
def test_a_cosigned_message_is_read_as_it_was_written(time: int):
    for head in (HEAD, replace(HEAD, origin="x" * 255)):
        message = ml_dsa_cosigned(head, time, head.origin)
        assert read_ml_dsa_cosigned(message) == (head, time, head.origin)


@given(st.binary(max_size=400) | st.binary(max_size=150).map(lambda tail: b"subtree/v1\n\0" + tail))
def test_what_is_read_has_one_encoding_only(noise: bytes):
    """kms.tlog.notes.read_ml_dsa_cosigned refuses, or what it read is written as it was."""
    try:
        head, time, cosigner = read_ml_dsa_cosigned(noise)
    except (FormatError, SignatureError):
        return
    assert ml_dsa_cosigned(head, time, cosigner) == noise


def test_every_other_message_is_refused():
    message = ml_dsa_cosigned(HEAD, TIME, ORIGIN)
    bad = [message[:end] for end in range(len(message))]
    bad += [message + b"\0", b"x" + message[1:], b"", HEAD.body(), b"\xff" * len(message)]
    start = message.index(ORIGIN.encode(), 40) + len(ORIGIN)
    bad.append(message[:start] + (1).to_bytes(8, "big") + message[start + 8 :])  # a subtree
    for data in bad:
        with pytest.raises(FormatError):
            read_ml_dsa_cosigned(data)


# --- the checker ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignerCore]:
    folder = tmp_path_factory.mktemp("signer")
    with closing(SignerState(folder / "state")) as state:
        driver = SoftwareDriver()
        made = SignerCore(SingleToken(driver), CHECKERS, state, ceremony=True, now=lambda: NOW)
        for label, algorithm, purpose in (
            (LOG, "Ed25519", Purpose.CHECKPOINT),
            (COSIGNER, "ML-DSA-44", Purpose.COSIGNATURE),
        ):
            made.generate(KeySpec(label, algorithm, (purpose,), {purpose: log_constraints(NAME)}))
        yield made


def record(signer: SignerCore) -> KeyRecord:
    return next(filter(lambda item: item.label == COSIGNER, signer.keys()))


def judged(signer: SignerCore, message: bytes, evidence: bytes = b"") -> tuple[str, Head | None]:
    statement = Statement(COSIGNER, Purpose.COSIGNATURE, message, evidence)
    checked = check_cosignature(record(signer), statement, CheckContext(NOW))
    return checked.reference, checked.head


def test_the_checker_tells_head_and_time(signer: SignerCore):
    for time in (TIME, TIME - int(MAX_SKEW.total_seconds()), TIME + int(MAX_SKEW.total_seconds())):
        found = judged(signer, ml_dsa_cosigned(HEAD, time, ORIGIN))
        assert found == (f"7@{time}", Head(ORIGIN, 7, HEAD.root))


SKEWED = int((MAX_SKEW + timedelta(seconds=1)).total_seconds())
LIES: dict[str, tuple[bytes, str]] = {
    "an old time": (ml_dsa_cosigned(HEAD, TIME - SKEWED, ORIGIN), "this moment"),
    "a time to come": (ml_dsa_cosigned(HEAD, TIME + SKEWED, ORIGIN), "this moment"),
    "no time": (ml_dsa_cosigned(HEAD, 0, ORIGIN), "this moment"),
    "a witness's name": (ml_dsa_cosigned(HEAD, TIME, "witness.example"), "goes by the log's name"),
    "the next epoch's name": (ml_dsa_cosigned(HEAD, TIME, NEXT), "goes by the log's name"),
    "another log": (
        ml_dsa_cosigned(replace(HEAD, origin="other/1"), TIME, "other/1"),
        "not an epoch",
    ),
    "no epoch": (ml_dsa_cosigned(replace(HEAD, origin=NAME), TIME, NAME), "not an epoch"),
    "a checkpoint": (HEAD.body(), "not to be cosigned"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_no_cosignature_of_this_log_now_is_refused(signer: SignerCore, lie: str):
    message, why = LIES[lie]
    with pytest.raises(StatementRefusedError, match=why):
        judged(signer, message)


def test_evidence_has_no_place(signer: SignerCore):
    with pytest.raises(StatementRefusedError, match="no evidence"):
        judged(signer, ml_dsa_cosigned(HEAD, TIME, ORIGIN), bytes(32))


# --- the memory -----------------------------------------------------------------------------------


def test_only_the_head_signed_last_is_confirmed():
    signed = SignedHead(ORIGIN, 7, HEAD.root, LOG)
    made = Draft({ORIGIN: signed}, {})
    made.confirm(signed.head)
    bad = [None, replace(signed.head, size=6), replace(signed.head, size=8)]
    bad += [replace(signed.head, root=bytes(32)), replace(signed.head, origin=NEXT)]
    for head in bad:
        with pytest.raises(StatementRefusedError, match="signed last"):
            made.confirm(head)
    made.advance(LOG, ORIGIN, Head(ORIGIN, 8, bytes(32)))
    made.confirm(Head(ORIGIN, 8, bytes(32)))
    with pytest.raises(StatementRefusedError, match="signed last"):
        made.confirm(signed.head)


@pytest.mark.parametrize("key", [LOG, None])
def test_a_log_that_ended_is_not_cosigned_any_more(key: KeyLabel | None):
    ended, now = SignedHead(ORIGIN, 7, HEAD.root, key), SignedHead(NEXT, 1, HEAD.root, key)
    made = Draft({ORIGIN: ended, NEXT: now}, {})
    made.confirm(now.head)
    with pytest.raises(StatementRefusedError, match="ended"):
        made.confirm(ended.head)


# --- the signer -----------------------------------------------------------------------------------


def cosigner(signer: SignerCore, origin: str) -> Cosigner:
    return Cosigner(COSIGNER, cosigner_vkey(origin, record(signer).public_key), lambda: NOW)


def head_of(origin: str) -> Checkpoint:
    return replace(HEAD, origin=origin)


def log_statement(head: Checkpoint) -> Statement:
    return Statement(LOG, Purpose.CHECKPOINT, head.body())


def test_both_signatures_of_a_head_come_from_one_batch(signer: SignerCore):
    head = head_of(f"{NAME}/11")
    made = cosigner(signer, head.origin)
    signature, cosignature = signer.sign([log_statement(head), made.statement(head, made.time())])
    assert isinstance(signature, bytes)
    assert isinstance(cosignature, bytes)
    line = made.line(cosignature, made.time())
    assert verify_note(Note(head.body(), (line,)), [made.vkey]) == [head.origin]
    last = signer.journal(0, 10_000)[-1]
    assert (last.key, last.purpose, last.reference) == (COSIGNER, "cosignature", f"7@{TIME}")


def test_a_head_that_the_logs_key_did_not_sign_is_not_cosigned(signer: SignerCore):
    head = head_of(f"{NAME}/12")
    made = cosigner(signer, head.origin)
    (refused,) = signer.sign([made.statement(head, TIME)])
    assert isinstance(refused, StatementRefusedError)
    other = replace(head, root=bytes(32))
    answers: list[Any] = signer.sign([log_statement(head), made.statement(other, TIME)])
    assert isinstance(answers[0], bytes)
    assert isinstance(answers[1], StatementRefusedError)


def test_the_cosigner_signs_nothing_else_and_the_logs_key_cosigns_nothing(signer: SignerCore):
    head = head_of(f"{NAME}/13")
    assert isinstance(signer.sign([log_statement(head)])[0], bytes)
    as_log = Statement(COSIGNER, Purpose.CHECKPOINT, head.body())
    by_log = replace(cosigner(signer, head.origin).statement(head, TIME), key=LOG)
    for refused in signer.sign([as_log, by_log]):
        assert isinstance(refused, StatementRefusedError)


def test_only_an_ml_dsa_44_key_is_a_cosigners(signer: SignerCore):
    log = next(filter(lambda item: item.label == LOG, signer.keys()))
    with pytest.raises(KmsError, match="ML-DSA-44"):
        cosigner_vkey(ORIGIN, log.public_key)
