"""What the figures come to: medians, ratios within a round, stages; tables for people."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rows import RATIOS, RAW, UNITS, Ratio, Sample

Samples = Sequence[Mapping[str, Sample]]


def rows(samples: Samples) -> dict[str, Any]:
    """Each row's medians over the rounds."""
    return {name: _row(name, [each[name] for each in samples]) for name in samples[0]}


def _row(name: str, mine: Sequence[Sample]) -> dict[str, Any]:
    found: dict[str, Any] = {"unit": UNITS[name], "rate": median(one.rate for one in mine)}
    if mine[0].cpu:
        parts = zip(*(one.cpu for one in mine), strict=True)
        found["cpu_us"] = dict(zip(("worker", "signer", "client"), map(median, parts), strict=True))
        found["client_share"] = found["cpu_us"]["client"] / sum(found["cpu_us"].values())
    if mine[0].p50:
        found["requests"] = median(one.requests for one in mine)
        found["p50_ms"] = median(one.p50 for one in mine)
        found["p99_ms"] = median(one.p99 for one in mine)
    return found


def ratios(samples: Samples, missing: Mapping[str, str]) -> list[dict[str, Any]]:
    """The table of the issue: each ratio taken within a round, then the median of the rounds."""
    return [_ratio(ratio, samples, missing) for ratio in RATIOS]


def _ratio(ratio: Ratio, samples: Samples, missing: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"what": ratio.what, "floor": ratio.floor, "aim": ratio.aim}
    if ratio.to in missing:
        return found | {"missing": missing[ratio.to]}
    each = [one[ratio.of].rate / one[ratio.to].rate for one in samples]
    return found | {"measured": median(each), "least": min(each), "most": max(each)}


def verdict(ratio: Mapping[str, Any]) -> str:
    """How a measured ratio stands to what is wanted of it."""
    if "missing" in ratio:
        return "not measured"
    if ratio["measured"] >= ratio["aim"]:
        return "aim"
    return "floor" if ratio["measured"] >= ratio["floor"] else "below"


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


def tables(found: Mapping[str, Any]) -> str:
    """All of it as people read it."""
    parts = [
        _ratios(found["ratios"]),
        _rates(found["rows"]),
        _latencies(found["by_load"]),
        _sizes(found["by_size"]),
        _fail_over(found["fail_over"]),
        _scale(found["scale"]),
        _stages(found["stages"]),
        _conditions(found),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _ratios(found: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"{'ratio':<50}{'floor':>7}{'aim':>7}{'measured':>10}{'range':>15}  reaches"]
    for ratio in found:
        line = f"{ratio['what']:<50}{ratio['floor']:>7.2f}{ratio['aim']:>7.2f}"
        if "missing" in ratio:
            lines.append(f"{line}  {ratio['missing']}")
            continue
        width = f"{ratio['least']:.2f}-{ratio['most']:.2f}"
        lines.append(f"{line}{ratio['measured']:>10.3f}{width:>15}  {verdict(ratio)}")
    return lines


def _rates(found: Mapping[str, Any]) -> list[str]:
    raw = found[RAW]["rate"]
    head = f"{'rate':<46}{'a second':>10}{'÷ raw':>8}{'worker':>8}{'signer':>8}{'client':>8}"
    lines = [f"{head}{'p50 ms':>9}{'p99 ms':>9}"]
    for name, row in found.items():
        line = f"{name:<46}{row['rate']:>10,.0f}{row['rate'] / raw:>8.3f}"
        if "cpu_us" in row:
            line += "".join(
                f"{row['cpu_us'][part]:>8,.0f}" for part in ("worker", "signer", "client")
            )
        if "p50_ms" in row:
            line = f"{line:<88}{row['p50_ms']:>9.1f}{row['p99_ms']:>9.1f}"
        lines.append(f"{line}  {row['unit']}")
    return [*lines, "worker, signer, client: CPU time of each process, µs per unit counted"]


def _latencies(found: Sequence[Mapping[str, Any]]) -> list[str]:
    if not found:
        return []
    lines = [f"{'load':>6}{'a second':>10}{'p50 ms':>9}{'p99 ms':>9}{'p99.9 ms':>10}{'devices':>9}"]
    lines += [
        f"{100 * row['load']:>4.0f} %{row['rate']:>10,.0f}{row['p50_ms']:>9.1f}"
        f"{row['p99_ms']:>9.1f}{row['p999_ms']:>10.1f}{row['devices']:>9}"
        for row in found
    ]
    return [*lines, "whole enrolments, both calls, from when each was due (open loop)"]


def _sizes(found: Sequence[Mapping[str, Any]]) -> list[str]:
    if not found:
        return []
    lines = [f"{'batch':>6}{'certificates/s':>16}{'p50 ms':>9}"]
    return lines + [f"{row['size']:>6}{row['rate']:>16,.0f}{row['p50_ms']:>9.1f}" for row in found]


def _fail_over(found: Mapping[str, Any]) -> list[str]:
    missed = "" if found["added_ms"] < 1e3 * found["bound_s"] else "  MISSED"
    many = f"all {found['enrolments']} enrolments were certified"
    before = (
        f"before it p99 {found['calm_p99_ms']:,.0f} ms, slowest {found['calm_most_ms']:,.0f} ms"
    )
    added = f"added {found['added_ms']:,.0f} ms to the median, < {found['bound_s']:g} s{missed}"
    return [
        f"fail-over of signing keys at {found['rate']:.0f} requests/s: {many}",
        f"  the slowest took {found['most_ms']:,.0f} ms: {added} ({before})",
    ]


def _scale(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    lines = [f"{found['devices']:,} devices, {found['revoked']:,} of them revoked; log of"]
    lines[0] += f" {found['log_size']:,} events; filled at {found['fill_rate']:,.0f} devices/s"
    for item in found["bounds"]:
        bound = "" if item["bound"] is None else f"< {item['bound']:g}"
        verdict_ = "" if item["bound"] is None or item["measured"] < item["bound"] else "  MISSED"
        lines.append(
            f"  {item['what']:<52}{item['measured']:>10,.2f} {item['unit']:<6}{bound}{verdict_}"
        )
    return lines


def _stages(found: Mapping[str, Any]) -> list[str]:
    ordered = sorted(found["stages_us"].items(), key=lambda item: -item[1])
    rate, cpu = found["certificates_per_second"], found["cpu_us"]
    return [
        f"stages of the worker, µs per certificate ({cpu:,.0f} µs of CPU, at {rate:,.0f}/s):",
        *(f"  {name:<24}{spent:>7.1f}" for name, spent in ordered),
    ]


def _conditions(found: Mapping[str, Any]) -> list[str]:
    machine, plan = found["machine"], found["plan"]
    minutes = found["took_seconds"] / 60
    others, stolen = 100 * machine["others"], 100 * machine["stolen"]
    return [
        f"{machine['cpu']}, {machine['cores']} cores",
        f"others took {others:.0f} % of it meanwhile, the host withheld {stolen:.0f} %",
        f"{plan['rounds']} rounds of {plan['seconds']:g} s a row; {minutes:.1f} minutes in all",
    ]
