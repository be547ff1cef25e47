"""The signer's journal: what was signed, or was about to be, in order, on disk before release.

A file of 192-byte entries, so that entry n stands at (n - 1) * 192 and nothing of it need be kept
in memory. Big-endian: CRC-32 of the rest, counter, counter of the first entry of the same batch,
SHA-256 of the message, then key, purpose and reference in ASCII, padded with NUL, and the time in
Unix seconds, 0 in entries from before it was kept. `docs/wire-format.md` has it for auditors.

A batch is written with one `pwrite` and one `fdatasync`. A crash in between leaves a torn last
batch, none of which was released: opening the journal cuts it off and says so. Damage that a crash
cannot explain stops the signer.
"""

import hashlib
import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from hsm_drivers.errors import StatementRefusedError, TokenFailureError, TokenUnavailableError
from hsm_drivers.ports import JournalEntry, KeyLabel, Purpose

MAX_BATCH = 4096
"""Most statements signed, and most entries written, at once."""

_ENTRY = struct.Struct(">IQQ32s64s16s52sQ")
_MAX_REFERENCE = 52
_READ_AT_ONCE = 16_384
_MADE = struct.Struct(">52x64s16s52xQ")
"""Key, purpose and time of an entry."""


@dataclass(frozen=True, slots=True)
class Intent:
    """A signature about to be made; the journal numbers it."""

    key: KeyLabel
    purpose: Purpose
    digest: bytes
    reference: str


class Journal:
    """An open journal; the caller sees to it that it is opened once (`SignerState`'s lock).

    Attributes:
        torn: Bytes of an unfinished last batch that were cut off on opening.
        writes: Batches written since opening.
        seconds: How long those took altogether, until they were durable.
    """

    def __init__(self, path: Path) -> None:
        """Open or create, and repair.

        Raises:
            TokenFailureError: Durable entries are damaged, or the file cannot be opened.
        """
        self._path = path
        self.writes, self.seconds = 0, 0.0
        self._hash, self._hashed = hashlib.sha256(), 0
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise TokenFailureError(f"cannot open the journal {path}: {error.strerror}") from error
        try:
            self._count, self.torn = self._repair()
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def counter(self) -> int:
        """Counter of the last entry; 0 for none."""
        return self._count

    def append(self, intents: Sequence[Intent], time: int) -> None:
        """Write one batch durably.

        Always at the end of what is known to be durable: what a failed attempt left there is
        overwritten by the next, so that an error needs no repair.

        Args:
            intents: The batch.
            time: When it is signed, Unix seconds.

        Raises:
            TokenUnavailableError: The disk refused; nothing of the batch counts.
        """
        if len(intents) > MAX_BATCH:
            raise StatementRefusedError(f"a batch has at most {MAX_BATCH} statements")
        first = self._count + 1
        data = b"".join(
            _encode(counter, first, intent, time) for counter, intent in enumerate(intents, first)
        )
        started = monotonic()
        try:
            _write_all(self._fd, data, self._count * _ENTRY.size)
            os.fdatasync(self._fd)
        except OSError as error:
            raise TokenUnavailableError(
                f"the journal {self._path} cannot be written ({error.strerror}); nothing is signed"
                " until it can"
            ) from error
        self._count += len(intents)
        self.writes += 1
        self.seconds += monotonic() - started

    def entries(self, after: int, limit: int) -> list[JournalEntry]:
        """Entries with a counter above `after`, oldest first, at most `limit`.

        Raises:
            TokenFailureError: An entry is damaged.
        """
        count = min(limit, self._count - after)
        if after < 0 or count <= 0:
            return []
        data = os.pread(self._fd, count * _ENTRY.size, after * _ENTRY.size)
        found = []
        for counter, raw in enumerate(_chunks(data), after + 1):
            decoded = _decode(raw, counter)
            if decoded is None:
                raise self._damaged(counter)
            found.append(decoded[0])
        return found

    def signed_since(self, since: int) -> Counter[tuple[KeyLabel, Purpose]]:
        """How many statements there are from a moment on, by key and purpose.

        Read from the end back to the first page in which nothing is as young: the clock may have
        been set meanwhile, and what lies in the future counts. Nothing else of an entry is looked
        at, so that an hour of a million takes about a second.

        Args:
            since: Unix time in seconds.

        Raises:
            TokenFailureError: An entry is damaged.
        """
        signed: Counter[tuple[bytes, bytes]] = Counter()
        end = self._count
        while end > 0:
            start = max(0, end - _READ_AT_ONCE)
            data = os.pread(self._fd, (end - start) * _ENTRY.size, start * _ENTRY.size)
            young = Counter(
                (key, purpose) for key, purpose, time in _MADE.iter_unpack(data) if time >= since
            )
            if not young:
                break
            signed += young
            end = start
        try:
            return Counter(
                {
                    (KeyLabel(_text(key)), Purpose(_text(what))): n
                    for (key, what), n in signed.items()
                }
            )
        except ValueError:
            raise self._damaged(end + 1) from None

    def digest(self) -> bytes:
        """SHA-256 of all entries as they stand in the file; of a longer journal, that of its part.

        Reads what was added since it was last asked for; the first time, everything.

        Raises:
            TokenFailureError: The file has become shorter.
        """
        while self._hashed < self._count:
            entries = min(_READ_AT_ONCE, self._count - self._hashed)
            data = os.pread(self._fd, entries * _ENTRY.size, self._hashed * _ENTRY.size)
            if len(data) < entries * _ENTRY.size:
                raise self._damaged(self._hashed + 1)
            self._hash.update(data)
            self._hashed += entries
        return self._hash.digest()

    def close(self) -> None:
        """Let the file go."""
        os.close(self._fd)

    def _repair(self) -> tuple[int, int]:
        """Number of sound entries, and bytes cut off behind them.

        Only the last batch can be torn, and no batch has more than MAX_BATCH entries: so only
        those are read. A sound entry of a later batch behind a bad one means that the bad one had
        been durable.
        """
        size = os.fstat(self._fd).st_size
        whole = size // _ENTRY.size
        start = max(0, whole - MAX_BATCH)
        data = os.pread(self._fd, (whole - start) * _ENTRY.size, start * _ENTRY.size)
        decoded = [_decode(raw, counter) for counter, raw in enumerate(_chunks(data), start + 1)]
        bad = decoded.index(None) if None in decoded else len(decoded)
        if any(entry and entry[1] > start + bad + 1 for entry in decoded[bad:]):
            raise self._damaged(start + bad + 1)
        sound = start + bad
        torn = size - sound * _ENTRY.size
        if torn:
            os.ftruncate(self._fd, sound * _ENTRY.size)
            os.fsync(self._fd)
        return sound, torn

    def _damaged(self, counter: int) -> TokenFailureError:
        return TokenFailureError(
            f"entry {counter} of the journal {self._path} is damaged, and no crash explains it;"
            " keep the file as evidence and restore it from a copy"
        )


def acceptable(reference: str) -> bool:
    """Whether a reference fits an entry as it is."""
    return 0 < len(reference) <= _MAX_REFERENCE and reference.isascii() and reference.isprintable()


def _encode(counter: int, first: int, intent: Intent, time: int) -> bytes:
    raw = _ENTRY.pack(
        0,
        counter,
        first,
        intent.digest,
        intent.key.encode("ascii"),
        intent.purpose.encode("ascii"),
        intent.reference.encode("ascii"),
        time,
    )
    return zlib.crc32(raw[4:]).to_bytes(4, "big") + raw[4:]


def _decode(raw: bytes, counter: int) -> tuple[JournalEntry, int] | None:
    """The entry and its batch's first counter; None where the bytes are not that entry's."""
    crc, found, first, digest, key, purpose, reference, time = _ENTRY.unpack(raw)
    if crc != zlib.crc32(raw[4:]) or found != counter:
        return None
    entry = JournalEntry(
        counter=counter,
        key=KeyLabel(_text(key)),
        purpose=Purpose(_text(purpose)),
        digest=digest,
        reference=_text(reference),
        time=time,
    )
    return entry, first


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode("ascii")


def _chunks(data: bytes) -> Iterable[bytes]:
    return (data[at : at + _ENTRY.size] for at in range(0, len(data), _ENTRY.size))


def _write_all(fd: int, data: bytes, offset: int) -> None:
    """A full disk may take a part and say so only when asked again."""
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
