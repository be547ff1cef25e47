"""The order of the signer: check, journal, remember, sign; and what a failure in between leaves."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hsm_drivers import core as core_module
from hsm_drivers import tokens as tokens_module
from hsm_drivers.core import SignerCore
from hsm_drivers.errors import (
    HsmError,
    StatementRefusedError,
    TokenFailureError,
    TokenUnavailableError,
    UnsupportedError,
)
from hsm_drivers.ports import Checked, Head, KeyLabel, KeySpec, Purpose, Statement
from hsm_drivers.software import SoftwareDriver
from hsm_drivers.state import SignerState
from hsm_drivers.tokens import SingleToken
from tests.support.signer import (
    CA,
    CA_SPEC,
    CHECKERS,
    LOG_SPEC,
    certificate,
    checkpoint,
    crl,
)


class RecordingDriver(SoftwareDriver):
    """Notes, at each signature, what was durable by then."""

    def __init__(self, state: SignerState) -> None:
        super().__init__()
        self._state = state
        self.seen: list[tuple[int, tuple[Head, ...]]] = []

    def sign(self, label: KeyLabel, message: bytes) -> bytes:
        self.seen.append((self._state.journal.counter, self._state.heads()))
        return super().sign(label, message)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[SignerState]:
    with SignerState(tmp_path / "state") as opened:
        yield opened


@pytest.fixture
def driver(state: SignerState) -> RecordingDriver:
    return RecordingDriver(state)


@pytest.fixture
def core(driver: RecordingDriver, state: SignerState) -> SignerCore:
    made = SignerCore(SingleToken(driver), CHECKERS, state, ceremony=True)
    made.generate(CA_SPEC)
    made.generate(LOG_SPEC)
    return made


def kinds(outcomes: list[bytes | HsmError]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


def test_journal_and_head_come_before_the_first_signature(
    core: SignerCore, driver: RecordingDriver
) -> None:
    core.sign([certificate(b"1"), checkpoint(5), certificate(b"bad"), certificate(b"2")])
    assert [(counter, heads[0].size) for counter, heads in driver.seen] == [(3, 5)] * 3


def test_no_journal_no_signature(
    core: SignerCore, driver: RecordingDriver, state: SignerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise TokenUnavailableError("the disk is full")

    monkeypatch.setattr(state.journal, "append", fail)
    outcomes = core.sign([certificate(), certificate(b"bad"), checkpoint(1)])
    assert kinds(outcomes) == [TokenUnavailableError, StatementRefusedError, TokenUnavailableError]
    assert driver.seen == []
    assert state.heads() == ()


def test_no_memory_no_signature(
    core: SignerCore, driver: RecordingDriver, state: SignerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise TokenUnavailableError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(state, "remember", fail)
        assert kinds(core.sign([checkpoint(1)])) == [TokenUnavailableError]
    assert driver.seen == []
    assert kinds(core.sign([checkpoint(1)])) == [bytes]


def test_a_head_is_remembered_though_its_signature_failed(
    core: SignerCore, driver: RecordingDriver
) -> None:
    driver.outage = TokenUnavailableError("the token is away")
    assert kinds(core.sign([checkpoint(5)])) == [TokenUnavailableError]
    driver.outage = None
    assert kinds(core.sign([checkpoint(4), checkpoint(5)])) == [StatementRefusedError, bytes]


def test_crl_numbers_are_remembered_over_restarts(tmp_path: Path) -> None:
    driver = SoftwareDriver()
    with SignerState(tmp_path / "state") as state:
        core = SignerCore(SingleToken(driver), CHECKERS, state, ceremony=True)
        core.generate(CA_SPEC)
        driver.outage = TokenUnavailableError("the token is away")
        assert kinds(core.sign([crl(b"5")])) == [TokenUnavailableError]
    driver.outage = None
    with SignerState(tmp_path / "state") as state:
        core = SignerCore(SingleToken(driver), CHECKERS, state)
        outcomes = core.sign([crl(b"4"), crl(b"5 changed"), crl(b"5"), crl(b"6"), crl(b"5")])
        refused = StatementRefusedError
        assert kinds(outcomes) == [refused, refused, bytes, bytes, refused]
        assert core.health().crl_numbers == ((CA, 6),)


@pytest.mark.parametrize("reference", ["", "-1", "0", "1.0", "x", "\u0663", "1000001", "9" * 19])
def test_what_is_no_next_number_is_not_signed(
    core: SignerCore, driver: RecordingDriver, state: SignerState, reference: str
) -> None:
    checkers = {Purpose.CRL: lambda *_: Checked(reference)}
    assert kinds(SignerCore(SingleToken(driver), checkers, state).sign([crl(b"x")])) == [
        StatementRefusedError
    ]
    assert state.crl_numbers() == ()
    assert state.journal.counter == 0


def test_no_memory_of_a_number_no_signature(
    core: SignerCore, driver: RecordingDriver, state: SignerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise TokenUnavailableError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(state, "remember_crls", fail)
        assert kinds(core.sign([crl(b"1")])) == [TokenUnavailableError]
    assert driver.seen == []
    assert kinds(core.sign([crl(b"1 otherwise")])) == [bytes]


def test_a_token_that_goes_is_asked_once_a_batch(core: SignerCore, driver: RecordingDriver) -> None:
    driver.outage = TokenUnavailableError("the token is away")
    outcomes = core.sign([certificate(b"%d" % number) for number in range(50)])
    assert kinds(outcomes) == [TokenUnavailableError] * 50
    assert len(driver.seen) == 1


def test_a_key_that_fails_is_asked_once_a_batch_and_others_go_on(
    core: SignerCore, driver: RecordingDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign, asked = driver.sign, []

    def fail(label: KeyLabel, message: bytes) -> bytes:
        asked.append(label)
        if label == CA:
            raise TokenFailureError("this one did not work")
        return sign(label, message)

    monkeypatch.setattr(driver, "sign", fail)
    outcomes = core.sign([certificate(), checkpoint(1), certificate(), checkpoint(2)])
    assert kinds(outcomes) == [TokenFailureError, bytes, TokenFailureError, bytes]
    assert asked == [CA, LOG_SPEC.label, LOG_SPEC.label]


def test_health_tells_what_is_wrong(core: SignerCore, driver: RecordingDriver) -> None:
    assert core.health().ready
    driver.outage = TokenUnavailableError("the token is away")
    health = core.health()
    assert (health.ready, health.detail) == (False, "the token is away")


def test_a_swapped_token_is_not_ready(state: SignerState, core: SignerCore) -> None:
    other = SoftwareDriver()
    other.generate(CA, "ECDSA-P256")
    health = SignerCore(SingleToken(other), CHECKERS, state).health()
    assert not health.ready
    assert "'ca' is not the one that the ceremony made" in health.detail


def test_a_leaky_token_leaves_no_record(core: SignerCore, driver: RecordingDriver) -> None:
    for lie in ("local", "sensitive", "always_sensitive", "never_extractable", "on_token"):
        driver.attributes_made = replace(driver.attributes_made, **{lie: False})
        with pytest.raises(TokenFailureError, match="destroyed"):
            core.generate(KeySpec(KeyLabel("leaky"), "Ed25519", (), {}))
    assert len(core.keys()) == 2
    assert list(driver.labels()) == ["ca", "log"]


def test_a_key_without_a_record_is_not_adopted(
    core: SignerCore, driver: RecordingDriver, state: SignerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise TokenUnavailableError("the disk is full")

    spec = replace(CA_SPEC, label=KeyLabel("new"))
    with monkeypatch.context() as patched:
        patched.setattr(state, "add", fail)
        with pytest.raises(TokenUnavailableError):
            core.generate(spec)
    with pytest.raises(TokenFailureError, match="has no record"):
        core.generate(spec)
    assert len(core.keys()) == 2


def test_purposes_without_a_checker_are_not_promised(state: SignerState) -> None:
    core = SignerCore(SingleToken(SoftwareDriver()), {}, state, ceremony=True)
    with pytest.raises(StatementRefusedError, match="cannot check"):
        core.generate(CA_SPEC)


def test_records_are_signed_by_only_with_their_checker(
    core: SignerCore, driver: RecordingDriver, state: SignerState
) -> None:
    later = SignerCore(SingleToken(driver), {}, state)
    assert kinds(later.sign([certificate()])) == [UnsupportedError]
    with pytest.raises(UnsupportedError, match="ceremony"):
        later.generate(LOG_SPEC)


def test_outside_ceremonies_no_epoch_begins(
    core: SignerCore, driver: RecordingDriver, state: SignerState
) -> None:
    service = SignerCore(SingleToken(driver), CHECKERS, state)
    assert kinds(service.sign([checkpoint(1)])) == [UnsupportedError]
    assert kinds(core.sign([checkpoint(1)])) == [bytes]
    second = checkpoint(1, origin="example.org/log/2")
    assert kinds(service.sign([checkpoint(2), second])) == [bytes, UnsupportedError]
    assert kinds(core.sign([second])) == [bytes]


def test_what_is_reserved_to_ceremonies_is_signed_there_only(
    core: SignerCore, driver: RecordingDriver, state: SignerState
) -> None:
    root = replace(CA_SPEC, label=KeyLabel("root"), ceremony_only=(Purpose.CERTIFICATE,))
    core.generate(root)
    batch = [Statement(root.label, purpose, b"1") for purpose in root.purposes]
    assert kinds(core.sign(batch)) == [bytes, bytes]
    service = SignerCore(SingleToken(driver), CHECKERS, state)
    assert kinds(service.sign(batch)) == [UnsupportedError, bytes]
    odd = replace(root, label=KeyLabel("odd"), ceremony_only=(Purpose.CHECKPOINT,))
    with pytest.raises(StatementRefusedError, match="reserved"):
        core.generate(odd)


@pytest.mark.parametrize(
    "answer",
    [
        Checked("1"),
        Checked("1", Head("another", 1, bytes(32))),
        Checked("", Head("example.org/log/1", 1, bytes(32))),
    ],
)
def test_a_checker_that_answers_nonsense_accepts_nothing(
    core: SignerCore, driver: RecordingDriver, state: SignerState, answer: Checked
) -> None:
    checkers = {Purpose.CHECKPOINT: lambda *_: answer}
    careless = SignerCore(SingleToken(driver), checkers, state, ceremony=True)
    assert kinds(careless.sign([checkpoint(1)])) == [StatementRefusedError]
    assert state.heads() == ()
    assert state.journal.counter == 0


def test_an_origin_that_is_no_text_is_refused(core: SignerCore) -> None:
    odd = Statement(KeyLabel("log"), Purpose.CHECKPOINT, b"\xff\xfe\n1\nr\n")
    assert kinds(core.sign([odd])) == [StatementRefusedError]


def test_a_slow_token_lets_others_ask_between_signatures(
    core: SignerCore, driver: RecordingDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is journalled before the first pause, and nothing more is while others ask."""
    monkeypatch.setattr(tokens_module, "SLICE_SECONDS", 0)
    work = core.signing([certificate(b"1"), checkpoint(5), certificate(b"bad"), certificate(b"2")])
    for signed in range(3):
        next(work)
        assert len(driver.seen) == signed
        assert core.health().ready
        assert [entry.counter for entry in core.journal(0, 9)] == [1, 2, 3]
        assert len(core.keys()) == 2
    with pytest.raises(StopIteration) as done:
        next(work)
    assert kinds(done.value.value) == [bytes, bytes, StatementRefusedError, bytes]


def test_large_batches_are_cut(core: SignerCore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "MAX_BATCH", 10)
    outcomes = core.sign([certificate(b"%d" % number) for number in range(25)])
    assert kinds(outcomes) == [bytes] * 25
    assert [entry.counter for entry in core.journal(0, 100)] == list(range(1, 26))


@given(
    batches=st.lists(
        st.lists(st.tuples(st.integers(0, 6), st.sampled_from([b"a", b"b"])), max_size=6),
        max_size=6,
    )
)
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_signed_heads_only_ever_grow(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, bytes]]]
) -> None:
    """Over any batches and restarts: sizes never fall, one root a size."""
    directory = tmp_path_factory.mktemp("grow") / "state"
    driver = SoftwareDriver()
    signed: list[tuple[int, bytes]] = []
    for batch in batches:
        with SignerState(directory) as state:
            core = SignerCore(SingleToken(driver), CHECKERS, state, ceremony=True)
            if not core.keys():
                core.generate(LOG_SPEC)
            outcomes = core.sign([checkpoint(size, root) for size, root in batch])
        signed += [
            head for head, got in zip(batch, outcomes, strict=True) if isinstance(got, bytes)
        ]
    assert [size for size, _ in signed] == sorted(size for size, _ in signed)
    assert len({size for size, _ in signed}) == len(set(signed))
