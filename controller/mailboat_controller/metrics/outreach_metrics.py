"""What waits to be told to webhooks and to a collector of spans, and how pulled sets stand."""

from collections.abc import Iterator, Sequence

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from mailboat_controller.metrics import described
from mailboat_controller.store import audit_readers, gitops, webhook_deliveries, webhooks
from mailboat_controller.store.engine import Store
from mailboat_controller.store.gitops import PullState, SetRow
from mailboat_controller.store.webhook_deliveries import Standing
from mailboat_controller.store.webhooks import State


class OutreachMetrics(Collector):
    def __init__(self, store: Store, span_readers: tuple[str, str] | None) -> None:
        """Args: span_readers: of the audit log and of the events; None: no spans are exported."""
        self._store = store
        self._span_readers = span_readers

    def describe(self) -> list[Metric]:
        return []  # else registering would already read the database

    def collect(self) -> Iterator[Metric]:
        with self._store.read() as tx:
            hooks = webhooks.every(tx)
            standings = webhook_deliveries.standings(tx)
            behind = self._span_readers and audit_readers.rows_behind(tx, *self._span_readers)
            sets = gitops.every_set(tx)
        active = described.gauges("mailboat_webhook_active")
        failures = described.gauges("mailboat_webhook_failures_in_a_row")
        waiting = described.gauges("mailboat_webhook_events_waiting")
        oldest = described.gauges("mailboat_webhook_oldest_waiting_timestamp_seconds")
        lost = described.gauges("mailboat_webhook_events_given_up")
        for hook in hooks:
            standing = standings.get(hook.name, Standing())
            active.add_metric([hook.name], float(hook.state is State.ACTIVE))
            failures.add_metric([hook.name], hook.failures)
            waiting.add_metric([hook.name], standing.waiting)
            lost.add_metric([hook.name], standing.given_up)
            if standing.oldest is not None:
                oldest.add_metric([hook.name], standing.oldest.timestamp())
        yield from (active, failures, waiting, oldest, lost)
        if behind is not None:
            rows = described.gauges("mailboat_span_rows_waiting")
            rows.add_metric([], behind)
            yield rows
        yield from _pulled_sets(sets)


def _pulled_sets(sets: Sequence[SetRow]) -> Iterator[Metric]:
    differ = described.gauges("mailboat_gitops_differences")
    in_step = described.gauges("mailboat_gitops_in_step")
    pulled = described.gauges("mailboat_gitops_pulled_timestamp_seconds")
    for row in sets:
        if row.pulled_at is not None:
            differ.add_metric([row.name], row.differences)
            in_step.add_metric([row.name], float(row.state is PullState.IN_STEP))
            pulled.add_metric([row.name], row.pulled_at.timestamp())
    yield from (differ, in_step, pulled)
