"""What is mutated with which tests, which survivors are explained, and what is written down."""

import json
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from scripts.mutate.mutants import Mutant
from scripts.mutate.trials import ROOT, Outcome

KEPT = ROOT / "tests" / "mutation"
WRITTEN = ROOT / "var" / "mutation"
EACH = 0.85
TOGETHER = 0.90


@dataclass(frozen=True, slots=True)
class Target:
    """One line of `tests/mutation/targets.toml`.

    Attributes:
        path: Of the module, from the root.
        tests: Arguments for pytest: those that concern it, and are quick.
        within: Definitions to be changed; empty for all.
    """

    path: str
    tests: tuple[str, ...]
    within: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """Dotted name."""
        return self.path.removesuffix(".py").replace("/", ".")


def targets() -> list[Target]:
    """All of them."""
    rows = tomllib.loads((KEPT / "targets.toml").read_text())["target"]
    return [Target(row["path"], tuple(row["tests"]), tuple(row.get("within", ()))) for row in rows]


def explained(path: str) -> dict[tuple[str, str, str], str]:
    """Why survivors of a module are none of the tests' business, by the mutant's name.

    Raises:
        ValueError: One is named twice, or without a reason.
    """
    found: dict[tuple[str, str, str], str] = {}
    for row in tomllib.loads((KEPT / "survivors.toml").read_text()).get("survivor", []):
        if row["path"] == path:
            name = (row["where"], row["before"], row["after"])
            if name in found or not row["why"].strip():
                raise ValueError(f"survivor without a reason, or listed twice: {path} {name}")
            found[name] = row["why"]
    return found


@dataclass(frozen=True, slots=True)
class Survivor:
    """A change that no test noticed."""

    line: int
    where: str
    before: str
    after: str

    @property
    def name(self) -> tuple[str, str, str]:
        """As `Mutant.name`."""
        return self.where, self.before, self.after


@dataclass(frozen=True, slots=True)
class Result:
    """What became of the mutants of one module."""

    path: str
    total: int
    survivors: tuple[Survivor, ...]
    unexplained: tuple[Survivor, ...]
    stale: tuple[tuple[str, str, str], ...]

    @classmethod
    def read(cls, path: str) -> "Result":
        """Hold what was written last against the survivors that are explained."""
        document = json.loads(_written(path).read_text())
        survivors = tuple(Survivor(**row) for row in document["survivors"])
        reasons = explained(path)
        names = {survivor.name for survivor in survivors}
        return cls(
            path,
            document["mutants"],
            survivors,
            tuple(survivor for survivor in survivors if survivor.name not in reasons),
            tuple(name for name in reasons if name not in names),
        )

    @property
    def killed(self) -> int:
        """Those that were noticed."""
        return self.total - len(self.survivors)

    @property
    def holds(self) -> bool:
        """Whether enough were killed and every survivor is explained, by nothing superfluous."""
        return self.killed >= EACH * self.total and not self.unexplained and not self.stale

    def row(self) -> str:
        """A line of the table."""
        share = 100 * self.killed / self.total if self.total else 100.0
        return (
            f"{self.path:38} {self.total:7} {self.killed:7} {len(self.survivors):9}"
            f" {len(self.unexplained):12} {share:7.1f} %"
        )


HEADER = f"{'module':38} mutants  killed  survived  unexplained   killed"


def survived(path: str) -> frozenset[tuple[str, str, str]] | None:
    """Names of the mutants that survived the last time; None if there was none."""
    try:
        document = json.loads(_written(path).read_text())
    except FileNotFoundError:
        return None
    return frozenset(Survivor(**row).name for row in document["survivors"])


def write(path: str, judged: Sequence[tuple[Mutant, Outcome]], seconds: float) -> None:
    """Keep what became of a module's mutants in `var/mutation/<module>.json`."""
    counts = Counter(outcome for _, outcome in judged)
    document = {
        "path": path,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": _commit(),
        "seconds": round(seconds, 1),
        "mutants": len(judged),
        "outcomes": {outcome.value: counts[outcome] for outcome in Outcome},
        "survivors": [_row(it) for it, outcome in judged if outcome is Outcome.SURVIVED],
    }
    WRITTEN.mkdir(parents=True, exist_ok=True)
    _written(path).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _written(path: str) -> Path:
    return WRITTEN / (path.removesuffix(".py").replace("/", ".") + ".json")


def report() -> str:
    """Markdown of what was written last about every module that is a target."""
    lines = [
        "| module | mutants | killed | survived | share | date | commit |",
        "|---|---|---|---|---|---|---|",
    ]
    total = killed = 0
    for target in targets():
        if not _written(target.path).exists():
            continue
        result, document = Result.read(target.path), json.loads(_written(target.path).read_text())
        total, killed = total + result.total, killed + result.killed
        share = f"{100 * result.killed / result.total:.1f} %"
        lines.append(
            f"| `{target.path}` | {result.total} | {result.killed} | {len(result.survivors)} |"
            f" {share} | {document['date'][:10]} | {document['commit']} |"
        )
    share = f"{100 * killed / max(total, 1):.1f} %"
    lines.append(f"| together | {total} | {killed} | {total - killed} | {share} | | |")
    return "\n".join(lines) + "\n"


def holds_together(results: Iterable[Result]) -> bool:
    """Whether enough of all mutants were killed."""
    judged = list(results)
    return sum(it.killed for it in judged) >= TOGETHER * sum(it.total for it in judged)


def _row(mutant: Mutant) -> dict[str, str | int]:
    return {
        "line": mutant.line,
        "where": mutant.where,
        "before": mutant.before,
        "after": mutant.after,
    }


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
