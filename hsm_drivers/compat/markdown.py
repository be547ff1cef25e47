"""A self-test's report as Markdown, for `docs/hsm/` and for people."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from hsm_drivers.compat.report import AlgorithmResult, Outcome, Report, Step
from hsm_drivers.surveys import TokenFacts

_SIGNS = {Outcome.GOOD: "good", Outcome.LACKING: "not offered", Outcome.BAD: "**BAD**"}


def markdown(report: Report) -> str:
    """The whole report; lines end with a newline."""
    parts = [
        f"# {report.profile.title}: compatibility report",
        _opening(report),
        *_section("What it can be used for", _roles(report)),
        *_section("The token", _facts(report)),
        *_section("Algorithms", _algorithms(report.algorithms)),
        *_section("Steps that did not go well", _failures(report)),
        *_section("Other trials", _steps(report.general)),
        *_section("How it says no", _steps([*report.refusals, *_refused(report.algorithms)])),
        *_section("Several processes", [_together(report)]),
        *_section("Deviations", [f"- {_plain(one)}" for one in report.deviations] or ["None."]),
        *_section("Mechanisms", [_mechanisms(report.token)]),
    ]
    return "\n\n".join(parts) + "\n"


def _opening(report: Report) -> str:
    verdict = "Nothing that it offers went wrong." if report.sound else "Something went wrong."
    tested = "tested" if report.profile.tested else "not tested by this project"
    left = f" Test keys of an earlier run were there: {', '.join(report.leftovers)}."
    return (
        f"Made by `kms hsm compat` at {_time(report.made)} on: {_plain(report.conditions)}."
        f" Vendor profile `{report.profile.name}` ({tested}). {verdict}"
        f"{left if report.leftovers else ''}"
    )


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "\n".join(lines)] if lines else []


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [_row(columns), _row(["---"] * len(columns)), *(_row(row) for row in rows)]
    return lines if len(lines) > 2 else []


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_plain(cell) for cell in cells)} |"


def _roles(report: Report) -> list[str]:
    rows = (
        (role.name, "yes" if role.fits else "no", ", ".join(role.algorithms) or "-", role.why)
        for role in report.roles
    )
    return _table(("role", "fits", "with", "because"), rows)


def _facts(report: Report) -> list[str]:
    token, survey = report.token, report.survey
    if token is None or survey is None:
        return []
    values = {
        "label": token.label,
        "maker, model": f"{token.manufacturer}, {token.model}",
        "serial number": token.serial or "none",
        "hardware, firmware": f"{token.hardware}, {token.firmware}",
        "module": f"{survey.description} {survey.version}, PKCS#11 {survey.cryptoki}",
        "user PIN": f"{token.pin}; {token.shortest_pin} to {token.longest_pin} characters",
        "sessions": _limit(token.sessions),
        "free for private objects": _bytes(token.free_private),
    }
    return _table(("what it says of itself", ""), values.items())


def _algorithms(results: Sequence[AlgorithmResult]) -> list[str]:
    rows = (
        (
            result.algorithm,
            _verdict(result),
            "yes" if result.post_quantum else "-",
            _number(result.make_ms, " ms"),
            _number(result.rate, "/s"),
        )
        for result in results
    )
    return _table(("algorithm", "", "post-quantum", "one key made in", "used, one at a time"), rows)


def _verdict(result: AlgorithmResult) -> str:
    if result.good:
        return f"good, {len(result.steps)} steps"
    return _SIGNS[Outcome.BAD if result.offered else Outcome.LACKING]


def _failures(report: Report) -> list[str]:
    return _table(
        ("algorithm", "step", "", "what came"),
        (
            (result.algorithm, one.what, _SIGNS[one.outcome], one.detail)
            for result in report.algorithms
            for one in result.steps
            if one.outcome is not Outcome.GOOD
        ),
    )


def _steps(steps: Iterable[Step]) -> list[str]:
    return _table(
        ("tried", "", "what came"), ((one.what, _SIGNS[one.outcome], one.detail) for one in steps)
    )


def _refused(results: Sequence[AlgorithmResult]) -> list[Step]:
    """What the token says to ciphertexts that are wrong, each kind once."""
    found: dict[str, Step] = {}
    for result in results:
        for one in result.steps:
            if one.detail.startswith("refused"):
                found.setdefault(f"{one.what}{one.code}", one)
    return list(found.values())


def _together(report: Report) -> str:
    one = report.concurrency
    if one.alone is None or one.together is None:
        return f"{one.detail}."
    times = one.together / one.alone
    errors = "; ".join(one.errors) or "no error"
    return (
        f"{one.detail}: {one.alone:.0f}/s alone, {one.together:.0f}/s together"
        f" ({times:.2f} times), {errors}."
    )


def _mechanisms(token: TokenFacts | None) -> str:
    if token is None:
        return "Not asked."
    names = ", ".join(f"`{one.name}`" for one in token.mechanisms)
    return f"{len(token.mechanisms)}: {names}"


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}{unit}" if value >= 100 else f"{value:.1f}{unit}"


def _limit(value: int | None) -> str:
    return "no limit told" if value is None else str(value)


def _bytes(value: int | None) -> str:
    return "not told" if value is None else f"{value:,} bytes"


def _time(made: str) -> str:
    return f"{datetime.fromisoformat(made).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _plain(text: str) -> str:
    """What a token says must not become markup or break a table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
