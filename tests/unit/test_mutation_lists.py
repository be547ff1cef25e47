"""What `make mutate` is told fits the tree: files are there, and so is what survivors change."""

import ast
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LISTS = ROOT / "tests" / "mutation"
TARGETS: list[dict[str, Any]] = tomllib.loads((LISTS / "targets.toml").read_text())["target"]
SURVIVORS: list[dict[str, str]] = tomllib.loads((LISTS / "survivors.toml").read_text())["survivor"]


def definitions(path: str) -> set[str]:
    found = {""}

    def walk(node: ast.AST, around: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(around + child.name)
                walk(child, f"{around}{child.name}.")
            else:
                walk(child, around)

    walk(ast.parse((ROOT / path).read_text()), "")
    return found


def test_targets_and_their_tests_are_there():
    paths = [target["path"] for target in TARGETS]
    assert len(paths) == len(set(paths))
    for target in TARGETS:
        assert set(target.get("within", ())) <= definitions(target["path"])
        files = [item for item in target["tests"] if not item.startswith("-k")]
        assert files
        assert all((ROOT / item).is_file() for item in files), target


def test_every_survivor_is_explained_once_and_changes_what_stands_there():
    known = {target["path"] for target in TARGETS}
    seen = set()
    for row in SURVIVORS:
        name = (row["path"], row["where"], row["before"], row["after"])
        lines = (line.strip() for line in (ROOT / row["path"]).read_text().splitlines())
        assert row["path"] in known, row
        assert row["why"].endswith("."), row
        assert row["before"] in " ".join(lines), row
        assert row["where"] in definitions(row["path"]), row
        assert name not in seen, row
        seen.add(name)
