"""Asking `kms-audit` about a ministry's record, and making that record tell something else."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from kms import wire
from kms.audit.main import main
from tests.support.ministry import Ministry

Misdeed = Callable[[Ministry], object]


def verify(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str], Any]:
    capsys.readouterr()
    status = main(["verify", *map(str, arguments), "--json"])
    document = json.loads(capsys.readouterr().out)
    found = [
        f"{check['check']}: {item['where']}: {item['message']}"
        for check in document["checks"]
        for item in check["failures"]
    ]
    return status, found, document


def relog(
    ministry: Ministry, index: int, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Log an event otherwise than it was."""
    leaf = json.loads(ministry.log.leaves[index])
    ministry.log.leaves[index] = wire.canonical(leaf | change(leaf))
