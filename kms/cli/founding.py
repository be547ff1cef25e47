"""`kms init` and `kms authority ceremony`: from an empty machine to authorities on the record."""

import hashlib
import json
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from hsm_drivers.ports import KeyRecord
from kms.cli.commands import JsonOption, PinFdOption, YesOption, finish, local
from kms.cli.errors import UsageProblemError
from kms.cli.files import read_small, write
from kms.cli.output import Shown, lines, note, sheet, table
from kms.config import Environment
from kms.config_template import write_initial
from kms.domain.records import Authority, Event
from kms.processes.pin import obtain_pin
from kms.services.ceremony_plan import Plan, load_plan
from kms.settings import Settings, Token
from kms.wire import EventType, b64
from pki.names import Subject
from policies.choices import LOG_COSIGNER, LOG_KEY
from policies.decisions import Protection

if TYPE_CHECKING:
    from kms.services.ceremony import CeremonyReport
    from kms.services.epochs import Loss

TOKEN_LABEL = Token().label
CLOSED = "closed"
"""The step that ends a ceremony, as the log has it."""


def init(
    *,
    home: Annotated[Path | None, typer.Option("--home", help="New home. Else KMS_HOME.")] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the log, for good: kms.example.org")],
    public_url: Annotated[
        str, typer.Option("--public-url", help="Base URL of CRLs and log, as the world reaches it.")
    ],
    token_label: Annotated[
        str, typer.Option("--token-label", help="The token's label.")
    ] = TOKEN_LABEL,
    module: Annotated[Path | None, typer.Option("--module", help="PKCS#11 module.")] = None,
    pin_file: Annotated[
        Path | None, typer.Option("--pin-file", help="File with the user PIN, 0600.")
    ] = None,
    softhsm_conf: Annotated[
        Path | None, typer.Option("--softhsm-conf", help="SoftHSM2's configuration.")
    ] = None,
    api: Annotated[str | None, typer.Option("--api", help="Listen here: 127.0.0.1:8443")] = None,
    public: Annotated[
        str | None, typer.Option("--public", help="Listen here: 127.0.0.1:8080")
    ] = None,
    operator: Annotated[
        str | None, typer.Option("--operator", help="Listen here: 127.0.0.1:9464")
    ] = None,
    server_name: Annotated[
        list[str] | None, typer.Option("--server-name", help="Name clients call the API by.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a home: settings and an empty ledger. Nothing that exists is overwritten."""
    from kms.bootstrap import make_ledger  # noqa: PLC0415 - remote commands start faster

    home = home or Environment().home
    if home is None:
        raise UsageProblemError("which home? Give --home DIR, or set KMS_HOME")
    given = {"api": api, "public": public, "operator": operator}
    settings = write_initial(
        home,
        name=name,
        public_url=public_url,
        token_label=token_label,
        module=module,
        pin_file=pin_file,
        softhsm_conf=softhsm_conf,
        listeners={key: value for key, value in given.items() if value is not None},
        server_names=server_name,
    )
    make_ledger(settings)
    document = {"home": str(settings.home), "config": str(settings.path), "name": settings.name}
    view = lines(
        f"Made {settings.home}; its settings, each explained: {settings.path}",
        f"Next: kms authority ceremony --home {settings.home} --officer NAME --officer NAME",
    )
    finish(Shown(document, view), as_json=as_json)


@local
def ceremony(
    settings: Settings,
    officer: Annotated[
        list[str], typer.Option("--officer", help="Who is present; at least two, each once.")
    ],
    plan: Annotated[Path | None, typer.Option("--plan", help="TOML file; see the guide.")] = None,
    identity_domain: Annotated[
        str | None, typer.Option("--identity-domain", help="Domain of the authority's own people.")
    ] = None,
    pin_fd: PinFdOption = None,
    *,
    yes: YesOption = False,
) -> Shown:
    """Make the log's key, then root, people and infrastructure authorities, all on the token."""
    check_officers(officer)
    source = None if plan is None else read_small(plan)
    wanted = load_plan(source, settings.name, identity_domain)
    _refuse_second(settings)
    if not yes:
        agree_to(wanted, officer)
    report = _hold(settings, pin_fd, wanted, officer)
    write(settings.trust_path, ssl.DER_cert_to_PEM_cert(report.certificates["root"]).encode())
    after = (
        f"Trust anchor: {settings.trust_path}",
        "Publish the fingerprints and the verifier key where strangers can find them.",
        f"Next: kms principal bootstrap-officer NAME --home {settings.home} --csr FILE --out FILE",
    )
    return Shown(report_document(report, wanted, officer), report_view(report, after))


def check_officers(officers: Sequence[str]) -> None:
    """Refuse fewer than two, and one who is named twice.

    Raises:
        UsageProblemError: They are.
    """
    if len(set(officers)) < 2 or len(set(officers)) != len(officers):
        raise UsageProblemError(
            "a ceremony needs two or more different officers", "give --officer NAME for each"
        )


def _hold(
    settings: Settings, pin_fd: int | None, plan: Plan, officers: Sequence[str]
) -> "CeremonyReport":
    from kms.bootstrap import hold_ceremony  # noqa: PLC0415 - remote commands start faster

    pin = obtain_pin(settings, pin_fd=pin_fd)
    try:
        return hold_ceremony(settings, pin, plan, officers, step_teller())
    finally:
        pin.clear()


def step_teller() -> Callable[[str], None]:
    """Steps go to a terminal as they happen; the outcome names them all anyway."""
    return note if sys.stderr.isatty() else lambda _: None


def _refuse_second(settings: Settings) -> None:
    """An interrupted ceremony is continued; a closed one is not held again.

    Raises:
        UsageProblemError: The home has its authorities.
    """
    from kms.bootstrap import open_ledger  # noqa: PLC0415 - remote commands start faster

    ledger = open_ledger(settings)
    try:
        steps = ledger.find(Event, type=EventType.CEREMONY_STEP.value)
        names = [record.name for record in ledger.find(Authority)]
    finally:
        ledger.close()
    if any(json.loads(event.leaf)["detail"].get("step") == CLOSED for event in steps):
        raise UsageProblemError(
            f"{settings.home} has had its ceremony: {', '.join(names)} exist",
            "nothing is to be done; `kms authority list` shows them",
        )


def agree_to(plan: Plan, officers: Sequence[str]) -> None:
    """Show the plan; each officer signs it off by typing their name.

    Raises:
        typer.Abort: Someone typed something else.
    """
    from rich.console import Console  # noqa: PLC0415 - a dialogue goes to standard error

    Console(stderr=True, highlight=False, markup=False).print(plan_view(plan))
    sign_off(officers)


def sign_off(officers: Sequence[str]) -> None:
    """Each officer types their name.

    Raises:
        typer.Abort: Someone typed something else.
    """
    for name in officers:
        typed = typer.prompt(f"{name}, type your name to agree", err=True)
        if typed.strip() != name:
            note(f"kms: that is not {name}; nothing was made")
            raise typer.Abort


def plan_view(plan: Plan) -> RenderableType:
    """A plan as officers read it."""
    document = plan.document()
    head = {
        "log": f"{document['log']['name']}/1",
        "organization": plan.organization,
        "identity domain": plan.identity_domain,
        "plan hash": plan.sha256,
    }
    rows = [(plan.log_label, LOG_KEY, "the log's checkpoints", "-", "main, token")]
    if plan.cosigner is not None:
        held = _held(document["cosigner"])
        rows.append((plan.cosigner.label, LOG_COSIGNER, "cosigns the checkpoints", "-", held))
    rows += [
        (
            item.label,
            item.algorithm,
            _subject(item.subject),
            f"{item.validity.days} days",
            _held(row),
        )
        for item, row in zip(plan.authorities, document["authorities"], strict=True)
    ]
    columns = ("key", "algorithm", "subject", "validity", "held by")
    return lines(sheet(head), "", table(columns, rows))


def _held(row: Mapping[str, str]) -> str:
    return f"{row['token']}, {row['protection']}"


def _subject(subject: Subject) -> str:
    parts = (("O", subject.organization), ("CN", subject.common_name))
    return ", ".join(f"{name}={value}" for name, value in parts if value)


def key_document(record: KeyRecord) -> dict[str, Any]:
    """A key as ceremonies and `doctor` report it; nothing of it is secret."""
    return {
        "label": record.label,
        "id": record.key_id,
        "algorithm": record.algorithm,
        "purpose": [purpose.value for purpose in record.purposes],
        "protection": record.protection.value,
        "token": record.token,
        "created": record.created,
        "public_key": b64(record.public_key),
        "attributes": asdict(record.attributes),
    }


def report_document(
    report: "CeremonyReport", plan: Plan, officers: Sequence[str]
) -> dict[str, Any]:
    """A ceremony's outcome for scripts."""
    return {
        "origin": report.origin,
        "vkey": report.vkey,
        "cosigner_vkey": report.cosigner_vkey,
        "checkpoint": report.checkpoint.decode(),
        "officers": list(officers),
        "plan": {**plan.document(), "sha256": plan.sha256},
        "keys": [key_document(record) for record in report.keys],
        "certificates": {
            name: {"sha256": hashlib.sha256(der).hexdigest(), "certificate": b64(der)}
            for name, der in report.certificates.items()
        },
    }


def _log_of(report: "CeremonyReport") -> dict[str, str]:
    found = {"log": report.origin, "verifier key": report.vkey}
    if report.cosigner_vkey is not None:  # 1,800 characters: `kms log show --json` has them all
        found["cosigner's key"] = f"{report.cosigner_vkey.rpartition('+')[0]}+…"
    return found


def _reach(record: KeyRecord) -> str:
    if record.protection is Protection.WRAPPED:
        return "wrapped under a key of the token"
    return "never leaves the token" if record.attributes.held() else "CAN LEAVE THE TOKEN"


def report_view(report: "CeremonyReport", after: Sequence[str]) -> RenderableType:
    """A ceremony's outcome for people, and what to do after it."""
    keys = (
        (
            record.label,
            record.algorithm,
            record.key_id,
            record.protection.value,
            _reach(record),
        )
        for record in report.keys
    )
    prints = ((name, hashlib.sha256(der).hexdigest()) for name, der in report.certificates.items())
    return lines(
        table(("key", "algorithm", "id", "protection", "attributes read back"), keys),
        "",
        table(("certificate", "SHA-256 fingerprint"), prints),
        "",
        sheet(_log_of(report)),
        "",
        report.checkpoint.decode(),
        *after,
    )


@local
def new_epoch(
    settings: Settings,
    officer: Annotated[
        list[str], typer.Option("--officer", help="Who is present; at least two, each once.")
    ],
    reason: Annotated[str, typer.Option("--reason", help="Why the log lost events.")],
    pin_fd: PinFdOption = None,
    *,
    yes: YesOption = False,
) -> Shown:
    """Continue a log that lost events: a new epoch names the last checkpoint of the old one.

    Says first what was lost, and asks the officers. Interrupted, it is ended by the same command.
    """
    from kms.bootstrap import begin_epoch  # noqa: PLC0415 - remote commands start faster

    check_officers(officer)

    def agree(loss: "Loss") -> None:
        note(f"{loss.sentence[0].upper()}{loss.sentence[1:]}.")
        if not yes:
            note(_BEFORE_A_NEW_EPOCH)
            sign_off(officer)

    pin = obtain_pin(settings, pin_fd=pin_fd)
    try:
        epoch = begin_epoch(settings, pin, officer, reason, agree)
    finally:
        pin.clear()
    document = {"log": epoch.log, "origin": epoch.origin, "vkey": epoch.vkey}
    return Shown(document, lines(sheet(document), "", _AFTER_A_NEW_EPOCH))


_BEFORE_A_NEW_EPOCH = """\
The log ends there, for good; a new epoch begins, and its first event says so to everybody.
If a newer copy of the ledger exists (a replica, a later backup, the old host's disk), stop here and
put that in place instead. Keep the database as it is now: it is evidence."""
_AFTER_A_NEW_EPOCH = """\
Next:
  1. Start the service. What was signed in the lost events is logged as orphaned, and revoked.
  2. Publish the verifier key: devices and messaging servers need it before they take new receipts.
  3. Have the devices concerned enrol anew; revoke again whoever was revoked in the lost events.
  4. Verify both epochs: kms log export NEW, then kms-audit verify NEW --earlier OLD"""
