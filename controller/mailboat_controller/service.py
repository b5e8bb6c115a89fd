"""The running controller: everything wired, and the only reader of its clock.

Each loop is a named task: take messages, reconcile, drain the outbox, publish roll-ups, watch the
broker, answer HTTPS. They share nothing but the database, so a lost wake-up costs a moment and a
crash costs nothing: whatever anybody was told has been committed before.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from mailboat_controller import leading, logs, stats
from mailboat_controller.access.artifact_tokens import ArtifactTokens
from mailboat_controller.api.app import build_app
from mailboat_controller.api.context import ApiContext
from mailboat_controller.artifacts.care import ArtifactCare
from mailboat_controller.artifacts.care_loops import look_after
from mailboat_controller.broker.care import BrokerCare
from mailboat_controller.config import ControllerSettings
from mailboat_controller.data_directory import Addresses, addresses_of
from mailboat_controller.delta_builds.loops import DeltaLoops, open_loops
from mailboat_controller.durable_file import PUBLIC_MODE, replace_durably
from mailboat_controller.ground import Ground
from mailboat_controller.https_server import HttpsServer
from mailboat_controller.ingest.flood import FloodGate
from mailboat_controller.loop_errors import first_error
from mailboat_controller.metrics.fleet_roll_ups import FleetPanels
from mailboat_controller.metrics.process_metrics import Metrics
from mailboat_controller.metrics.site_metrics import SiteMetrics
from mailboat_controller.mqtt.link import EVERY_CHANNEL, Link
from mailboat_controller.mqtt.receiving import Receiver
from mailboat_controller.mqtt.sending import Sender
from mailboat_controller.outreach import open_outreach
from mailboat_controller.pki.client_tls import client_context
from mailboat_controller.recovery.running import open_when_recovered
from mailboat_controller.releases.admission import Admission
from mailboat_controller.resting import rest_seconds
from mailboat_controller.rollout.state import Trigger
from mailboat_controller.sites import bridge_news
from mailboat_controller.store import locks
from mailboat_controller.store.locks import HeldLock
from mailboat_controller.trust.role_admission import RoleAdmission
from mailboat_controller.trust.role_intake import TakenRoles
from mailboat_controller.upkeep import Upkeep
from mailboat_controller.wake import Wake
from mailboat_schemas.errors import MailboatError, Transient
from mailboat_schemas.submission import SubmissionReply
from mailboat_schemas.topics import Channel

# Nothing depends on this: it repairs lost wake-ups and notices hours that have come.
LOOK_SECONDS = 15.0
STATS_SECONDS_MIN = 1.0
STATS_SECONDS_MAX = 30.0
READY_SECONDS_MAX = 10.0  # then others are told where we are, broker or not

_log = structlog.get_logger(__name__)


def now() -> datetime:
    """The controller's clock. Everything below takes the instant as an argument."""
    return datetime.now(UTC)


async def serve(settings: ControllerSettings, *, stop: asyncio.Event | None = None) -> None:
    """Run the controller until SIGTERM, SIGINT, or ``stop`` is set.

    Raises:
        OperatorNeeded: it cannot start: no trust metadata, a port taken, no broker.
    """
    logs.configure(settings.log_format)
    stopped = asyncio.Event() if stop is None else stop
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Not in the main thread (tests, the demo): whoever runs us sets the event.
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
            loop.add_signal_handler(number, stopped.set)
    async with leading.holding(settings.store_url, locks.LEADER, stopped) as held:
        ground = None if held is None else await open_when_recovered(settings, now, stopped)
        if held is None or ground is None:
            return
        try:
            await _Controller(settings, ground, held).run(stopped)
        except* MailboatError as group:
            raise first_error(group) from None
        finally:
            settings.serving_file.unlink(missing_ok=True)
            await asyncio.shield(asyncio.to_thread(ground.close))


class _Controller:
    """The loops, and what they are woken by."""

    def __init__(self, settings: ControllerSettings, ground: Ground, held: HeldLock) -> None:
        self._settings = settings
        self._ground = ground
        self._changed = Wake()  # a rollout may decide otherwise
        self._queued = Wake()  # something waits in the outbox
        self._news = Wake()  # roll-ups may differ
        self._stats = stats.Publisher(settings.fleet)
        store, fleet = ground.store, settings.fleet
        self._broker = BrokerCare(
            ground.guard,
            ground.broker,
            host=settings.mqtt_host,
            port=settings.mqtt_port,
            now=now,
        )
        self._care = ArtifactCare(store, ground.artifacts, settings.artifacts, now)
        self._fleet = FleetPanels(settings.fleet, settings.metrics_canaries)
        self._metrics = Metrics(
            store, lambda: self._stats.latest, state=self._fleet.state, fleet=settings.fleet
        )
        self._metrics.add(SiteMetrics(store, now))
        self._deltas: DeltaLoops = open_loops(
            settings, store, ground.artifacts, now=now, tell=self._changed.set
        )
        self._admission = Admission(store, ground.reconciler, ground.artifacts, fleet)
        self._role_admission = RoleAdmission(store, ground.reconciler)
        self._receiver = Receiver(
            store=store,
            admission=self._admission,
            fleet=fleet,
            metrics=self._metrics,
            changed=self._changed,
            queued=self._queued,
            sign_ack=ground.reconciler.sign_ack,
            now=now,
            gate=FloodGate(settings.ingest.flood_limits),
        )
        rng = random.Random()  # noqa: S311  spreads what is tried again, hides nothing
        self._outreach = open_outreach(settings, ground, now=now, rng=rng, queued=self._queued.set)
        self._metrics.add(self._outreach.metrics)
        self._upkeep = Upkeep(
            store=store,
            settings=settings,
            held=held,
            changed=self._wake_all,
            now=now,
            more=self._outreach.loops,
        )
        self._sender = Sender(
            store=store,
            reconciler=ground.reconciler,
            metrics=self._metrics,
            queued=self._queued,
            now=now,
        )

    async def run(self, stopped: asyncio.Event) -> None:
        link = Link(
            host=self._settings.mqtt_host,
            port=self._broker.port,
            fleet=self._settings.fleet,
            tls=client_context(self._ground.client),
            rng=random.Random(),  # noqa: S311  spreads reconnects, hides nothing
            channels=(Channel.SUBMIT,) if self._settings.ingest.partitions else EVERY_CHANNEL,
            filters=(bridge_news.SUBSCRIPTION,),
        )
        server, addresses = self._listen()
        loops = {
            "api": server.serve(),
            "mqtt": link.run(self._on_connected),
            "receive": self._receiver.run(link),
            "send": self._sender.run(link),
            "reconcile": self._reconcile(),
            "stats": self._publish_stats(link),
            "upkeep": self._upkeep.run(link),
            "broker": self._broker.keep_running(),
            "access": self._broker.keep_access(),
            "artifacts": look_after(self._care),
            "deltas": self._deltas.run(),
        }
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop, name=name) for name, loop in loops.items()]
            ready = group.create_task(self._announce(server, link, addresses), name="ready")
            await stopped.wait()
            _log.info("stopping")
            server.stop()
            self._deltas.stop()
            for task in (*tasks[1:], ready):
                # Ends by itself, with what was being built.
                if task.get_name() != "deltas":
                    task.cancel()

    def _listen(self) -> tuple[HttpsServer, Addresses]:
        """Bind the API's port, then say where everything is: devices are told by the API."""
        settings, ground = self._settings, self._ground
        # The app needs the bound port and the server needs the app, so the app comes in late.
        late: dict[str, Any] = {}

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await late["app"](scope, receive, send)

        server = HttpsServer(
            app, host=settings.listen_host, port=settings.listen_port, files=ground.server
        )
        addresses = addresses_of(settings, api_port=server.bind(), mqtt_port=self._broker.port)
        late["app"] = build_app(
            ApiContext(
                settings=settings,
                store=ground.store,
                artifacts=ground.artifacts,
                artifact_care=self._care,
                content_keys=ground.content_keys,
                authority=ground.authority,
                now=now,
                submit=self._submit,
                take_roles=self._take_roles,
                order=self._order,
                rollouts=ground.reconciler.summaries,
                rollout_status=ground.reconciler.status,
                wake=self._changed.set,
                metrics=self._metrics.render,
                refused=self._metrics.count_refused_request,
                access_changed=self._broker.access_changed,
                artifact_tokens=ArtifactTokens(settings.artifact_token_keys),
                roll_ups=lambda: self._stats.latest,
                fleet_state=self._fleet.state,
                reach=lambda: self._upkeep.reach.now,
                leads=self._upkeep.leads,
                absent_partitions=self._upkeep.absent_partitions,
                log_orders=self._outreach.log_orders,
                overrides=self._outreach.overrides,
                courier=self._outreach.courier,
                api_url=addresses.api_url,
                mqtt_host=addresses.mqtt_host,
                mqtt_port=addresses.mqtt_port,
            )
        )
        return server, addresses

    def _submit(self, content: bytes, sender: str) -> SubmissionReply:
        reply = self._admission.submit(content, sender, now())
        self._wake_all()
        return reply

    def _take_roles(self, roles: Mapping[str, bytes], actor: str, reason: str) -> TakenRoles:
        taken = self._role_admission.take(roles, actor=actor, reason=reason, now=now())
        self._wake_all()
        return taken

    def _order(self, name: str, trigger: Trigger, who: str, reason: str, wave: int | None) -> None:
        order = self._ground.reconciler.order
        order(name, trigger, actor=who, reason=reason, now=now(), wave=wave)
        self._wake_all()

    def _wake_all(self) -> None:
        for wake in (self._changed, self._queued, self._news):
            wake.set()

    def _on_connected(self) -> None:
        self._stats.forget()
        self._sender.connected()
        self._news.set()

    async def _announce(self, server: HttpsServer, link: Link, addresses: Addresses) -> None:
        await server.wait_started()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_SECONDS_MAX):
                await link.until_connected()
        content: Mapping[str, object] = {
            "api_url": addresses.api_url,
            "mqtt_host": addresses.mqtt_host,
            "mqtt_port": addresses.mqtt_port,
            "pid": os.getpid(),
        }
        path = self._settings.serving_file
        replace_durably(path, json.dumps(content).encode() + b"\n", mode=PUBLIC_MODE)
        _log.info("serving", broker_connected=link.connected, **content)

    async def _reconcile(self) -> None:
        while True:
            started = time.monotonic()
            try:
                done = await asyncio.to_thread(self._ground.reconciler.run, now())
                self._metrics.count_published(done.published.classes)
                self._deltas.wished(done.wishes)
                self._queued.set()
                self._news.set()
            except MailboatError as error:
                # Nothing was decided; what devices were told before stays.
                _log.error("nothing can be decided", problem=str(error))
            await asyncio.sleep(rest_seconds(started, self._settings.tick_seconds))
            await self._changed.wait(LOOK_SECONDS)

    async def _publish_stats(self, link: Link) -> None:
        while True:
            started = time.monotonic()
            self._metrics.broker_connected.set(link.connected)
            try:
                found = await asyncio.to_thread(self._roll_ups)
                for topic, payload in self._stats.news(found, now()):
                    link.send(topic, payload, retain=True)
            except Transient as error:
                _log.warning("the roll-ups wait", problem=str(error))
            await asyncio.sleep(rest_seconds(started, STATS_SECONDS_MIN))
            await self._news.wait(STATS_SECONDS_MAX)

    def _roll_ups(self) -> dict[str, stats.RollUp]:
        with self._ground.store.read() as tx:
            found = stats.roll_ups(tx, self._settings.fleet, now())
            return {**found, **self._fleet.roll_ups(tx, now())}
