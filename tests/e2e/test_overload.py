"""Four times as much as a service can do: it says so early, and does what it can as well as ever.

Latencies are held against those of the same service at rest, rates against its own capacity. The
figures of a run are printed (`pytest -s`).
"""

import asyncio
import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.calling import PROBLEM, Client, enrol
from tests.support.flooding import (
    Asked,
    Flood,
    Pool,
    Wish,
    capacity,
    flood,
    high,
    median,
    one_by_one,
)
from tests.support.promql import TARGET, alerts, exposed, named, panels
from tests.support.running import COLLEAGUE, MESSENGER, Home, Service, running

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("overload")]

AT_ONCE, WAITING = 2, 6
PLACES = AT_ONCE + WAITING
TIMES = 4.0
"""As much as the service can do is offered so many times."""
SLACK = 3.0
"""The machine is shared, with the flood's own senders too."""
ITEMS = 40
REVOKED = 12
FLOOD_SECONDS = 4.0
CONNECTIONS = 200
"""At hand when the flood begins."""


def batch(home: Home) -> Wish:
    """Orders for so many devices: they reserve only, and may be repeated."""
    order = home.device("ada", "phone").request("device-identity")
    items = [{**order, "user": f"user-{n}", "device": f"device-{n}"} for n in range(ITEMS)]
    return Wish("/v1/enrolments:batch", json.dumps({"items": items}).encode())


class Witness:
    """Everyone but the flooding messaging server: they revoke, enrol and read meanwhile."""

    def __init__(self, service: Service, doomed: list[str]) -> None:
        self._service = service
        self._doomed = doomed
        self._thread = threading.Thread(target=self._run)
        self._until = time.monotonic() + FLOOD_SECONDS
        self.revocations: list[int] = []
        self.enrolments = 0
        self.batches: list[int] = []
        self.reads: list[int] = []
        self.resident: list[float] = []

    def start(self) -> None:
        self._thread.start()

    @property
    def goes_on(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        home = self._service.home
        with Client(home, COLLEAGUE) as client:
            while self._doomed or time.monotonic() < self._until:
                if self._doomed:
                    path = f"/v1/devices/{self._doomed.pop()}/revoke"
                    answer = client.post(path, {"reason": "key-compromise"})
                    self.revocations.append(answer.status)
                name = f"honest-{self.enrolments}"
                enrol(client, home.device(name, f"{name}-phone"))
                self.enrolments += 1
                order = home.device(name, f"{name}-tablet").request("device-identity")
                answer = client.post("/v1/enrolments:batch", {"items": [order]})
                self.batches.append(answer.status)
                self._read()

    def _read(self) -> None:
        for page in ("/log/checkpoint", "/pki/people.crl", "/pki/root.cer"):
            self.reads.append(self._service.public(page)[0])
        self.resident.append(self._service.metric("process_resident_memory_bytes"))


@dataclass(frozen=True, slots=True)
class Run:
    """What was measured: at rest, in the flood, and at once after it."""

    at_rest: list[Asked]
    capacity: float
    resident: float
    flood: Flood
    witness: Witness
    after: list[Asked]
    counted: float
    held: float
    metrics: str

    def __str__(self) -> str:
        statuses = Counter(item.answer.status for item in self.flood.asked)
        return (
            f"capacity {self.capacity:.0f}/s, offered {self.flood.offered_rate:.0f}/s, "
            f"accepted {self.flood.accepted_rate:.0f}/s {dict(statuses)}, "
            f"left out {self.flood.left_out}\n"
            f"seconds: at rest {median(self.at_rest):.3f}, accepted p50 "
            f"{median(self.flood.accepted):.3f} p99 {high(self.flood.accepted):.3f}, after "
            f"{median(self.after):.3f}\n"
            f"meanwhile: {len(self.witness.revocations)} revocations, {self.witness.enrolments} "
            f"enrolments, {len(self.witness.reads)} reads\n"
            f"resident MB: before {self.resident / 1e6:.0f}, most "
            f"{max(self.witness.resident) / 1e6:.0f}"
        )


async def measure(service: Service, doomed: list[str]) -> Run:
    wish = batch(service.home)
    async with Pool(service.home, MESSENGER) as pool:
        await one_by_one(pool, wish, 3)
        at_rest = await one_by_one(pool, wish, 20)
        able = await capacity(pool, wish, AT_ONCE, 1.5)
        await pool.open(CONNECTIONS)
        resident = service.metric("process_resident_memory_bytes")
        witness = Witness(service, doomed)
        witness.start()
        flooded = await flood(pool, wish, TIMES * able, lambda: witness.goes_on)
        after = await one_by_one(pool, wish, 10)
    counted = sum(
        service.metric("kms_admission_shed_total", **{"class": "batch", "reason": reason})
        for reason in ("share", "full", "waited")
    )
    held = service.metric("kms_admission_held_places", **{"class": "batch"})
    metrics = service.operator("/metrics")[1]
    return Run(at_rest, able, resident, flooded, witness, after, counted, held, metrics)


def enrolled(home: Home) -> list[str]:
    names = [f"doomed-{n}" for n in range(REVOKED)]
    with Client(home, COLLEAGUE) as client:
        for name in names:
            enrol(client, home.device(f"owner-of-{name}", name))
    return names


@pytest.fixture(scope="module")
def run(prepared: Home, folder: Path) -> Iterator[Run]:
    """One flood; every test looks at another side of it."""
    home = prepared.copy(folder / "flooded")
    home.configure(batches=AT_ONCE, batches_waiting=WAITING)
    with running(home) as service:
        made = asyncio.run(measure(service, enrolled(home)))
        sys.stdout.write(f"\n{made}\n")
        yield made


def test_what_cannot_be_done_in_time_is_refused(run: Run):
    assert run.flood.offered_rate > 2 * run.flood.accepted_rate
    assert len(run.flood.sheds) > len(run.flood.accepted) / 2
    assert {item.answer.status for item in run.flood.accepted} == {200}
    for item in run.flood.sheds:
        assert item.answer.problem in {"too-many-requests", "overloaded"}
        assert int(item.answer.headers["retry-after"]) >= 1
        assert item.answer.document["type"].startswith(PROBLEM)
    assert run.counted == len(run.flood.sheds)


def test_what_is_accepted_is_answered_about_as_soon_as_its_places_allow(run: Run):
    """No queue grows: who is let in finds at most so many before it (Little's law).

    The median: on a machine that does other work, too, a few answers are always late.
    """
    assert median(run.flood.accepted) < SLACK * PLACES / run.flood.accepted_rate


def test_refusing_leaves_time_for_work(run: Run):
    assert run.flood.accepted_rate > run.capacity / 4


def test_revocations_succeed_meanwhile(run: Run):
    assert run.witness.revocations == [200] * REVOKED


def test_one_messaging_server_does_not_starve_another(run: Run):
    """Its single enrolments have places of their own; its batches share the flooded ones."""
    assert run.witness.enrolments
    assert run.witness.batches == [200] * run.witness.enrolments


def test_public_files_are_served_meanwhile(run: Run):
    assert set(run.witness.reads) == {200}


def test_memory_stays_bounded(run: Run):
    assert max(run.witness.resident) < 2 * run.resident


def test_all_is_as_before_at_once(run: Run):
    assert {item.answer.status for item in run.after} == {200}
    assert median(run.after) < SLACK * median(run.at_rest)
    assert run.held == 0


def test_alerts_and_dashboard_name_what_the_service_shows(run: Run):
    """A service that has enrolled, revoked and refused: every metric has its labels by then."""
    shown = exposed(run.metrics)
    queries = [(rule["alert"], rule["expr"], "") for rule in alerts()]
    for name, query, legend in [*queries, *panels()]:
        found = named(query)
        assert found.metrics, name
        assert not found.metrics - shown.keys(), name
        labels = found.labels | set(re.findall(r"{{(\w+)}}", legend))
        assert labels <= TARGET.union(*(shown[metric] for metric in found.metrics)), name


def test_every_metric_is_on_the_dashboard_or_behind_an_alert(run: Run):
    queries = [*(rule["expr"] for rule in alerts()), *(query for _, query, _ in panels())]
    used = set().union(*(named(query).metrics for query in queries))
    families = {metric.removesuffix("_bucket").removesuffix("_total") for metric in used}
    for metric in exposed(run.metrics):
        if metric.startswith("kms_") and not metric.endswith("_created"):
            family = re.sub(r"_(bucket|sum|count|total)$", "", metric)
            assert family in families or metric in used, metric
