"""`make bench` as a whole, as short as it goes: every row measured, nothing left behind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ROWS = {
    "raw C signing, P-256",
    "signer through its socket, batches of 100",
    "enrolments of device-identity, batches of 100",
    "enrolments of device, batches of 100",
    "single enrolments, 32 connections",
    "ledger alone, 100 devices a commit",
    "ledger alone, a commit each",
}
ENROLMENTS = {name for name in ROWS if "enrolments" in name}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], Path]:
    """What was printed, what was written, and the directory that was worked in."""
    folder = tmp_path_factory.mktemp("bench")
    raw_sign, output = folder / "raw_sign", folder / "bench.json"
    source = ROOT / "scripts" / "bench" / "raw_sign.c"
    subprocess.run(["gcc", "-std=c11", "-O2", "-o", raw_sign, source, "-ldl"], check=True)
    work = folder / "work"
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "scripts" / "bench" / "bench.py"),
            *("--rounds", "1", "--seconds", "0.3"),
            *("--raw-sign", raw_sign, "--output", output, "--scratch", work),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(output.read_text()), work


def test_every_row_is_measured(bench: tuple[str, dict[str, Any], Path]):
    table, found, _ = bench
    assert set(found["rows"]) == ROWS
    for name, row in found["rows"].items():
        assert name in table
        assert row["rate"] > 0
        assert row["to_raw_range"][0] <= row["to_raw"] <= row["to_raw_range"][1]
    assert found["rows"]["raw C signing, P-256"]["to_raw"] == 1
    for name in ENROLMENTS:
        row = found["rows"][name]
        assert row["requests"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert 0 < row["client_share"] < 1


def test_the_stages_make_up_the_workers_time(bench: tuple[str, dict[str, Any], Path]):
    _, found, _ = bench
    stages = found["stages"]["stages_us"]
    assert sum(stages.values()) == pytest.approx(found["stages"]["cpu_us"])
    idle = {name for name, spent in stages.items() if spent <= 0 and name != "challenge"}
    assert not idle, "stages that were never entered: their functions have moved"


def test_conditions_are_recorded_and_nothing_is_left(bench: tuple[str, dict[str, Any], Path]):
    _, found, work = bench
    assert {"cpu", "cores", "system", "kernel", "python", "softhsm", "packages"} <= set(
        found["machine"]
    )
    assert list(work.iterdir()) == []
    running = subprocess.run(
        ["pgrep", "-f", str(work)], capture_output=True, text=True, check=False
    )
    assert running.stdout == ""
