"""A controller that has been told everything that devices can tell, and an address to scrape."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from controller_core import CLASS, FLEET, Core, plan
from enrolled_fleet import EnrolledDevice
from mailboat_controller import stats
from mailboat_controller.metrics.fleet_roll_ups import FleetPanels
from mailboat_controller.metrics.process_metrics import Metrics
from mailboat_controller.metrics.site_metrics import SiteMetrics
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.rollout.state import Trigger
from mailboat_controller.sites.policy import Policy
from mailboat_controller.store import sites
from mailboat_schemas.envelope import PayloadType
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import TelemetryBatch, TelemetryWindow
from mailboat_schemas.topics import Channel

SITE = "harbour"
ROLLOUT = "first"
# One window with every figure that there is.
FIGURES: dict[str, Any] = {
    "model": "vad",
    "version": "1.0.0",
    "seconds": 60,
    "requests_ok": 90,
    "requests_error": 6,
    "requests_refused": 4,
    "workload": "real-time",
    "worker_restarts": 1,
    # Bins 100 to 102 of gamma 1.0202: about 7.3 ms.
    "latency": {
        "relative_accuracy": 0.01,
        "offset": 100,
        "bins": [40, 30, 20],
        "count": 90,
        "sum_ms": 660.0,
    },
    "shadow": {"mirrored": 7, "dropped": 2, "agreed": 4, "differed": 1, "failed": 0, "pauses": 3},
    "counters": {"accuracy": {"good": 9, "total": 10}},
    "values": {"order_eur": {"count": 2, "sum": 5.5}},
    "degraded": {"fallback": 5},
    "shifts": [{"tensor": "x", "side": "input", "requests": 9, "shift": 0.3}],
    "host": {"energy_joules": 45.0, "energy_seconds": 60.0},
}


@dataclass
class MetricsStory:
    directory: Path
    sequence: int = 0
    core: Core = field(init=False)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.core = Core(self.directory, now=datetime.now(UTC))
        self.digest = self.core.release("1.0.0", plan(ROLLOUT))
        self.panels = FleetPanels(FLEET, canaries=("dev-1",))
        self._latest: dict[str, stats.RollUp] = {}
        self.metrics = Metrics(
            self.core.store, lambda: self._latest, state=self.panels.state, fleet=FLEET
        )
        self.metrics.add(SiteMetrics(self.core.store, lambda: self.core.now))
        self.metrics.broker_connected.set(1)
        fleet = self.core.fleet
        self.device = fleet.enrol("dev-1", site=SITE)
        other = fleet.enrol("dev-2")
        with self.core.store.transaction() as tx:
            _a_site(tx, self.core.now)
        self._tell_what_became_of_it(other)

    def _tell_what_became_of_it(self, other: EnrolledDevice) -> None:
        core = self.core
        delivery = {
            "outcome": "full",
            "fetched_bytes": 4,
            "made_bytes": 0,
            "source_bytes": {"controller": 3, "site_cache": 1},
        }
        for kind, evidence in (
            (EventKind.TRIAL_STARTED, {"delivery": delivery}),
            (EventKind.SOAK_STARTED, {}),
            (EventKind.COMMITTED, {}),
        ):
            core.tell(self.device, kind, self.digest, evidence=evidence)
        core.tell(other, EventKind.COMMITTED, self.digest)
        core.tell(other, EventKind.DRILL_PASSED, self.digest, evidence={"return_ms": 300.0})
        second = core.release("1.1.0", plan("second"))
        core.reconciler.order(
            "second", Trigger.PAUSE, actor="operator:alice", reason="a look", now=core.now
        )
        core.tell(other, EventKind.ROLLED_BACK, second, evidence={"recovery_seconds": 0.7})
        model = {
            "model": "vad",
            "phase": "committed",
            "serving_version": "1.0.0",
            "serving_digest": self.digest,
        }
        core.fleet.take(
            self.device.report(
                models=[model],
                manifest_counter=1_000_000,
                facts={"disk_free_bytes": 1 << 20},
            ),
            self.device.presence(1, online=True),
            now=core.now,
        )

    def window(self) -> Incoming:
        self.sequence += 1
        window = TelemetryWindow.model_validate(
            FIGURES | {"sequence": self.sequence, "digest": self.digest, "started_at": 0}
        )
        batch = TelemetryBatch(
            device=self.device.name,
            epoch=self.device.epoch,
            first=self.sequence,
            windows=(window,),
        )
        return Incoming(
            topic=self.device.topic(Channel.TELEMETRY),
            payload=self.device.sealed(PayloadType.TELEMETRY_BATCH, batch),
        )

    def scraped(self) -> bytes:
        """Between any two scrapes the device tells of another minute."""
        with self._turn:
            self.core.now = datetime.now(UTC)
            self.metrics.count_batch(self.core.fleet.take(self.window(), now=self.core.now), 0.002)
            with self.core.store.read() as tx:
                self._latest = {
                    **stats.roll_ups(tx, FLEET, self.core.now),
                    **self.panels.roll_ups(tx, self.core.now),
                }
            return self.metrics.render()

    @property
    def latest(self) -> dict[str, stats.RollUp]:
        return self._latest

    def close(self) -> None:
        self.core.store.close()


def _a_site(tx: Any, now: datetime) -> None:
    sites.put(
        tx,
        SITE,
        policy=Policy.ERROR,
        expected_until=None,
        windows=(),
        broker_host="",
        broker_port=8883,
        cache_url="",
        labels={},
        at=now,
    )
    sites.note_link(tx, SITE, connected=False, retained=False, at=now)


@contextmanager
def scrapeable(story: MetricsStory) -> Iterator[str]:
    """Its address: what `/metrics` would show, over plain HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = story.scraped()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


__all__ = ["CLASS", "FLEET", "ROLLOUT", "SITE", "MetricsStory", "scrapeable"]
