"""Plots of a benchmark's record as SVG: rate against batch size, latency against load.

plots.py RECORD.json DIRECTORY
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plot_names import LOADS, SIZES

_WIDTH, _HEIGHT = 6.4, 3.8


def draw(found: Mapping[str, Any], directory: Path) -> list[Path]:
    """Write the plots that the record has points for; answers their paths."""
    mpl.rcParams["svg.hashsalt"] = "bench"  # the same points give the same bytes
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, points, fill in (
        (SIZES, found["by_size"], _rates),
        (LOADS, found["by_load"], _latencies),
    ):
        if points:
            figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
            fill(figure.add_subplot(), found)
            figure.savefig(directory / name, metadata={"Date": None})
            paths.append(directory / name)
    return paths


def _rates(axes: Axes, found: Mapping[str, Any]) -> None:
    sizes = [point["size"] for point in found["by_size"]]
    axes.plot(sizes, [point["rate"] for point in found["by_size"]], marker="o")
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set(xlabel="devices in a call", ylabel="certificates a second")
    axes.grid(alpha=0.3)


def _latencies(axes: Axes, found: Mapping[str, Any]) -> None:
    loads = [100 * point["load"] for point in found["by_load"]]
    for name, label in (("p50_ms", "p50"), ("p99_ms", "p99"), ("p999_ms", "p99.9")):
        axes.plot(loads, [point[name] for point in found["by_load"]], marker="o", label=label)
    axes.set_yscale("log")
    axes.set(xlabel="load, % of the highest rate", ylabel="whole enrolment, ms")
    axes.grid(which="both", alpha=0.3)
    axes.legend()


def main() -> None:
    """Draw what the command line names."""
    record, directory = map(Path, sys.argv[1:])
    for path in draw(json.loads(record.read_text(encoding="utf-8")), directory):
        print(path)


if __name__ == "__main__":
    main()
