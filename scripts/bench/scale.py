"""The service over a large ledger: start, memory, lookups, proofs, a long CRL, and its weight."""

import http.client
import random
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from filling import Filled, Target, Weight, fill, weigh
from helpers import Helper, enrolling
from places import BenchError, Running, Site, make_site, running, serve_command
from rows import BATCH_CONNECTIONS, BATCH_SIZE, percentile

from kms.config import load

_SETTLED = 0.2
"""Share of a load that does not count: its beginning."""
_MORE_THAN_ENOUGH = 8_000
"""Devices a second of a load."""
_LOOKED_UP: dict[str, tuple[str, float]] = {
    "inclusion proof (receipt)": ("/v1/events/{0.index}/receipt", 2.0),
    "lookup by user": ("/v1/users/{0.user}/devices", 5.0),
    "lookup by device": ("/v1/devices/{0.device}", 5.0),
    "lookup by serial": ("/v1/certificates/{0.serial}", 5.0),
}
"""What is asked for, its path, and its bound in milliseconds."""


def measure(
    directory: Path, devices: int, seconds: float, note: Callable[[str], None]
) -> dict[str, Any]:
    """Fill a ledger and measure the service over it.

    Args:
        directory: To make.
        devices: In the ledger.
        seconds: For each load on the service.
        note: Told of each step.
    """
    site = make_site(directory)
    with running(site, serve_command()), enrolling(site) as client:
        client.ask("make", bundle="device-identity", devices=BATCH_SIZE)
        client.ask("batches", seconds=60.0, connections=1, size=BATCH_SIZE)
    url = load(site.config).database_url
    note(f"a ledger of {devices:,} devices")
    filled = fill(url, devices)
    weight = weigh(url)
    note(f"the service over it (filled at {filled.rate:,.0f} devices/s)")
    with running(site, serve_command()) as service, enrolling(site) as client:
        bounds = _served(site, service, client, filled, seconds)
    return {
        "devices": filled.devices,
        "revoked": filled.revoked,
        "log_size": filled.log_size,
        "fill_rate": filled.rate,
        "bounds": [*bounds, *_weights(filled, weight)],
    }


def _served(
    site: Site, service: Running, client: Helper, filled: Filled, seconds: float
) -> list[dict[str, Any]]:
    """Everything that is asked of the running service."""
    found = [_bound("start-up, to ready", service.start_seconds, "s", 5.0)]
    with _calling(site, site.officer) as officer:
        _publish(officer)  # the one that is due after such a fill
        memory = [service.memory()]
        found += _lookups(site, filled.targets)
        memory.append(service.memory())
        found.append(_bound(f"CRL of {filled.revoked:,} entries", _publish(officer), "s", 2.0))
        found += _beside(officer, client, seconds)
    memory.append(service.memory())
    _make(client, seconds)
    _load(client, seconds)
    memory.append(service.memory())
    found.append(_bound("worker's memory, most", max(memory) / 1e6, "MB", 250.0))
    found.append(_bound("its growth under the last load", (memory[-1] - memory[-2]) / 1e6, "MB"))
    return found


def _lookups(site: Site, targets: Sequence[Target]) -> list[dict[str, Any]]:
    """Each kind of lookup at random places, through the API, one after the other."""
    found = []
    with _calling(site, site.client) as caller:
        for what, (path, bound) in _LOOKED_UP.items():
            chosen = random.sample(list(targets), len(targets))
            took = sorted(1e3 * _timed(caller, "GET", path.format(item)) for item in chosen)
            found.append(_bound(f"{what}, median", percentile(took, 0.5), "ms"))
            found.append(_bound(f"{what}, p99", percentile(took, 0.99), "ms", bound))
            found.append(_bound(f"{what}, slowest of {len(took):,}", took[-1], "ms"))
    return found


def _make(client: Helper, seconds: float) -> None:
    """Devices for a load of so many seconds."""
    devices = int(_MORE_THAN_ENOUGH * seconds)
    client.ask("make", bundle="device-identity", devices=devices)


def _load(client: Helper, seconds: float) -> dict[str, Any]:
    """Enrolments in batches."""
    return client.ask("batches", seconds=seconds, connections=BATCH_CONNECTIONS, size=BATCH_SIZE)


def _beside(
    officer: http.client.HTTPSConnection, client: Helper, seconds: float
) -> list[dict[str, Any]]:
    """A CRL made while devices are enrolled: how long it takes, and what it costs them."""
    _make(client, seconds)
    loads: list[dict[str, Any]] = []
    loading = threading.Thread(target=lambda: loads.append(_load(client, seconds)))
    loading.start()
    time.sleep(seconds / 2)
    began = time.monotonic()
    took = _publish(officer)
    loading.join()
    (load_,) = loads
    first = began - load_["began"]
    during = _rate(load_["marks"], first, first + took)
    settled = _SETTLED * seconds
    before = _rate(load_["marks"], settled, first)
    return [
        _bound("the same CRL beside enrolments", took, "s", 2.0),
        _bound("enrolments beside it ÷ before it", during / before, ""),
        _bound("longest time without an enrolment", _longest_gap(load_["marks"], settled), "s"),
    ]


def _rate(marks: Sequence[tuple[float, int]], first: float, last: float) -> float:
    """Certificates a second between two moments, batches counted as they are answered."""
    return sum(count for at, count in marks if first <= at < last) / (last - first)


def _longest_gap(marks: Sequence[tuple[float, int]], settled: float) -> float:
    moments = [at for at, _ in marks if at >= settled]
    return max((after - before for before, after in pairwise(moments)), default=0.0)


def _weights(filled: Filled, weight: Weight) -> list[dict[str, Any]]:
    return [
        _bound("database, kept for good, a device", weight.kept / filled.devices, "bytes"),
        _bound("database, kept for a week, a device", weight.week / filled.recent, "bytes"),
        _bound("database file", weight.file / 1e6, "MB"),
        _bound("log: leaves and tiles, a device", _log(weight) / filled.devices, "bytes"),
        _bound("log: leaves and tiles, an event", _log(weight) / filled.log_size, "bytes"),
    ]


def _log(weight: Weight) -> int:
    return weight.leaves + weight.tiles


def _bound(what: str, measured: float, unit: str, bound: float | None = None) -> dict[str, Any]:
    return {"what": what, "measured": measured, "unit": unit, "bound": bound}


@contextmanager
def _calling(site: Site, client: tuple[Path, Path]) -> Iterator[http.client.HTTPSConnection]:
    """One keep-alive connection to the API."""
    context = ssl.create_default_context(cafile=site.trust)
    context.load_cert_chain(*client)
    connection = http.client.HTTPSConnection("127.0.0.1", site.api, timeout=120, context=context)
    try:
        yield connection
    finally:
        connection.close()


def _publish(officer: http.client.HTTPSConnection) -> float:
    """Seconds that an ordered CRL of the people's authority takes."""
    return _timed(officer, "POST", "/v1/authorities/people/crl", secrets.token_hex(16))


def _timed(
    connection: http.client.HTTPSConnection, method: str, path: str, key: str | None = None
) -> float:
    """Seconds that a call takes.

    Raises:
        BenchError: It is not answered as it should be.
    """
    headers = {} if key is None else {"Idempotency-Key": key, "Content-Type": "application/json"}
    started = time.perf_counter()
    connection.request(method, path, body=None if key is None else b"{}", headers=headers)
    response = connection.getresponse()
    body = response.read()
    took = time.perf_counter() - started
    if response.status not in {http.client.OK, http.client.CREATED}:
        raise BenchError(f"{path} is answered {response.status}: {body[:300]!r}")
    return took
