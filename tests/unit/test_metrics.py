"""Metrics: well named, fed by every observer, and closed to whoever would make series."""

import asyncio
import re
import time
from collections.abc import Iterable
from dataclasses import replace

import pytest
from prometheus_client import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hsm_drivers.errors import TokenUnavailableError
from hsm_drivers.ports import KeyLabel, KeyRate, Operation, Purpose, ServiceStatus, SignerHealth
from kms.api.observing import HttpObserver
from kms.metrics import Metrics
from kms.resources import LoopWatch
from kms.services.observing import Observer
from kms.services.signing import SharedSigner
from kms.services.turns import ROOMS, Admission, CallClass
from tests.support.patience import until

pytestmark = pytest.mark.anyio

LABELS = {
    "listener",
    "method",
    "route",
    "status",
    "problem",
    "outcome",
    "profile",
    "algorithm",
    "kind",
    "authority",
    "class",
    "reason",
    "place",
    "file",
    "purpose",
    "operation",
    "le",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def fed() -> Metrics:
    metrics = Metrics()
    use_cases: Observer = metrics
    http: HttpObserver = metrics
    http.request_began("api")
    http.request_ended("api", "GET", "/v1/log", 200, 0.01)
    use_cases.committed(3, 5, 0.002)
    use_cases.signed_head(7, 0.001)
    use_cases.signed(3, 0.004, "ok")
    use_cases.signed(1, 0.004, "token-unavailable")
    use_cases.issued("device-identity", "ECDSA-P256")
    use_cases.revoked("user", 4)
    use_cases.refused("weak-key")
    use_cases.crl_published("people", 9, 4, 1_700_000_000.0)
    use_cases.orphans(1)
    use_cases.waited("batch", 0.3)
    use_cases.shed("batch", "share")
    rates = (
        KeyRate(KeyLabel("people-1"), Purpose.CERTIFICATE, 100, 25, 0),
        KeyRate(KeyLabel("infrastructure-1"), Purpose.CERTIFICATE, 100, 75, 0),
        KeyRate(KeyLabel("people-1"), Purpose.CRL, 10, 10, 0),
    )
    health = SignerHealth("token", ready=True, detail="fine", counter=9, rates=rates)
    service = ServiceStatus(keys=4, calls=((Operation.DECRYPT, 9, 2),))
    use_cases.signer_asked(replace(health, journal_writes=7, journal_seconds=0.5, service=service))
    metrics.watch_admission(Admission())
    return metrics


class Deaf:
    """A signer that can stop answering."""

    gone = False

    async def health(self) -> SignerHealth:
        if self.gone:
            raise TokenUnavailableError("gone")
        return SignerHealth("token", ready=True, detail="fine", counter=9, journal_writes=3)


def families(metrics: Metrics) -> Iterable[Metric]:
    text = generate_latest(metrics.registry).decode()
    return [
        family
        for family in text_string_to_metric_families(text)
        if family.name.startswith("kms_") and not family.name.endswith("_created")
    ]


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, labels)
    assert found is not None, (name, labels)
    return found


def test_every_observation_shows():
    metrics = fed()
    assert value(metrics, "kms_http_requests_in_flight", listener="api") == 0
    assert (
        value(
            metrics,
            "kms_http_request_duration_seconds_count",
            listener="api",
            method="GET",
            route="/v1/log",
            status="200",
        )
        == 1
    )
    assert value(metrics, "kms_commit_batch_units_sum") == 3
    assert value(metrics, "kms_log_events_total") == 5
    assert value(metrics, "kms_checkpoint_duration_seconds_count") == 1
    assert value(metrics, "kms_signer_statements_total", outcome="ok") == 3
    assert value(metrics, "kms_signer_statements_total", outcome="token-unavailable") == 1
    assert value(metrics, "kms_refusals_total", problem="weak-key") == 1
    assert value(metrics, "kms_certificates_revoked_total", kind="user") == 4
    assert value(metrics, "kms_crl_number", authority="people") == 9
    assert value(metrics, "kms_crl_this_update_timestamp_seconds", authority="people") > 1e9
    assert value(metrics, "kms_orphans_total") == 1
    assert value(metrics, "kms_admission_wait_seconds_count", **{"class": "batch"}) == 1
    labels = {"class": "batch", "reason": "share"}
    assert value(metrics, "kms_admission_shed_total", **labels) == 1
    assert value(metrics, "kms_signer_ready") == 1
    assert value(metrics, "kms_signer_journal_writes_total") == 7
    assert value(metrics, "kms_signer_journal_seconds_total") == 0.5
    assert value(metrics, "kms_signer_rate_left_ratio", purpose="certificate") == 0.25
    assert value(metrics, "kms_signer_rate_left_ratio", purpose="crl") == 1
    calls = {"operation": "decrypt"}
    assert value(metrics, "kms_signer_service_calls_total", outcome="ok", **calls) == 7
    assert value(metrics, "kms_signer_service_calls_total", outcome="refused", **calls) == 2
    assert value(metrics, "kms_signer_service_keys") == 4
    issued = {"profile": "device-identity", "algorithm": "ECDSA-P256"}
    assert value(metrics, "kms_certificates_issued_total", **issued) == 1


async def test_places_and_turns_are_read_when_asked_for():
    metrics, admission = Metrics(), Admission()
    metrics.watch_admission(admission)
    for who in ("one", "two", "one"):
        await admission.enter(CallClass.REVOCATION, ("ministry", who)).begin()
    place = admission.enter(CallClass.REVOCATION, ("ministry", "two"))
    kind = {"class": "revocation"}
    assert value(metrics, "kms_admission_held_places", **kind) == 4
    assert value(metrics, "kms_admission_serving_calls", **kind) == 3
    assert value(metrics, "kms_admission_waiting_calls", **kind) == 1
    assert value(metrics, "kms_admission_served_total", **kind) == 3
    room = ROOMS[CallClass.REVOCATION]
    assert value(metrics, "kms_admission_places", **kind) == room.at_once + room.waiting
    place.leave()
    assert value(metrics, "kms_admission_held_places", **kind) == 3
    assert value(metrics, "kms_admission_held_places", **{"class": "batch"}) == 0


async def test_a_signer_that_does_not_answer_is_not_ready():
    metrics, signer = Metrics(), Deaf()
    shared = SharedSigner(signer, metrics)  # type: ignore[arg-type]  # it is only asked how it is
    assert metrics.registry.get_sample_value("kms_signer_ready") is None
    await shared.health()
    assert value(metrics, "kms_signer_ready") == 1
    signer.gone = True
    with pytest.raises(TokenUnavailableError):
        await shared.health()
    assert value(metrics, "kms_signer_ready") == 0
    assert value(metrics, "kms_signer_journal_writes_total") == 3


async def test_a_late_event_loop_shows():
    metrics = Metrics()
    task = asyncio.create_task(LoopWatch(metrics.registry).run())
    name = "kms_event_loop_lag_seconds"
    await asyncio.sleep(0)
    time.sleep(0.6)  # noqa: ASYNC251 - the very thing that is to be noticed
    await until(lambda: value(metrics, f"{name}_count"))
    assert value(metrics, f"{name}_sum") > 0.2
    task.cancel()


def test_names_and_units_follow_the_conventions():
    """As `promtool check metrics` does: counters end in _total, base units, help, no bad suffix."""
    for family in families(fed()):
        assert re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]", family.name)
        assert family.documentation.endswith(".")
        if family.type == "counter":
            assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples), (
                family.name
            )
        else:
            assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_info"))
        assert not re.search(r"(milliseconds|_ms|minutes|hours|kilobytes)", family.name)
        if family.type == "histogram" and "duration" in family.name:
            assert family.name.endswith("_seconds")


def test_labels_come_from_a_closed_list():
    for family in families(fed()):
        for sample in family.samples:
            assert set(sample.labels) <= LABELS


def test_two_workers_metrics_do_not_collide():
    assert Metrics().registry is not Metrics().registry


@pytest.mark.parametrize("name", ["user", "device", "tenant", "serial", "principal"])
def test_nothing_personal_can_be_a_label(name: str):
    assert name not in LABELS
