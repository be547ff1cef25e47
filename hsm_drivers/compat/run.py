"""The self-test as a whole: in order, with every test key destroyed at the end, come what may."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from hsm_drivers.compat.bench import MARK, Bench
from hsm_drivers.compat.deviations import deviations
from hsm_drivers.compat.general import Opener, general_steps, refusals, try_together
from hsm_drivers.compat.report import (
    AlgorithmResult,
    Outcome,
    ProfileUsed,
    Report,
    Step,
)
from hsm_drivers.compat.roles import roles
from hsm_drivers.compat.trials import tried, try_algorithm
from hsm_drivers.errors import KeyNotFoundError
from hsm_drivers.ports import Driver, KeyLabel
from hsm_drivers.surveys import Survey, TokenFacts
from hsm_drivers.vendor import Profile
from policies.algorithms import Kind

SAFE_PROCESSES = 4
"""How many processes are tried together, where the profile bears any number."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the self-test is run.

    Attributes:
        seconds: How long each rate is measured.
        opener: Opens the token once more; None where only one can.
        survey: What the module says of itself.
        logins: What was found out about logging in.
        conditions: Where and by which way, for whoever reads the rates.
        progress: Told what is tried next.
        afterwards: Asked in the end what else was seen of the token.
    """

    seconds: float = 0.5
    opener: Opener | None = None
    survey: Survey | None = None
    logins: tuple[Step, ...] = ()
    conditions: str = ""
    progress: Callable[[str], None] = lambda _: None
    afterwards: Callable[[], Sequence[Step]] = tuple


def examine(driver: Driver, profile: Profile, options: Options) -> Report:
    """Try everything.

    Its keys are destroyed even where it is interrupted; what a kill leaves, `clean` finds.

    Raises:
        HsmError: The token is gone, or fails outside of what is tried.
    """
    made = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    before = leftovers(driver)
    bench = Bench(driver)
    try:
        results = _algorithms(bench, options)
        options.progress("random numbers, labels, transferable keys")
        general = [*options.logins, *general_steps(bench, results)]
        wrong = refusals(bench, results)
        options.progress("several processes at once")
        best = _quickest(results)
        count = profile.concurrency.processes or SAFE_PROCESSES
        together = try_together(
            bench, options.opener, min(count, SAFE_PROCESSES), best, options.seconds
        )
    finally:
        kept = bench.sweep()
    general += [_swept(kept), *options.afterwards()]
    return Report(
        made=made,
        conditions=options.conditions or _machine(),
        token_label=driver.name,
        profile=ProfileUsed(profile.name, profile.title, profile.tested),
        survey=options.survey,
        token=_facts(options.survey, driver.name),
        algorithms=tuple(results),
        general=tuple(general),
        refusals=tuple(wrong),
        concurrency=together,
        deviations=deviations(profile, results, [*general, *wrong]),
        roles=tuple(roles(results, general, profile)),
        leftovers=before,
    )


def leftovers(driver: Driver) -> tuple[str, ...]:
    """Labels of test keys on the token, of runs that were killed (or go on elsewhere)."""
    return tuple(str(label) for label in driver.labels() if label.startswith(MARK))


def clean(driver: Driver) -> tuple[str, ...]:
    """Destroy all test keys on the token; answers their labels.

    Raises:
        HsmError: One could not be destroyed.
    """
    found = leftovers(driver)
    for label in found:
        try:
            driver.destroy(KeyLabel(label))
        except KeyNotFoundError:  # a half of a pair, gone with the other
            continue
    return found


def _algorithms(bench: Bench, options: Options) -> list[AlgorithmResult]:
    results = []
    for row in tried():
        options.progress(row.name)
        results.append(try_algorithm(bench, row, options.seconds))
    return results


def _quickest(results: Sequence[AlgorithmResult]) -> str | None:
    """A signature algorithm to try together: waiting for others shows best where each is quick."""
    good = [one for one in results if one.good and one.kind is Kind.SIGNATURE]
    return max(good, key=lambda one: one.rate or 0).algorithm if good else None


def _swept(kept: Sequence[str]) -> Step:
    what = "destroy every test key"
    if kept:
        return Step(what, Outcome.BAD, f"left on the token: {', '.join(kept)}")
    return Step(what, Outcome.GOOD, "none is left")


def _facts(survey: Survey | None, label: str) -> TokenFacts | None:
    found = () if survey is None else survey.labelled(label)
    return found[0] if len(found) == 1 else None


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
