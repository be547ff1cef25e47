"""Puts a record of the benchmark into docs/performance.md, and its data and plots beside it.

    document.py RECORD.json PLOTS       take a record over
    document.py --check                 status 1 if the document is not what its record says

What stands between the two marks of the document is written by this program alone.
"""

import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plot_names import LOADS, SIZES
from report import verdict
from rows import RAW

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT, RECORD, FIGURES = DOCS / "performance.md", DOCS / "performance.json", DOCS / "figures"
BEGIN = "<!-- written by scripts/bench/document.py from performance.json; not by hand -->\n"
END = "<!-- end of what is written by scripts/bench/document.py -->\n"
_REACHES = {"aim": "aim", "floor": "floor", "below": "**below**", "not measured": "not measured"}


def render(found: Mapping[str, Any]) -> str:
    """The section of a record."""
    parts = (
        ("Conditions", _conditions(found)),
        ("Ratios", _ratios(found["ratios"])),
        ("Rates", _rates(found["rows"])),
        ("Latency", _latencies(found["by_load"])),
        ("Batch sizes", _sizes(found["by_size"])),
        ("Fail-over", _fail_over(found["fail_over"])),
        ("Scale", _scale(found["scale"])),
        ("Where the worker's time goes", _stages(found["stages"])),
    )
    return "\n".join(f"## {title}\n\n{text}\n" for title, text in parts if text)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _conditions(found: Mapping[str, Any]) -> str:
    machine, plan = found["machine"], found["plan"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    others, withheld = f"{100 * machine['others']:.0f} %", f"{100 * machine['stolen']:.0f} %"
    took = f"{found['took_seconds'] / 60:.0f}"
    return f"""\
- {found["made"]}, {machine["cpu"]}, {machine["cores"]} cores, {machine["system"]}.
- Kernel {machine["kernel"]}, SoftHSM2 {machine["softhsm"]}, Python {machine["python"]}.
- {versions}.
- {plan["rounds"]} interleaved rounds, {plan["seconds"]:g} s a row; {took} minutes in all.
- Other processes took {others} of the machine's CPU, its host withheld {withheld}."""


def _ratios(found: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for ratio in found:
        wanted = [ratio["what"], f"{ratio['floor']:g}", f"{ratio['aim']:g}"]
        if "missing" in ratio:
            rows.append([*wanted, "-", "-", ratio["missing"]])
            continue
        span = f"{ratio['least']:.2f} to {ratio['most']:.2f}"
        rows.append([*wanted, f"{ratio['measured']:.2f}", span, _REACHES[verdict(ratio)]])
    return _table(("what", "at least", "aim", "measured", "range", "reaches"), rows)


def _rates(found: Mapping[str, Any]) -> str:
    raw = found[RAW]["rate"]
    rows = []
    for name, row in found.items():
        cpu = row.get("cpu_us")
        used = (
            [f"{cpu[part]:,.0f}" for part in ("worker", "signer", "client")] if cpu else ["-"] * 3
        )
        late = (
            [f"{row[key]:,.1f}" for key in ("p50_ms", "p99_ms")] if "p50_ms" in row else ["-"] * 2
        )
        rate = [f"{row['rate']:,.0f}", f"{row['rate'] / raw:.3f}"]
        rows.append([f"{name} ({row['unit']})", *rate, *used, *late])
    head = (
        "what",
        "a second",
        "÷ raw",
        "worker, µs",
        "signer, µs",
        "client, µs",
        "p50, ms",
        "p99, ms",
    )
    told = (
        "Microseconds are CPU time of each process per unit counted; the worker's has that of the"
        " process which verifies signatures for it. Single enrolments are counted"
        " in requests, two for a device. Latencies are those of requests at the highest rate."
    )
    return f"{_table(head, rows)}\n\n{told}"


def _fail_over(found: Mapping[str, Any]) -> str:
    missed = "" if found["added_ms"] < 1e3 * found["bound_s"] else " **Missed.**"
    rate, most, added = found["rate"], found["most_ms"], found["added_ms"]
    return (
        f"Single enrolments at {rate:.0f} requests/s while the first of two tokens is taken away"
        f" with its process, for good: all {found['enrolments']:,} were certified, the slowest in"
        f" {most:,.0f} ms. That is {added:,.0f} ms more than the median before, where less than"
        f" {found['bound_s']:g} s is wanted.{missed} Before it p99 was"
        f" {found['calm_p99_ms']:,.0f} ms, the slowest {found['calm_most_ms']:,.0f} ms."
    )


def _latencies(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            f"{100 * row['load']:.0f} %",
            f"{row['rate']:,.0f}",
            *(f"{row[key]:,.1f}" for key in ("p50_ms", "p99_ms", "p999_ms", "most_ms")),
            f"{row['devices']:,}",
        )
        for row in found
    ]
    told = (
        "Single enrolments that come at random moments, whether the service keeps up or not; both"
        " calls of a device together, from the moment it was due. The load is a share of the"
        " highest rate above."
    )
    head = ("load", "devices a second", "p50, ms", "p99, ms", "p99.9, ms", "worst, ms", "devices")
    plot = f"![Latency against load](figures/{LOADS})"
    return f"{told}\n\n{_table(head, rows)}\n\n{plot}" if rows else ""


def _sizes(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [(str(row["size"]), f"{row['rate']:,.0f}", f"{row['p50_ms']:,.1f}") for row in found]
    plot = f"![Rate against batch size](figures/{SIZES})"
    head = ("devices in a call", "certificates a second", "p50, ms")
    return f"{_table(head, rows)}\n\n{plot}" if rows else ""


def _scale(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    told = (
        f"{found['devices']:,} enrolled devices, {found['revoked']:,} of them revoked, in a log of"
        f" {found['log_size']:,} events; filled through the ledger's own code at"
        f" {found['fill_rate']:,.0f} devices a second."
    )
    rows = []
    for item in found["bounds"]:
        bound, reached = "-", "-"
        if item["bound"] is not None:
            bound = f"{item['bound']:g}"
            reached = "yes" if item["measured"] < item["bound"] else "**no**"
        measured = f"{item['measured']:,.2f} {item['unit']}".strip()
        rows.append((item["what"], bound, measured, reached))
    return f"{told}\n\n{_table(('what', 'below', 'measured', 'reached'), rows)}"


def _stages(found: Mapping[str, Any]) -> str:
    ordered = sorted(found["stages_us"].items(), key=lambda item: -item[1])
    told = (
        f"A pass with a clock on each stage, batches of 100 `device-identity`:"
        f" {found['cpu_us']:,.0f} µs of CPU per certificate, the clock's own included."
    )
    rows = [(name, f"{spent:.1f}") for name, spent in ordered]
    return f"{told}\n\n{_table(('stage', 'µs per certificate'), rows)}"


def put(text: str, section: str) -> str:
    """The document with another section between its marks.

    Raises:
        ValueError: It does not have them.
    """
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended:
        raise ValueError(f"{DOCUMENT} lacks the marks")
    return f"{before}{BEGIN}\n{section}\n{END}{after}"


def take(record: Path, plots: Path) -> None:
    """Take a record over, without its single samples."""
    found = json.loads(record.read_text(encoding="utf-8"))
    del found["samples"]
    FIGURES.mkdir(exist_ok=True)
    for name in (SIZES, LOADS):
        shutil.copyfile(plots / name, FIGURES / name)
    RECORD.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(put(text, render(found)), encoding="utf-8")


def main() -> int:
    """Do what the command line says."""
    if sys.argv[1:] != ["--check"]:
        record, plots = map(Path, sys.argv[1:])
        take(record, plots)
        return 0
    text = DOCUMENT.read_text(encoding="utf-8")
    wanted = put(text, render(json.loads(RECORD.read_text(encoding="utf-8"))))
    if text == wanted:
        return 0
    print(f"{DOCUMENT} is not what {RECORD.name} says: run document.py again", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
