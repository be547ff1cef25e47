"""Trials that belong to no algorithm: random numbers, labels, transferable keys, many at once."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack

from hsm_drivers.compat.bench import Bench, agree, rate, refused, step
from hsm_drivers.compat.report import AlgorithmResult, Concurrency, Step
from hsm_drivers.compat.trials import use_once
from hsm_drivers.errors import HsmError, KeyNotFoundError, TokenFailureError, UnsupportedError
from hsm_drivers.ports import Driver, KeyLabel
from policies.algorithms import Kind, algorithm

_DRAWS, _DRAWN = 256, 32
_SIGMAS = 6
"""A sound generator strays so far once in half a thousand million runs."""

Opener = Callable[[], AbstractContextManager[Driver]]
"""Opens the token once more, in a process of its own, with a login of its own."""


def general_steps(bench: Bench, results: Sequence[AlgorithmResult]) -> list[Step]:
    """Random numbers, and keys that can be transferred."""
    signing = next((one for one in results if one.good and one.kind is Kind.SIGNATURE), None)
    wrapping = next((one for one in results if one.good and one.kind is Kind.WRAP), None)
    steps = [step("make random bytes", lambda: _random(bench.driver))]
    if signing is not None:
        steps += _transferable(bench, signing.algorithm, wrapping)
    return steps


def refusals(bench: Bench, results: Sequence[AlgorithmResult]) -> list[Step]:
    """What a token has to refuse whatever keys it makes."""
    nobody = bench.label()
    found = [
        refused(
            "use a key that is not there",
            lambda: bench.driver.sign(nobody, b"message"),
            (KeyNotFoundError,),
        ),
        refused("destroy it", lambda: bench.driver.destroy(nobody), (KeyNotFoundError,)),
    ]
    good = next((one for one in results if one.good), None)
    if good is None:
        return found
    key = bench.make(good.algorithm)
    taken = refused(
        "make a second key of the same label",
        lambda: bench.driver.generate(key.label, good.algorithm),
        (TokenFailureError,),
    )
    return [*found, taken, step("destroy the first", lambda: bench.destroy(key.label))]


def _random(driver: Driver) -> str:
    for size in (1, 16, 1000):
        agree(that=len(driver.random(size)) == size, otherwise=f"not {size} bytes, as asked")
    drawn = [driver.random(_DRAWN) for _ in range(_DRAWS)]
    agree(that=len(set(drawn)) == _DRAWS, otherwise="the same bytes twice")
    bits = 8 * _DRAWN * _DRAWS
    ones = sum(int.from_bytes(one, "big").bit_count() for one in drawn)
    strays = abs(2 * ones - bits)  # of a fair coin: standard deviation sqrt(bits)
    agree(that=strays**2 < _SIGMAS**2 * bits, otherwise=f"{ones} of {bits} bits are ones")
    return f"{_DRAWS} times {_DRAWN} bytes, all different, {100 * ones / bits:.1f} % ones"


def _transferable(bench: Bench, signing: str, wrapping: AlgorithmResult | None) -> list[Step]:
    """A key that may move, and moves under no wrapping key that nobody made trusted (P2)."""
    made: list[KeyLabel] = []

    def make() -> str:
        key = bench.make(signing, transferable=True)
        made.append(key.label)
        right = key.attributes.transferable()
        agree(that=right, otherwise=f"it is not transferable: {key.attributes}")
        return "extractable under trusted wrapping keys alone"

    steps = [step("make a transferable key", make)]
    if not made:
        return steps
    if wrapping is not None:
        kek = bench.make(wrapping.algorithm)
        steps.append(
            refused(
                "take it out under a key that is not trusted",
                lambda: bench.driver.export_key(made[0], kek.label),
                (UnsupportedError, TokenFailureError),
            )
        )
        bench.destroy(kek.label)
    return [*steps, step("destroy it", lambda: bench.destroy(made[0]))]


def try_together(
    bench: Bench, opener: Opener | None, processes: int, best: str | None, seconds: float
) -> Concurrency:
    """The same key used by several processes at once, each of which makes and destroys one, too."""
    if opener is None or processes < 2 or best is None:
        why = "not tried: " + (
            "no algorithm works" if best is None else "the profile allows one process"
        )
        return Concurrency(1, None, None, (), why)
    row, key = algorithm(best), bench.make(best)
    alone = rate(use_once(bench, row, key), seconds)
    errors: set[str] = set()
    rates: list[float] = []
    with ExitStack() as stack:
        benches = [Bench(stack.enter_context(opener())) for _ in range(processes)]
        start = threading.Barrier(processes)

        def work(own: Bench) -> None:
            try:
                start.wait()
                rates.append(rate(use_once(own, row, key), seconds))
                own.destroy(own.make(best).label)
            except HsmError as error:
                errors.add(str(error))
            finally:
                own.sweep()

        threads = [threading.Thread(target=work, args=(own,)) for own in benches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    bench.destroy(key.label)
    done = f"{best}, {processes} processes with one key; each makes and destroys another, too"
    return Concurrency(
        processes, round(alone, 1), round(sum(rates), 1), tuple(sorted(errors)), done
    )
