"""All checks, in an order in which each may use what those before it found."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from kms.cli.doctor.files import files
from kms.cli.doctor.findings import Finding, Patient, failed, ok, warning
from kms.cli.doctor.ledger import expiry, ledger
from kms.cli.doctor.machine import clock, disk, listeners, weak_keys
from kms.cli.doctor.processes import processes
from kms.cli.doctor.token import token
from kms.config import ConfigError
from kms.processes.home import HomeBusyError, home_lock
from kms.settings import Settings


def examine(settings: Settings, pin_fd: int | None = None) -> list[Finding]:
    """Examine a home; beside a running service its own signer is asked."""
    now = datetime.now(UTC).replace(microsecond=0)
    running, own = in_use(settings)
    patient = Patient(settings, now, running, own)
    found, facts = ledger(patient)
    return [
        clock(patient, facts.newest_event),
        *disk(patient),
        *files(patient),
        *listeners(patient),
        policy(patient),
        weak_keys(patient),
        *found,
        server_certificate(patient),
        *token(patient, facts, pin_fd),
        *processes(patient),
    ]


def in_use(settings: Settings) -> tuple[bool, bool]:
    """Whether a service or local command holds the home, and whether this user might."""
    try:
        with home_lock(settings):
            return False, True
    except HomeBusyError:
        return True, True
    except OSError:
        return (settings.run_dir / "supervisor.pid").exists(), False


def policy(patient: Patient) -> Finding:
    """The policy can be read."""
    from kms.bootstrap import policy as read  # noqa: PLC0415 - remote commands start faster

    try:
        found = read(patient.settings)
    except ConfigError as error:
        return failed("policy", str(error), "name a shipped policy, or mend the file")
    return ok("policy", f"{found.name}, hash {found.hash[:16]}…")


def server_certificate(patient: Patient) -> Finding:
    """The API's own certificate; the service makes and renews it by itself."""
    path = patient.settings.tls_dir / "server.pem"
    check = "server-certificate"
    try:
        certificate = x509.load_pem_x509_certificate(Path(path).read_bytes())
    except FileNotFoundError:
        return ok(check, "there is none yet; the service makes it at its start")
    except PermissionError:
        return warning(check, f"{path} cannot be read by this user", "run as root or its owner")
    except (OSError, ValueError) as error:
        return failed(check, f"{path}: {error}", "remove it: the service makes a new one")
    remedy = "start the service: it renews it" if not patient.running else "see its log lines"
    soon = timedelta(hours=patient.settings.tls.renew_before_hours) / 2
    end = certificate.not_valid_after_utc
    if not patient.running and end <= patient.now:
        return ok(check, "it has ended; the service makes a new one at its start")
    return expiry(check, "the API's server", end, patient.now, soon, remedy)
