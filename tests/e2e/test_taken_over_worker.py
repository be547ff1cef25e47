"""A worker that has been taken over: what it reaches, what it gets signed, and that it is found."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import intruder
from tests.support.calling import Answer, Client, enrol
from tests.support.running import (
    KMS,
    MESSENGER,
    OFFICER,
    Home,
    Service,
    reachable_directory,
    running,
    wait_for,
)

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("taken-over-worker")]

AUDIT = str(Path(sys.executable).with_name("kms-audit"))
ROOT = Path(__file__).parents[2]
PER_HOUR = 60
"""Certificates that each key may sign; the least that can be configured."""
FLOOD, HONEST = 100, 2
ON_PEOPLES_BILL = {
    "device",
    "device again",
    "authority by an authority",
    "officer by the people's key",
    "certificate of last week",
    "digest",
}
"""What was asked of the people's key as certificates before the flood."""


@dataclass
class Story:
    """What happened, in the order in which it did."""

    separated: bool
    seconds: float
    attack: dict[str, Any]
    grown: dict[str, Any]
    refused: Answer
    revoked: Answer
    metrics: float
    doctor: list[dict[str, str]]
    audits: dict[str, Any]


def identity(pid: int) -> dict[str, Any]:
    """How a process is started as the user of another."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    ids = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("Uid", "Gid"))}
    if os.geteuid() != 0:
        return {}
    return {"user": int(ids["Uid"]), "group": int(ids["Gid"]), "extra_groups": []}


def act(service: Service, *acts: str) -> dict[str, Any]:
    """Let the intruder act as the worker's user."""
    others = {"signer": service.pid("signer"), "supervisor": service.supervisor}
    order = json.dumps({"home": str(service.home.path), "acts": acts, "others": others})
    done = subprocess.run(
        [*intruder.PROGRAM, "act", order],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        **identity(service.pid("worker")),
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def taken_over(home: Home, *acts: str) -> tuple[dict[str, Any], bool]:
    with running(home, intruder.SERVE, ready=False) as service:
        wait_for(lambda: service.state().get("worker", {}).get("ready"))
        return act(service, *acts), service.state()["separated"]


def run(*command: object) -> Any:
    done = subprocess.run(
        [*map(str, command), "--json"], capture_output=True, text=True, check=False
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def kms(home: Home, *command: object) -> Any:
    return run(KMS, *command, "--home", home.path)


def audit(home: Home, record: Path) -> Any:
    trust = ("--root", home.trust, "--vkey", home.root / "log.vkey")
    return run(AUDIT, "verify", record, *trust)


def enrol_until_refused(home: Home, client: Client) -> Answer:
    """An honest device or two may still be certified: the bucket fills, one in a minute."""
    for number in range(10):
        device = home.device("eve", f"late-{number}")
        order = client.post("/v1/enrolments", device.request("device-identity")).document
        answer = client.post(f"/v1/enrolments/{order['enrolment']}/proofs", device.prove(order))
        if answer.status != 201:
            break
    return answer


@pytest.fixture(scope="module")
def story(prepared: Home) -> Iterator[Story]:
    with reachable_directory() as folder:
        home = prepared.copy(folder / "own")
        home.configure(certificates_per_hour=PER_HOUR)
        record = folder / "record"
        with running(home) as service, Client(home, MESSENGER) as client:
            for name in ("ada", "bob"):
                enrol(client, home.device(name, f"{name}-phone"))
        began = time.monotonic()
        attack, separated = taken_over(
            home, "look_around", "make_key", "rewrite", "forge", "exhaust", "hide"
        )
        with running(home) as service, Client(home, MESSENGER) as client:
            refused = enrol_until_refused(home, client)
            seconds = time.monotonic() - began
            revoked = client.post("/v1/users/ada/revoke", {"reason": "key-compromise"})
            wait_for(lambda: service.metric("kms_crl_entries", authority="people") == 1)
            metrics = service.metric("kms_signer_statements_total", outcome="rate-exceeded")
            doctor = kms(home, "doctor")["findings"]
            kms(home, "log", "export-journal", record)
            kms(home, "log", "export", record, "--as", OFFICER)
            kms(home, "authority", "export", record, "--as", OFFICER)
            audits = {"attacked": audit(home, record)}
            grown = act(service, "grow")
            kms(home, "log", "export-journal", record)
            audits["grown"] = audit(home, record)
        yield Story(separated, seconds, attack, grown, refused, revoked, metrics, doctor, audits)


def found(story: Story, which: str) -> list[str]:
    return [
        f"{item['where']}: {item['message']}"
        for check in story.audits[which]["checks"]
        for item in check["failures"]
    ]


WORKERS = {"ledger", "tls key", "settings"}
"""What is a worker's to read."""


def test_it_reaches_what_is_the_workers_and_no_more(story: Story) -> None:
    looked = story.attack["look_around"]
    closed = {name for name in looked if name.endswith(("memory", "environment", "trace"))}
    if not story.separated:
        if os.geteuid() != 0:
            assert {looked[name] for name in closed} == {"refused"}
        return
    assert {name for name, how in looked.items() if how == "done"} == WORKERS
    assert closed | {"signer: signal", "pin file", "token", "journal"} <= looked.keys() - WORKERS


def test_it_gets_signed_what_a_record_allows_and_nothing_else(story: Story) -> None:
    forged = story.attack["forge"]
    signed = {name for name, how in forged.items() if how == "signed"}
    assert signed == {"device", "officer", "crl", "device again"}
    refusals = {"statement-refused", "unsupported", "key-not-found"}
    assert {how for how in forged.values() if how != "signed"} == refusals
    assert forged["authority by the root"] == "unsupported", "in a ceremony only"


def test_it_makes_no_key_and_rewrites_no_history(story: Story) -> None:
    asked = story.attack["make_key"]
    done = {name for name, how in asked.items() if how == "done"}
    assert done == {"a service key", "a service key's signature"}, "as a client could"
    assert asked["a new key"] == "unsupported", "in a ceremony only"
    assert asked["an authority's signature"] == "key-not-found"
    assert set(asked.values()) == {"done", "unsupported", "key-not-found", "statement-refused"}
    signed = {name for name, how in story.attack["rewrite"].items() if how == "signed"}
    assert signed == {"the last head again"}
    assert story.grown["grow"] == "signed", "the log may grow, whoever writes it"


def test_a_flood_ends_at_the_rate_of_the_key(story: Story) -> None:
    """What was signed for honest devices before counts, though the signer was started anew."""
    flood = story.attack["exhaust"]
    assert flood["rate-exceeded"] + flood["signed"] == FLOOD
    asked_before = HONEST + sum(name in ON_PEOPLES_BILL for name in story.attack["forge"])
    left = PER_HOUR - asked_before
    assert left <= flood["signed"] <= left + 1 + story.seconds * PER_HOUR / 3600


def test_a_restart_gives_nothing_back_and_revocation_goes_on(story: Story) -> None:
    """The service was started anew after the flood; lists and heads have rates of their own."""
    assert story.refused.status == 503, story.refused.body
    assert story.refused.problem == "signing-rate-exceeded"
    assert story.refused.retry == "same"
    assert story.revoked.status == 200
    assert story.revoked.document["receipt"]["status"] == "final"
    assert story.metrics >= 1
    rates = [item for item in story.doctor if item["check"] == "rates"]
    assert [item["severity"] for item in rates] == ["failed"]
    assert "people-1" in rates[0]["detail"]


def test_the_auditor_finds_each_statement(story: Story) -> None:
    """Every one, by serial, key and time, and nothing that is honest."""
    got = story.attack["got"]
    serials = set(got["certificate"])
    failures = found(story, "attacked")
    named = {
        serial: [item for item in failures if f"certificate {serial}, signed by " in item]
        for serial in serials
    }
    assert all(named.values())
    assert all("infrastructure-1 at 20" in item or "people-1 at 20" in item for item in failures)
    (number,) = got["crl"]
    assert [item for item in failures if f"CRL {number} of 'people', signed by people-1" in item]
    entries = {item.split(":")[0] for item in failures}
    once_more = 1  # the certificate that was signed twice
    assert len(entries) == len(failures) == len(serials) + 1 + once_more


def test_the_auditor_finds_a_head_that_was_never_shown(story: Story) -> None:
    (size,) = story.grown["got"]["checkpoint"]
    extra = set(found(story, "grown")) - set(found(story, "attacked"))
    (only,) = extra
    assert f"a head of {size} leaves, signed by log-1 at 20" in only
