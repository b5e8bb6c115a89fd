"""Observe, decide, record, act: the agent's loop over everything it is told and holds.

Each look compares what is recorded with what is wanted and does the one thing that comes next.
Messages only say *look*; a lost or repeated one does no harm.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from operator import is_

from mailboat_agent.artifacts.disk_room import keep_within
from mailboat_agent.artifacts.giving_way import KeptRelease
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.clock_watch import ClockWatch
from mailboat_agent.device_rules import device_rules, policy_of
from mailboat_agent.drift.schedule import CHECK_BYTES_PER_SECOND, CHECK_SECONDS
from mailboat_agent.drift.watch import DriftWatch
from mailboat_agent.drill.watch import DrillWatch
from mailboat_agent.facts import Device, Look
from mailboat_agent.intake import Intake
from mailboat_agent.kept_releases import Keeping, what_is_kept
from mailboat_agent.ledger import Ledger
from mailboat_agent.model_loop import ModelLoop
from mailboat_agent.overlays.in_force import ConfigInForce, running
from mailboat_agent.staleness_watch import StalenessWatch
from mailboat_agent.trust.manifest import Counter, Manifest
from mailboat_agent.update import moves
from mailboat_agent.work import Workbench
from mailboat_schemas.errors import DiskFull
from mailboat_schemas.reports import ModelPhase

_log = logging.getLogger(__name__)


class Reconciler:
    """`open` once, then `step` whenever something has changed and every second besides."""

    def __init__(
        self,
        *,
        device: Device,
        ledger: Ledger,
        manifest: Manifest,
        store: ReleaseStore,
        bench: Workbench,
        rng: random.Random,
        tries: int,
        start_jitter_seconds: float,
        wake: Callable[[], None],
        drift_check_seconds: float = CHECK_SECONDS,
        drift_check_bytes_per_second: int = CHECK_BYTES_PER_SECOND,
        pressure: Callable[[], str] = str,
        config: ConfigInForce | None = None,
    ) -> None:
        """``pressure`` is the word of heat or power while the device is under it, or empty."""
        self.config = config  # None: a device that nobody signs a config for
        self._device = device
        self._ledger = ledger
        self._manifest = manifest
        self._store = store
        self._bench = bench
        self._rng = rng
        self._tries = tries
        self._start_jitter_seconds = start_jitter_seconds
        self._wake = wake
        self._tidy = False  # whether garbage was collected since something last changed
        self._kept: tuple[tuple[object, ...], tuple[KeptRelease, ...]] | None = None
        store.gives_way.of, store.gives_way.may_go = self._gives_way, self._has_no_use_for_it
        self.loops: dict[str, ModelLoop] = {}
        self._clock = ClockWatch(ledger, manifest)
        self._intake = Intake(
            ledger=ledger,
            manifest=manifest,
            clock=self._clock,
            models=self._models,
            bar=self._bar_what_is_withdrawn,
            rng=rng,
        )
        self.drift = DriftWatch(
            store=store,
            manifest=manifest,
            ledger=ledger,
            memory=bench.verified_copy,
            rng=rng,
            every_seconds=drift_check_seconds,
            bytes_per_second=drift_check_bytes_per_second,
        )
        self.staleness = StalenessWatch(
            device=device, ledger=ledger, manifest=manifest, runtime=bench.runtime
        )
        self.drills = DrillWatch(
            device=device,
            ledger=ledger,
            bench=bench,
            pressure=pressure,
            rules=lambda: device_rules(device, manifest),
            wake=wake,
        )

    @property
    def clock_trusted(self) -> bool:
        return self._clock.trusted

    @property
    def trust_fresh(self) -> bool:
        return self._clock.trust_fresh

    @property
    def busy(self) -> bool:
        return any(loop.work is not None for loop in self.loops.values())

    def open(self, now: datetime) -> None:
        """Read back what this device knew. Never raises for what it finds on the disk."""
        state = self._ledger.state
        counted = Counter(state.manifest_counter, state.director_keyid)
        problem = self._manifest.open(state.models, counted)
        if problem is not None:
            self._ledger.tell_damage("trust", problem.what, now)
        if counted.value and self._manifest.desired is None:
            what = f"Manifest {counted.value}, the newest accepted, cannot be read back."
            self._ledger.tell_damage("manifest", what, now)
        try:
            # A lost record, or a crash between keeping a manifest and counting it.
            self._intake.note(self._manifest.counter())
        except (DiskFull, DiskFailing) as error:
            _log.warning("What the kept manifest says could not be recorded: %s", error)
        self._make_loops()
        if self.config is not None and (damage := self.config.open()):
            self._ledger.tell_damage("config", damage, now)

    def begin_serving(self, now: datetime, monotonic: float) -> None:
        """Begin to load what the record says should serve. Needs nothing but the disk."""
        look = self._look(now, monotonic)
        self.staleness.look(self.loops, look)
        for loop in self.loops.values():
            loop.begin_serving(look)

    async def step(self, now: datetime, monotonic: float) -> None:
        """One look at everything."""
        was_trusted = self.clock_trusted
        self._clock.look_at_the_clock(now)
        self._ledger.tell_what_the_state_implies(now)
        if self.clock_trusted:
            if not was_trusted:
                self._intake.forget_failures()
            if self._intake.take_what_waited(now, monotonic):
                self._heard_something_new()
        self._look_at_config()
        look = self._look(now, monotonic)
        self.staleness.look(self.loops, look)
        for loop in list(self.loops.values()):
            await loop.look(look)
        self.drills.step(self.loops, look)
        self.drift.step([loop.view for loop in self.loops.values()], look)
        self._keep_within_the_budget()
        self._collect_garbage()

    def _look_at_config(self) -> None:
        """By what the record says should serve, which is written before it does."""
        if self.config is None:
            return
        policy = policy_of(self._device, self._manifest)
        self._device.policy_version, self._device.policy_ranges = policy.version, policy.ranges
        states = [(model, loop.state.serving) for model, loop in self.loops.items()]
        if self.config.look(running(states, self._manifest)):
            self._wake()

    def _look(self, now: datetime, monotonic: float) -> Look:
        self._clock.look_at_the_clock(now)
        self._clock.look_at_the_trust(now)
        if (desired := self._manifest.desired) is not None:
            self._device.class_budgets = desired.budgets
        return Look(
            now=now,
            monotonic=monotonic,
            clock_trusted=self.clock_trusted,
            trust_fresh=self.trust_fresh,
        )

    def give_back_attempts(self) -> None:
        """The agent was told to stop: that is no failure of a release on trial or in its soak."""
        for loop in self.loops.values():
            if loop.probation.is_open:
                models = {**self._ledger.state.models, loop.model: moves.told_to_stop(loop.state)}
                with suppress(DiskFull, DiskFailing):
                    self._ledger.save(replace(self._ledger.state, models=models))

    async def close(self) -> None:
        """Drop what runs beside the loop; every part of it may be done again."""
        self.drift.close()
        self.drills.close()
        tasks = [loop.work.task for loop in self.loops.values() if loop.work is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- what arrives ----------------------------------------------------------------------------

    def take_manifest(self, payload: bytes, now: datetime) -> bool:
        """Take a bundle from wherever it comes; True if it brought something new.

        A refused one is told once and changes nothing: what serves goes on serving.
        """
        brought = self._intake.take(payload, now)
        if brought:
            self._heard_something_new()
        return brought

    def take_fresh(self, payload: bytes, now: datetime) -> None:
        """Take a timestamp that was signed again."""
        if self._intake.take_fresh(payload, now):
            self._heard_something_new()
        self._wake()

    def _heard_something_new(self) -> None:
        self._tidy = False
        self._make_loops()
        for loop in self.loops.values():
            loop.on_new_manifest()
        self._wake()

    def waits_for(self, payload: bytes) -> bool:
        """Whether this manifest is still to be taken: for the clock, room or a fresh timestamp."""
        return self._intake.waits_for(payload)

    def files_came(self) -> None:
        """Somebody brought files that releases may lack: what failed for want of them may begin."""
        self._heard_something_new()
        for loop in self.loops.values():
            loop.on_files()

    def _bar_what_is_withdrawn(self) -> None:
        for loop in self.loops.values():
            loop.bar_what_is_withdrawn()
        self._wake()

    # --- models ----------------------------------------------------------------------------------

    def _models(self) -> set[str]:
        desired = self._manifest.desired
        assigned = set() if desired is None else {a.model for a in desired.assignments}
        return assigned | set(self._ledger.state.models)

    def _make_loops(self) -> None:
        for model in sorted(self._models() - set(self.loops)):
            self.loops[model] = ModelLoop(
                model,
                device=self._device,
                ledger=self._ledger,
                manifest=self._manifest,
                store=self._store,
                bench=self._bench,
                rng=self._rng,
                tries=self._tries,
                start_jitter_seconds=self._start_jitter_seconds,
                wake=self._something_changed,
            )

    def _something_changed(self) -> None:
        self._tidy = False
        self._wake()

    # --- the store -------------------------------------------------------------------------------

    def _keeping(self) -> Keeping:
        views = [loop.view for loop in self.loops.values()]
        return what_is_kept(self._manifest, self._store, views)

    def _gives_way(self) -> tuple[KeptRelease, ...]:
        """Asked at each look, and for each model: worked out again when something has changed."""
        if self._manifest.view is None:
            return ()
        seen = (self._ledger.state, self._manifest.desired, self._manifest.view, self._device.order)
        if self._kept is None or not all(map(is_, seen, self._kept[0])):
            self._kept = (seen, self._keeping().gives_way)
        return self._kept[1]

    def _has_no_use_for_it(self, model: str) -> bool:
        """Whether this model may lose a place to go back to: it stays where it is."""
        loop = self.loops[model]
        serving = loop.state.serving
        return not loop.is_moving and (
            serving is not None and self._manifest.may_serve(model, serving.version, serving.digest)
        )

    def _keep_within_the_budget(self) -> None:
        if keep_within(self._store, self._device.disk_bound_bytes):
            self._tidy = False

    def _collect_garbage(self) -> None:
        """Last of all, and only when nothing is under way."""
        under_way = any(
            loop.state.phase in (ModelPhase.TRIAL, ModelPhase.SOAK) for loop in self.loops.values()
        )
        if self._tidy or self.busy or under_way or self._manifest.view is None:
            return
        keep = self._keeping().all
        freed_bytes = self._store.collect_garbage(keep)
        freed_bytes += self._bench.imports.collect_garbage(keep)
        if freed_bytes:
            _log.info("%d bytes of releases that nothing names any more were freed.", freed_bytes)
        self._manifest.forget_documents_but(keep)
        self._store.restore_ballast()
        self._tidy = True
