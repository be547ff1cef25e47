"""`kms backup`: recovery keys in shares, and backups that only a quorum of them opens."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from kms.backup.shares import MAX_SHARES, MAX_TEXT, Share, parse
from kms.cli.commands import JsonOption, PinFdOption, finish, local, new_group
from kms.cli.errors import UsageProblemError
from kms.cli.files import PRIVATE, must_be_new, write
from kms.cli.local_principals import with_services
from kms.cli.output import Shown, lines, sheet
from kms.settings import Settings

if TYPE_CHECKING:
    from kms.backup.format import Header, Manifest
    from kms.backup.recovery import NewKey, RecoveryKey
    from kms.services.facade import Services

group = new_group("backup", "Backups that a quorum of officers opens, and the keys for it.")

BackupArgument = Annotated[Path, typer.Argument(help="The backup.", metavar="FILE")]
ShareOption = Annotated[
    list[Path] | None,
    typer.Option("--share", help="A file with an officer's share; one for each of a quorum."),
]


@group.command("new-recovery-key")
@local
def new_recovery_key(
    settings: Settings,
    shares: Annotated[
        int, typer.Option("--shares", min=2, max=MAX_SHARES, help="Officers who get one.")
    ],
    quorum: Annotated[
        int, typer.Option("--quorum", min=2, max=MAX_SHARES, help="How many of them open.")
    ],
    out: Annotated[Path, typer.Option("--out", help="New directory for the shares.")],
    officer: Annotated[
        list[str], typer.Option("--officer", help="Who is present; at least two, each once.")
    ],
    pin_fd: PinFdOption = None,
) -> Shown:
    """Make a recovery key: a share for each officer, its private half nowhere else, an event."""
    from kms.backup import recovery  # noqa: PLC0415 - other commands start faster
    from kms.backup.collect import recovery_dir  # noqa: PLC0415 - as above
    from kms.backup.registering import register  # noqa: PLC0415 - as above

    if len(set(officer)) < 2 or len(set(officer)) != len(officer):
        raise UsageProblemError(
            "a recovery key needs two or more different officers", "give --officer NAME for each"
        )
    _make_directory(out)
    made: list[NewKey] = []

    async def work(services: "Services") -> None:
        core = services.core
        key = recovery.generate(core.policy, quorum, shares, core.clock.now())
        # The shares lie on disk before anyone counts on them; without the event they open nothing.
        _write_shares(out, key)
        await register(core, key, officer)
        made.append(key)

    asyncio.run(with_services(settings, pin_fd, work))
    public = made[0].public
    path = recovery_dir(settings) / f"{public.id}.json"
    write(path, recovery.encode(public))
    document = {
        "recovery_key": public.id,
        "algorithm": public.algorithm,
        "quorum": quorum,
        "shares": [str(path) for path in sorted(out.iterdir())],
        "public": str(path),
        "sha256": public.sha256,
    }
    return Shown(document, lines(sheet(document), "", _AFTER_A_KEY))


_AFTER_A_KEY = """\
Next:
  1. Give each officer one share: the file, or its five lines on paper. Nobody holds two.
  2. Remove the directory; nothing else has the private half.
  3. Make a backup, and prove it: kms backup create, then kms restore --drill."""


def _make_directory(path: Path) -> None:
    """A new directory, or an empty one, of nobody else."""
    path.mkdir(mode=0o700, exist_ok=True)
    if any(path.iterdir()):
        raise UsageProblemError(f"{path}: not empty", "name a new directory for the shares")
    path.chmod(0o700)


def _write_shares(directory: Path, key: "NewKey") -> None:
    for share in key.shares:
        text = (
            f"Share {share.number} of {share.shares} of recovery key {share.key}\n"
            f"Made {key.public.created}, {key.public.algorithm}; any {share.quorum} shares together"
            " open the backups.\n"
            "Keep it apart from the others. Its five lines can be printed, and typed again.\n\n"
        )
        write(directory / f"share-{share.number}.txt", (text + share.text()).encode(), PRIVATE)


@group.command("create")
@local
def create(
    settings: Settings,
    out: Annotated[Path, typer.Option("--out", help="The backup; must not exist.")],
    recovery_key: Annotated[
        list[Path] | None,
        typer.Option("--recovery-key", help="Public half; all of <home>/recovery by default."),
    ] = None,
) -> Shown:
    """Make a backup, while the service runs or stands: ledger, log, settings, signer's state."""
    from kms.backup import archive  # noqa: PLC0415 - other commands start faster
    from kms.backup.collect import gathered  # noqa: PLC0415 - as above

    must_be_new(out)
    keys = _keys(settings, recovery_key)
    with gathered(settings, keys, datetime.now(UTC)) as found:
        digest = archive.write(found, keys, out)
        manifest = found.manifest
    document = {
        "backup": str(out),
        "sha256": digest,
        "size": out.stat().st_size,
        **_summary(manifest, keys),
    }
    return Shown(document, lines(sheet(_flat(document)), "", _AFTER_A_BACKUP))


_AFTER_A_BACKUP = """\
Keep the SHA-256 apart from the file: it alone tells this backup from one that somebody else made.
Prove the backup now and then: kms restore --drill FILE --share FILE …"""


def _keys(settings: Settings, given: Sequence[Path] | None) -> "list[RecoveryKey]":
    from kms.backup import recovery  # noqa: PLC0415 - other commands start faster
    from kms.backup.collect import recovery_dir  # noqa: PLC0415 - as above

    if given:
        return [recovery.read(path) for path in given]
    return recovery.read_all(recovery_dir(settings))


@group.command("show")
def show(path: BackupArgument, *, as_json: JsonOption = False) -> None:
    """Show what a backup says of itself; no share is needed, and nothing is proven."""
    from kms.backup import archive  # noqa: PLC0415 - other commands start faster

    header = archive.show(path)
    document = {"backup": str(path), **_document(header)}
    finish(Shown(document, _view(header)), as_json=as_json)


@group.command("verify")
def verify(
    path: BackupArgument,
    share: ShareOption = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="What `kms backup create` said.")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Check that a backup is whole; with shares, every byte of it."""
    from kms.backup import archive  # noqa: PLC0415 - other commands start faster

    header = archive.show(path)
    if share:
        archive.verify(path, read_shares(share), sha256)
    elif sha256 is not None:
        archive.refuse_other(path, sha256)
    checked = "every byte" if share else "size" if sha256 is None else "digest"
    document = {"backup": str(path), "ok": True, "checked": checked}
    keys = [item.key for item in header.recipients]
    shown = {**document, **_flat(_summary(header.manifest, keys))}
    finish(Shown(document, sheet(shown)), as_json=as_json)


def read_shares(paths: Sequence[Path]) -> dict[str, Share]:
    """The shares in these files, by name.

    Raises:
        SharesError: One is none.
        UsageProblemError: A file cannot be read.
    """
    return {str(path): parse(_share_text(path), str(path)) for path in paths}


def _share_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_TEXT + 1).decode("utf-8", "replace")
    except OSError as error:
        raise UsageProblemError(f"{path}: cannot be read: {error.strerror}") from error


def _document(header: "Header") -> dict[str, Any]:
    manifest = header.manifest
    keys = [item.key for item in header.recipients]
    return {
        **_summary(manifest, keys),
        "checkpoint": manifest.log.checkpoint,
        "vkey": manifest.log.vkey,
        "schema": manifest.schema,
        "tokens": [
            {
                "name": token.name or "main",
                "label": token.label,
                "keys": [
                    {
                        "label": key.label,
                        "id": key.key_id,
                        "algorithm": key.algorithm,
                        "protection": key.protection,
                        "public_key_sha256": key.public_key_sha256,
                        "in_backup": "wrapped" if key.wrapped else "reference",
                    }
                    for key in token.keys
                ],
            }
            for token in manifest.tokens
        ],
        "files": len(manifest.files),
        "content_size": header.content_size,
    }


def _summary(manifest: "Manifest", keys: "Sequence[RecoveryKey]") -> dict[str, Any]:
    return {
        "id": manifest.id,
        "made": manifest.made,
        "name": manifest.name,
        "origin": manifest.log.origin,
        "log_size": manifest.log.size,
        "root": manifest.log.root.hex(),
        "recovery_keys": [
            {
                "id": key.id,
                "algorithm": key.algorithm,
                "quorum": key.quorum,
                "shares": len(key.shares),
            }
            for key in keys
        ],
        "not_in_it": list(manifest.absent),
    }


def _flat(document: dict[str, Any]) -> dict[str, object]:
    """The same for people: a line each."""
    keys = [f"{key['quorum']} of {key['shares']} shares of {key['id']}" for key in _list(document)]
    absent = document["not_in_it"]
    return {**document, "recovery_keys": "; ".join(keys), "not_in_it": "; ".join(absent)}


def _list(document: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document["recovery_keys"]
    return found


def _view(header: "Header") -> RenderableType:
    keys = [item.key for item in header.recipients]
    shown = _flat(_summary(header.manifest, keys))
    return lines(sheet(shown), "", header.manifest.log.checkpoint, _UNPROVEN)


_UNPROVEN = "Nothing here is proven: kms backup verify FILE --share FILE … opens and checks it."
