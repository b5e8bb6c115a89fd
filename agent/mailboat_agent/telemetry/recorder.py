"""When a telemetry window ends: at its time, or when trouble begins.

Looked at several times a window. What was before the trouble then stands in a window of its own,
and what comes in short ones.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.journal.telemetry import Telemetry
from mailboat_agent.telemetry.detail import Detail, DetailWatch, is_trouble, window_seconds
from mailboat_agent.telemetry.figures import telemetry_figures
from mailboat_agent.telemetry.host import Host
from mailboat_schemas.errors import DiskFull
from mailboat_schemas.host_figures import HostFigures

DROPPED_NOTE, EVENTS_NOTE = "telemetry_dropped", "events_over_bound"
EARLY_SECONDS = 0.01  # a look that comes a little early still ends the window


class Recorder:
    """One caller. Times are handed in."""

    def __init__(
        self,
        telemetry: Telemetry,
        host: Host,
        journal: Journal,
        *,
        normal_seconds: float,
        metered: Callable[[], bool],
        monotonic: float,
    ) -> None:
        self._telemetry = telemetry
        self._host = host
        self._journal = journal
        self._sampled: HostFigures | None = None
        self._anomalies = journal.anomalies
        self._dropped_before: int | None = None  # by earlier lives of this process
        self._normal_seconds = normal_seconds
        self._metered = metered
        self._watch = DetailWatch()
        self._began = self._recorded_until = monotonic
        self.detail = Detail.NORMAL
        self.seconds_to_next_look = window_seconds(Detail.FINE, normal_seconds)

    def look(self, models: Iterable[str], now: datetime, monotonic: float) -> bool:
        """Whether windows were written.

        Raises:
            DiskFull, DiskFailing: this window goes into the next one, but for its latencies.
        """
        models = list(models)
        self._sampled = self._host.sample(monotonic)
        troubles = [is_trouble(signs) for signs in self._telemetry.glance(models)]
        anomalies, self._anomalies = self._anomalies, self._journal.anomalies
        trouble = any(troubles) or self._anomalies > anomalies
        self.detail = self._watch.look(
            trouble=trouble, metered=self._metered(), monotonic=monotonic
        )
        seconds = monotonic - self._began
        if seconds < window_seconds(self.detail, self._normal_seconds) - EARLY_SECONDS:
            return False
        self._began = monotonic
        self._telemetry.drain(models, now, monotonic - self._recorded_until)
        self._recorded_until = monotonic
        return True

    def notes(self) -> list[str]:
        """What is wrong with what waits, for the report; empty while the journal does not answer.

        Windows that were dropped are told of until the agent starts again.
        """
        try:
            dropped = self._journal.held_telemetry().dropped
            over_bound = self._journal.events_over_bound
        except (DiskFull, DiskFailing):
            return []
        if self._dropped_before is None or dropped < self._dropped_before:
            self._dropped_before = dropped
        found = {DROPPED_NOTE: dropped > self._dropped_before, EVENTS_NOTE: over_bound}
        return [note for note, holds in found.items() if holds]

    def figures(self) -> dict[str, Any]:
        """For ``status``; empty while the journal does not answer."""
        try:
            held = self._journal.held_telemetry()
        except (DiskFull, DiskFailing):
            return {}
        return telemetry_figures(
            held,
            self._journal.telemetry_bounds,
            damaged=self._journal.damaged_rows,
            detail=self.detail,
            host=self._sampled,
        )
