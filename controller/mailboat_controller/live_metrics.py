"""What devices tell of live traffic, summed for Prometheus by class, model and release.

Counted as windows are stored. Labels are bounded twice: only releases that were accepted here have
series of their own, the newest told of so many; and of each a bounded number of names that its
application chose. What is left out of the sums is still in the rows.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from mailboat_controller.ingest.live_windows import LiveWindow
from mailboat_schemas.documents.live_gates import COUNTERS_MAX
from mailboat_schemas.live_figures import CounterSum, ShadowSum, Shift, ValueSum
from mailboat_schemas.reports import DEGRADED_MODES_MAX, TelemetryWindow

RELEASES_MAX = 500  # by class; of those told of longest ago the series end
SHIFT_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)  # 0.1 is the same population, 0.25 is not
_LABELS = ("hardware_class", "model", "version")


@dataclass(slots=True)
class _Shifts:
    """Windows by how far one side of a release was from its reference."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(SHIFT_BOUNDS) + 1))
    sum: float = 0.0

    def add(self, shift: float) -> None:
        above = sum(1 for bound in SHIFT_BOUNDS if shift > bound)
        self.buckets[above] += 1
        self.sum += shift

    def cumulative(self) -> list[tuple[str, float]]:
        names = [*map(str, SHIFT_BOUNDS), "+Inf"]
        return [(name, float(sum(self.buckets[: i + 1]))) for i, name in enumerate(names)]


@dataclass(slots=True)
class _Release:
    """Sums of one release in one class."""

    shadow: ShadowSum = field(default_factory=ShadowSum)
    counters: dict[str, CounterSum] = field(default_factory=dict)
    values: dict[str, ValueSum] = field(default_factory=dict)
    degraded: Counter[str] = field(default_factory=Counter)
    shifts: dict[str, _Shifts] = field(default_factory=dict)  # by side

    def add(self, window: TelemetryWindow) -> None:
        if window.shadow is not None:
            self.shadow = self.shadow.plus(window.shadow)
        for name, counter in window.counters.items():
            if name in self.counters or len(self.counters) < COUNTERS_MAX:
                self.counters[name] = self.counters.get(name, CounterSum()).plus(counter)
        for name, value in window.values.items():
            if name in self.values or len(self.values) < COUNTERS_MAX:
                self.values[name] = self.values.get(name, ValueSum()).plus(value)
        for mode, count in window.degraded.items():
            if mode in self.degraded or len(self.degraded) < DEGRADED_MODES_MAX:
                self.degraded[mode] += count
        for side, furthest in _furthest(window.shifts).items():
            self.shifts.setdefault(side, _Shifts()).add(furthest)


def _furthest(shifts: Iterable[Shift]) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in shifts:
        found[each.side] = max(found.get(each.side, 0.0), each.shift)
    return found


class LiveMetrics(Collector):
    """`count` what was stored; the registry asks `collect`."""

    def __init__(self) -> None:
        self._releases: OrderedDict[tuple[str, str, str], _Release] = OrderedDict()

    def count(self, windows: Iterable[LiveWindow]) -> None:
        for each in windows:
            release = self._releases.setdefault(each.key, _Release())
            release.add(each.window)
            self._releases.move_to_end(each.key)
        while len(self._releases) > RELEASES_MAX:
            self._releases.popitem(last=False)

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        releases = list(self._releases.items())  # the loop that counts may go on meanwhile
        shadow = _counter("shadow_requests", "Requests mirrored to candidates.", "outcome")
        pauses = _counter("shadow_pauses", "Times that mirroring gave way to live answers.")
        total = _counter("feedback_counted", "Posted by applications.", "counter")
        good = _counter("feedback_good", "The good ones of those.", "counter")
        values = _counter("feedback_values", "Values posted by applications.", "value")
        # A gauge: values may be below zero.
        sums = GaugeMetricFamily(
            "mailboat_feedback_values_added_up", "Their sum.", labels=[*_LABELS, "value"]
        )
        degraded = _counter("degraded_answers", "Not the release's own at its best.", "mode")
        shifts = HistogramMetricFamily(
            "mailboat_drift_shift_ratio",
            "Telemetry windows by their furthest tensor's shift from the reference (PSI).",
            labels=[*_LABELS, "side"],
        )
        for key, release in releases:
            counts = release.shadow.model_dump()
            told = counts.pop("pauses")
            if release.shadow != ShadowSum():
                pauses.add_metric(key, told)
                for outcome, count in counts.items():
                    shadow.add_metric([*key, outcome], count)
            for name, counter in list(release.counters.items()):
                total.add_metric([*key, name], counter.total)
                good.add_metric([*key, name], counter.good)
            for name, value in list(release.values.items()):
                values.add_metric([*key, name], value.count)
                sums.add_metric([*key, name], value.sum)
            for mode, count in list(release.degraded.items()):
                degraded.add_metric([*key, mode], count)
            for side, found in list(release.shifts.items()):
                shifts.add_metric([*key, side], found.cumulative(), found.sum)
        yield from (shadow, pauses, total, good, values, sums, degraded, shifts)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"mailboat_{name}", text, labels=[*_LABELS, *labels])
