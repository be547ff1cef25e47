"""What is installed is what is in the tree; locks pin everything and name no index."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("build", "run", "test", "fuzz", "mutate")


def pinned(lock: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


def wanted(lock: str) -> set[str]:
    lines = (ROOT / "requirements" / f"{lock}.in").read_text().splitlines()
    return {re.split(r"[<>=]", line)[0] for line in lines if line and line[0] not in "#-"}


def test_every_package_is_listed():
    found = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for folder in ("kms", "pki", "hsm_drivers", "policies")
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_every_data_file_is_listed():
    listed = PROJECT["tool"]["setuptools"]["package-data"]
    for folder in ("kms", "pki", "hsm_drivers", "policies"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".pyc"} or path.is_dir():
                continue
            assert any(
                path.match(f"{package.replace('.', '/')}/{pattern}")
                for package, patterns in listed.items()
                for pattern in patterns
            ), f"{path.relative_to(ROOT)} would not be installed"


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_hold_all_that_is_asked_for(lock: str):
    assert wanted(lock) <= set(pinned(lock))


def test_direct_dependencies_are_the_same_in_both_places():
    declared = {re.split(r"[<>=]", item)[0] for item in PROJECT["project"]["dependencies"]}
    assert declared == wanted("run")


def test_tests_run_with_what_the_service_runs_with():
    run, test = pinned("run"), pinned("test")
    assert {name: test[name] for name in run.keys() & test.keys()} == {
        name: run[name] for name in run.keys() & test.keys()
    }


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_are_hashed_and_name_no_index(lock: str):
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    assert "://" not in text
    assert not re.search(r"index|find-links", text.replace("# via", ""))
    for entry in re.split(r"\n(?=[a-z0-9])", text.strip()):
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
