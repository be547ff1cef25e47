"""One module: its mutants, each judged the quicker way that can judge it."""

import json
import os
import tempfile
import time
from pathlib import Path

from scripts.mutate.inplace import InPlace
from scripts.mutate.mutants import Mutant, mutants
from scripts.mutate.records import Target, survived, write
from scripts.mutate.trials import ROOT, Bench, Outcome, fix_examples, silence


def judge(target: Target, *, again: bool) -> None:
    """Judge a module's mutants and write down what became of them.

    Args:
        target: The module.
        again: Only those that survived the last time; the others are taken as killed.

    Raises:
        RuntimeError: Its tests fail without a change.
    """
    begun = time.monotonic()
    fix_examples()
    found = mutants(ROOT / target.path, target.within)
    names = survived(target.path) if again else None
    taken = [(it, Outcome.KILLED) for it in found if names is not None and it.name not in names]
    chosen = [it for it in found if names is None or it.name in names]
    judged = zip(chosen, _outcomes(target, chosen), strict=True)
    write(target.path, [*judged, *taken], time.monotonic() - begun)


def _outcomes(target: Target, chosen: list[Mutant]) -> list[Outcome]:
    with tempfile.TemporaryDirectory() as scratch:
        inside = iter(_in_place(target, [it for it in chosen if it.function], Path(scratch)))
    outcomes = [next(inside) if mutant.function else None for mutant in chosen]
    if None not in outcomes:
        return [outcome for outcome in outcomes if outcome is not None]
    bench = Bench(target.module, ROOT / target.path, target.tests)
    seconds = bench.prepare()
    return [
        outcome or bench.judge(mutant.source, seconds)
        for mutant, outcome in zip(chosen, outcomes, strict=True)
    ]


def _in_place(target: Target, chosen: list[Mutant], scratch: Path) -> list[Outcome | None]:
    """In a fork: this process has to stay one that has imported none of the project."""
    told = scratch / "outcomes.json"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            silence()
            plugin = InPlace(target.module, ROOT / target.path, chosen)
            told.write_text(json.dumps(plugin.run(target.tests, scratch)))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"{target.path}: its tests fail without a mutant: {target.tests}")
    return [None if it is None else Outcome(it) for it in json.loads(told.read_text())]
