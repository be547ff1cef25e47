"""`kms key`: what is sent, and what is asked before anything is destroyed."""

from pathlib import Path
from typing import Any

import pytest

from kms.api import key_examples
from tests.support.cli import Cli

KEY: dict[str, Any] = {**key_examples.KEY, "receipts": []}
PATH = "/v1/keys/room-archive"


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    return Cli(tmp_path, lambda: tuple(capsys.readouterr()))


def test_a_key_is_made_by_purpose(cli: Cli):
    cli.service.on("POST", "/v1/keys", KEY)
    done = cli.remote("key", "create", "room-archive", "--purpose", "encryption")
    assert done.status == 0, done
    (body,) = cli.service.bodies()
    assert (body["name"], body["purpose"]) == ("room-archive", "encryption")
    assert "algorithm" not in body


@pytest.mark.parametrize(
    ("command", "verb", "body"),
    [
        (["rotate"], "rotate", {}),
        (["suspend", "--version", "2"], "suspend", {"version": 2}),
        (["resume"], "resume", {}),
        (
            ["deactivate", "--confirm", "room-archive", "--tenant", "interior"],
            "deactivate",
            {"confirm": "room-archive", "tenant": "interior"},
        ),
        (
            ["compromise", "--confirm", "room-archive"],
            "compromise",
            {"confirm": "room-archive"},
        ),
        (
            ["recover", "--until", "2027-01-31T08:00:00Z"],
            "recover",
            {"until": "2027-01-31T08:00:00Z"},
        ),
        (["activate"], "activate", {}),
        (["cancel-destruction"], "cancel-destruction", {}),
        (["destroy", "--confirm", "room-archive"], "destroy", {"confirm": "room-archive"}),
    ],
)
def test_steps_say_what_was_said(cli: Cli, command: list[str], verb: str, body: dict[str, Any]):
    cli.service.on("POST", f"{PATH}/{verb}", KEY)
    name, *options = command
    done = cli.remote("key", name, "room-archive", *options)
    assert done.status == 0, done
    assert cli.service.bodies() == [body]
    assert "AES-256-GCM" in done.out


@pytest.mark.parametrize("group", ["key", "kem"])
@pytest.mark.parametrize("verb", ["destroy", "deactivate", "compromise"])
def test_nothing_ends_under_another_name(cli: Cli, group: str, verb: str):
    for options in (["--confirm", "room"], ["--confirm", "", "--json"], ["--json"]):
        done = cli.remote(group, verb, "room-archive", *options)
        assert done.status == 2, done
    assert cli.service.bodies() == []


def test_a_compromise_is_rehearsed_without_a_change(cli: Cli):
    cli.service.on("GET", f"{PATH}/touches", key_examples.TOUCHES)
    done = cli.remote("key", "compromise", "room-archive", "--dry-run")
    assert done.status == 0, done
    assert "It would touch" in done.out
    assert cli.service.bodies() == []


def test_permissions_are_given_and_taken(cli: Cli):
    answer = {"key": "room-archive", "principal": "p", "operations": ["decrypt"], "receipts": []}
    cli.service.on("POST", f"{PATH}/permit", answer, {**answer, "operations": []})
    cli.remote("key", "permit", "room-archive", "p", "--operation", "decrypt")
    cli.remote("key", "permit", "room-archive", "p")
    assert [body["operations"] for body in cli.service.bodies()] == [["decrypt"], []]
