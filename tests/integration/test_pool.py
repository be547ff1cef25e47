"""The pool's judgement: who gets calls, what is made again elsewhere, and what never is."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hsm_drivers.calls import DecryptCall, SignCall
from hsm_drivers.errors import (
    BadCiphertextError,
    HsmError,
    KeyNotFoundError,
    PinRefusedError,
    TokenFailureError,
    TokenUnavailableError,
    UnsupportedError,
)
from hsm_drivers.pool.round import MOST_DEATHS
from hsm_drivers.pool.tokens import GRACE_S, PoolOfTokens
from hsm_drivers.ports import KeyLabel, TokenStatus
from hsm_drivers.software import SoftwareDriver
from hsm_drivers.tokens import Job, drained
from tests.support.estate import call, eventually, signing
from tests.support.software_pool import Erring, pooled, twin

CA = KeyLabel("ca")
AES = KeyLabel("aes")


def well(pool: PoolOfTokens, *tokens: str) -> Callable[[], bool]:
    """Whether exactly these tokens are healthy, and have said all that they were asked."""

    def so() -> bool:
        healthy = {status.name for status in pool.statuses() if status.healthy}
        quiet = not any(link.waiting for token in tokens for link in pool.links(token))
        return healthy == set(tokens) and quiet

    return so


def test_a_token_is_healthy_once_it_has_said_what_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, it would seem to lack everything, and keys be made with less protection."""
    said: list[bool] = []
    with pooled(tmp_path, {"": [SoftwareDriver()]}) as it:
        tend = it.pool.health.tend

        def looked() -> float:
            pause = tend()
            said.extend(bool(status.algorithms) for status in it.pool.statuses() if status.healthy)
            early.extend(it.pool.statuses() if it.pool.well("") and not said else [])
            return pause

        early: list[TokenStatus] = []
        monkeypatch.setattr(it.pool.health, "tend", looked)
        eventually(it.pool, well(it.pool, ""))
        assert all(said)
        assert early, "there was a moment between the proof and the description"
        assert {status.detail for status in early} == {"it has not said yet which keys it can hold"}
        assert it.pool.statuses()[0].detail == "the token answers"


def replicas() -> tuple[Erring, Erring]:
    first, second = Erring("first"), Erring("second")
    first.generate(CA, "Ed25519")
    first.generate(AES, "AES-256-GCM")
    second._keys = first._keys
    return first, second


@pytest.mark.parametrize(
    "error",
    [
        TokenUnavailableError("the link is down [CKR_DEVICE_ERROR]"),
        TokenFailureError("no one knows [0x80000042]"),
        TokenFailureError("no one knows"),
        KeyNotFoundError("it lacks the key"),
    ],
)
def test_what_one_token_errs_at_the_other_makes(tmp_path: Path, error: HsmError) -> None:
    first, second = replicas()
    with pooled(tmp_path, {"": [first], "b": [second]}) as it:
        eventually(it.pool, well(it.pool, "", "b"))
        first.errors = [error]
        outcomes = call(it.pool, signing(CA, "", "b", count=50))
    assert outcomes == [first.sign(CA, b"message %d" % at) for at in range(50)]
    assert not first.errors


@pytest.mark.parametrize(
    "error",
    [
        BadCiphertextError("changed"),
        TokenFailureError("the token says so [CKR_GENERAL_ERROR]"),
        UnsupportedError("not here"),
    ],
)
def test_wrong_bytes_of_the_caller_are_no_illness(tmp_path: Path, error: HsmError) -> None:
    first, second = replicas()
    with pooled(tmp_path, {"": [first], "b": [second]}) as it:
        eventually(it.pool, well(it.pool, "", "b"))
        first.errors = second.errors = [error]
        job = Job(("", "b"), DecryptCall(AES, bytes(12), bytes(32), b""))
        (outcome,) = call(it.pool, [job])
        assert type(outcome) is type(error)
        assert str(outcome) == str(error)
        assert (first.made, second.made) == (1, 0), "it was asked for once, and nowhere else"
        assert well(it.pool, "", "b")()


def test_an_ill_token_gets_nothing_until_it_was_probed(tmp_path: Path) -> None:
    first, second = replicas()
    with pooled(tmp_path, {"": [first], "b": [second]}) as it:
        eventually(it.pool, well(it.pool, "", "b"))
        first.outage = TokenUnavailableError("unplugged [CKR_TOKEN_NOT_PRESENT]")
        assert all(isinstance(o, bytes) for o in call(it.pool, signing(CA, "", "b", count=20)))
        eventually(it.pool, well(it.pool, "b"))
        (status,) = [status for status in it.pool.statuses() if not status.healthy]
        assert status.detail == "unplugged [CKR_TOKEN_NOT_PRESENT]"
        before = first.made
        assert all(isinstance(o, bytes) for o in call(it.pool, signing(CA, "", "b", count=20)))
        assert first.made == before
        first.outage = None
        eventually(it.pool, well(it.pool, "", "b"))


def test_a_replica_that_disagrees_stays_out(tmp_path: Path) -> None:
    first, other = Erring("first"), Erring("other")
    _, spki, _ = first.generate(CA, "Ed25519")
    other.generate(CA, "Ed25519")
    with pooled(tmp_path, {"": [first], "b": [other]}) as it:
        it.expected[""][CA] = it.expected["b"][CA] = spki
        eventually(it.pool, well(it.pool, ""))
        eventually(it.pool, lambda: "not the recorded one" in it.pool.statuses()[1].detail)
        outcomes = call(it.pool, signing(CA, "", "b", count=100))
        assert all(isinstance(outcome, bytes) for outcome in outcomes)
        assert other.made == 0
        other._keys = first._keys
        eventually(it.pool, well(it.pool, "", "b"))


def test_a_replica_without_the_key_stays_out(tmp_path: Path) -> None:
    first, other = Erring("first"), SoftwareDriver("other")
    _, spki, _ = first.generate(CA, "Ed25519")
    with pooled(tmp_path, {"": [first], "b": [other]}) as it:
        it.expected["b"][CA] = spki
        eventually(it.pool, lambda: "lacks key 'ca'" in it.pool.statuses()[1].detail)
        eventually(it.pool, well(it.pool, ""))


def test_a_silent_process_delays_and_harms_no_call(tmp_path: Path) -> None:
    first, second = replicas()
    first.pause = threading.Event()
    with pooled(tmp_path, {"": [first], "b": [second]}, call_seconds=0.2) as it:
        eventually(it.pool, well(it.pool, "", "b"))
        outcomes = call(it.pool, signing(CA, "", "b", count=40))
        assert all(isinstance(outcome, bytes) for outcome in outcomes)
        assert not well(it.pool, "", "b")(), "who is silent gets nothing more"
        assert it.pool.links("")[0].waiting, "nobody had to end it first"
        first.pause.set()
        eventually(it.pool, well(it.pool, "", "b"))


def test_a_silent_process_is_waited_for_where_there_is_no_other(tmp_path: Path) -> None:
    first, _ = replicas()
    first.pause = threading.Event()
    with pooled(tmp_path, {"": [first]}, call_seconds=0.1) as it:
        eventually(it.pool, well(it.pool, ""))
        timer = threading.Timer(0.5, first.pause.set)
        timer.start()
        (outcome,) = call(it.pool, signing(CA, ""))
        timer.join()
        assert isinstance(outcome, bytes)


def test_processes_that_end_lose_no_call(tmp_path: Path) -> None:
    first, second = replicas()
    with pooled(tmp_path, {"": [first], "b": [second]}) as it:
        eventually(it.pool, well(it.pool, "", "b"))
        jobs = signing(CA, "", "b", count=2000)
        first.when[100] = threading.Thread(target=it.served[""][0].end)
        outcomes = call(it.pool, jobs)
        first.when[100].join()
        assert outcomes == [first.sign(CA, b"message %d" % at) for at in range(2000)]
        it.served[""][0].start()
        eventually(it.pool, well(it.pool, "", "b"))


def test_a_token_that_was_well_is_waited_for_a_moment(tmp_path: Path) -> None:
    first, _ = replicas()
    with pooled(tmp_path, {"": [first]}) as it:
        eventually(it.pool, well(it.pool, ""))
        it.served[""][0].end()
        back = threading.Timer(0.3, it.served[""][0].start)
        back.start()
        (outcome,) = call(it.pool, signing(CA, ""))
        back.join()
        assert isinstance(outcome, bytes)


def test_a_token_that_is_away_for_long_holds_nobody_up(tmp_path: Path) -> None:
    first, second = replicas()
    with pooled(tmp_path, {"": [first], "b": [second]}) as it:
        eventually(it.pool, well(it.pool, "", "b"))
        it.served["b"][0].end()
        time.sleep(GRACE_S / 2)
        only_there = signing(CA, "b", count=10)
        (*failed, made) = call(it.pool, [*only_there, *signing(CA, "")])
        assert all(isinstance(outcome, TokenUnavailableError) for outcome in failed)
        assert "no process serves it" in str(failed[0])
        assert isinstance(made, bytes)


def test_what_the_token_does_not_know_names_itself(tmp_path: Path) -> None:
    first, _ = replicas()
    with pooled(tmp_path, {"": [first]}) as it:
        (outcome,) = call(it.pool, signing(CA, "gone"))
        assert isinstance(outcome, TokenUnavailableError)
        assert "'gone'" in str(outcome)
        with pytest.raises(UnsupportedError, match="'gone'"):
            it.pool.driver("gone")


def test_a_call_that_kills_is_given_up_and_takes_no_other_with_it(tmp_path: Path) -> None:
    class Mortal(Erring):
        """Ends its connection at a poisonous message."""

        kills = 0

        def sign(self, label: KeyLabel, message: bytes) -> bytes:
            if message == b"message 7":
                self.kills += 1
                raise PinRefusedError("as if it ended")
            return super().sign(label, message)

    driver = Mortal()
    driver.generate(CA, "Ed25519")
    with pooled(tmp_path, {"": [driver]}) as it:
        served = it.served[""][0]
        eventually(it.pool, well(it.pool, ""))
        stop = threading.Event()

        def keep_alive() -> None:
            while not stop.wait(0.01):
                if not served.alive:
                    served.start()

        keeper = threading.Thread(target=keep_alive)
        keeper.start()
        try:
            outcomes = call(it.pool, signing(CA, "", count=20))
        finally:
            stop.set()
            keeper.join()
        assert [at for at, made in enumerate(outcomes) if not isinstance(made, bytes)] == [7]
        assert isinstance(outcomes[7], TokenUnavailableError)
        assert driver.kills == MOST_DEATHS


def test_large_batches_yield(tmp_path: Path) -> None:
    first, second = replicas()
    with pooled(tmp_path, {"": [first], "b": [second]}) as it:
        eventually(it.pool, well(it.pool, "", "b"))
        first.pause = second.pause = threading.Event()
        work = it.pool.perform(signing(CA, "", "b", count=10))
        for _ in range(3):
            next(work)  # others are told what they ask, while both tokens are silent
        first.pause.set()
        assert all(isinstance(outcome, bytes) for outcome in drained(work))


def test_calls_of_megabytes_go_through_and_too_large_ones_are_told(tmp_path: Path) -> None:
    first, second = replicas()
    with pooled(tmp_path, {"": [first], "b": [second]}) as it:
        eventually(it.pool, well(it.pool, "", "b"))
        jobs = [
            Job(("", "b"), SignCall(CA, bytes(size))) for size in (3 << 20, 9 << 20, 5 << 20, 1)
        ]
        large, too_large, larger, small = call(it.pool, jobs)
        assert large == first.sign(CA, bytes(3 << 20))
        assert larger == first.sign(CA, bytes(5 << 20))
        assert isinstance(small, bytes)
        assert isinstance(too_large, UnsupportedError)
        assert "too large" in str(too_large)


def test_replicas_share_the_work(tmp_path: Path) -> None:
    first, second = replicas()
    with pooled(tmp_path, {"": [first], "b": [second]}) as it:
        eventually(it.pool, well(it.pool, "", "b"))
        call(it.pool, signing(CA, "", "b", count=4))
        assert (first.made, second.made) == (2, 2)
        call(it.pool, signing(CA, "", "b"))
        assert first.made == 3, "a single call goes to the first place"


def test_a_stranger_in_the_place_of_a_process(tmp_path: Path) -> None:
    first = twin(SoftwareDriver(), "first")
    with pooled(tmp_path, {"": [first]}) as it:
        eventually(it.pool, well(it.pool, ""))
        link = it.pool.links("")[0]
        assert link.sock is not None
        link._received.feed(b"\xff\xff\xff\xff")  # a frame of 4 GiB
        it.served[""][0].end()
        eventually(it.pool, well(it.pool))
        it.served[""][0].start()
        eventually(it.pool, well(it.pool, ""))
