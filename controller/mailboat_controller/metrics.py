"""The controller's own numbers for Prometheus: counted as they happen, or read when scraped.

A registry of our own: nothing else in the process gets mixed in, and tests may make many.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mailboat_controller.artifacts import artifact_metrics
from mailboat_controller.ingest.batch import Ingested
from mailboat_controller.live_metrics import LiveMetrics
from mailboat_controller.stats import RollUp
from mailboat_controller.store import (
    deliveries,
    deltas,
    devices,
    manifests,
    outbox,
    quarantine,
    trust_roles,
)
from mailboat_controller.store.deliveries import DeliveryCount
from mailboat_controller.store.deltas import State
from mailboat_controller.store.engine import Store
from mailboat_controller.trust import expiry
from mailboat_schemas.deltas import DeliveryOutcome

_OUTCOMES = ("not_open", "waiting", "in_progress", "ok", "failed", "excluded")
_STATES = ("online", "offline", "unknown", "revoked")
_BATCH_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Metrics:
    """Everything `/metrics` shows."""

    def __init__(self, store: Store, roll_ups: Callable[[], Mapping[str, RollUp]]) -> None:
        """Args: roll_ups: the newest of what is published on stats/, by scope/name."""
        self._registry = CollectorRegistry()
        self._events = Counter(
            "mailboat_events_ingested",
            "State events stored, by kind.",
            ["kind"],
            registry=self._registry,
        )
        self._windows = Counter(
            "mailboat_telemetry_windows_ingested",
            "Telemetry windows stored.",
            registry=self._registry,
        )
        self._quarantined = Counter(
            "mailboat_quarantined_messages",
            "Messages that could not be taken, by error code.",
            ["code"],
            registry=self._registry,
        )
        self._dropped = Counter(
            "mailboat_quarantine_messages_dropped",
            "Messages pushed out of the quarantine by newer ones.",
            registry=self._registry,
        )
        self._ignored, self._doubled = _about_devices(self._registry)
        self._acks = Counter(
            "mailboat_acks_sent", "Acknowledgements sent to devices.", registry=self._registry
        )
        self._rewinds = Counter(
            "mailboat_rewinds_requested",
            "Acknowledgements that asked a device to send again.",
            registry=self._registry,
        )
        self._publishes = Counter(
            "mailboat_manifest_publishes",
            "Manifests decided on and queued, by class.",
            ["hardware_class"],
            registry=self._registry,
        )
        self._refused = Counter(
            "mailboat_publishes_refused",
            "Messages that the broker refused: look at its access rules.",
            registry=self._registry,
        )
        self._refused_requests = Counter(
            "mailboat_requests_refused",
            "Requests to the API that were turned away at the door, by error code.",
            ["code"],
            registry=self._registry,
        )
        self._batches = Histogram(
            "mailboat_ingest_batch_seconds",
            "Time to take a batch of messages into the database.",
            buckets=_BATCH_SECONDS,
            registry=self._registry,
        )
        self.broker_connected = Gauge(
            "mailboat_broker_connected", "1 while connected.", registry=self._registry
        )
        self._live = self._register_live_figures()
        self._registry.register(_StoreCollector(store, roll_ups))

    def _register_live_figures(self) -> LiveMetrics:
        live = LiveMetrics()
        self._registry.register(live)
        return live

    def count_batch(self, ingested: Ingested, seconds: float) -> None:
        for kind, count in ingested.events.items():
            self._events.labels(kind).inc(count)
        for code, count in ingested.quarantined.items():
            self._quarantined.labels(code).inc(count)
        self._windows.inc(ingested.windows)
        self._live.count(ingested.live)
        self._dropped.inc(ingested.dropped)
        self._doubled.inc(ingested.doubled)
        self._batches.observe(seconds)

    def count_ignored(self, messages: int) -> None:
        self._ignored.inc(messages)

    def count_acks(self, sent: int, rewinds: int) -> None:
        self._acks.inc(sent)
        self._rewinds.inc(rewinds)

    def count_published(self, hardware_classes: tuple[str, ...]) -> None:
        for hardware_class in hardware_classes:
            self._publishes.labels(hardware_class).inc()

    def count_refused(self) -> None:
        self._refused.inc()

    def count_refused_request(self, code: str) -> None:
        self._refused_requests.labels(code).inc()

    def render(self) -> bytes:
        """Text exposition format 0.0.4."""
        return generate_latest(self._registry)


def _about_devices(registry: CollectorRegistry) -> tuple[Counter, Counter]:
    ignored = Counter(
        "mailboat_device_messages_ignored",
        "Messages of devices that say more than they may; events come again.",
        registry=registry,
    )
    doubled = Counter(
        "mailboat_devices_doubled",
        "Times it was told that two devices seem to have one id.",
        registry=registry,
    )
    return ignored, doubled


class _StoreCollector(Collector):
    """What is cheaper and truer to read from the database than to keep count of."""

    def __init__(self, store: Store, roll_ups: Callable[[], Mapping[str, RollUp]]) -> None:
        self._store = store
        self._roll_ups = roll_ups

    def describe(self) -> list[Metric]:
        return []  # else registering would already read the database

    def collect(self) -> Iterator[Metric]:
        with self._store.read() as tx:
            counts = devices.count_by_class(tx)
            counters = {row.hardware_class: row.counter for row in manifests.every(tx)}
            waiting = outbox.count(tx)
            held = quarantine.count(tx)
            timestamp = trust_roles.newest_of(tx, "timestamp")
            expiries = expiry.expires_at(trust_roles.newest(tx))
            artifacts = artifact_metrics.of(tx)
            came, states = deliveries.totals(tx), deltas.count_by_state(tx)
        yield GaugeMetricFamily(
            "mailboat_outbox_messages", "Messages not yet with the broker.", value=waiting
        )
        yield GaugeMetricFamily(
            "mailboat_quarantine_messages_held", "Messages kept for a look.", value=held
        )
        if timestamp is not None:
            yield GaugeMetricFamily(
                "mailboat_trust_timestamp_signed_timestamp_seconds",
                "When the timestamp role was last signed; daily, or devices install nothing.",
                value=timestamp[2].timestamp(),
            )
        expires = GaugeMetricFamily(
            "mailboat_trust_role_expires_timestamp_seconds",
            "When the newest version of a role expires; devices install nothing after that.",
            labels=["role"],
        )
        for role, instant in expiries.items():
            expires.add_metric([role], instant.timestamp())
        yield expires
        enrolled = GaugeMetricFamily(
            "mailboat_devices",
            "Enrolled devices by class and state.",
            labels=["hardware_class", "state"],
        )
        for count in counts:
            for state in _STATES:
                enrolled.add_metric([count.hardware_class, state], getattr(count, state))
        yield enrolled
        counter = GaugeMetricFamily(
            "mailboat_manifest_number",
            "The counter in the newest manifest of a class.",
            labels=["hardware_class"],
        )
        for hardware_class, value in counters.items():
            counter.add_metric([hardware_class], value)
        yield counter
        yield self._rollouts()
        yield from _delivered(came)
        yield _delta_states(states)
        for name, text, number in artifacts:
            yield GaugeMetricFamily(name, text, value=number)

    def _rollouts(self) -> Metric:
        family = GaugeMetricFamily(
            "mailboat_rollout_devices",
            "Devices of a rollout by where they stand; they add up.",
            labels=["rollout", "outcome"],
        )
        for name, roll_up in self._roll_ups().items():
            scope, _, rollout = name.partition("/")
            if scope == "rollout":
                for outcome in _OUTCOMES:
                    family.add_metric([rollout, outcome], float(roll_up[outcome]))
        return family


def _delivered(came: Iterable[DeliveryCount]) -> Iterator[Metric]:
    counted = CounterMetricFamily(
        "mailboat_deliveries", "Releases that came to devices, by how.", labels=["outcome"]
    )
    fetched = CounterMetricFamily(
        "mailboat_delivery_fetched_bytes", "Payload that devices fetched.", labels=["outcome"]
    )
    # A gauge: it falls when patches fail and the files come whole after them.
    saved = GaugeMetricFamily(
        "mailboat_delivery_saved_bytes",
        "Size of the same releases, less what was fetched.",
        labels=["outcome"],
    )
    by_outcome = {each.outcome: each for each in came}
    for outcome in DeliveryOutcome:
        each = by_outcome.get(outcome)
        counted.add_metric([outcome], 0 if each is None else each.count)
        fetched.add_metric([outcome], 0 if each is None else each.fetched_bytes)
        saved.add_metric([outcome], 0 if each is None else each.saved_bytes)
    yield from (counted, fetched, saved)


def _delta_states(states: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(
        "mailboat_deltas", "Deltas in the controller's queue, by state.", labels=["state"]
    )
    for state in State:
        family.add_metric([state], states.get(state, 0))
    return family
