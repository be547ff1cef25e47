"""Whether what is stored holds together, for `kms doctor`. Reads everything, changes nothing."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Select, func, select
from sqlalchemy.exc import SQLAlchemyError

from kms.domain.records import Checkpoint, Epoch, Event
from kms.services.ports import LedgerUnavailableError, TreeHead
from kms.storage import dialect
from kms.storage.growth import Edge, empty_head, grow
from kms.storage.mapping import shape_of
from kms.storage.statements import TILE
from kms.storage.tables import HEADS, TABLES, TILES
from kms.tlog.hashing import HASH_SIZE
from kms.tlog.tiles import TILE_BITS, TILE_WIDTH

_EVENTS, _CHECKPOINTS, _EPOCHS = TABLES[Event], TABLES[Checkpoint], TABLES[Epoch]
_AT_ONCE = 1000


def integrity(url: str) -> list[str]:
    """What is wrong, one sentence each; empty if nothing is.

    Looks at the settings that durability rests on, has the database check its own pages, and
    builds each log's tree again from its entries, holding tiles, checkpoints and head against it:
    of each log the first mismatch is told. Runs beside a running service.

    Raises:
        ValueError: A URL of a kind that is not supported.
        LedgerUnavailableError: The store cannot be read.
    """
    place = str(dialect.database_path(url))
    engine = dialect.snapshots(url)
    try:
        with engine.connect() as connection:
            problems = dialect.check_settings(connection, url)
            problems += dialect.check_pages(connection)
            # The transaction shows one commit: its entries, its tree and its checkpoint.
            for epoch in connection.execute(select(_EPOCHS).order_by(_EPOCHS.c.log)).all():
                check = _LogCheck(connection, shape_of(Epoch).record(tuple(epoch)))
                problems += islice(check.mismatches(), 1)
    except SQLAlchemyError as error:
        raise LedgerUnavailableError(dialect.explain(error, place)) from error
    finally:
        engine.dispose()
    return problems


class _LogCheck:
    """Builds one log's tree again, in the memory of a few tiles."""

    def __init__(self, connection: Connection, epoch: Epoch) -> None:
        self._connection = connection
        self._log = epoch.log
        self._edge = Edge(empty_head(epoch), {})
        of_log = _EVENTS.c.log == self._log
        entries = select(_EVENTS.c.index, _EVENTS.c.leaf).where(of_log)
        self._entries = self._stream(entries.order_by(_EVENTS.c.index))
        self._stored: dict[int, tuple[int, bytes]] = {}

    def mismatches(self) -> Iterator[str]:
        """What does not fit, from the first entry on; what follows the first may follow from it."""
        checkpoints = select(_CHECKPOINTS.c.size, _CHECKPOINTS.c.root).where(
            _CHECKPOINTS.c.log == self._log
        )
        for size, root in self._stream(checkpoints.order_by(_CHECKPOINTS.c.size)):
            while self._edge.head.size < size:
                yield from self._next_entries(min(_AT_ONCE, size - self._edge.head.size))
            if self._edge.head.root != root:
                yield self._say(f"the entries do not lead to the checkpoint of size {size}")
        for index, _ in self._entries:
            yield self._say(f"entry {index} is beyond the newest checkpoint")
        yield from self._check_tiles()
        yield from self._check_head()

    def _next_entries(self, count: int) -> Iterator[str]:
        first = self._edge.head.size
        rows = list(islice(self._entries, count))
        for expected, (index, _) in enumerate(rows, first):
            if index != expected:
                yield self._say(f"entry {expected} is missing")
        if len(rows) < count:
            yield self._say(f"entry {first + len(rows)} is missing")
        growth = grow(self._edge, lambda *_: None, [leaf for _, leaf in rows])
        for (level, number), hashes in growth.tiles.items():
            yield from self._compare(level, number, hashes)
        self._edge = growth.edge

    def _compare(self, level: int, number: int, hashes: bytes) -> Iterator[str]:
        stored = self._tile(level, number)
        for at in range(0, len(hashes), HASH_SIZE):
            if stored[at : at + HASH_SIZE] != hashes[at : at + HASH_SIZE]:
                index = number * TILE_WIDTH + at // HASH_SIZE
                what = f"entry {index}" if level == 0 else f"node {index} of tile level {level}"
                yield self._say(f"{what} is not the one that the tree was built from")

    def _check_tiles(self) -> Iterator[str]:
        size = self._edge.head.size
        for (level, number), hashes in self._edge.tiles.items():
            if self._tile(level, number) != hashes:
                yield self._say(f"tile {level}/{number} goes beyond size {size}")
        widths = [size >> (level * TILE_BITS) for level in range(64 // TILE_BITS)]
        expected = sum(-(-width // TILE_WIDTH) for width in widths)
        stored = self._connection.scalar(
            select(func.count()).select_from(TILES).where(TILES.c.log == self._log)
        )
        if stored != expected:
            yield self._say(f"{stored} tiles are stored, size {size} has {expected}")

    def _check_head(self) -> Iterator[str]:
        row = self._connection.execute(
            select(HEADS.c.size, HEADS.c.root).where(HEADS.c.log == self._log)
        ).first()
        built: TreeHead = self._edge.head
        if row is None or tuple(row) != (built.size, built.root):
            size = "no size" if row is None else f"size {row.size}"
            yield self._say(f"the head says {size}, the newest checkpoint size {built.size}")

    def _tile(self, level: int, number: int) -> bytes:
        """The stored tile, the last one of its level remembered."""
        if self._stored.get(level, (-1, b""))[0] != number:
            at = {"of_log": self._log, "at_level": level, "at_number": number}
            self._stored[level] = number, self._connection.scalar(TILE, at) or b""
        return self._stored[level][1]

    def _stream(self, statement: Select[Any]) -> Iterator[Any]:
        options = {"yield_per": _AT_ONCE}
        return iter(self._connection.execute(statement, execution_options=options))

    def _say(self, what: str) -> str:
        return f"log {self._log}: {what}"
