"""The signer's journal as an auditor has it: a copy, and the signer's word for it. Pure.

The copy is worth what the seal under it is worth: whoever carried it could have left entries out.
Its form is section 12 of docs/wire-format.md.
"""

import hashlib
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from kms import wire
from kms.audit.findings import Check
from kms.tlog.errors import TlogError
from kms.tlog.notes import VerifierKey, parse_note, verify_note

JOURNAL, SEAL = "signer/journal", "signer/seal"
CERTIFICATE, CRL, CHECKPOINT, COSIGNATURE = "certificate", "crl", "checkpoint", "cosignature"

_ENTRY = struct.Struct(">IQQ32s64s16s52sQ")
_CRC = struct.Struct(">I")
_TEXT = re.compile(
    rb"sovereign-kms/journal/v1\n"
    rb"entries (0|[1-9][0-9]{0,17})\n"
    rb"sha256 ([A-Za-z0-9+/]{43}=)\n"
    rb"time ([0-9TZ:-]{20})\n"
)
_PRINTABLE = re.compile(rb"[!-~]*")


@dataclass(frozen=True, slots=True)
class Entry:
    """One statement that was signed.

    Attributes:
        counter: Its place, from 1.
        key: Label of the key.
        purpose: `certificate`, `crl`, `checkpoint` or `cosignature`.
        sha256: Digest of the message.
        reference: A certificate's serial, a list's number, a head's size; a cosigned head's size,
            `@` and the time of the cosignature in Unix seconds.
        time: By the signer's clock; None in entries from before it was kept.
    """

    counter: int
    key: str
    purpose: str
    sha256: bytes
    reference: str
    time: datetime | None

    @property
    def where(self) -> str:
        """How a failure names it."""
        return f"journal entry {self.counter}"

    @property
    def when(self) -> str:
        """Its time in words."""
        return "at an unknown time" if self.time is None else f"at {wire.timestamp(self.time)}"


@dataclass(frozen=True, slots=True)
class Seal:
    """What the log's key signed about the journal."""

    entries: int
    sha256: bytes
    time: datetime


@dataclass(frozen=True, slots=True)
class Journal:
    """Entries of a copy, as far as they are sound, and its seal, if that verifies."""

    entries: tuple[Entry, ...]
    seal: Seal | None


def read_journal(
    data: bytes, note: bytes | None, keys: Sequence[VerifierKey]
) -> tuple[Check, Journal]:
    """Read a copy of the journal and hold it against its seal.

    Args:
        data: The copy.
        note: The seal, a signed note.
        keys: Verifier keys of the log's epochs, any of which may have signed it.
    """
    check = Check("journal", "the log's key signed for this very journal, and it has no gap")
    seal = _read_seal(check, note, keys)
    if seal is not None:
        _check_whole(check, data, seal)
    whole, rest = divmod(len(data), _ENTRY.size)
    check.expect(not rest, JOURNAL, f"ends within an entry: {rest} bytes are left over")
    entries = []
    for counter, raw in enumerate(_cut(data, whole), 1):
        entry = _entry(raw, counter)
        if check.expect(entry, f"journal entry {counter}", "is damaged") and entry:
            entries.append(entry)
    check.examined = whole
    return check, Journal(tuple(entries), seal)


def check_extends(data: bytes, where: str, note: bytes, keys: Sequence[VerifierKey]) -> Check:
    """The journal begins with all that an older seal was for."""
    check = Check("journal-continues", "the journal extends the one that was sealed before")
    older = _read_seal(check, note, keys, where)
    if older is not None:
        check.examined = 1
        part = data[: older.entries * _ENTRY.size]
        same = len(part) == older.entries * _ENTRY.size and _digest(part) == older.sha256
        message = f"its {older.entries} entries are not the first of this journal any more"
        check.expect(same, where, message)
    return check


def _read_seal(
    check: Check, note: bytes | None, keys: Sequence[VerifierKey], where: str = SEAL
) -> Seal | None:
    if note is None:
        check.fail(where, "missing: entries may have been left out of this copy")
        return None
    try:
        parsed = parse_note(note)
        verify_note(parsed, keys)
    except TlogError as error:
        check.fail(where, str(error))
        return None
    found = _TEXT.fullmatch(parsed.text)
    if found is None:
        check.fail(where, "not the seal of a journal")
        return None
    entries, digest, moment = (part.decode() for part in found.groups())
    try:
        return Seal(int(entries), wire.unb64(digest), wire.parse_timestamp(moment))
    except wire.WireError as error:
        check.fail(where, str(error))
        return None


def _check_whole(check: Check, data: bytes, seal: Seal) -> None:
    entries = len(data) // _ENTRY.size
    if check.expect(
        len(data) == seal.entries * _ENTRY.size,
        JOURNAL,
        f"has {entries} entries, its seal is for {seal.entries}",
    ):
        check.expect(_digest(data) == seal.sha256, JOURNAL, "is not what its seal is for")


def _cut(data: bytes, entries: int) -> Iterator[bytes]:
    return (data[at * _ENTRY.size : (at + 1) * _ENTRY.size] for at in range(entries))


def _entry(raw: bytes, counter: int) -> Entry | None:
    """The entry, or None where the bytes are not that entry's."""
    crc, found, first, digest, *texts, seconds = _ENTRY.unpack(raw)
    key, purpose, reference = (text.rstrip(b"\0") for text in texts)
    readable = all(_PRINTABLE.fullmatch(text) for text in (key, purpose, reference))
    if crc != zlib.crc32(raw[_CRC.size :]) or found != counter or first > counter or not readable:
        return None
    return Entry(
        counter, key.decode(), purpose.decode(), digest, reference.decode(), _moment(seconds)
    )


def _moment(seconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds else None
    except (ValueError, OverflowError, OSError):
        return None


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
