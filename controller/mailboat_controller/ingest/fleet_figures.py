"""What a batch of messages adds to the fleet's sums: windows and events of accepted releases.

A device may name anything: what it tells of releases that were not accepted here is in the rows and
in no sum, and of names that applications choose each release has a bounded number.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime

from mailboat_controller.metrics import latency_buckets
from mailboat_controller.store import fleet_sums, releases
from mailboat_controller.store.devices import DeviceRow
from mailboat_controller.store.fleet_sums import SumKey
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.deltas import delivery_of
from mailboat_schemas.documents.live_gates import COUNTERS_MAX
from mailboat_schemas.events import RECOVERY_SECONDS, Event, EventKind
from mailboat_schemas.reports import DEGRADED_MODES_MAX, TelemetryWindow

AMOUNT_MAX = 1e12  # that one window or event adds; a device may say anything
SHIFT_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)  # 0.1 is the same population, 0.25 is not
RECOVERY_BOUNDS_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
# How many parts a release may have in a class, of figures whose parts devices name.
PARTS_MAX = {
    "counted": COUNTERS_MAX,
    "good": COUNTERS_MAX,
    "values": COUNTERS_MAX,
    "values_sum": COUNTERS_MAX,
    "degraded": DEGRADED_MODES_MAX,
}
# Sums that begin as 0: a rate needs to have seen what the first one adds to.
FROM_ZERO = ("requests", "restarts")
_VERDICTS = (EventKind.TRIAL_FAILED, EventKind.ROLLED_BACK)


class FleetFigures:
    """Gathered over one batch of messages, added to the sums at its end."""

    def __init__(self) -> None:
        self._windows: list[tuple[DeviceRow, TelemetryWindow]] = []
        self._events: list[tuple[DeviceRow, Event]] = []
        self._sums: dict[SumKey, float] = defaultdict(float)
        self._answered_ms: dict[tuple[str, str], int] = {}  # by model and class, by our clock

    def add_windows(self, device: DeviceRow, windows: Iterable[TelemetryWindow]) -> None:
        self._windows += [(device, window) for window in windows]

    def add_events(self, device: DeviceRow, events: Iterable[Event]) -> None:
        self._events += [(device, event) for event in events if event.digest is not None]

    def accepted_sums(self, tx: Transaction) -> Mapping[SumKey, float]:
        told = {window.digest for _, window in self._windows}
        told |= {event.digest for _, event in self._events if event.digest is not None}
        known = releases.known(tx, told) if told else {}
        energy = _energetic(self._windows)
        for device, window in self._windows:
            if known.get(window.digest) == (window.model, window.version):
                self._window(device, window)
            # Of the machine, whatever it serves, and while it serves nothing.
            if window.host is not None and window.host.energy_joules is not None:
                self._add(_of_device(device, "energy_joules"), window.host.energy_joules)
            if (device.device, window.started_at) in energy:
                self._add(_of_device(device, "energy_inferences"), window.requests_ok)
        for device, event in self._events:
            if event.digest in known:
                self._event(device, event, event.digest)
        return self._bounded(tx)

    def answered_until(self, now: datetime) -> Mapping[tuple[str, str], datetime]:
        """The newest good inference by model and class, of what `accepted_sums` has accepted. A
        device's clock may be years ahead: nothing was answered later than now."""
        latest = to_ms(now)
        return {of: from_ms(max(0, min(at, latest))) for of, at in self._answered_ms.items()}

    def _window(self, device: DeviceRow, window: TelemetryWindow) -> None:
        if window.last_ok_at is not None:
            at, of = window.last_ok_at - (device.clock_offset_ms or 0), device.hardware_class
            newest = self._answered_ms.get((window.model, of), at)
            self._answered_ms[window.model, of] = max(at, newest)
        workload = "" if window.workload is None else window.workload.value
        group = (window.digest, device.hardware_class, device.site)
        for part, amount in (
            ("ok", window.requests_ok),
            ("error", window.requests_error),
            ("refused", window.requests_refused),
        ):
            self._add(SumKey(*group, workload, "requests", part), amount)
        if window.latency is not None and window.latency.count:
            for bound, count in latency_buckets.counts(window.latency).items():
                self._add(SumKey(*group, workload, "latency", bound), count)
            seconds = latency_buckets.sum_seconds(window.latency)
            self._add(SumKey(*group, workload, "latency_sum"), seconds)
        # Told of the release, whatever the workload.
        for figure, amounts in _of_release(window):
            for name, more in amounts.items():
                self._add(SumKey(*group, "", figure, name), more)

    def _event(self, device: DeviceRow, event: Event, digest: str) -> None:
        group = (digest, device.hardware_class, device.site, "")
        self._add(SumKey(*group, "events", event.kind.value), 1)
        seconds = event.evidence.get(RECOVERY_SECONDS)
        if event.kind in _VERDICTS and isinstance(seconds, int | float) and seconds >= 0:
            part = _bucket(float(seconds), RECOVERY_BOUNDS_SECONDS)
            self._add(SumKey(*group, "recovery", part), 1)
            self._add(SumKey(*group, "recovery_sum"), seconds)
        delivery = delivery_of(event.evidence) if event.kind is EventKind.TRIAL_STARTED else None
        if delivery is not None:
            for source, fetched_bytes in delivery.source_bytes.items():
                self._add(SumKey(*group, "source_bytes", source.value), fetched_bytes)

    def _add(self, key: SumKey, amount: float) -> None:
        if math.isfinite(amount) and (amount or key.figure in FROM_ZERO):
            self._sums[key] += max(-AMOUNT_MAX, min(float(amount), AMOUNT_MAX))

    def _bounded(self, tx: Transaction) -> Mapping[SumKey, float]:
        """Without names beyond those that a release may have."""
        named = {key.digest for key in self._sums if key.figure in PARTS_MAX}
        if not named:
            return self._sums
        there = fleet_sums.parts(tx, named, PARTS_MAX)
        kept: dict[SumKey, float] = {}
        for key, amount in self._sums.items():
            parts = there.setdefault((key.digest, key.hardware_class, key.figure), set())
            if len(parts) >= PARTS_MAX.get(key.figure, len(parts) + 1) and key.part not in parts:
                continue
            parts.add(key.part)
            kept[key] = amount
        return kept


def _of_release(window: TelemetryWindow) -> Iterable[tuple[str, Mapping[str, float]]]:
    """Figures and their amounts by part."""
    yield "restarts", {"": window.worker_restarts}
    yield "degraded", window.degraded
    yield "counted", {name: each.total for name, each in window.counters.items()}
    yield "good", {name: each.good for name, each in window.counters.items()}
    yield "values", {name: each.count for name, each in window.values.items()}
    yield "values_sum", {name: each.sum for name, each in window.values.items()}
    if window.shadow is not None:
        outcomes = window.shadow.model_dump()
        yield "shadow_pauses", {"": outcomes.pop("pauses")}
        yield "shadow", outcomes
    furthest: dict[str, float] = {}
    for each in window.shifts:
        furthest[each.side] = max(furthest.get(each.side, 0.0), each.shift)
    yield "shift", {f"{side} {_bucket(far, SHIFT_BOUNDS)}": 1 for side, far in furthest.items()}
    yield "shift_sum", furthest


def _bucket(value: float, bounds: tuple[float, ...]) -> str:
    return next((str(bound) for bound in bounds if value <= bound), latency_buckets.BEYOND)


def _energetic(told: Iterable[tuple[DeviceRow, TelemetryWindow]]) -> set[tuple[str, int]]:
    """Devices and the beginnings of the drains for which they know what energy they used: one
    window of a drain speaks for the machine, all of them for what it answered."""
    return {
        (device.device, window.started_at)
        for device, window in told
        if window.host is not None and window.host.energy_joules is not None
    }


def _of_device(device: DeviceRow, figure: str) -> SumKey:
    return SumKey("", device.hardware_class, device.site, "", figure)
