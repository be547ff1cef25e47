"""The acts of the demonstration, in their order."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from kms.cli.demo import checks, people, place, programs, record
from kms.cli.demo.errors import DemoError
from kms.cli.demo.people import Enrolled, Refusal
from kms.cli.demo.place import Place
from kms.cli.demo.programs import Kms
from kms.device import Expectations, MessagingServer

OFFICERS = ("alice", "bob")
OFFICER, AUDITOR, MESSENGER = "alice", "audrey", "messenger"
LOG_NAME = "log.kms.example"
_CRL_SECONDS = 30.0
_EXPORTS = 3


@dataclass(slots=True)
class Outcome:
    """What a demonstration left, filled act by act."""

    place: Place
    log: dict[str, Any] = field(default_factory=dict)
    ceremony: dict[str, Any] = field(default_factory=dict)
    enrolled: list[Enrolled] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    audit: str = ""
    good: int = 0
    revoked: int = 0


def tell(directory: Path, module: Path, say: Callable[[str], None]) -> Outcome:
    """Remake the demonstration; answers what it left, if every check held.

    Args:
        directory: Where the record is left.
        module: PKCS#11 module of SoftHSM2.
        say: Told what happens, line by line.

    Raises:
        DemoError: Something did not go as it must.
        SurroundingsError: The machine lacks something.
    """
    outcome = Outcome(Place.at(directory))
    kms_audit = programs.find("kms-audit")
    kms = Kms(programs.find("kms"), outcome.place, place.free_ports(), say)
    _found(kms, outcome, module)
    say("\nThe service runs")
    with programs.service(kms.program, outcome.place, kms.ports):
        _enrol(kms, outcome)
        _revoke(kms, outcome)
        _export(kms, outcome)
    say("\nThe service is stopped; from here on there are only files")
    _verify(kms_audit, outcome, say)
    return outcome


def _found(kms: Kms, outcome: Outcome, module: Path) -> None:
    """A token, a home, a ceremony of two officers, the first clients."""
    here, ports, say = outcome.place, kms.ports, kms.say
    say("An empty machine: a token, a home, a ceremony with two officers")
    place.clear(here)
    place.make_token(here, module)
    kms.local(
        *("init", "--name", LOG_NAME, "--public-url", f"http://127.0.0.1:{ports.public}"),
        *("--token-label", place.TOKEN_LABEL, "--pin-file", str(here.pin)),
        *("--module", str(module), "--softhsm-conf", str(here.conf)),
        *("--api", f"127.0.0.1:{ports.api}", "--public", f"127.0.0.1:{ports.public}"),
        # An address alone: linters take a bare `localhost` for a malformed domain name.
        *("--operator", f"127.0.0.1:{ports.operator}", "--server-name", "127.0.0.1"),
    )
    named = [part for name in OFFICERS for part in ("--officer", name)]
    outcome.ceremony = kms.local("authority", "ceremony", *named, "--yes")
    for key in outcome.ceremony["keys"]:
        say(f"  key {key['label']} ({key['algorithm']}) was born on the token and cannot leave it")
    record.write_keys(here.record, outcome.ceremony["keys"])
    kms.local("principal", "dev-clients")


def _enrol(kms: Kms, outcome: Outcome) -> None:
    """A messaging server certifies devices; two requests are refused."""
    say, here = kms.say, outcome.place
    kms.as_client(OFFICER, "authority", "export", str(here.record))
    expectations = Expectations.load(
        people.TENANT,
        (here.record / "ca" / "root.pem").read_bytes(),
        (here.record / "ca" / "people.pem").read_bytes(),
        outcome.ceremony["vkey"],
    )
    cert, key = here.client(MESSENGER)
    url = f"https://127.0.0.1:{kms.ports.api}"
    quiet = Kms(kms.program, here, kms.ports, lambda _: None)
    with MessagingServer(url, cert, key, here.trust) as server:
        say("\nA messaging server certifies devices, over mutually authenticated TLS")
        outcome.enrolled = people.enrol_everyone(
            server, expectations, lambda line: say(f"  {line}")
        )
        say("\nTwo requests that must be refused")
        for attempt in (people.refuse_classical_kem, people.refuse_private_key):
            refusal = attempt(
                server, expectations, lambda: int(quiet.as_client(AUDITOR, "log", "show")["size"])
            )
            outcome.refusals.append(refusal)
            say(f"  {refusal.what}")
            say(f"    refused: {refusal.type}; {refusal.detail}")
            say(f"    log size before and after: {refusal.size_before}, {refusal.size_after}")


def _revoke(kms: Kms, outcome: Outcome) -> None:
    """One person loses everything at once; revocation lists follow."""
    kms.say("\nOne person is revoked everywhere")
    user, tenant = people.REVOKED, ["--tenant", people.TENANT]
    preview = kms.as_client(OFFICER, "user", "revoke", user, *tenant, "--dry-run")
    answer = kms.as_client(
        *(OFFICER, "user", "revoke", user, *tenant, "--reason", "key-compromise", "--yes")
    )
    revoked = len(answer["revoked"])
    expected = sum(len(item.owned.slots) for item in outcome.enrolled if item.owned.user == user)
    if not revoked == expected == len(preview["would_revoke"]):
        raise DemoError(f"{user} has {expected} certificates, {revoked} were revoked")
    kms.say(f"  {revoked} certificates on {user}'s devices")
    _await_crl(kms, revoked)
    kms.as_client(OFFICER, "authority", "publish-crl")


def _await_crl(kms: Kms, entries: int) -> None:
    """The service makes a new list by itself; what it still makes must not disturb the export."""
    quiet = Kms(kms.program, kms.place, kms.ports, lambda _: None)
    deadline = monotonic() + _CRL_SECONDS
    while True:
        listed = quiet.as_client(OFFICER, "authority", "list")["authorities"]
        if any(item["crl"] and item["crl"]["entries"] == entries for item in listed):
            return
        if monotonic() > deadline:
            raise DemoError("no revocation list names what was revoked")
        sleep(0.2)


def _export(kms: Kms, outcome: Outcome) -> None:
    """Everything as files; once more if the log grew meanwhile."""
    here = outcome.place
    kms.say("\nEverything as plain files")
    for _ in range(_EXPORTS):
        kms.as_client(OFFICER, "authority", "export", str(here.record))
        outcome.log = kms.as_client(OFFICER, "log", "export", str(here.record))
        tenants = [item["tenant"] for item in kms.as_client(OFFICER, "tenant", "list")["tenants"]]
        known = [
            item
            for tenant in tenants
            for item in kms.as_client(OFFICER, "cert", "list", "--tenant", tenant)["certificates"]
        ]
        if kms.as_client(AUDITOR, "log", "show")["size"] == outcome.log["log_size"]:
            break
    else:
        raise DemoError("the log does not come to rest")
    record.write_devices(here.record, outcome.enrolled)
    record.write_principals(here.record, known)
    by_serial = {item["serial"]: item for item in known}
    outcome.summary = record.summary(outcome.log, outcome.enrolled, outcome.refusals, by_serial)
    record.write_json(here.record / "summary.json", outcome.summary)


def _verify(kms_audit: str, outcome: Outcome, say: Callable[[str], None]) -> None:
    """The auditor brings along what the ceremony announced, and trusts nothing else."""
    here = outcome.place
    announced = here.home / "announced.vkey"
    announced.write_text(f"{outcome.ceremony['vkey']}\n")
    say(f"$ kms-audit verify {here.record} --vkey {announced} --root {here.trust}")
    outcome.audit = checks.audit(kms_audit, here.record, announced, here.trust)
    say(outcome.audit)
    outcome.good, outcome.revoked = checks.check_certificates(here.record, outcome.summary)
    say(f"Every certificate against its CRL: {outcome.good} good, {outcome.revoked} revoked")
