"""`make mutate [MODULE=kms/tlog]`: are the security decisions held by tests, line by line?

Every module of `tests/mutation/targets.toml` is changed in every way that `scripts.mutate.mutants`
knows, one change at a time, and its tests run against each. A change that they do not notice has
survived; `tests/mutation/survivors.toml` says why it may. Results go to `var/mutation`. Exit status
1 if a survivor is not explained, an explanation explains nothing, or too few were killed.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from scripts.mutate.judging import judge
from scripts.mutate.mutants import mutants
from scripts.mutate.records import (
    HEADER,
    WRITTEN,
    Result,
    Target,
    holds_together,
    report,
    targets,
)
from scripts.mutate.trials import ROOT


def main() -> None:
    """Judge the chosen modules, one mutant at a time."""
    parser = argparse.ArgumentParser(prog="python -m scripts.mutate")
    parser.add_argument("--module", default="", help="only modules whose path begins so")
    parser.add_argument("--again", action="store_true", help="only what survived the last time")
    parser.add_argument("--count", action="store_true", help="only count the mutants")
    options = parser.parse_args()
    chosen = [target for target in targets() if target.path.startswith(options.module)]
    if not chosen:
        parser.error(f"no module of targets.toml begins with {options.module!r}")
    if options.count:
        for target in chosen:
            print(f"{target.path:38} {len(mutants(ROOT / target.path, target.within)):7}")
        return
    sys.exit(0 if _judge_all(chosen, again=options.again) else 1)


def _judge_all(chosen: Sequence[Target], *, again: bool) -> bool:
    print(HEADER, flush=True)
    results = []
    for target in chosen:
        result = _judge(target, again=again)
        results.append(result)
        print(result.row(), flush=True)
        for mutant in result.unexplained:
            print(f"  {mutant.line}: {mutant.where}: {mutant.before}\n    -> {mutant.after}")
        for where, before, after in result.stale:
            print(f"  explained, but no survivor: {where}: {before}\n    -> {after}")
    (WRITTEN / "report.md").write_text(report())
    killed, total = sum(it.killed for it in results), sum(it.total for it in results)
    print(f"together: {killed} of {total} killed, {100 * killed / total:.1f} %", flush=True)
    return holds_together(results) and all(result.holds for result in results)


def _judge(target: Target, *, again: bool) -> Result:
    """In a fork, which imports what the tests need; what it finds is read from its file."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            judge(target, again=again)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"{target.path} could not be judged")
    return Result.read(target.path)


if __name__ == "__main__":
    main()
