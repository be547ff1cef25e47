"""One module: its mutants, each judged the quicker way that can judge it."""

import json
import os
import tempfile
import time
from pathlib import Path

from scripts.mutate.inplace import InPlace
from scripts.mutate.mutants import Mutant, mutants
from scripts.mutate.records import Target, write
from scripts.mutate.trials import ROOT, Bench, Outcome, fix_examples, quiet_run


def judge(target: Target) -> None:
    """Judge a module's mutants and write down what became of them.

    Raises:
        RuntimeError: Its tests fail without a change.
    """
    begun = time.monotonic()
    fix_examples()
    found = mutants(ROOT / target.path, target.within)
    with tempfile.TemporaryDirectory() as scratch:
        outcomes = _in_place(target, [it for it in found if it.function], Path(scratch))
    inside = iter(outcomes)
    judged = [(mutant, next(inside) if mutant.function else None) for mutant in found]
    bench = Bench(target.module, ROOT / target.path, target.tests)
    seconds = bench.prepare() if any(outcome is None for _, outcome in judged) else 0.0
    write(
        target.path,
        [(it, outcome or bench.judge(it.source, seconds)) for it, outcome in judged],
        time.monotonic() - begun,
    )


def _in_place(target: Target, chosen: list[Mutant], scratch: Path) -> list[Outcome | None]:
    """In a fork: this process has to stay one that has imported none of the project."""
    told = scratch / "outcomes.json"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            quiet_run()
            plugin = InPlace(target.module, ROOT / target.path, chosen)
            told.write_text(json.dumps(plugin.run(target.tests, scratch)))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"{target.path}: its tests fail without a mutant: {target.tests}")
    return [None if it is None else Outcome(it) for it in json.loads(told.read_text())]
