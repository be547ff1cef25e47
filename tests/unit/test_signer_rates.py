"""How much a key signs: buckets by key and purpose, over time and over restarts."""

import time
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_drivers.core import SignerCore
from hsm_drivers.errors import HsmError, RateExceededError
from hsm_drivers.journal import MAX_BATCH, Intent, Journal
from hsm_drivers.ports import KeyLabel, KeyRate, Purpose, Statement
from hsm_drivers.rates import HOUR, Rates
from hsm_drivers.software import SoftwareDriver
from hsm_drivers.state import SignerState
from hsm_drivers.tokens import SingleToken
from tests.support.signer import CA, CA_SPEC, CHECKERS, LOG_SPEC, certificate, checkpoint, crl

NOW = 1_767_225_600
OTHER = KeyLabel("other")
LIMITS = {Purpose.CERTIFICATE: 60, Purpose.CRL: 3_600}
OTHERS = Statement(OTHER, Purpose.CERTIFICATE, b"tbs")


def known(_: KeyLabel) -> bool:
    return True


def refused(rates: Rates, statements: list[Statement], now: float) -> list[int]:
    found = rates.refusals(statements, now, known)
    assert all(isinstance(error, RateExceededError) for error in found.values())
    return sorted(found)


def test_an_hours_worth_at_once_then_evenly() -> None:
    rates = Rates(LIMITS)
    assert refused(rates, [certificate()] * 60, 0) == []
    assert refused(rates, [certificate()], 0) == [0]
    assert refused(rates, [certificate()], 59.9) == [0]
    assert refused(rates, [certificate()] * 2, 60) == [1]
    assert refused(rates, [certificate()] * 61, 60 + HOUR) == [60]
    assert refused(rates, [certificate()] * 61, 60 + 30 * HOUR) == [60], "no more than an hour's"


def test_the_last_of_a_batch_are_refused() -> None:
    rates = Rates({Purpose.CERTIFICATE: 2})
    batch = [certificate(), crl(b"1"), certificate(), OTHERS, certificate(), certificate()]
    assert refused(rates, batch, 0) == [4, 5]


def test_a_flood_of_certificates_leaves_lists_heads_and_other_keys_alone() -> None:
    rates = Rates(LIMITS)
    assert len(refused(rates, [certificate()] * 1_000, 0)) == 940
    assert refused(rates, [crl(b"1"), checkpoint(1), OTHERS], 0) == []


def test_what_is_not_named_has_no_limit_and_what_is_unknown_no_bucket() -> None:
    rates = Rates(LIMITS)
    assert refused(rates, [checkpoint(1)] * 100_000, 0) == []
    strangers = [Statement(KeyLabel(f"k{n}"), Purpose.CRL, b"") for n in range(5_000)]
    assert rates.refusals(strangers, 0, lambda _: False) == {}
    assert rates.now(0) == ()


def test_the_buckets_tell_how_they_stand() -> None:
    rates = Rates(LIMITS)
    refused(rates, [certificate()] * 70 + [crl(b"1")], 0)
    assert rates.now(120) == (
        KeyRate(CA, Purpose.CERTIFICATE, 60, 2, 10),
        KeyRate(CA, Purpose.CRL, 3_600, 3_600, 0),
    )


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 2 * HOUR), st.integers(1, 200)), max_size=40))
def test_no_window_holds_more_than_the_burst_and_its_time(asked: list[tuple[float, int]]) -> None:
    """The bound that is promised: in any time t, at most limit + t * limit / hour."""
    rates, now = Rates({Purpose.CERTIFICATE: 100}), 0.0
    granted: list[tuple[float, int]] = []
    for pause, count in asked:
        now += pause
        granted.append((now, count - len(refused(rates, [certificate()] * count, now))))
    for first, (begin, _) in enumerate(granted):
        total = 0
        for moment, count in granted[first:]:
            total += count
            assert total <= 100 + (moment - begin) * 100 / HOUR + 1e-6


def journal_of(path: Path, *batches: tuple[int, int]) -> Journal:
    journal = Journal(path)
    for moment, count in batches:
        intents = [Intent(CA, Purpose.CERTIFICATE, bytes(32), "01")] * count
        for start in range(0, count, MAX_BATCH):
            journal.append(intents[start : start + MAX_BATCH], moment)
    return journal


def test_a_restart_fills_no_bucket(tmp_path: Path) -> None:
    journal = journal_of(tmp_path / "journal", (NOW - 2 * HOUR, 50), (NOW - 10, 45))
    signed = journal.signed_since(NOW - HOUR)
    journal.close()
    assert signed == {(CA, Purpose.CERTIFICATE): 45}
    rates = Rates(LIMITS, signed)
    assert refused(rates, [certificate()] * 20, 0) == [15, 16, 17, 18, 19]
    assert refused(Rates(LIMITS, {(CA, Purpose.CERTIFICATE): 119}), [certificate()], 0) == [0]


def test_the_last_hour_is_counted_however_long_the_journal(tmp_path: Path) -> None:
    """The clock may have been ahead, and been set back: what lies in the future is not old."""
    many = 9 * MAX_BATCH + 17
    journal = journal_of(
        tmp_path / "journal", (0, 5), (NOW - 2 * HOUR, 20_000), (NOW + HOUR, 3), (NOW - 5, many)
    )
    signed = journal.signed_since(NOW - HOUR)
    journal.close()
    assert signed == {(CA, Purpose.CERTIFICATE): many + 3}


def kinds(outcomes: list[bytes | HsmError]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


def test_the_signer_refuses_beyond_the_rate(tmp_path: Path) -> None:
    """What is refused is not journalled; lists and heads of the same batch are signed."""
    with SignerState(tmp_path / "state") as state:
        rates = Rates({Purpose.CERTIFICATE: 3, Purpose.CRL: 3_600})
        core = SignerCore(
            SingleToken(SoftwareDriver()), CHECKERS, state, ceremony=True, rates=rates
        )
        core.generate(CA_SPEC)
        core.generate(LOG_SPEC)
        before = int(time.time())
        batch = [certificate(b"%d" % n) for n in range(5)]
        outcomes = core.sign([*batch, crl(b"1"), checkpoint(1)])
        assert kinds(outcomes) == [bytes] * 3 + [RateExceededError] * 2 + [bytes] * 2
        assert "certificates_per_hour" in str(outcomes[3])
        entries = state.journal.entries(0, 10)
        assert len(entries) == 5
        assert all(before <= entry.time <= time.time() for entry in entries)
        found = core.health().rates[0]
        assert (found.key, found.per_hour, found.left, found.refused) == (CA, 3, 0, 2)
        since = state.journal.signed_since(before)
        again = SignerCore(
            SingleToken(SoftwareDriver()), CHECKERS, state, rates=Rates(LIMITS, since)
        )
        assert since[CA, Purpose.CERTIFICATE] == 3
        again.sign([certificate(b"x")])
        assert again.health().rates[0].left == 56


def test_refused_certificates_cost_next_to_nothing() -> None:
    """A loose bound, far above the true cost: no work by statement that grows with the batch."""
    rates = Rates({Purpose.CERTIFICATE: 10**9})
    batch = [certificate(b"%d" % n) for n in range(MAX_BATCH)]
    spent = min(_seconds(rates, batch) for _ in range(5))
    assert spent / MAX_BATCH < 5e-6


def _seconds(rates: Rates, batch: list[Statement]) -> float:
    started = time.perf_counter()
    rates.refusals(batch, started, known)
    return time.perf_counter() - started


def test_a_refill_is_not_lost_to_small_steps() -> None:
    """Asked again and again, at any speed, the bucket still fills."""
    rates = Rates(LIMITS, {(CA, Purpose.CERTIFICATE): 60})
    granted = sum(not refused(rates, [certificate()], at / 512) for at in range(121 * 512))
    assert granted == 2


def test_who_is_refused_is_told_when_the_next_will_be_there() -> None:
    for limit, now, wait in ((60, 0.0, "60.0"), (60, 30.0, "30.0"), (3_600, 0.5, "0.5")):
        rates = Rates({Purpose.CERTIFICATE: limit})
        refused(rates, [certificate()] * limit, 0)
        found = rates.refusals([certificate()], now, known)
        assert f"The next in {wait} s;" in str(found[0])


def test_refusals_are_added_up() -> None:
    rates = Rates(LIMITS)
    for asked in (62, 3, 1):
        refused(rates, [certificate()] * asked, 0)
    assert rates.now(0)[0].refused == 2 + 3 + 1
