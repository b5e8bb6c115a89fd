"""The agent as a process: wiring, and the only reader of clocks and maker of seeds.

What serves comes first and needs no network: the record is read back, what it names is loaded, the
gateway listens. Everything else is begun, and even imported, beside it. A task that fails
unexpectedly ends the process, whose supervisor starts it again from the record.
"""

import asyncio
import contextlib
import logging
import os
import random
import signal
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mailboat_agent import assembly
from mailboat_agent.artifacts.disk_room import DiskRoom
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.atomic_file import DiskFailing, LockedDirectory
from mailboat_agent.background import in_background
from mailboat_agent.carrier.pickup import Pickup
from mailboat_agent.carrier.spool import ImportSpool
from mailboat_agent.config import AgentConfig
from mailboat_agent.device_orders import DeviceOrders
from mailboat_agent.facts import UNKNOWN_RUNTIME, Device
from mailboat_agent.footprint import give_back
from mailboat_agent.identity.credentials import Credentials
from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.ledger import Ledger
from mailboat_agent.link.manifest_poll import ManifestPoll
from mailboat_agent.logs.recording import LogRecorder
from mailboat_agent.reconcile import Reconciler
from mailboat_agent.serving.gateway import Gateway
from mailboat_agent.serving.process import RuntimeFacts, WorkerNotStarted
from mailboat_agent.state_file import StateFile
from mailboat_agent.status import StatusFiles
from mailboat_agent.supervisor import Watchdog, exit_at_last, notify_supervisor
from mailboat_agent.transfers import disk_figures, metered_figures, transfers
from mailboat_agent.trust.manifest import Counter, Manifest
from mailboat_agent.trust.trust_store import TrustStore
from mailboat_schemas.errors import DiskFull

if TYPE_CHECKING:
    # These bring libraries that take as long to import as a worker does to start.
    from mailboat_agent.link.correspondence import Correspondence
    from mailboat_agent.link.mqtt import Link
    from mailboat_agent.report import Reporter
    from mailboat_agent.telemetry.recorder import Recorder

LOOK_SECONDS_MAX = 1.0  # between two looks; whatever happens is noticed by then
START_SETTLES_SECONDS = 5.0  # then memory that only the start needed is given back
GIVE_BACK_SECONDS = 600.0  # from one time to the next, once the start is long past
RUNTIME_ASK_SECONDS = 30.0  # from one try to learn of the runtime to the next, until one succeeds
LOOK_SECONDS_MIN = 0.02  # a burst of wake-ups is one look
CLOSE_SECONDS_MAX = 5.0  # for work, requests and workers to end; what is left dies with the process
_log = logging.getLogger(__name__)


def utc_now() -> datetime:
    return datetime.now(UTC)


async def run(config: AgentConfig) -> None:
    """Run the agent until it is told to stop.

    Raises:
        ConfigurationInvalid: something is missing that only a person can bring.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        stop.set()
        exit_at_last()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    with LockedDirectory(config.data_dir):
        agent = Agent(config)
        try:
            await agent.run(stop)
        finally:
            await agent.close()


class Agent:
    """Everything that one process holds."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._rng = random.Random(int.from_bytes(os.urandom(16)))  # noqa: S311 - jitter, epochs
        self._wake = asyncio.Event()
        self._store = ReleaseStore(config.data_dir)
        self._credentials = Credentials(config, self._store.content_keys, now=utc_now())
        self._trust = trust = TrustStore(config.data_dir, assembly.read_trust_root(config))
        self._journal = Journal(config.data_dir / "journal.db", self._rng)
        state_file = StateFile(config.data_dir)
        self._ledger = Ledger(state_file, self._journal, now=utc_now(), rng=self._rng)
        self._logs = LogRecorder(config.data_dir / "logs", config.log_disk)
        self._ledger.log_tail = self._logs.ring.tail
        self._manifest = Manifest(
            trust=trust,
            store=self._store,
            fleet=config.fleet,
            hardware_class=config.hardware_class,
        )
        self._runtime = assembly.make_runtime(config, utc_now)
        self._degraded = assembly.make_degraded(config, self._runtime, self._rng)
        self._meter = assembly.make_meter(config, utc_now)
        self._watchdog = Watchdog(self._runtime.stuck)
        self._status = StatusFiles(config.data_dir)
        self._problems = state_file.problems
        self._gateway: Gateway | None = None
        self._reconciler: Reconciler | None = None
        self._recorder: Recorder | None = None

    async def run(self, stop: asyncio.Event) -> None:
        config = self._config
        self._ledger.begin_session()
        now = utc_now()
        for problem in self._problems:
            self._ledger.tell_damage("state", problem, now)
        device = Device.of(config, enrolment_number=self._credentials.identity.enrolment_number)
        self._reconciler = reconciler = self._make_reconciler(device)
        reconciler.open(now)
        orders = assembly.open_orders(config, device, self._manifest, self._ledger, now)
        reconciler.begin_serving(now, time.monotonic())
        self._gateway = gateway = await in_background(
            lambda: assembly.make_gateway(
                self._config, self._runtime, self._degraded, reconciler.config
            ),
            name="gateway-start",
        )
        host, port = gateway.address
        self._status.write_serving(
            url=gateway.url, host=host, port=port, socket_path=gateway.socket_path
        )
        _log.info("Serving on %s", gateway.url)
        await self._run_tasks(device, reconciler, orders, stop)

    async def close(self) -> None:
        """In the order that keeps the most: work, gateway, workers, files."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                if self._reconciler is not None:
                    await self._reconciler.close()
                if self._gateway is not None:
                    await in_background(self._degraded.close, name="endpoints-close")
                    await in_background(self._gateway.close, name="gateway-close")
                await in_background(self._runtime.close, name="runtime-close")
                await self._credentials.close()
        except TimeoutError:
            _log.warning("Not everything ended in %g s; it ends now.", CLOSE_SECONDS_MAX)
        finally:
            self._status.clear()
            self._journal.close()
            self._logs.close()

    # --- the tasks -------------------------------------------------------------------------------

    async def _run_tasks(
        self, device: Device, reconciler: Reconciler, orders: DeviceOrders, stop: asyncio.Event
    ) -> None:
        from mailboat_agent.journal.outbox import Outbox
        from mailboat_agent.link.correspondence import Correspondence
        from mailboat_agent.report import Reporter

        # A wrong address is found now, not when the first release comes.
        self._credentials.https()
        self._credentials.caches()
        link = assembly.make_link(self._config, device, self._credentials, self._ledger, self._rng)
        reporter = Reporter(
            device=device,
            identity=self._credentials.identity,
            ledger=self._ledger,
            manifest=self._manifest,
            store=self._store,
            runtime=self._runtime,
            reconciler=reconciler,
        )
        post = Correspondence(
            device=device,
            link=link,
            outbox=Outbox(device.device, self._journal, self._credentials.seal, self._rng),
            reporter=reporter,
            reconciler=reconciler,
            acks=orders.reader,
            ledger=self._ledger,
            report_seconds_min=self._config.report_seconds_min,
            log_answers=assembly.make_log_answers(device, self._logs, self._credentials),
            orders=orders,
        )
        poll = self._make_poll(device, reconciler, post)
        renewal = self._credentials.renewal(
            connected=lambda: link.connected, reconnect=link.reconnect, now=utc_now, rng=self._rng
        )
        post.named_manifest = poll.heard_of
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(work, name=name)
                for name, work in (
                    ("link", link.run()),
                    ("receive", self._receive(link, post)),
                    ("reconcile", self._reconcile(device, reconciler, reporter, post)),
                    ("runtime", self._learn_runtime(device)),
                    ("telemetry", self._telemetry(reconciler)),
                    ("footprint", self._give_memory_back()),
                    ("manifest-poll", poll.run()),
                    ("renewal", renewal.run()),
                    ("watchdog", self._watchdog.run()),
                )
            ]
            notify_supervisor("READY=1")
            await stop.wait()
            notify_supervisor("STOPPING=1")
            _log.info("Stopping.")
            reconciler.give_back_attempts()
            for task in tasks:
                task.cancel()

    async def _receive(self, link: "Link", post: "Correspondence") -> None:
        while True:
            post.handle(await link.receive(), utc_now(), time.monotonic())
            self._wake.set()

    async def _reconcile(
        self,
        device: Device,
        reconciler: Reconciler,
        reporter: "Reporter",
        post: "Correspondence",
    ) -> None:
        device.runtime = await self._runtime_facts()
        pickup = Pickup(ImportSpool(self._config.data_dir), self._trust, reconciler)
        while True:
            self._wake.clear()
            self._watchdog.beat()
            pickup.look(utc_now())
            post.look(utc_now())
            await reconciler.step(utc_now(), time.monotonic())
            self._degraded.look(self._ledger, utc_now(), time.monotonic())
            telemetry = [] if self._recorder is None else self._recorder.notes()
            notes = [*telemetry, *self._degraded.notes(time.monotonic())]
            report = reporter.build(utc_now(), notes)
            post.report(report, time.monotonic())
            post.send(utc_now(), time.monotonic())
            self._status.write_status(
                report,
                connected=post.connected,
                unconfirmed=post.unconfirmed,
                trust_expires=self._manifest.expires,
                drift=reconciler.drift.status.for_people(),
                more=self._figures(device, reconciler),
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_SECONDS_MAX)
            await asyncio.sleep(LOOK_SECONDS_MIN)

    def _figures(self, device: Device, reconciler: Reconciler) -> dict[str, object]:
        return {
            "telemetry": {} if self._recorder is None else self._recorder.figures(),
            "degraded": self._degraded.status(time.monotonic()),
            "drills": reconciler.drills.for_people(),
            "downloads": transfers(reconciler.loops.values()),
            "disk": disk_figures(DiskRoom.of(self._store, device.disk_bound_bytes)),
            "metered": metered_figures(self._meter, class_is_metered=self._class_is_metered()),
        }

    async def _learn_runtime(self, device: Device) -> None:
        """A worker that did not come up once, as at a busy start, is no verdict on the runtime."""
        await asyncio.sleep(RUNTIME_ASK_SECONDS)
        while device.runtime is UNKNOWN_RUNTIME:
            device.runtime = await self._runtime_facts()
            self._wake.set()
            await asyncio.sleep(RUNTIME_ASK_SECONDS)

    async def _give_memory_back(self) -> None:
        """Once what the start has begun is done, and again for what came and went since."""
        seconds = START_SETTLES_SECONDS
        while True:
            await asyncio.sleep(seconds)
            give_back()
            seconds = min(GIVE_BACK_SECONDS, 4 * seconds)

    async def _telemetry(self, reconciler: Reconciler) -> None:
        recorder = self._recorder = assembly.make_recorder(
            self._config,
            runtime=self._runtime,
            journal=self._journal,
            degraded=self._degraded.drain,
            metered=lambda: self._meter.applies(class_is_metered=self._class_is_metered()),
            now=utc_now(),
        )
        while True:
            await asyncio.sleep(recorder.seconds_to_next_look)
            try:
                if recorder.look(reconciler.loops, utc_now(), time.monotonic()):
                    self._wake.set()
            except (DiskFull, DiskFailing) as error:
                _log.warning("A telemetry window could not be written: %s", error)

    def _class_is_metered(self) -> bool:
        desired = self._manifest.desired
        return desired is not None and desired.metered

    def _make_reconciler(self, device: Device) -> Reconciler:
        return assembly.make_reconciler(
            self._config,
            device,
            ledger=self._ledger,
            manifest=self._manifest,
            store=self._store,
            credentials=self._credentials,
            runtime=self._runtime,
            rng=self._rng,
            wake=self._wake.set,
            meter=self._meter,
            pressure=lambda: self._degraded.gauge.reading.word,
        )

    def _make_poll(
        self, device: Device, reconciler: Reconciler, post: "Correspondence"
    ) -> ManifestPoll:
        return ManifestPoll(
            fetch=lambda etag: self._credentials.https().get_manifest(device.hardware_class, etag),
            take=lambda payload: reconciler.take_manifest(payload, utc_now()),
            quiet_since=lambda: post.heard_at if post.connected else None,
            held=lambda: Counter(
                self._ledger.state.manifest_counter, self._ledger.state.director_keyid
            ),
            interval_seconds=self._config.manifest_poll_seconds,
            check_seconds=self._config.manifest_check_seconds,
            monotonic=time.monotonic,
            rng=self._rng,
        )

    async def _runtime_facts(self) -> RuntimeFacts:
        try:
            return await in_background(self._runtime.facts, name="runtime-facts")
        except WorkerNotStarted as error:
            # Eligibility refuses every release with a reason; the device stays reachable.
            _log.error("onnxruntime cannot be used: %s", error)
            return UNKNOWN_RUNTIME
