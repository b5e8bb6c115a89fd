"""Observe, decide, record, act: the agent's loop over everything it is told and holds.

Each look compares what is recorded with what is wanted and does the one thing that comes next.
Messages only say *look*; a lost or repeated one does no harm.
"""

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.errand import Unforeseen
from mailboat_agent.facts import Device, Look
from mailboat_agent.ledger import Ledger
from mailboat_agent.model_loop import ModelLoop
from mailboat_agent.trust.manifest import Counter, Manifest, named_digests
from mailboat_agent.update import moves
from mailboat_agent.update.retry import Backoff
from mailboat_agent.update.time_floor import stands_before, stands_far_ahead, time_floor
from mailboat_agent.work import Workbench
from mailboat_schemas.errors import (
    ClockUntrusted,
    DiskFull,
    MailboatError,
    MalformedPayload,
    SignatureInvalid,
    TrustStale,
)
from mailboat_schemas.events import EventKind
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
    ) -> None:
        self._device = device
        self._ledger = ledger
        self._manifest = manifest
        self._store = store
        self._bench = bench
        self._rng = rng
        self._tries = tries
        self._start_jitter_seconds = start_jitter_seconds
        self._wake = wake
        # The newest manifest that waits: for the clock, for room, or for a fresh timestamp.
        self._untaken: bytes | None = None
        self._untaken_fresh: bytes | None = None
        self._taking = Backoff(rng)
        self._tidy = False  # whether garbage was collected since something last changed
        self.loops: dict[str, ModelLoop] = {}
        self.clock_trusted = True
        self._clock_is_early = False
        self.trust_fresh = True

    @property
    def busy(self) -> bool:
        return any(loop.work is not None for loop in self.loops.values())

    def open(self, now: datetime) -> None:
        """Read back what this device knew. Never raises for what it finds on the disk."""
        problem = self._manifest.open(self._ledger.state.models)
        if problem is not None:
            self._ledger.tell_damage("trust", problem.what, now)
        try:
            # A lost record, or a crash between keeping a manifest and counting it.
            self._note(self._manifest.counter())
        except (DiskFull, DiskFailing) as error:
            _log.warning("What the kept manifest says could not be recorded: %s", error)
        self._make_loops()

    def begin_serving(self, now: datetime, monotonic: float) -> None:
        """Begin to load what the record says should serve. Needs nothing but the disk."""
        look = self._look(now, monotonic)
        for loop in self.loops.values():
            loop.begin_serving(look)

    async def step(self, now: datetime, monotonic: float) -> None:
        """One look at everything."""
        was_trusted = self.clock_trusted
        self._look_at_the_clock(now)
        self._ledger.tell_what_the_state_implies(now)
        if self.clock_trusted:
            if not was_trusted:
                self._taking.forget()
            self._take_what_waited(now, monotonic)
        look = self._look(now, monotonic)
        for loop in list(self.loops.values()):
            await loop.look(look)
        self._collect_garbage()

    def _look(self, now: datetime, monotonic: float) -> Look:
        self._look_at_the_clock(now)
        self._look_at_the_trust(now)
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
        tasks = [loop.work.task for loop in self.loops.values() if loop.work is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- what arrives ----------------------------------------------------------------------------

    def take_manifest(self, payload: bytes, now: datetime) -> bool:
        """Take a bundle from wherever it comes; True if it brought something new.

        A refused one is told once and changes nothing: what serves goes on serving.
        """
        self._look_at_the_clock(now)
        if self._clock_is_early:
            # python-tuf reads the wall clock, so it is not even asked.
            self._untaken = payload
            return False
        self._untaken = None
        state = self._ledger.state
        try:
            counter = self._manifest.take(
                payload,
                state.models,
                Counter(state.manifest_counter, state.director_keyid),
            )
            if counter is None:
                return False
            self._note(counter)
        except (DiskFull, DiskFailing) as error:
            self._untaken = payload
            _log.warning("A manifest waits for room on the disk: %s", error)
            self._bar_what_is_withdrawn()
            return False
        except MailboatError as error:
            if isinstance(error, TrustStale):
                self._untaken = payload
            self._refused(payload, error, now)
            # Trust metadata stands on its own: a withdrawal may have come with a refused wish.
            self._bar_what_is_withdrawn()
            return False
        except Exception as error:  # noqa: BLE001 - a stranger's bytes shall not end what serves
            self._met_a_bug(payload, error, now)
            return False
        self._tidy = False
        self._make_loops()
        for loop in self.loops.values():
            loop.on_new_manifest()
        self._wake()
        return True

    def _bar_what_is_withdrawn(self) -> None:
        for loop in self.loops.values():
            loop.bar_what_is_withdrawn()
        self._wake()

    def take_fresh(self, payload: bytes, now: datetime) -> None:
        """Take a timestamp that was signed again."""
        self._look_at_the_clock(now)
        if self._clock_is_early:
            self._untaken_fresh = payload
            return
        self._untaken_fresh = None
        try:
            self._manifest.take_fresh(payload, self._models())
        except (SignatureInvalid, MalformedPayload) as error:
            self._refused(payload, error, now)
        except MailboatError as error:
            # Most likely it belongs to a bundle that has not arrived yet.
            _log.info("A fresh timestamp does not go with what is held: %s", error)
        except Exception as error:  # noqa: BLE001 - as above
            self._met_a_bug(payload, error, now)
        if self._untaken is not None:
            self.take_manifest(self._untaken, now)
        self._wake()

    def _note(self, counter: Counter | None) -> None:
        """Record that a manifest was accepted. Neither its counter nor the time goes back.

        Raises:
            DiskFull, DiskFailing
        """
        state = self._ledger.state
        if counter is None:
            return
        if state.director_keyid == counter.director_keyid:
            counter = replace(counter, value=max(counter.value, state.manifest_counter))
        self._ledger.save(
            replace(
                state,
                manifest_counter=counter.value,
                director_keyid=counter.director_keyid,
                time_floor=time_floor(self._manifest.issued(), state.time_floor),
            )
        )

    def _take_what_waited(self, now: datetime, monotonic: float) -> None:
        """What clock, disk or age did not let through; again at growing intervals."""
        if self._untaken is not None and self._taking.allows(monotonic):
            self.take_manifest(self._untaken, now)
            if self._untaken is None:
                self._taking.forget()
            else:
                self._taking.failed(monotonic)
        if self._untaken_fresh is not None:
            self.take_fresh(self._untaken_fresh, now)

    def _refused(self, payload: bytes, error: MailboatError, now: datetime) -> bool:
        """Tell it, once for each payload; whether it was told."""
        digest = hashlib.sha256(payload).hexdigest()[:16]
        kind = (
            EventKind.TRUST_STALE if isinstance(error, TrustStale) else EventKind.MANIFEST_REFUSED
        )
        told = self._ledger.tell_trouble(kind, f"{kind}:{digest}:{error.code}", error, now)
        if told:
            _log.warning("A manifest was not taken: %s", error)
        return told

    def _met_a_bug(self, payload: bytes, error: Exception, now: datetime) -> None:
        if self._refused(payload, Unforeseen(f"{type(error).__name__}: {error}"), now):
            _log.error("A manifest met a bug.", exc_info=error)

    # --- clock and trust -------------------------------------------------------------------------

    def _look_at_the_clock(self, now: datetime) -> None:
        floor = time_floor((), self._ledger.state.time_floor)
        self._clock_is_early = stands_before(now, floor)
        # A device that comes back after years is not turned away: a manifest that holds by this
        # clock is taken, and with it trust is fresh and the floor is raised.
        expired = self._manifest.expires is not None and not self._manifest.is_fresh(now)
        self.clock_trusted = not (
            self._clock_is_early or (expired and stands_far_ahead(now, floor))
        )
        if not self.clock_trusted:
            error = ClockUntrusted(
                f"The clock says {now:%Y-%m-%d %H:%M}, which is "
                f"{'before' if self._clock_is_early else 'long after'} "
                f"{datetime.fromtimestamp(floor, UTC):%Y-%m-%d %H:%M}, the last that is known.",
                next_step="set the device's clock; it serves on and installs nothing until then.",
            )
            event_id = f"clock_untrusted:{self._ledger.state.session}"
            self._ledger.tell_trouble(EventKind.CLOCK_UNTRUSTED, event_id, error, now)

    def _look_at_the_trust(self, now: datetime) -> None:
        expires = self._manifest.expires
        self.trust_fresh = self._manifest.is_fresh(now)
        if expires is not None and self.clock_trusted and not self.trust_fresh:
            error = TrustStale(
                f"Trust metadata expired at {expires:%Y-%m-%d %H:%M}.",
                next_step="look at whether the controller signs its timestamp daily.",
            )
            event_id = f"trust_stale:{int(expires.timestamp())}"
            self._ledger.tell_trouble(EventKind.TRUST_STALE, event_id, error, now)

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

    def _collect_garbage(self) -> None:
        """Last of all, and only when nothing is under way."""
        under_way = any(
            loop.state.phase in (ModelPhase.TRIAL, ModelPhase.SOAK) for loop in self.loops.values()
        )
        if self._tidy or self.busy or under_way or self._manifest.view is None:
            return
        desired = self._manifest.desired
        keep = named_digests(desired.assignments) if desired is not None else set()
        deltas = self._manifest.offered_deltas().deltas
        keep |= {delta.patch for delta in deltas if not self._store.has(delta.target)}
        for loop in self.loops.values():
            keep |= loop.view.keep_digests()
        freed_bytes = self._store.collect_garbage(keep)
        if freed_bytes:
            _log.info("%d bytes of releases that nothing names any more were freed.", freed_bytes)
        self._manifest.forget_documents_but(keep)
        self._store.restore_ballast()
        self._tidy = True
