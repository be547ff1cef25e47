"""A ledger with very many devices, filled through its own code, and what it weighs."""

import math
import random
import sqlite3
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from enrolled import Made, Pattern, enrolled, learn, make_device
from places import BenchError

from kms.services.events import EventFactory
from kms.services.ports import Placed
from kms.services.system import SystemIds
from kms.storage.dialect import database_path
from kms.storage.sql import SqlLedger

UNIT = 1_000
REVOKED_ONE_IN = 10
RECENT_ONE_IN = 4
"""Of certificates that live 30 days, those of the last week: their enrolments and answers are
still kept."""
TARGETS = 2_000
"""How many devices are remembered, spread over all, to be looked up."""
_FOR_A_WEEK = {"enrolments", "idempotency", "reservations"}


@dataclass(frozen=True, slots=True)
class Target:
    """A device that can be looked up, and the index of its enrolment in the log."""

    user: str
    device: str
    serial: str
    index: int


@dataclass(frozen=True, slots=True)
class Filled:
    """What was put in.

    Attributes:
        devices: How many.
        revoked: How many of them were revoked again.
        recent: How many have their enrolment and its answer still stored.
        log_size: Events in the log afterwards.
        rate: Devices a second.
        targets: Some of them, spread over all.
    """

    devices: int
    revoked: int
    recent: int
    log_size: int
    rate: float
    targets: list[Target]


def fill(url: str, devices: int) -> Filled:
    """Commit that many devices, a thousand in a transaction, behind what the service enrolled.

    Raises:
        BenchError: The ledger holds no enrolled batch, or refused a commit.
    """
    ledger = SqlLedger(url)
    try:
        return _fill(ledger, devices)
    finally:
        ledger.close()


def _fill(ledger: SqlLedger, devices: int) -> Filled:
    pattern, head = learn(ledger), ledger.head()
    if head is None:
        raise BenchError("the ledger has no log")
    events = EventFactory(head.origin, SystemIds(), datetime.now(UTC).replace(microsecond=0))
    targets: list[Target] = []
    revoked = recent = size = 0
    started = time.perf_counter()
    for number, first in enumerate(range(0, devices, UNIT)):
        group = _group(pattern, events, min(UNIT, devices - first))
        is_recent = number % RECENT_ONE_IN == 0
        (placed,) = ledger.commit([enrolled(pattern, group, recent=is_recent)])
        if not isinstance(placed, Placed):
            raise BenchError(f"a commit was refused: {placed}")
        targets += _targets(group, placed.first_index, math.ceil(TARGETS * len(group) / devices))
        revoked += sum(len(item.events) > 1 for item in group)
        recent += len(group) * is_recent
        size = placed.size
    rate = devices / (time.perf_counter() - started)
    return Filled(devices, revoked, recent, size, rate, targets)


def _group(pattern: Pattern, events: EventFactory, count: int) -> list[Made]:
    return [
        make_device(pattern, events, revoked=number % REVOKED_ONE_IN == 0)
        for number in range(count)
    ]


def _targets(group: list[Made], first: int, count: int) -> list[Target]:
    """A few of a unit; indices count every event of the devices before."""
    indices = []
    for item in group:
        indices.append(first)
        first += len(item.events)
    chosen = random.sample(range(len(group)), min(count, len(group)))
    return [
        Target(
            group[at].enrolment.user,
            group[at].enrolment.device,
            group[at].certificate.serial,
            indices[at],
        )
        for at in chosen
    ]


@dataclass(frozen=True, slots=True)
class Weight:
    """Bytes of a ledger.

    Attributes:
        file: The database file.
        kept: Tables and indices of what is kept for good.
        week: Those of what is deleted after a week.
        leaves: All leaves as entry bundles hold them.
        tiles: All hash tiles.
    """

    file: int
    kept: int
    week: int
    leaves: int
    tiles: int


def weigh(url: str) -> Weight:
    """Reads the whole file."""
    path: Path = database_path(url)
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        tables: dict[str, int] = dict(
            database.execute(
                "SELECT m.tbl_name, SUM(d.pgsize) FROM dbstat AS d"
                " JOIN sqlite_master AS m ON m.name = d.name"
                " WHERE d.aggregate = TRUE GROUP BY m.tbl_name"
            )
        )
        ((leaves, tiles),) = database.execute(
            "SELECT (SELECT SUM(LENGTH(leaf) + 2) FROM events),"
            " (SELECT SUM(LENGTH(hashes)) FROM tiles)"
        )
    week = sum(size for name, size in tables.items() if name in _FOR_A_WEEK)
    return Weight(path.stat().st_size, sum(tables.values()) - week, week, leaves, tiles)
