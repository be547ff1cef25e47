"""Every metric of a worker: one registry, names and labels without ids or personal data.

Labels take values from closed sets only (route templates, statuses, problem names, profiles,
algorithms, error codes), so that nobody outside can make series.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from hsm_drivers.ports import Operation, SignerHealth
from kms.services.facade import Services
from kms.services.ports import LedgerUnavailableError
from kms.services.token_watch import OWN
from kms.services.turns import Admission, CallClass, Shed, Turns

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


class Metrics:
    """Implements the observers of use cases, HTTP and signer client over one registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._http()
        self._admission()
        self._log()
        self._signer_health = _SignerHealth()
        self.registry.register(self._signer_health)
        self._signer()
        self._authority()

    def _http(self) -> None:
        self._in_flight = Gauge(
            "kms_http_requests_in_flight",
            "Requests being served.",
            ["listener"],
            registry=self.registry,
        )
        self._latency = Histogram(
            "kms_http_request_duration_seconds",
            "From the complete headers of a request to its answer; status 0: the client left.",
            ["listener", "method", "route", "status"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._refused = Counter(
            "kms_refusals_total",
            "Requests and batch items refused, by problem type.",
            ["problem"],
            registry=self.registry,
        )

    def _admission(self) -> None:
        self._wait_seconds = Histogram(
            "kms_admission_wait_seconds",
            "How long calls waited for their turn; those that did not have to are not counted.",
            ["class"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._shed = Counter(
            "kms_admission_shed_total",
            "Calls refused because too much was to be done.",
            ["class", "reason"],
            registry=self.registry,
        )
        for kind in CallClass:  # from the start, or the first refusal would be no increase
            for reason in Shed:
                self._shed.labels(kind, reason)

    def _log(self) -> None:
        self._commit_seconds = Histogram(
            "kms_commit_duration_seconds",
            "Duration of a group commit in the ledger.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._commit_units = Histogram(
            "kms_commit_batch_units",
            "Units that shared one commit.",
            buckets=_SIZES,
            registry=self.registry,
        )
        self._events = Counter(
            "kms_log_events_total", "Events committed by this worker.", registry=self.registry
        )
        self._head_seconds = Histogram(
            "kms_checkpoint_duration_seconds",
            "From a committed head to its stored signature.",
            buckets=_SECONDS,
            registry=self.registry,
        )

    def _signer(self) -> None:
        self._sign_seconds = Histogram(
            "kms_signer_duration_seconds",
            "Round trip of one request to the signer.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._statements = Counter(
            "kms_signer_statements_total",
            "Statements given to the signer, by outcome: ok, or the class of the error.",
            ["outcome"],
            registry=self.registry,
        )
        self._orphans = Counter(
            "kms_orphans_total",
            "Statements that were signed, lost by a crash, found and dealt with.",
            registry=self.registry,
        )

    def _authority(self) -> None:
        self._issued = Counter(
            "kms_certificates_issued_total",
            "Certificates released.",
            ["profile", "algorithm"],
            registry=self.registry,
        )
        self._revocations = Counter(
            "kms_revocations_total",
            "Revocations that took effect.",
            ["kind"],
            registry=self.registry,
        )
        self._revoked = Counter(
            "kms_certificates_revoked_total",
            "Certificates ended by revocations.",
            ["kind"],
            registry=self.registry,
        )
        self._crl_time = Gauge(
            "kms_crl_this_update_timestamp_seconds",
            "thisUpdate of the published CRL; its age is time() minus this.",
            ["authority"],
            registry=self.registry,
        )
        self._crl_entries = Gauge(
            "kms_crl_entries",
            "Entries of the published CRL.",
            ["authority"],
            registry=self.registry,
        )
        self._crl_number = Gauge(
            "kms_crl_number",
            "Number of the published CRL.",
            ["authority"],
            registry=self.registry,
        )

    def watch(self, services: Services) -> None:
        """Show what is read from the running use cases whenever metrics are asked for."""
        core = services.core

        def committed() -> float:
            head = core.ledger.head()
            return 0 if head is None else head.size

        self._gauge("kms_log_size", "Events committed in the current epoch.", committed)
        self._gauge(
            "kms_log_signed_size",
            "Events covered by a signed checkpoint.",
            lambda: core.sequencer.signed_size,
        )
        self._gauge(
            "kms_sequencer_waiting_units",
            "Units that wait for their commit.",
            lambda: core.sequencer.waiting,
        )
        self._gauge(
            "kms_signer_waiting_statements",
            "Statements that wait for the signer.",
            lambda: getattr(core.signer, "waiting", 0),
        )

        self.registry.register(_Validity(services))

    def watch_admission(self, admission: Admission) -> None:
        """Show places and turns of every class whenever metrics are asked for."""
        self.registry.register(_Places(admission))

    def _gauge(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        self.registry.register(_Read(name, meaning, read))

    def request_began(self, listener: str) -> None:
        """See `kms.api.observing.HttpObserver`."""
        self._in_flight.labels(listener).inc()

    def request_ended(
        self, listener: str, method: str, route: str, status: int, seconds: float
    ) -> None:
        """See `kms.api.observing.HttpObserver`."""
        self._in_flight.labels(listener).dec()
        self._latency.labels(listener, method, route, str(status)).observe(seconds)

    def refused(self, problem: str) -> None:
        """A request or batch item was refused."""
        self._refused.labels(problem).inc()

    def committed(self, units: int, events: int, seconds: float) -> None:
        """A group commit ended."""
        self._commit_seconds.observe(seconds)
        self._commit_units.observe(units)
        self._events.inc(events)

    def signed_head(self, size: int, seconds: float) -> None:  # noqa: ARG002 - a gauge reads it
        """A checkpoint was signed and stored."""
        self._head_seconds.observe(seconds)

    def signed(self, statements: int, seconds: float, outcome: str) -> None:
        """A batch came back from the signer."""
        self._sign_seconds.observe(seconds)
        self._statements.labels(outcome).inc(statements)

    def issued(self, profile: str, algorithm: str, certificates: int = 1) -> None:
        """Certificates were released."""
        self._issued.labels(profile, algorithm).inc(certificates)

    def revoked(self, kind: str, certificates: int) -> None:
        """A revocation took effect."""
        self._revocations.labels(kind).inc()
        self._revoked.labels(kind).inc(certificates)

    def crl_published(self, authority: str, number: int, entries: int, this_update: float) -> None:
        """A CRL was published."""
        self._crl_number.labels(authority).set(number)
        self._crl_entries.labels(authority).set(entries)
        self._crl_time.labels(authority).set(this_update)

    def orphans(self, count: int) -> None:
        """Orphans were found and dealt with."""
        self._orphans.inc(count)

    def signer_asked(self, health: SignerHealth | None) -> None:
        """The signer told how it is, or did not answer."""
        self._signer_health.hear(health)

    def waited(self, kind: str, seconds: float) -> None:
        """A call waited for its turn."""
        self._wait_seconds.labels(kind).observe(seconds)

    def shed(self, kind: str, reason: str) -> None:
        """A call was refused because too much was to be done."""
        self._shed.labels(kind, reason).inc()


class _Read(Collector):
    """A gauge whose value is read at the moment of asking."""

    def __init__(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        self._name = name
        self._meaning = meaning
        self._read = read

    def collect(self) -> list[Metric]:
        """The one value; none while the store cannot be read."""
        try:
            return [GaugeMetricFamily(self._name, self._meaning, value=self._read())]
        except LedgerUnavailableError:
            return self.describe()

    def describe(self) -> list[Metric]:
        """Name and type, without reading the value."""
        return [GaugeMetricFamily(self._name, self._meaning)]


class _SignerHealth(Collector):
    """What the signer last told of itself: every 20 seconds, and whenever `/readyz` asks."""

    def __init__(self) -> None:
        self._ready: bool | None = None
        self._last: SignerHealth | None = None

    def hear(self, health: SignerHealth | None) -> None:
        """What it told, or None for no answer: its counters stand as they were then."""
        self._ready = health is not None and health.ready
        self._last = health or self._last

    def collect(self) -> list[Metric]:
        """Nothing before it was first asked."""
        ready = GaugeMetricFamily("kms_signer_ready", "1 while the token answers with its keys.")
        writes = CounterMetricFamily(
            "kms_signer_journal_writes", "Batches that the signer journalled since it started."
        )
        seconds = CounterMetricFamily(
            "kms_signer_journal_seconds", "How long it waited for those to be on disk."
        )
        left = GaugeMetricFamily(
            "kms_signer_rate_left_ratio",
            "Part of an hour's signatures that a key may make now, by its purpose; the least.",
            labels=["purpose"],
        )
        calls, keys = _service_keys(self._last)
        healthy = GaugeMetricFamily(
            "kms_token_healthy", "1 while calls go to the token.", labels=["token"]
        )
        processes = GaugeMetricFamily(
            "kms_token_processes", "Token processes that get calls.", labels=["token"]
        )
        for token in self._last.tokens if self._ready is not None and self._last else ():
            healthy.add_metric([token.name or OWN], token.healthy)
            processes.add_metric([token.name or OWN], token.processes)
        if self._ready is not None:
            ready.add_metric([], self._ready)
        if self._last is not None:
            writes.add_metric([], self._last.journal_writes)
            seconds.add_metric([], self._last.journal_seconds)
            for purpose, ratio in _least(self._last).items():
                left.add_metric([purpose], ratio)
        return [ready, writes, seconds, left, healthy, processes, calls, keys]


def _service_keys(health: SignerHealth | None) -> tuple[Metric, Metric]:
    """What clients' keys are used for, and how many of them there are."""
    calls = CounterMetricFamily(
        "kms_signer_service_calls",
        "Calls with service keys since the signer started, by operation and outcome.",
        labels=["operation", "outcome"],
    )
    keys = GaugeMetricFamily("kms_signer_service_keys", "Service keys that the signer serves.")
    if health is not None:
        keys.add_metric([], health.service.keys)
        seen = {operation: (made, failed) for operation, made, failed in health.service.calls}
        for operation in Operation:
            made, failed = seen.get(operation, (0, 0))
            calls.add_metric([operation, "ok"], made - failed)
            calls.add_metric([operation, "refused"], failed)
    return calls, keys


def _least(health: SignerHealth) -> dict[str, float]:
    found: dict[str, float] = {}
    for rate in health.rates:
        ratio = rate.left / rate.per_hour
        found[rate.purpose] = min(ratio, found.get(rate.purpose, ratio))
    return found


class _Validity(Collector):
    """Until when what the authorities published is valid."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> list[Metric]:
        """One sample an authority."""
        crls = GaugeMetricFamily(
            "kms_crl_next_update_timestamp_seconds",
            "nextUpdate of the published CRL.",
            labels=["authority"],
        )
        certificates = GaugeMetricFamily(
            "kms_authority_not_after_timestamp_seconds",
            "End of the authority's own certificate.",
            labels=["authority"],
        )
        for authority in self._services.core.authorities.all():
            name = authority.record.name
            published = self._services.crls.published(name)
            if published is not None:
                crls.add_metric([name], published.record.next_update.timestamp())
            certificates.add_metric([name], authority.issuer.not_after.timestamp())
        return [crls, certificates]


class _Places(Collector):
    """Places and turns, read at the moment of asking: calls pay nothing for being counted."""

    _SHOWN: tuple[tuple[str, str, Callable[[Turns], float]], ...] = (
        ("kms_admission_places", "Calls that may be there at a time.", lambda t: t.room.places),
        ("kms_admission_held_places", "Calls that are there.", lambda t: t.present),
        ("kms_admission_serving_calls", "Calls being served.", lambda t: t.serving),
        (
            "kms_admission_waiting_calls",
            "Calls whose body is on its way, or that wait for their turn.",
            lambda t: t.waiting,
        ),
    )

    def __init__(self, admission: Admission) -> None:
        self._turns = admission.turns

    def collect(self) -> list[Metric]:
        """One sample a class for each."""
        found: list[Metric] = []
        for name, meaning, read in self._SHOWN:
            gauge = GaugeMetricFamily(name, meaning, labels=["class"])
            for kind, turns in self._turns.items():
                gauge.add_metric([kind], read(turns))
            found.append(gauge)
        served = CounterMetricFamily(
            "kms_admission_served", "Calls that had their turn.", labels=["class"]
        )
        for kind, turns in self._turns.items():
            served.add_metric([kind], turns.served)
        return [*found, served]
