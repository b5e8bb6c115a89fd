"""The controller's own numbers for Prometheus: counted as they happen, or read when scraped.

A registry of our own: nothing else in the process gets mixed in, and tests may make many.
"""

from collections.abc import Callable, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from mailboat_controller.ingest.batch import Ingested
from mailboat_controller.metrics import described
from mailboat_controller.metrics.fleet_metrics import FleetMetrics
from mailboat_controller.metrics.fleet_state import FleetState
from mailboat_controller.metrics.store_metrics import StoreMetrics
from mailboat_controller.stats import RollUp
from mailboat_controller.store.engine import Store

_BATCH_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Metrics:
    """Everything `/metrics` shows."""

    def __init__(
        self,
        store: Store | None,
        roll_ups: Callable[[], Mapping[str, RollUp]],
        state: Callable[[], FleetState | None] = lambda: None,
        *,
        fleet: str = "",
    ) -> None:
        """
        Args:
            store: None shows this process's own figures alone: those of the database are shown by
                one process, or a sum over all of them would have them twice.
            roll_ups: the newest of what is published on stats/, by scope/name.
            state: how the fleet stands, as it was read last; None where nobody reads it.
        """
        self._registry = registry = CollectorRegistry()
        self._events = described.counter("mailboat_events_ingested", registry)
        self._windows = described.counter("mailboat_telemetry_windows_ingested", registry)
        self._answered = described.gauge(
            "mailboat_model_last_inference_timestamp_seconds", registry
        )
        self._newest_answers: dict[tuple[str, str], datetime] = {}
        self._quarantined = described.counter("mailboat_quarantined_messages", registry)
        self._dropped = described.counter("mailboat_quarantine_messages_dropped", registry)
        self._ignored = described.counter("mailboat_device_messages_ignored", registry)
        self._doubled = described.counter("mailboat_devices_doubled", registry)
        self._acks = described.counter("mailboat_acks_sent", registry)
        self._rewinds = described.counter("mailboat_rewinds_requested", registry)
        self._publishes = described.counter("mailboat_manifest_publishes", registry)
        self._refused = described.counter("mailboat_publishes_refused", registry)
        self._refused_requests = described.counter("mailboat_requests_refused", registry)
        self._batches = described.histogram(
            "mailboat_ingest_batch_seconds", registry, _BATCH_SECONDS
        )
        self.broker_connected = described.gauge("mailboat_broker_connected", registry)
        if fleet:
            described.gauge("mailboat_controller_info", registry).labels(fleet).set(1)
        if store is not None:
            registry.register(StoreMetrics(store, roll_ups))
            registry.register(FleetMetrics(state))

    def add(self, collector: Collector) -> None:
        """One more that is asked at each scrape."""
        self._registry.register(collector)

    def count_batch(self, ingested: Ingested, seconds: float) -> None:
        for kind, count in ingested.events.items():
            self._events.labels(kind).inc(count)
        for code, count in ingested.quarantined.items():
            self._quarantined.labels(code).inc(count)
        self._windows.inc(ingested.windows)
        for of, at in ingested.answered.items():
            # History comes after what is new.
            newest = self._newest_answers[of] = max(self._newest_answers.get(of, at), at)
            self._answered.labels(*of).set(newest.timestamp())
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
