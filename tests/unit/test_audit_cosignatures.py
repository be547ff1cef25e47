"""The auditor on the log's cosigner: heads, epochs, births, and keys that do not fit."""

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kms.audit.cosignatures import check_cosignatures
from kms.audit.epochs import Epoch
from kms.audit.findings import Check
from kms.audit.layout import Record
from kms.audit.names import Names
from kms.audit.tree import Tree
from kms.tlog.checkpoint import Checkpoint
from kms.tlog.notes import KeyType, NoteSignature, VerifierKey, format_note, ml_dsa_cosigned
from kms.tlog.receipt import format_receipt
from kms.wire import EventType, Leaf

NAME = "log.test.example"
LOG, COSIGNER, OTHER = (
    Ed25519PrivateKey.generate(),
    MLDSA44PrivateKey.generate(),
    MLDSA44PrivateKey.generate(),
)
BIRTH = 3
TIME = datetime(2026, 11, 22, 12, tzinfo=UTC)


def vkey(epoch: int = 1, key: MLDSA44PrivateKey = COSIGNER) -> VerifierKey:
    public = key.public_key().public_bytes_raw()
    return VerifierKey(f"{NAME}/{epoch}", KeyType.ML_DSA_44_COSIGNATURE, public)


def note(size: int, epoch: int = 1, key: MLDSA44PrivateKey | None = COSIGNER) -> bytes:
    """A head of that size, by the log's key and, unless `key` is None, by a cosigner's."""
    head = Checkpoint(f"{NAME}/{epoch}", size, hashlib.sha256(b"%d" % size).digest())
    log = VerifierKey(head.origin, KeyType.ED25519, LOG.public_key().public_bytes_raw())
    lines = [NoteSignature(log.name, log.key_id, LOG.sign(head.body()))]
    if key is not None:
        own = vkey(epoch, key)
        blob = (7).to_bytes(8, "big") + key.sign(ml_dsa_cosigned(head, 7, head.origin))
        lines.append(NoteSignature(own.name, own.key_id, blob))
    return format_note(head.body(), lines)


def birth(key: MLDSA44PrivateKey = COSIGNER, **changes: Any) -> dict[str, Any]:
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    detail = {
        "purposes": ["cosignature"],
        "public_key_sha256": hashlib.sha256(spki).hexdigest(),
        "vkey": vkey(key=key).text(),
    }
    return detail | changes


def epoch(number: int, offset: int, *births: dict[str, Any]) -> Epoch:
    """With the births at `BIRTH` and after; the first event opens or continues the log."""
    opening = EventType.LOG_OPENED if number == 1 else EventType.LOG_CONTINUED
    details = {0: (opening, {}), 1: (EventType.KEY_GENERATED, {"purposes": ["crl"]})}
    details |= {BIRTH + at: (EventType.KEY_GENERATED, detail) for at, detail in enumerate(births)}
    origin = f"{NAME}/{number}"
    events = {
        offset + at: Leaf(f"{at:032x}", kind, TIME, origin, {}, detail=detail)
        for at, (kind, detail) in details.items()
    }
    key = VerifierKey(origin, KeyType.ED25519, LOG.public_key().public_bytes_raw())
    return Epoch((), key.text(), key, None, [], Tree.of([]), events, Names({}), offset)


def record(head: bytes, *receipts: bytes) -> Record:
    named = {f"receipts/ada/{at}.tlog-proof": data for at, data in enumerate(receipts)}
    return Record(checkpoint=head, receipts=named)


def found(check: Check | None) -> list[str]:
    assert check is not None
    return [str(failure) for failure in check.failures]


def test_a_log_without_a_cosigner_is_not_asked_for_one():
    assert check_cosignatures([record(note(9, key=None))], [epoch(1, 0)], None) is None


def test_heads_since_the_birth_are_cosigned_and_those_before_need_not_be():
    head = record(note(9), receipt(BIRTH, None), receipt(BIRTH, COSIGNER), receipt(BIRTH + 1))
    check = check_cosignatures([head], [epoch(1, 0, birth())], None)
    assert found(check) == []
    assert check is not None
    assert check.examined == 3
    foreign = record(note(9), b"no receipt", receipt(8, None, epoch=5))
    assert found(check_cosignatures([foreign], [epoch(1, 0, birth())], vkey().text())) == []


def receipt(size: int, key: MLDSA44PrivateKey | None = COSIGNER, epoch: int = 1) -> bytes:
    return format_receipt(0, [], note(size, epoch, key))


WRONG: list[tuple[bytes, str]] = [
    (note(9, key=None), "log/checkpoint: not cosigned"),
    (note(9, key=OTHER), "log/checkpoint: not cosigned"),
]


@pytest.mark.parametrize(("head", "why"), WRONG)
def test_a_head_that_is_not_cosigned_is_told(head: bytes, why: str):
    (failure,) = found(check_cosignatures([record(head)], [epoch(1, 0, birth())], None))
    assert failure.startswith(why)


def test_a_wrong_cosignature_is_told_wherever_it_stands():
    """Even before the birth, where none is needed."""
    own = vkey()
    bad = NoteSignature(own.name, own.key_id, bytes(8 + 2420))
    head = Checkpoint(own.name, 2, bytes(32))
    data = format_receipt(0, [], format_note(head.body(), [bad]))
    (failure,) = found(check_cosignatures([record(note(9), data)], [epoch(1, 0, birth())], None))
    assert "receipts/ada/0.tlog-proof: not cosigned" in failure


LIES: list[tuple[tuple[dict[str, Any], ...], str | None, str]] = [
    ((birth(public_key_sha256="00"),), None, "is not the one in its vkey"),
    ((birth(), birth(OTHER)), None, "more than one cosigner"),
    ((birth(),), vkey(key=OTHER).text(), "is not the cosigner of event 3"),
    ((), vkey().text(), "no event of the log tells of the birth"),
    ((birth(),), "nonsense", "log-cosigner.vkey: "),
    ((birth(vkey="nonsense"),), None, "event 3: "),
]


@pytest.mark.parametrize(("births", "brought", "why"), LIES)
def test_births_and_keys_that_do_not_belong_together_are_told(
    births: tuple[dict[str, Any], ...], brought: str | None, why: str
):
    check = check_cosignatures([record(note(9))], [epoch(1, 0, *births)], brought)
    assert any(why in failure for failure in found(check))


def test_an_ed25519_key_is_no_cosigners():
    log = VerifierKey(f"{NAME}/1", KeyType.ED25519, LOG.public_key().public_bytes_raw())
    check = check_cosignatures([record(note(9))], [epoch(1, 0, birth())], log.text())
    assert any("no key of an ML-DSA-44 cosigner" in failure for failure in found(check))


def test_every_head_of_a_later_epoch_is_cosigned_under_its_name():
    records = [record(note(5)), record(note(1, 2), receipt(1, epoch=2))]
    epochs = [epoch(1, -5, birth()), epoch(2, 0)]
    assert found(check_cosignatures(records, epochs, None)) == []
    stripped = [record(note(5)), record(note(1, 2, None))]
    assert len(found(check_cosignatures(stripped, epochs, None))) == 1


@pytest.mark.parametrize(("key", "failures"), [(COSIGNER, 0), (None, 2), (OTHER, 2)])
def test_an_epoch_alone_is_held_to_the_key_that_was_brought(
    key: MLDSA44PrivateKey | None, failures: int
):
    """Its cosigner was born in an epoch that is not at hand."""
    alone = record(note(1, 2, key), receipt(1, key, epoch=2))
    check = check_cosignatures([alone], [epoch(2, 0)], vkey(2).text())
    assert len(found(check)) == failures
