"""`kms doctor` as a command."""

from dataclasses import asdict

from rich.console import RenderableType
from rich.text import Text

from kms.cli.commands import PinFdOption, local
from kms.cli.doctor import Finding, Severity, examine, worst
from kms.cli.errors import ExitCode, printable
from kms.cli.output import Shown, lines
from kms.settings import Settings

_STYLES = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.FAILED: "bold red"}


@local
def doctor(settings: Settings, pin_fd: PinFdOption = None) -> Shown:
    """Examine the installation, and say what to do about each finding."""
    findings = examine(settings, pin_fd)
    verdict = worst(findings)
    document = {
        "home": str(settings.home),
        "verdict": verdict.value,
        "findings": [asdict(finding) for finding in findings],
    }
    status = ExitCode.FAILED if verdict is Severity.FAILED else ExitCode.DONE
    return Shown(document, lines(*map(_line, findings), _verdict(findings)), status=status)


def _line(finding: Finding) -> RenderableType:
    text = Text(f"{finding.severity.value:<8}", style=_STYLES[finding.severity])
    text.append(f"{finding.check:<19}", style="bold")
    text.append(printable(finding.detail), style="default not bold")
    if finding.remedy:
        text.append(f"\n{'':<27}→ {printable(finding.remedy)}", style="default not bold")
    return text


def _verdict(findings: list[Finding]) -> str:
    count = {kind: sum(item.severity is kind for item in findings) for kind in Severity}
    return (
        f"\n{count[Severity.FAILED]} failed, {count[Severity.WARNING]} warnings,"
        f" {count[Severity.OK]} in order."
    )
