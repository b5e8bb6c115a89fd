"""The fleet in numbers for Prometheus: by class, model, release and site, never by device, but for
the canaries that the settings name."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from mailboat_controller.ingest.fleet_figures import RECOVERY_BOUNDS_SECONDS, SHIFT_BOUNDS
from mailboat_controller.metrics import described, latency_buckets
from mailboat_controller.metrics.described import CLASS, MODEL, SITE, VERSION
from mailboat_controller.metrics.fleet_state import FleetState
from mailboat_controller.store.fleet_counts import UNSEEN
from mailboat_controller.store.fleet_sums import SumRow
from mailboat_schemas.documents.hardware_class import WhenDisconnected

# Which sums are one number, or told apart by one more label: its name, and that of the label.
_PLAIN = {
    "requests": ("mailboat_requests", "result"),
    "restarts": ("mailboat_worker_restarts", ""),
    "events": ("mailboat_release_events", "kind"),
    "source_bytes": ("mailboat_delivery_source_bytes", "source"),
    "shadow": ("mailboat_shadow_requests", "outcome"),
    "shadow_pauses": ("mailboat_shadow_pauses", ""),
    "counted": ("mailboat_feedback_counted", "counter"),
    "good": ("mailboat_feedback_good", "counter"),
    "values": ("mailboat_feedback_values", "value"),
    "values_sum": ("mailboat_feedback_values_added_up", "value"),
    "degraded": ("mailboat_degraded_answers", "mode"),
    "energy_joules": ("mailboat_energy_joules", ""),
    "energy_inferences": ("mailboat_energy_inferences", ""),
}
# Histograms: their name, and the bounds of their buckets.
_BUCKETS = {
    "latency": ("mailboat_request_latency_seconds", latency_buckets.BOUNDS_SECONDS),
    "recovery": ("mailboat_release_recovery_seconds", RECOVERY_BOUNDS_SECONDS),
    "shift": ("mailboat_drift_shift_ratio", SHIFT_BOUNDS),
}
_Labels = tuple[str, ...]
Key = TypeVar("Key")


class FleetMetrics(Collector):
    def __init__(self, state: Callable[[], FleetState | None]) -> None:
        """Args: state: what was read last; None shows nothing."""
        self._state = state

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        state = self._state()
        if state is None:
            return
        yield from _sums(state.sums)
        yield _family("mailboat_series_left_out", [((), state.left_out)])
        yield from _releases(state)
        yield from _sites(state)
        yield from _drills(state)
        yield from _classes(state)
        audit = ((key, entries) for key, entries in sorted(state.audit.items()))
        yield _family("mailboat_audit_entries", audit)
        yield from _canaries(state)


def _sums(rows: Iterable[SumRow]) -> Iterator[Metric]:
    """Every figure, added up over what is no label of it."""
    plain: dict[str, dict[_Labels, float]] = {figure: {} for figure in _PLAIN}
    buckets: dict[str, dict[_Labels, dict[str, float]]] = {figure: {} for figure in _BUCKETS}
    totals: dict[str, dict[_Labels, float]] = {figure: {} for figure in _BUCKETS}
    for row in rows:
        if row.figure in _PLAIN:
            name, label = _PLAIN[row.figure]
            _add(plain[row.figure], _labels(name, row, **{label: row.part}), row.amount)
            continue
        figure, is_sum = row.figure.removesuffix("_sum"), row.figure.endswith("_sum")
        if figure not in _BUCKETS:
            continue  # of a newer program
        side, _, part = row.part.rpartition(" ")
        labels = _labels(_BUCKETS[figure][0], row, side=row.part if is_sum else side)
        if is_sum:
            _add(totals[figure], labels, row.amount)
        else:
            _add(buckets[figure].setdefault(labels, {}), part, row.amount)
    for figure, (name, _) in _PLAIN.items():
        yield _family(name, plain[figure].items())
    for figure, (name, bounds) in _BUCKETS.items():
        family = described.histograms(name)
        parts = (*map(str, bounds), latency_buckets.BEYOND)
        for labels, found in buckets[figure].items():
            total = totals[figure].get(labels, 0.0)
            family.add_metric(labels, latency_buckets.cumulative(found, parts), total)
        yield family


def _labels(name: str, row: SumRow, **more: str) -> _Labels:
    known = {
        CLASS: row.hardware_class,
        MODEL: row.model,
        VERSION: row.version,
        SITE: row.site,
        "workload": row.workload or "any",
        **more,
    }
    return tuple(known[label] for label in described.METRICS[name].labels)


def _add(found: dict[Key, float], key: Key, amount: float) -> None:
    found[key] = found.get(key, 0.0) + amount


def _releases(state: FleetState) -> Iterator[Metric]:
    serving = (((d.hardware_class, d.model, d.version), d.devices) for d in state.serving)
    yield _family("mailboat_release_devices", serving)
    current = (((a.hardware_class, a.model), a.current) for a in state.assigned)
    yield _family("mailboat_model_devices_current", current)
    assigned = (((a.hardware_class, a.model), a.devices) for a in state.assigned)
    yield _family("mailboat_model_devices_assigned", assigned)
    outcomes = ((each[:4], each.devices) for each in state.outcomes)
    yield _family("mailboat_release_outcomes", outcomes)
    came = ((each[:4], each.deliveries) for each in state.deliveries)
    yield _family("mailboat_release_deliveries", came)
    fetched: dict[_Labels, float] = {}
    for each in state.deliveries:
        _add(fetched, (each.hardware_class, each.model, each.version), each.fetched_bytes)
    yield _family("mailboat_release_fetched_bytes", fetched.items())
    yield _family("mailboat_manifest_devices_current", state.manifest_current.items())


def _sites(state: FleetState) -> Iterator[Metric]:
    by_state = (
        ((each.site, name), getattr(each, name))
        for each in state.sites
        for name in ("online", "offline", "unknown", "revoked")
    )
    yield _family("mailboat_site_devices", by_state)
    awaited = (((each.site,), each.awaited) for each in state.sites)
    yield _family("mailboat_site_devices_awaited", awaited)
    spans = [f"{span.total_seconds():.0f}" for span in UNSEEN]
    unseen = (
        ((each.site, seconds), number)
        for each in state.sites
        for seconds, number in zip(spans, each.unseen, strict=True)
    )
    yield _family("mailboat_devices_unseen", unseen)
    yield _family(
        "mailboat_devices_disk_low", (((each.site,), each.disk_low) for each in state.sites)
    )
    yield _family(
        "mailboat_devices_clock_wrong", (((each.site,), each.clock_wrong) for each in state.sites)
    )


def _drills(state: FleetState) -> Iterator[Metric]:
    newest = (
        ((each.hardware_class, each.model, outcome), devices)
        for each in state.drills
        for outcome, devices in each.newest.items()
    )
    yield _family("mailboat_drill_devices", newest)
    lately = (((each.hardware_class, each.model), each.passed_lately) for each in state.drills)
    yield _family("mailboat_drill_devices_passed_lately", lately)
    oldest = (
        ((each.hardware_class, each.model), each.oldest_passed_at.timestamp())
        for each in state.drills
        if each.oldest_passed_at is not None
    )
    yield _family("mailboat_drill_oldest_pass_timestamp_seconds", oldest)
    p90 = (
        ((each.hardware_class, each.model), each.return_p90_ms / 1000)
        for each in state.drills
        if each.return_p90_ms is not None
    )
    yield _family("mailboat_drill_return_p90_seconds", p90)


def _classes(state: FleetState) -> Iterator[Metric]:
    stale = (
        ((each.hardware_class, action), devices)
        for each in state.stale
        for action, devices in (("told", each.stale - each.stopped), ("stopped", each.stopped))
    )
    yield _family("mailboat_devices_stale", stale)
    policies = (
        ((name, kind.value), float(kind is means))
        for name, means in sorted(state.when_disconnected.items())
        for kind in WhenDisconnected
    )
    yield _family("mailboat_class_disconnect_policy", policies)


def _canaries(state: FleetState) -> Iterator[Metric]:
    info = (((row.device, *model), 1) for row in state.canaries for model in row.models)
    yield _family("mailboat_canary_info", info)
    seen = (
        ((row.device,), row.seen_at_ms / 1000)
        for row in state.canaries
        if row.seen_at_ms is not None
    )
    yield _family("mailboat_canary_seen_timestamp_seconds", seen)


def _family(name: str, samples: Iterable[tuple[_Labels, float]]) -> Metric:
    told = described.METRICS[name]
    if told.kind == "counter":
        counters = described.counters(name)
        for labels, value in samples:
            counters.add_metric(labels, value)
        return counters
    gauges = described.gauges(name)
    for labels, value in samples:
        gauges.add_metric(labels, value)
    return gauges
