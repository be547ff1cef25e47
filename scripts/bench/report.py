"""What the figures come to: medians, ratios within a round, stages per certificate, a table."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

RAW = "raw C signing, P-256"
SIGNER = "signer through its socket, batches of 100"
BATCH = "enrolments of device-identity, batches of 100"
BUNDLE = "enrolments of device, batches of 100"
SINGLE = "single enrolments, 32 connections"
COMMITS = "ledger alone, 100 devices a commit"
COMMITS_EACH = "ledger alone, a commit each"

UNITS = {
    RAW: "signatures",
    SIGNER: "statements",
    BATCH: "certificates",
    BUNDLE: "certificates",
    SINGLE: "certificates",
    COMMITS: "devices",
    COMMITS_EACH: "devices",
}


def summary(name: str, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds; ratios are taken within each round first."""
    mine = [each[name] for each in samples]
    ratios = [each[name].rate / each[RAW].rate for each in samples]
    found: dict[str, Any] = {
        "unit": UNITS[name],
        "rate": median(one.rate for one in mine),
        "to_raw": median(ratios),
        "to_raw_range": [min(ratios), max(ratios)],
    }
    if mine[0].cpu:
        parts = zip(*(one.cpu for one in mine), strict=True)
        names = ("worker", "signer", "client")
        found["cpu_us"] = dict(zip(names, map(median, parts), strict=True))
        found["client_share"] = found["cpu_us"]["client"] / sum(found["cpu_us"].values())
        found["requests"] = median(one.requests for one in mine)
        found["p50_ms"] = median(one.p50 for one in mine)
        found["p99_ms"] = median(one.p99 for one in mine)
    return found


def stages(before: Mapping[str, Any], after: Mapping[str, Any], rate: float) -> dict[str, Any]:
    """CPU microseconds per certificate in each stage of the worker, between two readings."""
    certificates = after["stages"]["build"][1] - before["stages"]["build"][1]
    certificates /= 2  # prepared and completed
    spent = {
        name: 1e6 * (seconds - before["stages"][name][0]) / certificates
        for name, (seconds, _) in after["stages"].items()
    }
    cpu = 1e6 * (after["cpu"] - before["cpu"]) / certificates
    spent["HTTP, TLS, event loop"] = cpu - sum(spent.values())
    return {"certificates_per_second": rate, "cpu_us": cpu, "stages_us": spent}


def table(found: Mapping[str, Any]) -> str:
    """The figures as people read them."""
    lines = [
        f"{'':<46}{'a second':>10}{'÷ raw':>8}{'range':>14}{'worker':>9}{'signer':>8}{'client':>8}"
    ]
    for name, row in found["rows"].items():
        low, high = row["to_raw_range"]
        line = f"{name:<46}{row['rate']:>10,.0f}{row['to_raw']:>8.3f}{f'{low:.3f}-{high:.3f}':>14}"
        if "cpu_us" in row:
            line += "".join(
                f"{row['cpu_us'][part]:>{width},.0f}"
                for part, width in (("worker", 9), ("signer", 8), ("client", 8))
            )
        lines.append(line)
    lines += [
        "worker, signer, client: CPU time of each process, µs per certificate",
        "",
        *_requests(found["rows"]),
        "",
        *_stages(found["stages"]),
        "",
        _conditions(found["machine"]),
    ]
    return "\n".join(lines)


def _conditions(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['cpu']}, {machine['cores']} cores; others took {100 * machine['others']:.0f} %"
        f" of it meanwhile, the host withheld {100 * machine['stolen']:.0f} %"
    )


def _requests(rows: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {row['requests']:,.0f} requests/s, p50 {row['p50_ms']:.1f} ms,"
        f" p99 {row['p99_ms']:.1f} ms; client {100 * row['client_share']:.0f} % of the CPU used"
        for name, row in rows.items()
        if "requests" in row
    ]


def _stages(found: Mapping[str, Any]) -> list[str]:
    ordered = sorted(found["stages_us"].items(), key=lambda item: -item[1])
    rate, cpu = found["certificates_per_second"], found["cpu_us"]
    return [
        f"stages of the worker, µs per certificate ({cpu:,.0f} µs of CPU, at {rate:,.0f}/s):",
        *(f"  {name:<24}{spent:>7.1f}" for name, spent in ordered),
    ]
