"""`make bench` as a whole, as short as it goes: every row measured, nothing left behind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "scripts" / "bench"
ENROLLING = {
    "enrolments of device-identity, batches of 100",
    "enrolments of device, batches of 100",
    "single enrolments, 32 connections",
    "single enrolments, a commit each",
}
ROWS = ENROLLING | {
    "raw C signing, P-256",
    "signer through its socket, batches of 100",
    "template build + sign, batches of 100",
    "echo of single enrolments, 32 connections",
    "driver, token of 10 objects",
    "driver, token of 10,000 objects",
    "hash tile",
    "hash tile as a static file",
    "checkpoint",
    "checkpoint as a static file",
    "CRL",
    "CRL as a static file",
    "ledger alone, 100 devices a commit",
    "ledger alone, a commit each",
    "signer over a token process, batches of 100",
    "pool, one token",
    "pool, two tokens",
    "pool, 5 ms a signature, one process",
    "pool, 5 ms a signature, 16 processes",
    "raw C HMAC-SHA-256",
    "HMAC through the signer, batches of 100",
    "raw C AES-256-GCM",
    "AES-GCM through the signer, batches of 100",
    "raw C X25519, then ML-KEM-768 in software",
    "MLKEM768-X25519 through the signer, batches of 100",
}
WHERE_INSTALLED = {"CFSSL serve, software key, at its best"}
DEVICES = 300
Bench = tuple[str, dict[str, Any], Path]
"""What was printed, what was written, and the directory that was worked in."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """All rows; neither plots nor a large ledger."""
    return run(tmp_path_factory.mktemp("bench"), "--sweep", "0", "--devices", "0")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """All there is."""
    options = ("--sweep", "0.1", "--devices", str(DEVICES))
    return run(tmp_path_factory.mktemp("whole"), *options)


def run(folder: Path, *options: str) -> Bench:
    raw_sign, output = folder / "raw_sign", folder / "bench.json"
    source = BENCH / "raw_sign.c"
    subprocess.run(["gcc", "-std=c11", "-O2", "-o", raw_sign, source, "-ldl"], check=True)
    work = folder / "work"
    done = subprocess.run(
        [
            *(sys.executable, BENCH / "bench.py", "--rounds", "1", "--seconds", "0.1"),
            *options,
            *("--raw-sign", raw_sign, "--output", output, "--scratch", work),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(output.read_text()), work


@pytest.mark.slow
def test_every_row_is_measured(bench: Bench):
    table, found, _ = bench
    assert set(found["rows"]) - WHERE_INSTALLED == ROWS
    for name, row in found["rows"].items():
        assert name in table
        assert row["rate"] > 0
    for name in ENROLLING:
        row = found["rows"][name]
        assert row["requests"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert 0 < row["client_share"] < 1


@pytest.mark.slow
def test_every_ratio_has_a_figure_or_says_what_to_do(bench: Bench):
    table, found, _ = bench
    assert len(found["ratios"]) == 18
    for ratio in found["ratios"]:
        assert ratio["what"] in table
        assert 0 < ratio["floor"] < ratio["aim"]
        if "missing" in ratio:
            assert ratio["what"].split("÷ ")[1].startswith(("CFSSL", "django-ca"))
            assert ": make bench" in ratio["missing"] or ": apt-get" in ratio["missing"]
        else:
            assert 0 < ratio["least"] <= ratio["measured"] <= ratio["most"]


@pytest.mark.slow
def test_the_echo_is_quicker_than_what_it_stands_for(bench: Bench):
    _, found, _ = bench
    (ratio,) = [item for item in found["ratios"] if "echo" in item["what"]]
    assert ratio["measured"] < 1


@pytest.mark.slow
def test_latencies_are_those_of_devices_that_came_when_they_came(whole: Bench):
    _, found, _ = whole
    assert [point["load"] for point in found["by_load"]] == [0.1, 0.25, 0.5, 0.7, 0.8, 0.9]
    assert [point["size"] for point in found["by_size"]] == [1, 3, 10, 30, 100, 300, 1000]
    for point in found["by_load"]:
        assert 0 < point["p50_ms"] <= point["p99_ms"] <= point["p999_ms"] <= point["most_ms"]


@pytest.mark.slow
def test_the_large_ledger_is_measured_through_the_service(whole: Bench):
    table, found, _ = whole
    scale = found["scale"]
    assert scale["devices"] == DEVICES
    assert scale["revoked"] == DEVICES // 10
    assert scale["log_size"] > DEVICES + DEVICES // 10
    for item in scale["bounds"]:
        assert item["what"] in table
        assert item["measured"] > 0 or item["what"] == "its growth under the last load"
    assert {item["bound"] for item in scale["bounds"]} == {None, 2.0, 5.0, 250.0}


@pytest.mark.slow
def test_a_fail_over_is_measured_under_load(bench: Bench):
    table, found, _ = bench
    over = found["fail_over"]
    assert over["enrolments"] > 0
    assert 0 < over["calm_p99_ms"] <= over["calm_most_ms"]
    assert "fail-over of signing keys at 200 requests/s" in table


@pytest.mark.slow
def test_the_stages_make_up_the_workers_time(bench: Bench):
    _, found, _ = bench
    stages = found["stages"]["stages_us"]
    assert sum(stages.values()) == pytest.approx(found["stages"]["cpu_us"])
    of_others = {"challenge", "verify"}  # of KEM slots; signatures are verified beside the worker
    idle = {name for name, spent in stages.items() if spent <= 0} - of_others
    assert not idle, "stages that were never entered: their functions have moved"


@pytest.mark.slow
def test_conditions_are_recorded_and_nothing_is_left(bench: Bench):
    _, found, work = bench
    assert {"cpu", "cores", "system", "kernel", "python", "softhsm", "packages"} <= set(
        found["machine"]
    )
    assert list(work.iterdir()) == []
    running = subprocess.run(
        ["pgrep", "-f", str(work)], capture_output=True, text=True, check=False
    )
    assert running.stdout == ""


def test_the_document_is_what_its_record_says():
    done = subprocess.run(
        [sys.executable, BENCH / "document.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
