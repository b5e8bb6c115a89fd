"""The switch from one release of a model to the next."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from mailboat_agent.serving.lane import Begin, Lane
from mailboat_agent.serving.lanes import Lanes
from mailboat_agent.serving.launch import Launch
from mailboat_agent.serving.not_served import ReleaseWithdrawn
from mailboat_agent.serving.residency import Residency
from mailboat_agent.serving.running import Observer
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.spare import SpareWorkers
from mailboat_agent.serving.standing import Spare
from mailboat_schemas.documents.serving_policy import Load
from mailboat_schemas.errors import MailboatError

SPARE_SECONDS_MAX = 2  # for a lane that finishes, to have its worker back
FREE_ROOM_LEAVES_BYTES = 64 << 20  # of the machine's memory, beside what serves nobody
_log = logging.getLogger(__name__)


class Switch:
    """One switch at a time: a worker that loads takes what the device has."""

    def __init__(
        self,
        lanes: Lanes,
        *,
        clock: Callable[[], datetime],
        launch: Launch,
        inference_seconds_max: float,
        residency: Residency,
        pinned: frozenset[str],
        spare_seconds: float,
        observe: Observer,
    ) -> None:
        self._lanes = lanes
        self._clock = clock
        self._launch = launch
        self._inference_seconds_max = inference_seconds_max
        self._residency = residency
        self._pinned = pinned
        self._observe = observe
        self._spares = SpareWorkers(residency, spare_seconds)
        self._changing = threading.Lock()
        self._serial = 0

    def serve(self, release: ServedRelease) -> None:
        """Serve this release from now on. Blocks until its worker is loaded and warm.

        Where memory allows both, the old release answers until then. Where it does not, callers
        wait: the old one finishes, goes, and the new one is loaded in its place. Either way what
        was accepted is answered, and no request fails because of the switch. A release that is
        loaded lazily is loaded by its first request. Serving what is served already does nothing.
        When it raises, the old release goes on serving.

        Raises:
            WorkerNotStarted, WorkerDied, WorkerHung, NoRoom: Transient.
            InferenceFailed, RuntimeUnsupported: the release cannot be served here.
            ReleaseWithdrawn: it is barred.
        """
        with self._changing:
            current = self._lanes.get(release.model)
            self._lanes.refuse_barred(release)
            if current is not None and current.release.digest == release.digest:
                return
            spare = self._spare(release)
            lazy = release.policy.load is Load.LAZY
            if current is None or lazy or spare is not None or self._fits_beside(current, release):
                how = Begin.WITH_FIRST_REQUEST if lazy else Begin.LOADED
                try:
                    lane = self._new_lane(release, how, spare)
                except BaseException:
                    if spare is not None:  # nobody else knows of it
                        self._spares.end(spare)
                    raise
                try:
                    self._lanes.put(lane)  # it took a while, and much may have happened
                except MailboatError:
                    lane.retire()
                    raise
                if current is not None:
                    self._spares.expect(current.release)
                    self._lanes.retire(current)
            else:
                self._switch_with_gap(current, release)

    def candidate(self, release: ServedRelease) -> Lane:
        """A lane beside what serves, which nobody asks but the caller; who retires it.

        Raises:
            NoRoom: it does not fit beside; nobody goes for it.
            ReleaseWithdrawn, and as `serve`
        """
        with self._changing:
            self._lanes.refuse_barred(release)
            if not self._residency.fits_beside(release.memory_bytes):
                raise self._residency.no_room(release.model, release.memory_bytes)
            return self._new_lane(release, Begin.LOADED, seen=False)

    @contextmanager
    def free_room(self, what: str, size_bytes: int, give_way: Callable[[], None]) -> Iterator[None]:
        """Memory that nobody has, for a worker that serves nobody; see `Residency.claim_free`.

        Raises:
            NoRoom
        """
        claim = self._residency.claim_free(
            what, size_bytes, give_way, leave_bytes=FREE_ROOM_LEAVES_BYTES
        )
        try:
            yield
        finally:
            self._residency.release(claim)

    def _new_lane(
        self, release: ServedRelease, how: Begin, spare: Spare | None = None, *, seen: bool = True
    ) -> Lane:
        self._serial += 1
        return Lane(
            release,
            serial=self._serial,
            clock=self._clock,
            launch=self._launch,
            inference_seconds_max=self._inference_seconds_max,
            residency=self._residency,
            pinned=release.model in self._pinned,
            how=how,
            observe=self._observe if seen else None,
            keep=self._spares.keep,
            spare=spare,
        )

    def _fits_beside(self, current: Lane, release: ServedRelease) -> bool:
        return not current.worker_pid or self._residency.fits_beside(release.memory_bytes)

    def _spare(self, release: ServedRelease) -> Spare | None:
        """The way back: the worker that was left of this release, or is about to be."""
        if not self._spares.expects(release):
            return None
        for lane in self._lanes.retired():
            if lane.release.digest == release.digest:
                lane.join(SPARE_SECONDS_MAX)
        return self._spares.take(release)

    def _switch_with_gap(self, current: Lane, release: ServedRelease) -> None:
        """What is asked in between waits, and is answered by the release that is loaded next."""
        began = time.monotonic()
        old = replace(current.release, model_fd=os.dup(current.model_fd))
        try:
            self._spares.drop(release.model)
            lane = self._new_lane(release, Begin.WHEN_TOLD)
            try:
                self._lanes.put(lane)
            except MailboatError as error:
                lane.abandon(error)
                raise
            self._lanes.retire(current)
            current.join(self._inference_seconds_max)
            try:
                self._lanes.refuse_barred(release)
                lane.begin()
            except BaseException:
                self._go_back(old, lane)
                raise
            try:
                self._lanes.refuse_barred(release)
            except ReleaseWithdrawn:  # while it was loaded; then it was cut off, with who waited
                self._go_back(old)
                raise
        finally:
            os.close(old.model_fd)
        gap_seconds = time.monotonic() - began
        _log.info("%s waited %.1f s for %s", release.model, gap_seconds, release.version)

    def _go_back(self, old: ServedRelease, lane: Lane | None = None) -> None:
        """The new release does not serve: the old one answers, and those who wait in ``lane``."""
        back = self._new_lane(old, Begin.WHEN_TOLD)
        try:
            if lane is None:
                self._lanes.put(back)
            else:
                self._lanes.replace_with(back, lane)
        except MailboatError as error:
            back.abandon(error)
            if lane is not None:
                lane.abandon(error)
            return
        try:
            back.begin()
        except MailboatError as error:
            _log.error("%s %s does not load any more: %s", old.model, old.version, error)
            self._lanes.take_out(old.model)
            back.abandon(error)

    def stop(self, model: str) -> None:
        """Serve no release of this model any more; what was accepted is still answered."""
        with self._changing:
            lane = self._lanes.take_out(model)
            self._spares.drop(model)
            if lane is not None:
                self._lanes.retire(lane)

    def bar(self, model: str, digests: frozenset[str]) -> None:
        """Never blocks, not even while a release is being loaded."""
        self._lanes.bar(model, digests)
        self._spares.drop_if(model, digests)

    def close(self) -> None:
        """Retire all that serves. A release that is being loaded does not begin to serve any more,
        and is not waited for: that may take a minute, and its worker ends with the agent."""
        self._lanes.close()
        self._spares.close()
