"""Reading an audit directory (DESIGN section 6): files in, bytes out, everything bounded.

The only module of this package that reads files. Nothing is interpreted here, and nothing outside
the directory is read: symbolic links are reported, not followed.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kms.tlog.tiles import MAX_ENTRY, TILE_WIDTH

MAX_FILE = 64 * 1024 * 1024
"""Largest file in bytes: a CRL of a million entries, an entry bundle of 256 full leaves."""
MAX_FILES = 4_000_000
MAX_JOURNAL = 1 << 30
"""Largest copy of a journal in bytes: 5.5 million statements."""

_SINGLE = frozenset(
    {
        "log.vkey",
        "log-cosigner.vkey",
        "openings.json",
        "summary.json",
        "log/checkpoint",
        "signer/journal",
        "signer/seal",
    }
)
_SKIPPED = frozenset({"token"})
"""Top-level folders that belong to the token, not to the record."""


class LayoutError(Exception):
    """The directory cannot be read; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Record:
    """The bytes of an audit directory, by path below it (`/` as separator).

    Attributes:
        checkpoint: `log/checkpoint`.
        vkey: Text of the log's verifier key, as given by the auditor or by `log.vkey`.
        cosigner: `log-cosigner.vkey`.
        events: Index to exact leaf, from `events/<index>.json`.
        tiles: Path below `log/` to content, hash tiles and entry bundles.
        certificates: Path to PEM, every `.pem` but CRLs.
        crls: Path to content, `ca/*.crl` and `ca/*.crl.pem`.
        receipts: Path to content.
        openings: `openings.json`.
        summary: `summary.json`.
        journal: `signer/journal`.
        seal: `signer/seal`.
        oddities: Path to what is wrong with it (links, oversized or misnamed files).
    """

    checkpoint: bytes | None = None
    vkey: str | None = None
    cosigner: str | None = None
    events: dict[int, bytes] = field(default_factory=dict)
    tiles: dict[str, bytes] = field(default_factory=dict)
    certificates: dict[str, bytes] = field(default_factory=dict)
    crls: dict[str, bytes] = field(default_factory=dict)
    receipts: dict[str, bytes] = field(default_factory=dict)
    openings: bytes | None = None
    summary: bytes | None = None
    journal: bytes | None = None
    seal: bytes | None = None
    oddities: dict[str, str] = field(default_factory=dict)


def read(directory: Path, vkey: str | None = None) -> Record:
    """Read everything that the checks look at.

    Args:
        directory: The audit directory.
        vkey: Verifier key that the auditor holds; without it, `log.vkey` of the directory.

    Raises:
        LayoutError: Not a directory, or a file cannot be read.
    """
    if not directory.is_dir():
        raise LayoutError(f"{directory} is not a directory")
    files: dict[str, bytes] = {}
    oddities: dict[str, str] = {}
    for path in _walk(directory):
        name = path.relative_to(directory).as_posix()
        try:
            _sort(files, oddities, path, name)
        except OSError as error:
            raise LayoutError(f"cannot read {path}: {error.strerror}") from error
    return _record(files, oddities, vkey)


def read_text(path: Path, limit: int = 65_536) -> str:
    """A small text file that the auditor names.

    Raises:
        LayoutError: It cannot be read, is too large or not UTF-8.
    """
    try:
        if path.stat().st_size > limit:
            raise LayoutError(f"{path} has more than {limit} bytes")
        return path.read_text("utf-8")
    except OSError as error:
        raise LayoutError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LayoutError(f"{path} is not UTF-8 text") from error


def _walk(directory: Path) -> Iterator[Path]:
    """Every file of interest, in a stable order."""
    count = 0
    for folder, names, files in os.walk(directory, onerror=_refuse):
        here = Path(folder)
        names.sort()
        if here == directory:
            names[:] = [name for name in names if name not in _SKIPPED]
        links = [name for name in names if (here / name).is_symlink()]
        for name in sorted([*files, *links]):
            count += 1
            if count > MAX_FILES:
                raise LayoutError(f"{directory} holds more than {MAX_FILES} files")
            yield here / name


def _refuse(error: OSError) -> None:
    raise LayoutError(f"cannot read {error.filename}: {error.strerror}") from error


def _sort(files: dict[str, bytes], oddities: dict[str, str], path: Path, name: str) -> None:
    if not _wanted(name):
        return
    if path.is_symlink() or not path.is_file():
        oddities[name] = "not a regular file; it was not read"
        return
    limit = _limit(name)
    with path.open("rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        oddities[name] = f"larger than {limit} bytes"
    else:
        files[name] = content


def _wanted(name: str) -> bool:
    return (
        name in _SINGLE
        or name.startswith(("log/tile/", "events/", "receipts/"))
        or name.endswith((".pem", ".crl"))
    )


def _limit(name: str) -> int:
    if name.startswith("events/"):
        return MAX_ENTRY
    if name == "signer/journal":
        return MAX_JOURNAL
    if name.startswith("log/tile/entries/"):
        return TILE_WIDTH * (MAX_ENTRY + 2)
    return MAX_FILE


def _record(files: dict[str, bytes], oddities: dict[str, str], vkey: str | None) -> Record:
    record = Record(
        checkpoint=files.get("log/checkpoint"),
        vkey=_text(files, "log.vkey") if vkey is None else vkey.strip(),
        cosigner=_text(files, "log-cosigner.vkey"),
        openings=files.get("openings.json"),
        summary=files.get("summary.json"),
        journal=files.get("signer/journal"),
        seal=files.get("signer/seal"),
        oddities=oddities,
    )
    for name, content in files.items():
        if name.startswith("log/tile/"):
            record.tiles[name.removeprefix("log/")] = content
        elif name.startswith("events/"):
            _add_event(record, name, content)
        elif name.startswith("receipts/"):
            record.receipts[name] = content
        elif name.endswith((".crl", ".crl.pem")):
            record.crls[name] = content
        elif name.endswith(".pem"):
            record.certificates[name] = content
    return record


def _text(files: dict[str, bytes], name: str) -> str | None:
    return files[name].decode("utf-8", "replace").strip() if name in files else None


def _add_event(record: Record, name: str, content: bytes) -> None:
    text = name.removeprefix("events/").removesuffix(".json")
    if text.isascii() and text.isdecimal() and name == f"events/{int(text)}.json":
        record.events[int(text)] = content
    else:
        record.oddities[name] = "not named by an index, events/<index>.json"
