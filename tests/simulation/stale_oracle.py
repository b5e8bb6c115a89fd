"""Looks at what devices make of a bound of staleness that stops: `enforce: stop` of their policy.

Reads the policies and counts the releases by itself. It asks neither what a device finds of itself
nor what it has recorded, but for the instant that its own event names.
"""

from collections import defaultdict
from collections.abc import Container
from dataclasses import dataclass
from operator import is_

from tests.simulation.signed_policies import newer_releases, policy_of, said
from tests.simulation.violation import Violation

from mailboat_controller.simulate.device import SimulatedDevice
from mailboat_controller.simulate.releases import MODEL
from mailboat_schemas.reports import ModelPhase

HOUR = 3600.0
LATE_SECONDS_MAX = 8 * HOUR  # from one look of a device to the next, and more
ROUNDED_SECONDS = 2.0  # a record counts in whole seconds
SKEW_SECONDS = 300  # a clock may be behind the floor by so much
AHEAD_SECONDS = 400 * 86_400  # and ahead of it, where nothing fresh speaks for it


@dataclass(frozen=True, slots=True)
class Bound:
    """What the policy of a device says of what serves, and whether that keeps to it."""

    is_behind: bool
    stops: bool
    grace_seconds: float


NO_BOUND = Bound(is_behind=False, stops=False, grace_seconds=0.0)


@dataclass(slots=True)
class Seen:
    """Of one device. Instants are of the story, seconds since 1970."""

    stopped: str = ""  # digest of what it has stopped, until that serves again or is left for good
    behind_from: float | None = None  # it could know by then that it is too far behind
    down_from: float | None = None  # without power, or a process, since the step that ended then
    overdue_from: float | None = None  # likewise, by a policy that stops
    skew_seconds: float = 0.0
    skewed: bool = False  # its clock was wrong since ``behind_from``
    bound: Bound | None = NO_BOUND
    bound_from: tuple[object, ...] = ()


class StaleOracle:
    """``on``: some policy of the story stops."""

    def __init__(self) -> None:
        self.on = False
        self._seen: dict[str, Seen] = defaultdict(Seen)

    def look_at(self, device: SimulatedDevice, told: Container[str]) -> str:
        """After each step; says what has happened in it, if anything.

        Args:
            told: ids of the events that it has told.
        """
        seen, happened = self._seen[device.device], ""
        self._keep_account(device, seen)
        # Without power nothing serves; what was recorded has to be so when it comes back.
        stopped = device.rules.staleness.stopped if device.up else _recorded(device)
        if stopped and device.work.serving == stopped:
            raise Violation(1, f"{device.device} serves what its policy has stopped")
        if stopped and device.up:
            event_id = f"stale-stopped:{MODEL}:{stopped[:16]}:{device.state.stale_since}"
            if event_id not in told:
                raise Violation(3, f"{device.device} stops, and does not say why: {event_id}")
        if stopped and stopped != seen.stopped:
            self._may_stop(device, seen)
            seen.stopped, happened = stopped, "stopped by policy"
        elif seen.stopped and device.work.serving == seen.stopped:
            self._may_serve_again(device, seen)
            seen.stopped, happened = "", "serves again what was stopped"
        elif _has_left(device, seen.stopped):
            happened = "left what was stopped" if seen.stopped else ""
            seen.stopped = ""
        self._stops_in_time(device, seen)
        return happened

    def holds_back(self, device: SimulatedDevice) -> bool:
        """Whether nothing serves because its policy says so, as far as the device can know."""
        stopped = device.rules.staleness.stopped
        if not stopped or not _names(device, stopped):
            return False
        bound = self._bound(device, self._seen[device.device])
        return bound is None or not _can_know(device) or (bound.is_behind and bound.stops)

    def at_the_end(self, device: SimulatedDevice) -> None:
        """All has been calm for longer than the grace of the last policy."""
        bound = self._bound(device, self._seen[device.device])
        if bound is None or device.state.phase is not ModelPhase.COMMITTED:
            return
        name, stops = device.device, bound.is_behind and bound.stops
        if stops and device.work.serving:
            raise Violation(4, f"{name} serves on, and its policy has stopped what it runs")
        if device.rules.staleness.stopped and not stops:
            raise Violation(4, f"{name} stays stopped, and is not too far behind")

    # --- what it should be ------------------------------------------------------------------------

    def _bound(self, device: SimulatedDevice, seen: Seen) -> Bound | None:
        """None: a policy that is listed has not come."""
        brought = None if device.manifest is None else device.manifest.brought
        serving = device.state.serving
        made_of = (device.roles, brought, serving)
        if seen.bound_from and all(map(is_, made_of, seen.bound_from)):
            return seen.bound
        rules = policy_of(device)
        found: Bound | None = None
        if rules is not None:
            asked = said(device, rules, "staleness") or {}
            most = asked.get("minor_versions_behind_max")
            newer = 0 if serving is None else newer_releases(device, serving.version)
            found = Bound(
                is_behind=most is not None and newer > most,
                stops=asked.get("enforce") == "stop",
                grace_seconds=asked.get("grace_hours", 72) * HOUR,
            )
        seen.bound, seen.bound_from = found, made_of
        return found

    def _keep_account(self, device: SimulatedDevice, seen: Seen) -> None:
        """Since when it is behind: on through trials and soaks, and through what it cannot know."""
        wrong = device.skew_seconds != 0 or device.skew_seconds != seen.skew_seconds
        seen.skew_seconds = device.skew_seconds
        now = device.around.agenda.now
        if not device.up:
            seen.down_from = now if seen.down_from is None else seen.down_from
        else:
            bound = self._bound(device, seen)
            knows = _can_know(device)
            is_behind = bound is not None and bound.is_behind
            committed = device.state.phase is ModelPhase.COMMITTED
            if is_behind and seen.behind_from is None:
                # It may have found it, and recorded it, in the very step that a power cut ended.
                seen.behind_from = now if seen.down_from is None else seen.down_from
                seen.skewed = wrong
            elif knows and not is_behind and (committed or device.state.serving is None):
                seen.behind_from = None
            seen.down_from = None
            ought = is_behind and bound is not None and bound.stops
            if not (ought and knows and committed) or wrong:
                seen.overdue_from = None
            elif seen.overdue_from is None:
                seen.overdue_from = now
        seen.skewed |= wrong

    def _may_stop(self, device: SimulatedDevice, seen: Seen) -> None:
        name, bound = device.device, self._bound(device, seen)
        if bound is None:
            return
        if not _can_know(device):
            raise Violation(4, f"{name} stops by what it cannot know")
        if device.state.phase is ModelPhase.SOAK:
            raise Violation(4, f"{name} stops what is in its soak")
        if not bound.stops or not bound.is_behind:
            raise Violation(4, f"{name} stops, and no policy says so")
        lasted = device.around.agenda.now - (seen.behind_from or device.around.agenda.now)
        if not seen.skewed and lasted < bound.grace_seconds - ROUNDED_SECONDS:
            raise Violation(4, f"{name} stops after {lasted / HOUR:.1f} h of its grace")

    def _may_serve_again(self, device: SimulatedDevice, seen: Seen) -> None:
        bound = self._bound(device, seen)
        if bound is None:
            return
        if not _can_know(device):
            raise Violation(1, f"{device.device} serves again what was stopped, and cannot know")
        if bound.stops and bound.is_behind:
            raise Violation(1, f"{device.device} serves again what its policy has stopped")

    def _stops_in_time(self, device: SimulatedDevice, seen: Seen) -> None:
        if seen.overdue_from is None or not device.work.serving:
            return
        bound, now = self._bound(device, seen), device.around.agenda.now
        late = 0.0 if bound is None else now - seen.overdue_from - bound.grace_seconds
        if late > LATE_SECONDS_MAX:
            raise Violation(1, f"{device.device} serves on {late / HOUR:.1f} h after its grace")


def _can_know(device: SimulatedDevice) -> bool:
    """By a clock that may be right, and metadata that has not expired by it."""
    manifest = device.manifest
    return _clock_may_be_right(device) and (
        manifest is not None and device.clock_seconds < manifest.expires
    )


def _clock_may_be_right(device: SimulatedDevice) -> bool:
    """Not behind what was signed already; where that has expired, not a year ahead of it either."""
    manifest, seconds, floor = device.manifest, device.clock_seconds, device.record.time_floor
    if manifest is None or not device.roles.version or seconds < floor - SKEW_SECONDS:
        return False
    return seconds < manifest.expires or seconds <= floor + AHEAD_SECONDS


def _recorded(device: SimulatedDevice) -> str:
    """What of that which should serve is stopped by the record."""
    return device.state.stopped if _names(device, device.state.stopped) else ""


def _has_left(device: SimulatedDevice, digest: str) -> bool:
    """For good: another one is committed, or nothing is left, by a clock that may be right."""
    state = device.state
    settled = state.phase is ModelPhase.COMMITTED or (device.up and state.serving is None)
    return settled and not _names(device, digest) and _clock_may_be_right(device)


def _names(device: SimulatedDevice, digest: str) -> bool:
    """Whether the record of a device names this release for what should serve."""
    serving = device.state.serving
    return serving is not None and serving.digest == digest
