"""An agent in a directory, without its process: everything real but the clock and the network."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mailboat_agent.artifacts.content_keys import ContentKeys
from mailboat_agent.artifacts.download import HttpsSource
from mailboat_agent.artifacts.metered import Meter
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.busy import NEVER_BUSY, Busy
from mailboat_agent.facts import Device
from mailboat_agent.identity.device_key import tls_context
from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.ledger import Ledger
from mailboat_agent.reconcile import Reconciler
from mailboat_agent.serving.json_tensors import tensor_of_json
from mailboat_agent.serving.process import RuntimeFacts
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.state_file import StateFile
from mailboat_agent.trust.manifest import Manifest
from mailboat_agent.trust.trust_store import TrustStore
from mailboat_agent.update.state import ModelState
from mailboat_agent.work import Workbench
from mailboat_schemas.events import Event
from model_fleet import CLASS, DEVICE, FLEET, MIB, MODEL, ArtifactServer, Certificates, ModelFleet

PATIENCE_SECONDS = 60
RUNTIME = RuntimeFacts("1.20.0", ("CPUExecutionProvider",))


def device_facts(**changes: object) -> Device:
    facts: dict[str, object] = {
        "device": DEVICE,
        "fleet": FLEET,
        "hardware_class": CLASS,
        "site": "-",
        "labels": {},
        "enrolment_number": 7,
        "runtime": RUNTIME,
        "memory_budget_bytes": 512 * MIB,
        "disk_budget_bytes": None,
        "arch": "x86_64",
        "agent_version": "0",
    }
    return Device(**(facts | changes))  # type: ignore[arg-type]


class AgentBox:
    """`until` turns the loop; `restart` is what a power cut leaves behind, started again."""

    meter: Meter | None = None  # of a metered link; set it and restart
    busy: Busy = NEVER_BUSY  # likewise

    def __init__(
        self, directory: Path, fleet: ModelFleet, server: ArtifactServer, certificates: Certificates
    ) -> None:
        self.directory = directory
        self._fleet = fleet
        self.server = server
        self._tls = tls_context(certificates.ca_path)
        self.clock_offset = timedelta()
        self.tries = 3
        self.device = device_facts()
        self.device_key = server.device_key
        self.start()

    def start(self) -> None:
        rng = random.Random(1)
        self.journal = Journal(self.directory / "journal.db", rng)
        self.store = ReleaseStore(self.directory)
        self.trust = TrustStore(self.directory, self._fleet.factory_root)
        state_file = StateFile(self.directory)
        self.ledger = Ledger(state_file, self.journal, now=self.now(), rng=rng)
        self.ledger.begin_session()
        self.manifest = Manifest(
            trust=self.trust, store=self.store, fleet=FLEET, hardware_class=CLASS
        )
        self.runtime = Runtime(clock=self.now)
        self.source = HttpsSource(self.server.url, self._tls)
        bench = Workbench(
            store=self.store,
            content_keys=ContentKeys(
                self.store.content_keys, self.device, lambda: [self.device_key], lambda: self.source
            ),
            source=lambda: self.source,
            runtime=self.runtime,
            hardware_class=CLASS,
            memory_budget_bytes=512 * MIB,
            disk_bound_bytes=lambda: self.device.disk_bound_bytes,
            budgets=lambda: self.device.class_budgets,
            meter=self.meter,
            busy=self.busy,
        )
        self.reconciler = Reconciler(
            device=self.device,
            ledger=self.ledger,
            manifest=self.manifest,
            store=self.store,
            bench=bench,
            rng=rng,
            tries=self.tries,
            start_jitter_seconds=0,
            wake=lambda: None,
        )
        self.reconciler.open(self.now())

    def now(self) -> datetime:
        return datetime.now(UTC) + self.clock_offset

    @property
    def state(self) -> ModelState:
        return self.ledger.model(MODEL)

    @property
    def serving(self) -> str | None:
        """Version that serves now."""
        stats = self.runtime.snapshot(MODEL)
        return None if stats is None else stats.version

    def events(self) -> list[Event]:
        return self.journal.events_after(0, 1000, 1 << 20)

    def told(self) -> list[str]:
        """Events in order, as ``kind version``."""
        return [" ".join(filter(None, [event.kind, event.version])) for event in self.events()]

    def take(self, bundle: bytes) -> bool:
        return self.reconciler.take_manifest(bundle, self.now())

    async def step(self) -> None:
        await self.reconciler.step(self.now(), asyncio.get_running_loop().time())

    async def until(self, condition: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + PATIENCE_SECONDS
        while not (condition() and not self.reconciler.busy):
            assert loop.time() < give_up, f"{self.told()} {self.state}"
            await self.step()
            await asyncio.sleep(0.01)

    async def until_seen(self, condition: Callable[[], bool]) -> None:
        """Without turning the loop, for what goes on beside it."""
        give_up = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while not condition():
            assert asyncio.get_running_loop().time() < give_up
            await asyncio.sleep(0.001)

    async def install(self, bundle: bytes, version: str) -> None:
        """Take a bundle and go on until this version is committed and serves."""
        assert self.take(bundle)
        await self.until(lambda: self.committed(version))
        await self.step()

    def committed(self, version: str) -> bool:
        active = self.state.active
        return (
            self.state.phase == "committed"
            and active is not None
            and active.version == version == self.serving
        )

    def ask(self, values: Sequence[float]) -> None:
        """One request for live traffic; what comes of it is counted by the runtime."""
        x = tensor_of_json({"name": "x", "datatype": "FP32", "shape": [1, 4], "data": list(values)})
        deadline = asyncio.get_running_loop().time() + 60
        future = self.runtime.submit(
            MODEL, None, [x], [], deadline=deadline, encode=lambda _release, inference: inference
        )
        future.exception(60)

    async def stop(self) -> None:
        await self.reconciler.close()
        await asyncio.to_thread(self.runtime.close)
        await self.source.close()
        self.journal.close()

    async def restart(self) -> None:
        await self.stop()
        self.start()


Story = Callable[[AgentBox], Coroutine[None, None, None]]
Play = Callable[[Story], AgentBox]


def played(
    story: Story,
    directory: Path,
    fleet: ModelFleet,
    server: ArtifactServer,
    certificates: Certificates,
) -> AgentBox:
    """A story on the device in this directory, which is stopped however the story ends."""

    async def whole() -> AgentBox:
        box = AgentBox(directory, fleet, server, certificates)
        try:
            await story(box)
        finally:
            await box.stop()
        return box

    return asyncio.run(whole())
