"""`kms restore`: a home from a backup and a quorum of shares; or a drill that proves one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kms.cli.backup import BackupArgument, ShareOption, read_shares
from kms.cli.commands import JsonOption, finish
from kms.cli.errors import ExitCode, UsageProblemError
from kms.cli.files import read_small
from kms.cli.output import Shown, lines, sheet, table
from kms.config import Environment, load, locate

if TYPE_CHECKING:
    from kms.backup.restore import Restored


def restore(
    backup: BackupArgument,
    share: ShareOption = None,
    home: Annotated[
        Path | None, typer.Option("--home", help="Where the home is made; must be empty.")
    ] = None,
    seen_checkpoint: Annotated[
        list[Path] | None,
        typer.Option("--seen-checkpoint", help="A checkpoint of the log that somebody has."),
    ] = None,
    *,
    no_later_checkpoint: Annotated[
        bool,
        typer.Option(
            "--no-later-checkpoint", help="Nobody has a later checkpoint than the backup's."
        ),
    ] = False,
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="What `kms backup create` said.")
    ] = None,
    drill: Annotated[
        bool,
        typer.Option("--drill", help="Only prove the backup, in a scratch directory."),
    ] = False,
    scratch: Annotated[
        Path | None,
        typer.Option("--scratch", help="Where a drill decrypts to; the system's place by default."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put a backup back, in an empty home; nothing that exists is written over.

    With --drill nothing is put anywhere: the backup is restored into a scratch directory, audited,
    compared with --home, and removed again.
    """
    home = home or Environment().home
    if drill:
        finish(_drill(backup, share or [], home, scratch, sha256), as_json=as_json)
        return
    if home is None:
        raise UsageProblemError("which home? Give --home DIR, or set KMS_HOME")
    seen = {str(path): read_small(path) for path in seen_checkpoint or []}
    evidence = seen, no_later_checkpoint
    finish(_restore(backup, share or [], home, evidence, sha256), as_json=as_json)


def _restore(
    backup: Path,
    share: Sequence[Path],
    home: Path,
    evidence: tuple[Mapping[str, bytes], bool],
    sha256: str | None,
) -> Shown:
    from kms.backup.restore import Evidence  # noqa: PLC0415 - other commands start faster
    from kms.backup.restore import restore as put_back  # noqa: PLC0415 - as above

    done = put_back(backup, home, read_shares(share), Evidence(*evidence), sha256)
    return Shown(_document(done), _view(done))


def _drill(
    backup: Path,
    share: Sequence[Path],
    home: Path | None,
    scratch: Path | None,
    sha256: str | None,
) -> Shown:
    from kms.backup.drill import drill  # noqa: PLC0415 - other commands start faster

    running = None if home is None else load(locate(home))
    done = drill(backup, read_shares(share), running, scratch, sha256)
    document = {
        "ok": done.ok,
        "backup": done.manifest.id,
        "made": done.manifest.made,
        "origin": done.manifest.log.origin,
        "log_size": done.manifest.log.size,
        "checks": [finding.document() for finding in done.findings],
        "seconds": done.seconds,
    }
    rows = [
        ("ok" if finding.ok else "FAILED", finding.name, finding.detail)
        for finding in done.findings
    ]
    times = ", ".join(f"{step} {value:.1f}" for step, value in done.seconds.items())
    verdict = "the backup restores" if done.ok else "THE BACKUP DOES NOT RESTORE"
    view = lines(
        table(("", "check", "finding"), rows), "", f"Seconds: {times}", f"Verdict: {verdict}"
    )
    return Shown(document, view, ExitCode.DONE if done.ok else ExitCode.FAILED)


def _document(done: "Restored") -> dict[str, Any]:
    manifest = done.manifest
    return {
        "home": str(done.settings.home),
        "signer_state": str(done.settings.signer_state),
        "kept_signer_state": done.kept_signer,
        "backup": manifest.id,
        "made": manifest.made,
        "origin": manifest.log.origin,
        "log_size": manifest.log.size,
        "events_lost": done.loss or None,
        "checks": [finding.document() for finding in done.findings],
        "to_do": _steps(done),
    }


def _view(done: "Restored") -> Any:
    manifest = done.manifest
    said = {
        "home": done.settings.home,
        "signer's state": (
            f"{done.settings.signer_state}"
            f" ({'of this machine, kept' if done.kept_signer else 'from the backup'})"
        ),
        "backup": f"{manifest.id}, made {manifest.made}",
        "log": f"{manifest.log.size} events of {manifest.log.origin}",
    }
    steps = [f"  {number}. {step}" for number, step in enumerate(_steps(done), 1)]
    lost = [f"EVENTS ARE LOST: {done.loss}.", ""] if done.loss else []
    return lines(sheet(said), "", *lost, "Next:", *steps)


def _steps(done: "Restored") -> list[str]:
    """What only people can do."""
    settings, manifest = done.settings, done.manifest
    home = settings.home
    steps = [f"Look through {settings.path}: paths, modules and addresses are those of the backup."]
    for token in manifest.tokens:
        held = [key.label for key in token.keys if not key.wrapped] + list(token.wrapping)
        name = token.name or "main"
        if held:
            steps.append(
                f"Token {name} ({token.label}): attach it or, if it is lost, put the maker's own"
                f" backup on another one. It must hold {', '.join(held)}."
            )
    steps.append("Put the PINs where the settings say, 0600; no backup has them.")
    steps += [f"Not in the backup: {item}." for item in manifest.absent if _by_hand(item)]
    if done.loss:
        steps.append(
            f"kms log new-epoch --home {home} --officer NAME --officer NAME --reason TEXT:"
            " a log that lost events is never continued."
        )
    steps.append(f"kms serve --home {home}; its log says service.restored.")
    steps.append(f"kms doctor --home {home}")
    return steps


def _by_hand(absent: str) -> bool:
    """Tokens and PINs have steps of their own."""
    return not absent.startswith(("token ", "PINs ", "TLS "))
