"""What the service uses of the machine, for the metrics: disks, database, connections, event loop.

Read whenever metrics are asked for, so that requests pay nothing; only the event loop is watched
all the time. Memory and file descriptors are the process collector's.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kms.settings import Settings
from kms.storage.dialect import database_path

_PERIOD = 0.25
"""Seconds between two looks at the event loop."""
_LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class LoopWatch:
    """How late the event loop comes to what is due: everybody waits for as long."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lag = Histogram(
            "kms_event_loop_lag_seconds",
            "How late the event loop was, looked at four times a second.",
            buckets=_LAGS,
            registry=registry,
        )

    async def run(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _PERIOD
            await asyncio.sleep(_PERIOD)
            self._lag.observe(max(0.0, loop.time() - due))


class Disks(Collector):
    """Space on the disks that must never be full, and the size of the database.

    Args:
        settings: Name the places.
    """

    def __init__(self, settings: Settings) -> None:
        self._places = {"ledger": settings.data_dir, "signer": settings.signer_state}
        main = database_path(settings.database_url)
        self._files = {"main": main, "wal": main.with_name(f"{main.name}-wal")}

    def collect(self) -> list[Metric]:
        """What can be read now; what cannot be is left out."""
        free, size, files = self.describe()
        for place, path in self._places.items():
            found = _space(path)
            if found is not None:
                free.add_metric([place], found[0])
                size.add_metric([place], found[1])
        for name, path in self._files.items():
            files.add_metric([name], _size(path))
        return [free, size, files]

    def describe(self) -> list[GaugeMetricFamily]:
        """Names and types, without values."""
        return [
            GaugeMetricFamily(
                "kms_disk_free_bytes", "Space left where the place lies.", labels=["place"]
            ),
            GaugeMetricFamily(
                "kms_disk_size_bytes", "Size of the disk where the place lies.", labels=["place"]
            ),
            GaugeMetricFamily("kms_database_bytes", "Size of the ledger's files.", labels=["file"]),
        ]


class Open(Collector):
    """Open connections of the listeners that it was told of."""

    def __init__(self) -> None:
        self._connections: dict[str, Callable[[], int]] = {}

    def watch(self, listener: str, read: Callable[[], int]) -> None:
        """Count these, too."""
        self._connections[listener] = read

    def collect(self) -> list[Metric]:
        """One sample a listener."""
        (found,) = self.describe()
        for listener, read in self._connections.items():
            found.add_metric([listener], read())
        return [found]

    def describe(self) -> list[GaugeMetricFamily]:
        """Name and type."""
        meaning = "Connections that are open, with a request or without."
        return [GaugeMetricFamily("kms_open_connections", meaning, labels=["listener"])]


def _space(path: Path) -> tuple[int, int] | None:
    """Bytes free for this user, and bytes altogether."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
