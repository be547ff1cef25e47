"""The signer's journal for an auditor: a copy, and what the log's key signed about it.

    signer/journal  signer/seal

The copy is made from the file, and only the signer can seal it: a command of the machine that the
signer runs on, as root or its user. The worker has no part in it.
"""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_drivers.ports import JournalSeal, Purpose
from kms.cli.commands import PinFdOption, local
from kms.cli.errors import CheckFailedError
from kms.cli.files import write
from kms.cli.output import Shown, sheet
from kms.processes.home import HomeBusyError, home_lock
from kms.processes.pin import Pin, obtain_pin
from kms.settings import Settings
from kms.tlog.notes import KeyType, NoteSignature, VerifierKey, format_note

if TYPE_CHECKING:
    from hsm_drivers.client import SignerClient

ENTRY = 192
"""Bytes of an entry."""
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Sealed:
    """A seal, and the key of the log's newest epoch that verifies it."""

    seal: JournalSeal
    vkey: VerifierKey

    def note(self) -> bytes:
        """As a signed note (C2SP signed-note)."""
        line = NoteSignature(self.vkey.name, self.vkey.key_id, self.seal.signature)
        return format_note(self.seal.text, [line])


@local
def export_journal(
    settings: Settings,
    directory: Annotated[Path, typer.Argument(help="Where signer/ is made.")],
    pin_fd: PinFdOption = None,
) -> Shown:
    """Write what the signer signed, for `kms-audit verify`: before the log is exported."""
    with _signer(settings, pin_fd) as socket:
        sealed = asyncio.run(_sealed(socket))
    seal = sealed.seal
    _copy(settings.signer_state / "journal", directory / "signer" / "journal", seal)
    write(directory / "signer" / "seal", sealed.note())
    document = {
        "directory": str(directory),
        "entries": seal.entries,
        "sha256": seal.sha256.hex(),
        "key": sealed.vkey.text(),
    }
    return Shown(document, sheet(document))


@local
def find_orphans(settings: Settings, pin_fd: PinFdOption = None) -> Shown:
    """Look through the whole journal again for what was signed and never logged, and revoke it."""
    from kms.bootstrap import local_services  # noqa: PLC0415 - remote commands start faster

    async def look(pin: Pin) -> int:
        async with local_services(settings, pin) as services:
            return await services.upkeep.sweep(anew=True)

    pin = obtain_pin(settings, pin_fd=pin_fd)
    try:
        document = {"orphans": asyncio.run(look(pin))}
    finally:
        pin.clear()
    return Shown(document, sheet(document))


@contextlib.contextmanager
def _signer(settings: Settings, pin_fd: int | None) -> Iterator[Path]:
    """The running signer's socket, or that of one that is started for this."""
    from kms.bootstrap import TokensProbe  # noqa: PLC0415 - remote commands start faster
    from kms.processes.signer_process import temporary_signer  # noqa: PLC0415 - as above

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(home_lock(settings))
        except HomeBusyError:
            yield settings.signer_socket
            return
        pin = obtain_pin(settings, pin_fd=pin_fd)
        stack.callback(pin.clear)
        yield stack.enter_context(temporary_signer(settings, pin, TokensProbe(), ceremony=False))


async def _sealed(socket: Path) -> Sealed:
    from hsm_drivers.client import SignerClient  # noqa: PLC0415 - remote commands start faster

    client = SignerClient(socket)
    try:
        return await _seal(client)
    finally:
        await client.aclose()


async def _seal(client: "SignerClient") -> Sealed:
    """By the key of the log that began last.

    Raises:
        CheckFailedError: There is no log yet.
    """
    heads = (await client.health()).heads
    keys = [record for record in await client.keys() if Purpose.CHECKPOINT in record.purposes]
    if not heads or not keys:
        raise CheckFailedError("the signer has signed no log yet", "hold the ceremony first")
    public = load_der_public_key(keys[-1].public_key)
    if not isinstance(public, Ed25519PublicKey):
        raise CheckFailedError(f"{keys[-1].label} is no key for notes", "")
    vkey = VerifierKey(heads[-1].origin, KeyType.ED25519, public.public_bytes_raw())
    return Sealed(await client.seal_journal(keys[-1].label), vkey)


def _copy(source: Path, target: Path, seal: JournalSeal) -> None:
    """The entries that the seal is for; the signer goes on writing behind them.

    Raises:
        CheckFailedError: The file is not what the signer wrote.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".new")
    left, digest = seal.entries * ENTRY, hashlib.sha256()
    with source.open("rb") as journal, temporary.open("wb") as copy:
        while left and (part := journal.read(min(left, _CHUNK))):
            digest.update(part)
            copy.write(part)
            left -= len(part)
        copy.flush()
        os.fsync(copy.fileno())
    if left or digest.digest() != seal.sha256:
        temporary.unlink()
        raise CheckFailedError(
            f"{source} is not what the signer wrote: somebody changed it since",
            "keep the file as evidence, and compare it with older copies",
        )
    temporary.replace(target)
