"""Frames: whatever comes in is a message of the protocol or a FrameError."""

from datetime import UTC, datetime
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_drivers import frames
from hsm_drivers.errors import (
    BY_CODE,
    HsmError,
    StatementRefusedError,
    TokenUnavailableError,
)
from hsm_drivers.journal import MAX_BATCH
from hsm_drivers.operations import MakeMac, ServiceCall, SignMessage
from hsm_drivers.ports import Component, KeyLabel, Operation, Purpose, Statement
from policies.decisions import Protection

ids = st.integers(0, 2**63 - 1)
statement_frames = st.builds(
    frames.StatementFrame,
    st.text(max_size=64),
    st.sampled_from(Purpose),
    st.binary(max_size=200),
    st.binary(max_size=64),
)
operations = st.lists(st.sampled_from(Operation), max_size=4).map(tuple)


def calls_of(kind: type[ServiceCall]) -> st.SearchStrategy[ServiceCall]:
    """MessagePack has no integers beyond 64 bits."""
    sized = {"size": st.integers(-(2**63), 2**64 - 1)} if "size" in kind.__struct_fields__ else {}
    return st.builds(kind, **sized)


requests: st.SearchStrategy[frames.Request] = st.one_of(
    st.builds(frames.Sign, ids, st.lists(statement_frames, max_size=5)),
    st.builds(frames.ReadKeys, ids, st.text(max_size=64), st.integers(0, frames.MAX_RECORDS)),
    st.builds(frames.Use, ids, st.lists(st.one_of(*map(calls_of, get_args(ServiceCall))))),
    st.builds(frames.ReadTokens, ids),
    st.builds(frames.Narrow, ids, st.text(max_size=64), operations),
    st.builds(
        frames.ScheduleDestruction,
        ids,
        st.text(max_size=64),
        st.datetimes(min_value=datetime(1980, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis adds it
    ),
    st.builds(frames.CancelDestruction, ids, st.text(max_size=64)),
    st.builds(frames.Destroy, ids, st.text(max_size=64)),
    st.builds(frames.ReadAttributes, ids, st.text(max_size=64)),
    st.builds(frames.ReadJournal, ids, ids, st.integers(0, frames.MAX_PAGE)),
    st.builds(frames.ReadHealth, ids),
    st.builds(
        frames.Generate,
        ids,
        st.text(max_size=64),
        st.text(max_size=20),
        st.lists(st.sampled_from(Purpose)).map(tuple),
        st.dictionaries(
            st.sampled_from(Purpose),
            st.dictionaries(st.text(max_size=5), st.none() | st.integers(0, 9) | st.text()),
        ),
        st.lists(st.sampled_from(Purpose)).map(tuple),
        operations,
        st.text(max_size=32),
        st.lists(
            st.builds(Component, st.text(max_size=20), st.sampled_from(Protection)), max_size=3
        ).map(tuple),
    ),
)


@given(requests)
def test_requests_survive_the_wire(request: frames.Request) -> None:
    assert frames.decode_request(frames.encode(request)[4:]) == request


@given(st.binary(max_size=300))
def test_noise_is_a_frame_error(noise: bytes) -> None:
    for decode in (frames.decode_request, frames.decode_answer):
        try:
            decode(noise)
        except frames.FrameError:
            pass
        else:
            assert msgspec.msgpack.decode(noise)["type"]


@given(requests, st.data())
def test_mutated_requests_are_requests_or_frame_errors(
    request: frames.Request, data: st.DataObject
) -> None:
    body = bytearray(frames.encode(request)[4:])
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.integers(0, 255))
    try:
        decoded = frames.decode_request(bytes(body))
    except frames.FrameError:
        return
    assert frames.decode_request(frames.encode(decoded)[4:]) == decoded


@given(requests, st.integers(1, 20))
def test_cut_requests_are_frame_errors(request: frames.Request, cut: int) -> None:
    body = frames.encode(request)[4:]
    with pytest.raises(frames.FrameError):
        frames.decode_request(body[:-cut])


@given(requests)
def test_trailing_bytes_are_frame_errors(request: frames.Request) -> None:
    with pytest.raises(frames.FrameError):
        frames.decode_request(frames.encode(request)[4:] + b"\x00")


@given(st.lists(requests, max_size=5), st.integers(1, 50))
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    sent: list[frames.Request], step: int
) -> None:
    stream = b"".join(frames.encode(request) for request in sent)
    buffer = frames.FrameBuffer()
    received = []
    for at in range(0, len(stream), step):
        buffer.feed(stream[at : at + step])
        while (body := buffer.next()) is not None:
            received.append(frames.decode_request(body))
    assert received == sent


@pytest.mark.parametrize(
    "body",
    [
        {"type": "keys"},
        {"type": "keys", "id": -1},
        {"type": "keys", "id": "1"},
        {"type": "keys", "id": 1, "more": 1},
        {"type": "nothing", "id": 1},
        {"id": 1},
        {"type": "journal", "id": 1, "after": 0, "limit": frames.MAX_PAGE + 1},
        {"type": "journal", "id": 1, "after": -1, "limit": 1},
        {"type": "sign", "id": 1, "statements": [["ca", "certificate", b""]]},
        {"type": "sign", "id": 1, "statements": [["ca", "certificate", b"", b"", b""]]},
        {"type": "sign", "id": 1, "statements": [["ca", "letter", b"", b""]]},
        {"type": "sign", "id": 1, "statements": [["ca", "crl", "text", b""]]},
        {"type": "sign", "id": 1, "statements": [["ca", "crl", b"", b""]] * (MAX_BATCH + 1)},
        {"type": "signed", "id": 1, "outcomes": []},
        [],
        None,
    ],
)
def test_both_sides_are_strict(body: object) -> None:
    with pytest.raises(frames.FrameError):
        frames.decode_request(msgspec.msgpack.encode(body))


def test_a_header_may_not_claim_more_than_the_limit() -> None:
    buffer = frames.FrameBuffer()
    buffer.feed(frames.HEADER.pack(frames.MAX_FRAME + 1))
    with pytest.raises(frames.FrameError, match="at most"):
        buffer.next()


def test_nothing_larger_than_a_frame_is_sent() -> None:
    huge = frames.StatementFrame(KeyLabel("ca"), Purpose.CRL, bytes(frames.MAX_FRAME), b"")
    with pytest.raises(frames.FrameError, match="at most"):
        frames.encode(frames.Sign(1, [huge]))


def test_what_has_no_form_on_the_wire_is_said_so() -> None:
    constraints = {Purpose.CRL: {"far": 2**80}}
    with pytest.raises(frames.FrameError, match="no form"):
        frames.encode(frames.Generate(1, KeyLabel("ca"), "x", (), constraints, ()))


@given(st.lists(st.sampled_from([0, 10, 1_000_000, 3_000_000, frames.MAX_FRAME]), max_size=8))
def test_parts_keep_order_and_fit(sizes: list[int]) -> None:
    statements = [
        Statement(KeyLabel("ca"), Purpose.CRL, bytes(size), b"%d" % number)
        for number, size in enumerate(sizes)
    ]
    cut = list(frames.parts(statements))
    assert [item.evidence for part in cut for item in part] == [s.evidence for s in statements]
    for part in cut:
        if len(part) > 1:
            frames.encode(frames.Sign(2**63 - 1, part))


def test_parts_are_bounded_in_number() -> None:
    statements = [Statement(KeyLabel("k" * 64), Purpose.CERTIFICATE, b"")] * (2 * MAX_BATCH + 1)
    assert [len(part) for part in frames.parts(statements)] == [MAX_BATCH, MAX_BATCH, 1]


def test_errors_keep_their_class_on_the_wire() -> None:
    for kind in BY_CODE.values():
        back = frames.raised(frames.refusal(kind("a sentence")))
        assert type(back) is kind
        assert str(back) == "a sentence"
    assert type(frames.raised(frames.Refusal("of-tomorrow", "x"))) is HsmError
    assert TokenUnavailableError.retryable
    assert not StatementRefusedError.retryable


def test_calls_are_cut_by_their_size_number_and_the_size_of_signatures() -> None:
    key = KeyLabel("s-key")
    many = [MakeMac(key, b"m")] * (2 * frames.MAX_CALLS + 1)
    assert [len(part) for part in frames.call_parts(many)] == [frames.MAX_CALLS] * 2 + [1]
    large = [MakeMac(key, bytes(frames.MAX_FRAME // 2 - 1000))] * 3
    assert [len(part) for part in frames.call_parts(large)] == [2, 1]
    signatures = frames.MAX_FRAME // frames.MAX_SIGNATURE
    cut = [len(part) for part in frames.call_parts([SignMessage(key, b"m")] * 2000)]
    assert max(cut) <= min(frames.MAX_CALLS, signatures)
    assert sum(cut) == 2000
    assert list(frames.call_parts([])) == []


def test_a_request_of_too_many_calls_is_no_message() -> None:
    body = msgspec.msgpack.encode(
        frames.Use(1, [MakeMac(KeyLabel("k"), b"")] * (frames.MAX_CALLS + 1))
    )
    with pytest.raises(frames.FrameError):
        frames.decode_request(body)
