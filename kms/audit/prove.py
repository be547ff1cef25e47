"""Making a receipt (C2SP tlog-proof) for any leaf from checkpoint and tiles. Pure."""

from collections.abc import Mapping

from kms.audit.layout import Record
from kms.audit.tree import entry_bundle, read_key
from kms.tlog.checkpoint import Checkpoint, parse_checkpoint
from kms.tlog.errors import TlogError
from kms.tlog.hashing import HASH_SIZE
from kms.tlog.notes import parse_note
from kms.tlog.receipt import format_receipt, verify_receipt
from kms.tlog.tiles import TILE_BITS, TILE_WIDTH, NodeCache, TileReader, decode_entries, tile_path
from kms.tlog.tree import inclusion_proof


class ProveError(Exception):
    """The record does not hold what the receipt needs, or it does not verify."""


def prove(record: Record, index: int) -> bytes:
    """The receipt for a leaf, verified against the log's key before it is handed out.

    Raises:
        ProveError: No such leaf, missing or wrong tiles, or a head that does not verify.
    """
    key_check, key = read_key(record.vkey)
    if key is None:
        raise ProveError(str(key_check.failures[0]))
    if record.checkpoint is None:
        raise ProveError("log/checkpoint is missing")
    try:
        head = parse_checkpoint(parse_note(record.checkpoint).text)
        nodes = NodeCache(_reader(record.tiles, head.size))
        proof = inclusion_proof(index, head.size, nodes)
        receipt = format_receipt(index, proof, record.checkpoint)
        verify_receipt(receipt, _leaf(record, head, index), [key], key.name)
    except TlogError as error:
        raise ProveError(f"event {index} cannot be proven: {error}") from error
    return receipt


def _reader(tiles: Mapping[str, bytes], size: int) -> TileReader:
    """Tiles as wide as the head makes them."""

    def read(level: int, number: int) -> bytes | None:
        width = min(TILE_WIDTH, (size >> (level * TILE_BITS)) - number * TILE_WIDTH)
        if width <= 0:
            return None
        content = tiles.get(tile_path(level, number, width))
        return content if content is None else content[: width * HASH_SIZE]

    return read


def _leaf(record: Record, head: Checkpoint, index: int) -> bytes:
    if index in record.events:
        return record.events[index]
    path, width, offset = entry_bundle(index, head.size)
    if path not in record.tiles:
        raise ProveError(f"event {index} is neither in events/ nor in an entry bundle")
    return decode_entries(record.tiles[path], width)[offset]
