"""Each parser and encoder of foreign bytes is held to properties: drawn inputs, or fuzzing."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = (
    *("pki", "policies", "kms/tlog", "kms/wire.py", "kms/envelopes.py", "kms/audit/leaves.py"),
    *("hsm_drivers/frames.py", "hsm_drivers/der.py"),
    *("kms/api/strict_json.py", "kms/api/places.py"),
    *("kms/backup/shares.py", "kms/backup/format.py", "kms/backup/recovery.py"),
)
VERB = re.compile(r"(un)?(parse|read|decode|encode|format|b64|canonical|load|split)(_\w+)?$")


def functions() -> Iterator[tuple[str, str]]:
    """Module and name of the public functions that turn bytes into values and back."""
    for place in CODE:
        path = ROOT / place
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            for node in ast.parse(source.read_text()).body:
                if isinstance(node, ast.FunctionDef) and VERB.match(node.name):
                    yield source.stem, node.name


def with_drawn_inputs() -> list[str]:
    """The tests whose inputs are drawn, and the fuzzed targets."""
    texts = (path.read_text() for path in sorted((ROOT / "tests").rglob("*.py")))
    return [text for text in texts if "@given" in text or "TARGETS = " in text]


TESTS = with_drawn_inputs()


@pytest.mark.parametrize(("module", "name"), sorted(functions()))
def test_it_stands_where_inputs_are_drawn(module: str, name: str):
    assert any(
        re.search(rf"\b{module}\b", text) and re.search(rf"\b{name}\b", text) for text in TESTS
    ), f"no test draws inputs for {module}.{name}"
