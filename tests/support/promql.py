"""Just enough of PromQL to say which metrics and labels an expression names; promtool parses it."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"
RULES, RULE_TESTS = MONITORING / "alerts.yml", MONITORING / "alerts_test.yml"
DASHBOARD = MONITORING / "dashboard.json"
TARGET = frozenset({"instance", "job"})
"""Labels that Prometheus gives every series."""

_STRING = re.compile(r'"(?:\\.|[^"\\])*"')
_SELECTOR = re.compile(r"\{([^}]*)\}")
_RANGE = re.compile(r"\[[^\]]*\]")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
_WORD = re.compile(r"(?<![\w.])[a-zA-Z_:][\w:]*\b(?!\s*\()")
_KEYWORDS = frozenset({"offset", "and", "or", "unless", "bool"})


@dataclass(frozen=True, slots=True)
class Named:
    """What an expression names."""

    metrics: frozenset[str]
    labels: frozenset[str]


def named(expression: str) -> Named:
    """The metrics and labels of an expression."""
    text = _STRING.sub("", expression)
    lists = _SELECTOR.findall(text) + _GROUPING.findall(text)
    labels = {word for item in lists for word in re.findall(r"[a-zA-Z_]\w*", item)}
    for pattern in (_SELECTOR, _RANGE, _GROUPING):
        text = pattern.sub(" ", text)
    return Named(frozenset(set(_WORD.findall(text)) - _KEYWORDS), frozenset(labels))


def exposed(text: str) -> Mapping[str, set[str]]:
    """Names of the samples on a page of metrics, and the labels of each."""
    found: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] |= set(sample.labels)
    return {**found, "up": set()}


def alerts() -> list[dict[str, Any]]:
    """Every alert rule."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> Iterator[tuple[str, str, str]]:
    """Title, expression and legend of every query of the dashboard, restarts included."""
    dashboard = json.loads(DASHBOARD.read_text())
    for note in dashboard["annotations"]["list"]:
        yield note["name"], note["expr"], ""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]


def filled_in(expression: str) -> str:
    """A query as Grafana sends it."""
    return expression.replace("$__rate_interval", "1m").replace("$instance", ".*")
