"""What is cheaper and truer to read from the database than to keep count of."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from mailboat_controller.artifacts import artifact_metrics
from mailboat_controller.metrics import described
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


class StoreMetrics(Collector):
    """Read at every scrape: a few small tables and one count by class."""

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
        yield _one("mailboat_outbox_messages", waiting)
        yield _one("mailboat_quarantine_messages_held", held)
        if timestamp is not None:
            signed_at = timestamp[2].timestamp()
            yield _one("mailboat_trust_timestamp_signed_timestamp_seconds", signed_at)
        expires = described.gauges("mailboat_trust_role_expires_timestamp_seconds")
        for role, instant in expiries.items():
            expires.add_metric([role], instant.timestamp())
        yield expires
        enrolled = described.gauges("mailboat_devices")
        for count in counts:
            for state in _STATES:
                enrolled.add_metric([count.hardware_class, state], getattr(count, state))
        yield enrolled
        counter = described.gauges("mailboat_manifest_number")
        for hardware_class, value in counters.items():
            counter.add_metric([hardware_class], value)
        yield counter
        yield self._rollouts()
        yield from _delivered(came)
        yield _delta_states(states)
        for name, _, number in artifacts:
            yield _one(name, number)

    def _rollouts(self) -> Metric:
        family = described.gauges("mailboat_rollout_devices")
        for name, roll_up in self._roll_ups().items():
            scope, _, rollout = name.partition("/")
            if scope == "rollout":
                for outcome in _OUTCOMES:
                    family.add_metric([rollout, outcome], float(roll_up[outcome]))
        return family


def _one(name: str, value: float) -> Metric:
    family = described.gauges(name)
    family.add_metric([], value)
    return family


def _delivered(came: Iterable[DeliveryCount]) -> Iterator[Metric]:
    counted = described.counters("mailboat_deliveries")
    fetched = described.counters("mailboat_delivery_fetched_bytes")
    saved = described.gauges("mailboat_delivery_saved_bytes")
    by_outcome = {each.outcome: each for each in came}
    for outcome in DeliveryOutcome:
        each = by_outcome.get(outcome)
        counted.add_metric([outcome], 0 if each is None else each.count)
        fetched.add_metric([outcome], 0 if each is None else each.fetched_bytes)
        saved.add_metric([outcome], 0 if each is None else each.saved_bytes)
    yield from (counted, fetched, saved)


def _delta_states(states: Mapping[str, int]) -> Metric:
    family = described.gauges("mailboat_deltas")
    for state in State:
        family.add_metric([state], states.get(state, 0))
    return family
