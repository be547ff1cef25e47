"""Enrolments as rows: rates in closed loop, and the sweeps over batch sizes and over loads."""

from collections.abc import Sequence
from typing import Any

from helpers import Helper
from places import Running
from rows import BATCH_CONNECTIONS, BATCH_SIZE, SINGLE_CONNECTIONS, Sample, percentile

_FIRST_GUESS = 1_000.0
_SPARE = 1.5
_PACED_CONNECTIONS = 64
LOADS = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9)
"""Shares of the highest rate of single enrolments, at which latencies are taken."""
SIZES = (1, 3, 10, 30, 100, 300, 1000)
"""Batch sizes whose rates are taken."""


class Enrolments:
    """Enrolments of one kind, again and again; learns how many devices a run needs.

    Args:
        client: Whoever enrols.
        bundle: Bundle profile of the devices.
        service: Whose CPU time is told; None for an echo.
        batch: Devices in a call; 0 for the calls for one device.
    """

    def __init__(
        self, client: Helper, bundle: str, service: Running | None = None, *, batch: int = 0
    ) -> None:
        self._client = client
        self._bundle = bundle
        self._service = service
        self._batch = batch
        self._rate = _FIRST_GUESS

    def __call__(self, seconds: float) -> Sample:
        """One run; keys are made before it begins. Single calls are counted, else certificates."""
        devices = int(self._rate * seconds * _SPARE) + 4 * max(self._batch, BATCH_SIZE)
        self._client.ask("make", bundle=self._bundle, devices=devices)
        before = (0.0, 0.0) if self._service is None else self._service.cpu()
        if self._batch:
            values = {"connections": BATCH_CONNECTIONS, "size": self._batch}
            result = self._client.ask("batches", seconds=seconds, **values)
        else:
            result = self._client.ask("singles", seconds=seconds, connections=SINGLE_CONNECTIONS)
        after = (0.0, 0.0) if self._service is None else self._service.cpu()
        self._rate = result["devices"] / result["seconds"]
        used = [after[0] - before[0], after[1] - before[1], result["client_cpu"]]
        latencies = sorted(result["latencies"])
        counted = result["certificates"] if self._batch else result["requests"]
        return Sample(
            rate=counted / result["seconds"],
            requests=result["requests"] / result["seconds"],
            cpu=tuple(1e6 * item / counted for item in used) if self._service else (),
            p50=1e3 * percentile(latencies, 0.5),
            p99=1e3 * percentile(latencies, 0.99),
        )


def by_size(client: Helper, seconds: float) -> list[dict[str, float]]:
    """Certificates a second for each batch size."""
    found = []
    for size in SIZES:
        sample = Enrolments(client, "device-identity", batch=size)(seconds)
        found.append({"size": size, "rate": sample.rate, "p50_ms": sample.p50})
    return found


def by_load(
    client: Helper, most: float, seconds: float, loads: Sequence[float] = LOADS
) -> list[dict[str, Any]]:
    """Latencies of single enrolments that come when they come.

    Args:
        client: Whoever enrols.
        most: Enrolments a second in closed loop.
        seconds: For each load.
        loads: Shares of `most`.
    """
    found = []
    for load in loads:
        rate = load * most
        client.ask("make", bundle="device-identity", devices=int(rate * seconds * _SPARE) + 100)
        result = client.ask("paced", seconds=seconds, rate=rate, connections=_PACED_CONNECTIONS)
        ordered = sorted(result["latencies"])
        found.append(
            {
                "load": load,
                "rate": rate,
                "devices": len(ordered),
                "p50_ms": 1e3 * percentile(ordered, 0.5),
                "p99_ms": 1e3 * percentile(ordered, 0.99),
                "p999_ms": 1e3 * percentile(ordered, 0.999),
                "most_ms": 1e3 * ordered[-1],
            }
        )
    return found
