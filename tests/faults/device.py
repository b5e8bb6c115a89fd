"""The real agent in a directory, turned by hand: real ledger, journal, trust, store and loop.

Two parts are light, because neither touches a disk of ours (`light_parts`): the worker process that
loads a model, and the decoder process of a patch. Time is virtual, so that waiting costs nothing.
"""

import asyncio
import os
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.faults import world
from tests.faults.acknowledged import Acknowledged, told_path
from tests.faults.light_parts import LightLane, Source, light_parts
from tests.faults.outside import DEVICE, Controller, ToldJournal, ToldStateFile, ToldTrust

from mailboat_agent import ledger as ledger_module
from mailboat_agent import work
from mailboat_agent.artifacts.content_keys import ContentKeys
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.facts import Device
from mailboat_agent.journal.outbox import Outbox
from mailboat_agent.reconcile import Reconciler
from mailboat_agent.serving.process import RuntimeFacts
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.trust.manifest import Manifest
from mailboat_agent.update.state import ModelState
from trust_fleet import CLASS, FLEET, MODEL

CRASHED = 76  # exit status of a process that its release took down
STEPS_MAX = 80  # looks at everything until a story is over, or has come to a stop
WAIT_SECONDS = 400.0  # of virtual time from look to look: longer than any delay between attempts
MEMORY_BYTES = 512 << 20


class NotReached(Exception):
    """The story stopped where it was, in good order: on a broken disk it cannot do more."""


def the_device() -> Device:
    return Device(
        device=DEVICE,
        fleet=FLEET,
        hardware_class=CLASS,
        site="-",
        labels={},
        enrolment_number=7,
        runtime=RuntimeFacts("1.20.0", ("CPUExecutionProvider",)),
        memory_budget_bytes=MEMORY_BYTES,
        disk_budget_bytes=None,
        arch="x86_64",
        agent_version="0",
    )


def _sealed(payload_type: str, payload: bytes) -> bytes:
    return payload_type.encode() + b"\0" + payload


@dataclass
class Life:
    """One process of the agent, from its start to its end. `open` is the real start-up path."""

    directory: Path
    told: Acknowledged
    connected: bool = True
    drift_check_seconds: float = 1e9  # a check is a story of its own

    def open(self) -> None:
        rng = random.Random(os.urandom(8))
        self.now = datetime.now(UTC)
        self.monotonic = 1000.0
        the_world = world.current()
        self.source = Source(the_world)
        self.source.connected = self.connected
        self.store = ReleaseStore(self.directory)
        trust = ToldTrust(self.directory, the_world.factory_root, self.told)
        self.journal = ToldJournal(self.directory / "journal.db", rng, self.told)
        self.state_file = ToldStateFile(self.directory, self.told)
        self.ledger = ledger_module.Ledger(self.state_file, self.journal, now=self.now, rng=rng)
        self.manifest = Manifest(trust=trust, store=self.store, fleet=FLEET, hardware_class=CLASS)
        self.runtime = Runtime(clock=lambda: self.now)
        self.device = the_device()
        self.reconciler = self._reconciler(self.device, rng)
        self.outbox = Outbox(self.device.device, self.journal, _sealed, rng)
        self.controller = Controller(self.told)
        self.problems = self.state_file.problems
        self.found_generation = self.ledger.state.generation
        self.ledger.begin_session()
        if self.ledger.state.generation > self.found_generation:
            self.told.note(told="started", session=self.ledger.state.session)
        for problem in self.problems:
            self.ledger.tell_damage("state", problem, self.now)
        self.reconciler.open(self.now)
        self.reconciler.begin_serving(self.now, self.monotonic)

    def _reconciler(self, device: Device, rng: random.Random) -> Reconciler:
        source: Any = self.source
        return Reconciler(
            device=device,
            ledger=self.ledger,
            manifest=self.manifest,
            store=self.store,
            bench=work.Workbench(
                store=self.store,
                content_keys=ContentKeys(self.store.content_keys, device, list, lambda: source),
                source=lambda: source,
                runtime=self.runtime,
                hardware_class=CLASS,
                memory_budget_bytes=MEMORY_BYTES,
            ),
            rng=rng,
            tries=3,
            start_jitter_seconds=0,
            wake=lambda: None,
            drift_check_seconds=self.drift_check_seconds,
        )

    # --- what it is -------------------------------------------------------------------------------

    @property
    def model(self) -> ModelState:
        return self.ledger.model(MODEL)

    @property
    def serving(self) -> LightLane | None:
        lane: Any = self.runtime._lanes.get(MODEL)
        return lane

    def serves(self, version: str) -> bool:
        lane, active = self.serving, self.model.active
        committed = self.model.phase == "committed" and active is not None
        return committed and lane is not None and lane.release.version == version == active.version  # type: ignore[union-attr]

    def nothing_waits(self) -> bool:
        try:
            return self.outbox.events_depth == 0
        except Exception:  # noqa: BLE001 - a journal that cannot be read is no end of a story
            return False

    # --- what happens to it -----------------------------------------------------------------------

    def take(self, bundle: bytes) -> bool:
        taken = self.reconciler.take_manifest(bundle, self.now)
        held = self.manifest.counter()
        if taken and held is not None:
            self.told.note(told="counter", counter=held.value)
        return taken

    async def step(self) -> None:
        """A look, and what it began; then the post."""
        await self.reconciler.step(self.now, self.monotonic)
        running = [loop.work.task for loop in self.reconciler.loops.values() if loop.work]
        if running:
            await asyncio.wait(running)
        elif self.source.connected:
            self.exchange()
        self.monotonic += 1.0 if running else WAIT_SECONDS

    async def until(self, reached: Callable[[], bool]) -> None:
        """
        Raises:
            NotReached: not within STEPS_MAX looks.
        """
        for _ in range(STEPS_MAX):
            await self.step()
            if reached() and not self.reconciler.busy:
                return
        raise NotReached(
            f"{self.model} {[loop.because for loop in self.reconciler.loops.values()]}"
        )

    def exchange(self) -> None:
        """One round with the controller, over a broker that forgets."""
        with suppress(ledger_module.DiskFull, ledger_module.DiskFailing):
            if not self.outbox._connected:
                self.outbox.on_connected(self.monotonic)
            for ack in self.controller.answers(self.outbox.due(self.monotonic)):
                self.outbox.on_ack(ack, self.monotonic)

    def close(self) -> None:
        self.journal.close()


def live(
    directory: Path,
    story: Callable[[Life], Any],
    told: Acknowledged | None = None,
    *,
    connected: bool = True,
    crash: Callable[[], None] | None = None,
) -> Life:
    """One life of the agent: started, told its story, and ended in good order.

    ``told`` is the record of the outside; without it, the file beside the directory.
    """
    if told is None:
        told = Acknowledged.of(directory)
        told.path = told_path(directory)

    def crashed() -> None:
        told.note(told="crashed")
        os._exit(CRASHED)

    life = Life(directory, told, connected)

    async def play() -> None:
        life.open()
        try:
            await story(life)
            await life.reconciler.close()
        finally:
            life.close()

    with light_parts(crash or crashed):
        asyncio.run(play())
    return life


__all__ = ["CRASHED", "Life", "NotReached", "live"]
