"""The token: reached through a signer, as by everything else; its keys read back, now."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hsm_drivers.errors import HsmError
from hsm_drivers.ports import Head, KeyAttributes, KeyRecord, SignerHealth, TokenStatus
from kms.cli.doctor.findings import Finding, Patient, failed, ok, warning
from kms.cli.doctor.ledger import LedgerFacts
from kms.config import ConfigError
from kms.processes.pin import Pin, PinError, obtain_pin
from kms.processes.signer_process import SignerStartError
from kms.services.heads import epoch_number, newest_epoch
from kms.settings import Settings, shown
from policies.decisions import Protection

CHECK = "token"
TIMEOUT = 10.0
SEE_ABOVE = "see the lines above: they say what the token said"
NEARLY = 0.1
"""Of an hour's statements: with less than that left, somebody should look."""
TOO_MANY = (
    "find out who orders so many (`kms log events`, kms_certificates_issued_total); if it is"
    " honest work, set signer.*_per_hour higher"
)
LOST = (
    "the ledger lost what was signed: restore the newest backup, or begin a new epoch,"
    " `kms log new-epoch`"
)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a signer said: its health, its records, and each key's attributes as they are now."""

    health: SignerHealth
    records: tuple[KeyRecord, ...]
    attributes: dict[str, KeyAttributes | HsmError]


def token(patient: Patient, facts: LedgerFacts, pin_fd: int | None) -> list[Finding]:
    """Module, token, login, keys, mechanisms, and the signer's memory of the log."""
    missing = modules(patient.settings)
    if missing:
        return missing
    if not (patient.own or patient.running):
        remedy = "run as root or as the user of the service"
        return [warning(CHECK, "this user may start no signer in the home", remedy)]
    answers, found = _ask(patient, pin_fd)
    if answers is None:
        return found
    found += keys(answers)
    found += [mechanisms(answers.health), memory(answers.health.heads, facts)]
    return [*found, *rates(answers.health)]


def _ask(patient: Patient, pin_fd: int | None) -> tuple[Answers | None, list[Finding]]:
    """The running signer if there is one, else one that is started for this."""
    try:
        answers = _running(patient.settings) if patient.running else _own(patient.settings, pin_fd)
    except PinError as error:
        return None, [failed(CHECK, str(error), "mend the PIN before you try again: tokens lock")]
    except (SignerStartError, ConfigError) as error:
        return None, [failed(CHECK, str(error), SEE_ABOVE)]
    except HsmError as error:
        if patient.running:
            remedy = "run as the user of the service, or root; if it is root: see its log lines"
            return None, [warning(CHECK, f"the running signer does not answer: {error}", remedy)]
        return None, [failed(CHECK, str(error), SEE_ABOVE)]
    health = answers.health
    if not health.ready:
        return None, [failed(CHECK, f"token {health.token}: {health.detail}", "connect the token")]
    if len(health.tokens) < 2:
        return answers, [ok(CHECK, f"{health.token}: logged in, {health.detail}")]
    return answers, [_estate(token) for token in health.tokens]


def modules(settings: Settings) -> list[Finding]:
    """Every token's module is there; one inside a chroot is looked for there."""
    found = []
    for name, token in settings.estate.items():
        root = Path("/") if token.chroot is None else token.chroot
        module = root / token.module.relative_to("/")
        if not module.is_file():
            table = f"tokens.{name}" if name else "token"
            said = f"there is no PKCS#11 module at {module}"
            found.append(failed(CHECK, said, f"set {table}.module"))
    return found


def _estate(token: TokenStatus) -> Finding:
    name = f"{shown(token.name)} ({token.label})"
    if not token.healthy:
        remedy = "connect it; docs/runbooks/token-away.md. Keys with a replica go on elsewhere"
        return failed(CHECK, f"{name}: {token.detail}", remedy)
    return ok(CHECK, f"{name}: {token.detail}, {token.processes} process(es) serve it")


def _running(settings: Settings) -> Answers:
    return asyncio.run(_answers(settings.signer_socket))


def _own(settings: Settings, pin_fd: int | None) -> Answers:
    """One attempt with the PIN, by a signer of our own."""
    from kms.bootstrap import TokensProbe  # noqa: PLC0415 - remote commands start faster
    from kms.processes.home import home_lock  # noqa: PLC0415 - beside the above
    from kms.processes.signer_process import temporary_signer  # noqa: PLC0415 - beside the above

    pin: Pin = obtain_pin(settings, pin_fd=pin_fd)
    try:
        with (
            home_lock(settings),
            temporary_signer(settings, pin, TokensProbe(), ceremony=False) as path,
        ):
            return asyncio.run(_answers(path))
    finally:
        pin.clear()


async def _answers(socket: Path) -> Answers:
    from hsm_drivers.client import SignerClient  # noqa: PLC0415 - remote commands start faster

    client = SignerClient(socket, timeout=TIMEOUT)
    try:
        records = await client.keys()
        attributes: dict[str, KeyAttributes | HsmError] = {}
        for record in records:
            try:
                attributes[record.label] = await client.attributes(record.label)
            except HsmError as error:
                attributes[record.label] = error
        return Answers(await client.health(), tuple(records), attributes)
    finally:
        await client.aclose()


def keys(answers: Answers) -> list[Finding]:
    """Every key is there, as its ceremony left it, and cannot leave."""
    found = []
    for record in answers.records:
        now = answers.attributes[record.label]
        if isinstance(now, HsmError):
            found.append(
                failed("keys", f"{record.label}: {now}", "restore the token, or replace the key")
            )
        elif record.protection is Protection.TOKEN and not now.held():
            found.append(
                failed(
                    "keys",
                    f"{record.label} can leave the token, or was not born on it",
                    "treat it as compromised: find out who changed it, and replace it",
                )
            )
        elif now != record.attributes:
            remedy = "find out who changed it; compare with the event of its birth"
            found.append(failed("keys", f"{record.label}: its attributes have changed", remedy))
    labels = ", ".join(record.label for record in answers.records)
    return found or [ok("keys", f"{labels or 'none yet'}: attributes read back, as at their birth")]


def mechanisms(health: SignerHealth) -> Finding:
    """The token offers what its keys need."""
    if health.lacking:
        said = f"the token lacks mechanisms: {'; '.join(health.lacking)}"
        return failed("mechanisms", said, "enable them, or change tokens")
    return ok("mechanisms", "the token offers what its keys need")


def rates(health: SignerHealth) -> list[Finding]:
    """No key signs more than it should, or is about to."""
    found = []
    for rate in health.rates:
        what = f"{rate.key}: {rate.purpose} statements: {rate.left} of {rate.per_hour} an hour left"
        if rate.refused:
            said = f"{what}, {rate.refused} refused since the signer's start"
            found.append(failed("rates", said, TOO_MANY))
        elif rate.left < rate.per_hour * NEARLY:
            found.append(warning("rates", what, TOO_MANY))
    return found or [ok("rates", "no key is near the most that it may sign in an hour")]


def memory(heads: Sequence[Head], facts: LedgerFacts) -> Finding:
    """The last head that the signer signed is one of the ledger's."""
    if facts.head is None:
        return warning("signer-memory", "there is no ledger to compare it with", "mend the ledger")
    newest = newest_epoch(heads, facts.head.origin)
    if newest is not None and epoch_number(newest.origin) > facts.head.log:
        said = f"it signed events of {newest.origin}, the ledger is in {facts.head.origin} still"
        return failed("signer-memory", said, LOST)
    last = next((head for head in heads if head.origin == facts.head.origin), None)
    if last is None:
        remedy = "the signer's state was lost: restore it, or begin a new epoch"
        return failed("signer-memory", f"it remembers nothing of {facts.head.origin}", remedy)
    if last.size > facts.head.size:
        said = f"it signed {last.size} events, the ledger has {facts.head.size}"
        return failed("signer-memory", said, LOST)
    root = facts.roots(last.size)
    if root != last.root:
        return failed("signer-memory", f"it signed another tree of {last.size} events", LOST)
    return ok("signer-memory", f"it last signed {last.size} events, as the ledger has them")
