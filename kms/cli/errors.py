"""From errors to exit codes and to what a person should do: the one table of the command line.

CliError
├── UsageProblemError     the command was called wrongly, or its surroundings are not ready
├── UnreachableError      no usable answer came from the service
├── MalformedAnswerError  the answer is not of the documented shape
├── RefusedError          the service refused, with a problem document (RFC 9457)
└── CheckFailedError      a check did not hold
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import typer

from hsm_drivers.errors import HsmError, PinRefusedError, TokenUnavailableError
from kms.backup.errors import BackupError, RestoreRefusedError, SharesError
from kms.config import ConfigError
from kms.processes.home import HomeBusyError
from kms.processes.pin import PinError
from kms.processes.signer_process import SignerStartError
from kms.services.ceremony_plan import PlanError
from kms.services.errors import KmsError
from kms.services.ports import LedgerUnavailableError
from kms.tlog.errors import TlogError
from kms.wire import WireError
from pki.errors import PkiError

PROBLEM = "urn:sovereign-kms:problem:"
"""What problem types begin with."""


class ExitCode(IntEnum):
    """How a command ends."""

    DONE = 0
    FAILED = 1
    """A check or an operation failed."""
    USAGE = 2
    """The command line or its environment is wrong."""


class CliError(Exception):
    """Root of what commands raise themselves; `remedy` says what to do."""

    remedy = ""

    def __init__(self, detail: str, remedy: str = "") -> None:
        super().__init__(detail)
        self.remedy = remedy or self.remedy


class UsageProblemError(CliError):
    """The command was called wrongly, or its surroundings are not ready."""


class UnreachableError(CliError):
    """No usable answer; whether a last request took effect is unknown."""

    remedy = "check --server and that the service runs; a repeated --idempotency-key acts only once"


class MalformedAnswerError(CliError):
    """The answer is not of the documented shape."""

    remedy = "check that --server names a key management service of this version"


class CheckFailedError(CliError):
    """A check did not hold."""


class RefusedError(CliError):
    """The service refused.

    Attributes:
        type: Problem type.
        status: HTTP status.
        retry: `never`, `same` or `later`.
        field: Which part of the request is meant.
    """

    def __init__(
        self, type_: str, status: int, detail: str, *, retry: str = "never", field: str | None
    ) -> None:
        super().__init__(detail, REMEDIES.get(type_.removeprefix(PROBLEM), ""))
        self.type = type_
        self.status = status
        self.retry = retry
        self.field = field


REMEDIES: Mapping[str, str] = {
    "algorithm-refused": "use an algorithm that the policy allows there",
    "certificate-revoked": "ask an officer for a new certificate (`kms cert issue`)",
    "conflict": "look at what is there (`list`, `show`); another name may be free",
    "forbidden": "use the client of someone whose role allows it: --as, or --cert and --key",
    "idempotency-key-reused": "leave --idempotency-key away, or repeat the same command exactly",
    "invalid-csr": "make the CSR anew: openssl req -new -key KEY -subj /CN=NAME -out CSR",
    "key-reused": "make a new key; keys are never registered twice",
    "confirmation-missing": "give the name of the key: --confirm NAME",
    "key-state": "look at its versions: kms key show NAME",
    "legal-hold": "the hold has to be lifted first",
    "log-unavailable": "try again with the same --idempotency-key; `kms doctor` finds the cause",
    "not-found": "check the name with `list`, and --tenant: tenants do not see each other",
    "operation-not-permitted": "have who manages the key permit it: kms key permit",
    "overloaded": "try again in a moment",
    "private-key-material": "take the private key out of the request; it must never leave its"
    " owner. If it was sent over a network, make a new one",
    "revoked": "choose another name: what was revoked does not come back",
    "signer-unavailable": "try again with the same --idempotency-key; `kms doctor` finds the cause",
    "signing-rate-exceeded": "try again later with the same --idempotency-key; `kms doctor` tells"
    " how the keys stand, signer.certificates_per_hour sets the most",
    "still-running": "wait for the first call to end, then repeat with the same --idempotency-key",
    "too-many-requests": "try again in a moment, with fewer calls at a time",
    "unauthenticated": "name a client certificate of this service: --as, or --cert and --key",
    "unavailable": "try again in a moment",
    "unknown-principal": "register the principal (`kms principal add`), or use another client",
    "weak-key": "make a new key with a sound generator",
}
"""What to do about a problem type, by the last part of its URN."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How one class of errors ends a command."""

    error: type[BaseException]
    exit_code: ExitCode
    remedy: str = ""


RULES = (
    Rule(RefusedError, ExitCode.FAILED),
    Rule(CheckFailedError, ExitCode.FAILED),
    Rule(MalformedAnswerError, ExitCode.FAILED),
    Rule(UnreachableError, ExitCode.USAGE),
    Rule(UsageProblemError, ExitCode.USAGE),
    Rule(PlanError, ExitCode.USAGE),
    Rule(SharesError, ExitCode.USAGE),
    Rule(RestoreRefusedError, ExitCode.USAGE),
    Rule(BackupError, ExitCode.FAILED),
    Rule(HomeBusyError, ExitCode.USAGE),
    Rule(PinError, ExitCode.USAGE),
    Rule(ConfigError, ExitCode.USAGE),
    Rule(SignerStartError, ExitCode.FAILED, "see the lines above, and run `kms doctor`"),
    Rule(PinRefusedError, ExitCode.USAGE, "mend the PIN before you try again: tokens lock"),
    Rule(TokenUnavailableError, ExitCode.FAILED, "run `kms doctor`"),
    Rule(HsmError, ExitCode.FAILED, "run `kms doctor`"),
    Rule(KmsError, ExitCode.FAILED),
    Rule(LedgerUnavailableError, ExitCode.FAILED, "run `kms doctor`"),
    Rule(PkiError, ExitCode.FAILED),
    Rule(TlogError, ExitCode.FAILED),
    Rule(WireError, ExitCode.FAILED),
    Rule(typer.TyperException, ExitCode.USAGE, "--help shows what is there"),
    Rule(typer.Abort, ExitCode.FAILED),
    Rule(KeyboardInterrupt, ExitCode.FAILED),
    Rule(OSError, ExitCode.USAGE, "check path, owner and mode"),
)
"""The first rule that fits an error holds; what no rule fits is a defect of this program."""

DEFECT = Rule(
    Exception, ExitCode.FAILED, "this is a defect: please report it with the command and this line"
)


@dataclass(frozen=True, slots=True)
class Explanation:
    """An error as a person or a script is told of it."""

    exit_code: ExitCode
    type: str
    detail: str
    remedy: str
    field: str | None = None
    retry: str | None = None

    def text(self) -> str:
        """For standard error: what is wrong and, on a line of its own, what to do."""
        where = f" (field {self.field})" if self.field else ""
        kind = f" [{self.type.removeprefix(PROBLEM)}]" if self.type.startswith(PROBLEM) else ""
        advice = f"\n     → {self.remedy}" if self.remedy else ""
        return printable(f"kms: {self.detail}{where}{kind}") + printable(advice, keep="\n")

    def document(self) -> dict[str, object]:
        """For `--json`."""
        named = {
            "type": self.type,
            "detail": self.detail,
            "field": self.field,
            "retry": self.retry,
            "remedy": self.remedy or None,
            "exit": int(self.exit_code),
        }
        return {"error": {name: value for name, value in named.items() if value is not None}}


def explain(error: BaseException) -> Explanation:
    """What an error means to whoever gave the command."""
    rule = next((rule for rule in RULES if isinstance(error, rule.error)), DEFECT)
    remedy = (error.remedy if isinstance(error, CliError) else "") or rule.remedy
    if isinstance(error, RefusedError):
        return Explanation(rule.exit_code, error.type, str(error), remedy, error.field, error.retry)
    if isinstance(error, KmsError):
        advice = REMEDIES.get(error.problem, remedy)
        type_ = PROBLEM + error.problem
        return Explanation(
            rule.exit_code, type_, error.detail, advice, error.field, error.retry.value
        )
    return Explanation(rule.exit_code, _kind(rule), _sentence(error, rule), remedy)


def _kind(rule: Rule) -> str:
    if rule is DEFECT:
        return "defect"
    return "usage" if rule.exit_code is ExitCode.USAGE else "failed"


def _sentence(error: BaseException, rule: Rule) -> str:
    if isinstance(error, typer.TyperException):
        return error.format_message()
    if isinstance(error, typer.Abort | KeyboardInterrupt):
        return "interrupted; nothing more is done"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if rule is DEFECT:
        return f"unexpected {type(error).__name__} in {_place(error)}: {error}"
    return str(error) or type(error).__name__


def _place(error: BaseException) -> str:
    """Module and line where the error arose; there is never a traceback."""
    trace = error.__traceback__
    if trace is None:
        return "an unknown place"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"


def printable(text: str, keep: str = "\n") -> str:
    """The text without control characters: what a server says must not steer a terminal."""
    return "".join(
        letter if letter.isprintable() or letter in keep else "\N{REPLACEMENT CHARACTER}"
        for letter in text
    )
