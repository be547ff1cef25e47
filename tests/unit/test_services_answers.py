"""Answers: stored once, rendered the same every time, whatever stands in them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms.domain.records import LogId
from kms.services.answers import AnswerSpec, Covered, receipt_document, receipt_slot, render
from kms.tlog.append import append
from kms.tlog.hashing import leaf_hash
from kms.tlog.tiles import NodeCache

NOTE = "log.example/1\n5\nAAAA\n\n— log.example/1 AAAA\n".encode()
LOOKALIKES = ['{"$receipt":0}', '"{\\"$receipt\\":1}"', "$receipt", "\\", '"', '{"$receipt":2}\\']
texts = st.text() | st.sampled_from(LOOKALIKES)
documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts.filter(lambda t: t != "$receipt"), inner),
    max_leaves=20,
)


def covered(note: bytes | None = NOTE, first: int = 2, size: int = 5) -> Covered:
    tiles = append(lambda _level, _number: None, 0, [leaf_hash(b"%d" % n) for n in range(size)])
    nodes = NodeCache(lambda level, number: tiles.tiles.get((level, number)))
    return Covered(LogId(1), first, size, note, nodes)


def filled(value: Any, cover: Covered) -> Any:
    """What rendering must come to, worked out on the document itself."""
    if isinstance(value, dict):
        if list(value) == ["$receipt"]:
            return cover.receipt(value["$receipt"])
        return {name: filled(item, cover) for name, item in value.items()}
    return [filled(item, cover) for item in value] if isinstance(value, list) else value


@given(documents, documents, st.lists(st.integers(0, 2), max_size=3))
def test_receipts_are_put_in_and_nothing_else_is_touched(before: Any, after: Any, slots: list[int]):
    document = {"a": before, "b": [receipt_slot(n) for n in slots], "c": after}
    answer = render(AnswerSpec.of(201, document), covered())
    assert answer.status == 201
    assert json.loads(answer.body) == filled(document, covered())


@given(documents, st.integers(100, 599))
def test_what_was_stored_renders_to_the_same_bytes(value: Any, status: int):
    spec = AnswerSpec.of(status, {"value": value, "receipt": receipt_slot(1)})
    assert json.loads(spec.encode()) == [status, {"value": value, "receipt": {"$receipt": 1}}]
    assert AnswerSpec.decode(spec.encode()) == spec
    assert render(AnswerSpec.decode(spec.encode()), covered()) == render(spec, covered())


def test_without_events_nothing_is_put_in():
    spec = AnswerSpec.of(200, {"text": '{"$receipt":0}'})
    assert json.loads(render(spec, None).body) == {"text": '{"$receipt":0}'}


def test_while_the_signer_is_away_receipts_are_pending():
    answer = render(AnswerSpec.of(200, {"receipt": receipt_slot(1)}), covered(note=None))
    assert json.loads(answer.body)["receipt"] == {
        "status": "pending",
        "log": 1,
        "index": 3,
        "text": None,
    }


@pytest.mark.parametrize("size", [1, 2, 3, 7, 256, 300, 513])
def test_receipts_of_a_batch_are_those_of_each_event_alone(size: int):
    cover = covered(first=0, size=size)
    for index in range(size):
        alone = receipt_document(LogId(1), index, size, NOTE, cover.nodes)
        assert cover.receipt(index) == alone


def test_what_is_secret_or_personal_stays_out_of_reprs():
    spec = AnswerSpec.of(200, {"user": "ada"})
    assert "ada" not in repr(spec)
