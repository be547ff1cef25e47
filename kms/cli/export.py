"""A log as plain files: what an auditor checks without any trust in the server (DESIGN section 6).

    log/checkpoint  log/tile/…  log/tile/entries/…  log.vkey  events/<index>.json  openings.json

and `log-cosigner.vkey` where the log has a cosigner.

Everything is taken for the size of one checkpoint, so a log that grows meanwhile does no harm.
Bytes are written as they come; `kms-audit verify` judges them.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from kms.cli.client import ApiClient, field_of, records_of, segment
from kms.cli.errors import MalformedAnswerError
from kms.cli.files import PRIVATE, write
from kms.tlog.checkpoint import Checkpoint, parse_checkpoint
from kms.tlog.notes import parse_note
from kms.tlog.tiles import TILE_BITS, TILE_WIDTH, decode_entries, entries_path, tile_path

EVERYTHING = 10_000_000
"""More events than one export is for."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: entries, hash tiles and bundles, and events with openings."""

    origin: str
    size: int
    tiles: int
    openings: int


def export_log(api: ApiClient, public: ApiClient, directory: Path, bar: Progress) -> Exported:
    """Write the log of the newest checkpoint.

    Args:
        api: As an auditor or officer of the authority.
        public: The public listener.
        directory: Made if it is absent.
        bar: Shows how far it is.

    Raises:
        CliError: Refused, unreachable, or not of the documented shape.
        TlogError: Checkpoint or bundles do not parse.
        OSError: A file cannot be written.
    """
    shown = api.get("/v1/log")
    vkey, cosigner = field_of(shown, "vkey"), shown.get("cosigner_vkey")
    note = public.download("/log/checkpoint")
    head = parse_checkpoint(parse_note(note).text)
    tiles = list(hash_tiles(head.size))
    bundles = list(bundle_tiles(head.size))
    task = bar.add_task("log", total=len(tiles) + len(bundles))
    epoch = segment(epoch_of(head))
    for level, number, width in tiles:
        path = tile_path(level, number, width)
        write(directory / "log" / path, public.download(f"/log/{epoch}/{path}"), durably=False)
        bar.advance(task)
    for number, width in bundles:
        path = entries_path(number, width)
        data = api.download(f"/v1/log/{epoch}/{path}")
        write(directory / "log" / path, data, durably=False)
        for offset, leaf in enumerate(decode_entries(data, width)):
            name = f"{number * TILE_WIDTH + offset}.json"
            write(directory / "events" / name, leaf, durably=False)
        bar.advance(task)
    openings = _openings(api, head.size)
    text = json.dumps(openings, indent=1, ensure_ascii=False) + "\n"
    write(directory / "openings.json", text.encode(), PRIVATE)
    write(directory / "log.vkey", f"{vkey}\n".encode())
    if isinstance(cosigner, str):
        write(directory / "log-cosigner.vkey", f"{cosigner}\n".encode())
    # Last, so that a directory with a checkpoint is a whole one, even after a loss of power.
    os.sync()
    write(directory / "log" / "checkpoint", note)
    return Exported(head.origin, head.size, len(tiles) + len(bundles), len(openings))


def hash_tiles(size: int) -> Iterator[tuple[int, int, int]]:
    """(level, number, width) of every tile of a tree (C2SP tlog-tiles), partial ones included."""
    level = 0
    while hashes := size >> (TILE_BITS * level):
        for number, width in bundle_tiles(hashes):
            yield level, number, width
        level += 1


def bundle_tiles(size: int) -> Iterator[tuple[int, int]]:
    """(number, width) of the rows of 256 that hold `size` things, the last one perhaps partial."""
    full, rest = divmod(size, TILE_WIDTH)
    for number in range(full):
        yield number, TILE_WIDTH
    if rest:
        yield full, rest


def epoch_of(head: Checkpoint) -> str:
    """The epoch, which ends the log's origin.

    Raises:
        MalformedAnswerError: The origin has none.
    """
    epoch = head.origin.rpartition("/")[2]
    if not (epoch.isascii() and epoch.isdecimal()):
        raise MalformedAnswerError(f"the log's origin {head.origin!r} does not end in an epoch")
    return epoch


def _openings(api: ApiClient, size: int) -> dict[str, list[dict[str, Any]]]:
    """By index of the event, what opens its commitments, where that still exists."""
    found = api.listing("/v1/events", "events", {"after": -1}, EVERYTHING)
    return {
        str(item["index"]): records_of(item, "openings")
        for item in found.records
        if isinstance(item.get("index"), int) and item["index"] < size and item.get("openings")
    }
