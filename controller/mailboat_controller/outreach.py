"""What the leader tells others beside devices' manifests: orders for logs, webhooks, spans."""

import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mailboat_controller.config import ControllerSettings
from mailboat_controller.device_logs.orders import LogOrders
from mailboat_controller.ground import Ground
from mailboat_controller.metrics.outreach_metrics import OutreachMetrics
from mailboat_controller.overrides.orders import Overrides
from mailboat_controller.traces.export import AUDIT_READER, EVENT_READER, SpanExporter
from mailboat_controller.webhooks.courier import Courier


@dataclass(frozen=True, slots=True, kw_only=True)
class Outreach:
    log_orders: LogOrders
    overrides: Overrides
    courier: Courier
    spans: SpanExporter | None
    metrics: OutreachMetrics

    @property
    def loops(self) -> Mapping[str, Callable[[], Coroutine[Any, Any, None]]]:
        found = {
            "log-orders": self.log_orders.run,
            "overrides": self.overrides.run,
            "webhooks": self.courier.run,
        }
        return found if self.spans is None else {**found, "spans": self.spans.run}


def open_outreach(
    settings: ControllerSettings,
    ground: Ground,
    *,
    now: Callable[[], datetime],
    rng: random.Random,
    queued: Callable[[], None],
) -> Outreach:
    """
    Args:
        queued: called when something waits in the outbox to the broker.

    Raises:
        ConfigurationInvalid: certificates or addresses in the settings cannot be used.
    """
    store, fleet, endpoint = ground.store, settings.fleet, settings.otlp_endpoint
    return Outreach(
        log_orders=LogOrders(store, ground.reconciler.sign_order, fleet, now=now, queued=queued),
        overrides=Overrides(store, ground.reconciler, fleet, now=now, queued=queued),
        courier=Courier(
            store,
            settings.webhooks,
            fleet=fleet,
            secrets_dir=settings.webhook_secrets_dir,
            now=now,
            rng=rng,
        ),
        spans=SpanExporter(store, endpoint, fleet=fleet, now=now) if endpoint else None,
        metrics=OutreachMetrics(store, (AUDIT_READER, EVENT_READER) if endpoint else None),
    )
