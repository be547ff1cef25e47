"""The table of problems, the error tree and the document for callers say the same."""

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import kms.api
import kms.services
from kms.api import problems
from kms.services.errors import InputError, KmsError, Retry, StillRunningError, WeakKeyError
from kms.services.ports import LedgerUnavailableError

DOCUMENT = Path(__file__).parents[2] / "docs" / "problems.md"


def every_error() -> Iterator[type[KmsError]]:
    for package in (kms.services, kms.api):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
    todo: list[type[KmsError]] = [KmsError]
    while todo:
        kind = todo.pop()
        yield kind
        todo += kind.__subclasses__()


def test_every_error_has_a_row_of_its_own():
    assert {kind for kind in every_error() if kind.__module__.startswith("kms.")} == set(
        problems.PROBLEMS
    )


def test_every_error_has_a_name_of_its_own():
    names = [kind.problem for kind in problems.PROBLEMS]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in names)


def test_statuses_fit_the_branches_of_the_tree():
    for kind, row in problems.PROBLEMS.items():
        if issubclass(kind, InputError):
            assert row.status in {400, 405, 408, 413, 415, 422, 431}
        else:
            assert row.status in {401, 403, 404, 409, 410, 429, 500, 503}


def test_the_document_lists_exactly_the_problems():
    row = re.compile(r"^\| `([a-z-]+)` \| (\d{3}) \| (never|same|later) \|", re.MULTILINE)
    documented = [
        (name, int(status), retry)
        for name, status, retry in row.findall(DOCUMENT.read_text(encoding="utf-8"))
    ]
    actual = [
        (kind.problem, found.status, kind.retry.value) for kind, found in problems.PROBLEMS.items()
    ]
    assert sorted(documented) == sorted(actual)


def test_a_class_without_a_row_takes_that_of_its_base():
    class NewKeyError(WeakKeyError):
        problem = "weak-key"

    assert problems.row(NewKeyError("x")) == problems.PROBLEMS[WeakKeyError]


def test_a_problem_says_type_status_retry_and_field():
    error = WeakKeyError("too short", field="slots[0].public_key")
    found = problems.problem(error)
    assert json.loads(found.body) == {
        "type": "urn:sovereign-kms:problem:weak-key",
        "title": "The public key is weak",
        "status": 422,
        "detail": "too short",
        "retry": "never",
        "field": "slots[0].public_key",
    }
    assert found.headers["content-type"] == "application/problem+json"
    assert "retry-after" not in found.headers
    assert problems.describe(error) == {"status": 422, "problem": json.loads(found.body)}


@pytest.mark.parametrize("kind", list(problems.PROBLEMS))
def test_retry_after_stands_where_waiting_helps(kind: type[KmsError]):
    headers = problems.problem(kind("sentence")).headers
    assert ("retry-after" in headers) is (kind.retry is not Retry.NEVER)
    assert ("www-authenticate" in headers) is (problems.PROBLEMS[kind].status == 401)


def test_what_nobody_foresaw_is_internal_and_says_nothing_of_itself():
    found = problems.problem(problems.as_kms_error(ZeroDivisionError("secret value")))
    assert found.status == 500
    assert b"secret" not in found.body
    assert found.name == "internal"


def test_a_store_that_fails_is_a_log_that_is_away():
    error = problems.as_kms_error(LedgerUnavailableError("disk /secret/path full"))
    found = problems.problem(error)
    assert (found.status, found.name) == (503, "log-unavailable")
    assert b"/secret" not in found.body


def test_our_own_errors_stay_what_they_are():
    error = StillRunningError("x")
    assert problems.as_kms_error(error) is error
