"""Alert rules and dashboard: sound, tested, and each alert tells where to read on."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.promql import (
    DASHBOARD,
    MONITORING,
    RULE_TESTS,
    RULES,
    alerts,
    filled_in,
    named,
    panels,
)

ROOT = MONITORING.parents[1]
RUNBOOK = "docs/runbooks/alerts.md"


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_sound():
    assert f"{len(alerts())} rules found" in promtool("check", "rules", str(RULES))


def test_the_rules_do_what_their_tests_say():
    assert "SUCCESS" in promtool("test", "rules", str(RULE_TESTS))


def test_every_alert_fires_in_a_test():
    tested = set(re.findall(r'alertname="(\w+)"', RULE_TESTS.read_text()))
    tested |= set(re.findall(r"alertname: (\w+)", RULE_TESTS.read_text()))
    assert {rule["alert"] for rule in alerts()} <= tested


def test_every_alert_has_its_entry_in_the_runbook():
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names))
    headings = re.findall(r"^### (Kms\w+)$", (ROOT / RUNBOOK).read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(names)
    for rule in alerts():
        assert rule["annotations"]["runbook_url"] == f"{RUNBOOK}#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_the_queries_of_the_dashboard_are_sound(tmp_path: Path):
    """Each as a recording rule, which promtool parses."""
    rules = [
        {"record": f"query:{number}", "expr": filled_in(query)}
        for number, (_, query, _) in enumerate(panels())
    ]
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(path))


def test_every_panel_of_the_dashboard_stands_by_itself():
    shown = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in shown}) == len(shown)
    taken: set[tuple[int, int]] = set()
    for panel in shown:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells


@pytest.mark.parametrize(
    ("expression", "metrics", "labels"),
    [
        ("up == 0", {"up"}, set()),
        ('a_total{b="c", d!~"e.*"} offset 1m > f', {"a_total", "f"}, {"b", "d"}),
        (
            'histogram_quantile(0.99, sum by (x, le) (rate(h_bucket{s=~"2.."}[5m])))',
            {"h_bucket"},
            {"x", "le", "s"},
        ),
        ("time() - a > 2 * 3600 and b unless on (i) c", {"a", "b", "c"}, {"i"}),
        ('sum(rate(a{b="c{d}"}[$__rate_interval])) > 1e9', {"a"}, {"b"}),
    ],
)
def test_what_an_expression_names(expression: str, metrics: set[str], labels: set[str]):
    assert (named(expression).metrics, named(expression).labels) == (metrics, labels)
