"""`make fuzz SECONDS=600 [TARGET=csr]`: every target for so long, guided by coverage (Atheris).

Corpora are kept in `var/fuzz/<target>` and grow from run to run; an input that breaks something is
left beside them as `<target>-crash-…`. Exit status 1 if there was one.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.fuzz_targets import Target

CODE = ["hsm_drivers", "kms.api", "kms.audit", "kms.device", "kms.tlog", "kms.wire", "pki"]
"""What is instrumented: a new branch taken there is what makes an input worth keeping."""
HOME = Path("var/fuzz")
INPUT_SECONDS = 10
MEMORY_MB = 2048


def main() -> None:
    """Run all targets, each in a process of its own, or be one of these."""
    parser = argparse.ArgumentParser(prog="python -m scripts.fuzz")
    parser.add_argument("--seconds", type=int, default=600, help="of each target")
    parser.add_argument("--target", help="only this one")
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args()
    if options.here:
        _fuzz(options.target, options.seconds)
    chosen = [options.target] if options.target else list(_targets())
    results = [_run(name, options.seconds) for name in chosen]
    sys.exit(0 if all(results) else 1)


def _targets() -> "dict[str, Target]":
    from tests.support.fuzz_targets import TARGETS  # noqa: PLC0415 - instrumented while imported

    return TARGETS


def _run(name: str, seconds: int) -> bool:
    """One target in a process of its own; tells what it did, answers whether nothing broke."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "scripts.fuzz", "--here", "--target", name]
    done = subprocess.run(
        [*command, "--seconds", str(seconds)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    result = Result.read(done.stderr)
    print(f"{name:12} {time.monotonic() - begun:6.0f} s {result}", flush=True)
    if done.returncode:
        print(done.stdout[-3000:] + done.stderr[-3000:], flush=True)
    return done.returncode == 0


@dataclass(frozen=True, slots=True)
class Result:
    """What libFuzzer's report says.

    Attributes:
        inputs: How many were tried.
        branches: How many were seen taken.
        corpus: Inputs that took a new one.
    """

    inputs: int
    branches: int
    corpus: int

    @classmethod
    def read(cls, report: str) -> "Result":
        """The last line of progress; zeros without one."""
        found = re.findall(r"#(\d+)\s+\w+\s+cov: (\d+) ft: \d+ corp: (\d+)/", report)
        last = found[-1] if found else ("0", "0", "0")
        return cls(*map(int, last))

    def __str__(self) -> str:
        return f"{self.inputs:9} inputs {self.branches:6} branches {self.corpus:6} kept"


def _fuzz(name: str, seconds: int) -> None:
    """Feed one target until the time is over; ends the process."""
    import atheris  # noqa: PLC0415 - not needed to run this in other processes

    with atheris.instrument_imports(include=CODE):
        target = _targets()[name]
    corpus = HOME / name
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as seeds:
        for number, seed in enumerate(target.seeds()):
            (Path(seeds) / str(number)).write_bytes(seed)
        arguments = [
            f"-max_total_time={seconds}",
            f"-max_len={target.longest}",
            f"-timeout={INPUT_SECONDS}",
            f"-rss_limit_mb={MEMORY_MB}",
            f"-artifact_prefix={HOME}/{name}-",
        ]
        atheris.Setup([sys.argv[0], *arguments, str(corpus), seeds], target.one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
