"""Looks at what devices make of signed documents: their rules, their config, their drills.

Reads the documents by itself, and knows no rule of `mailboat_schemas` but the names of their
fields: windows by the clock on the wall, layers merged class, site, device.
"""

from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tests.simulation.signed_policies import (
    newer_releases,
    policy_of,
    read,
    said,
    wanted_of,
)
from tests.simulation.violation import Violation

from mailboat_agent.overlays.record import Recorded
from mailboat_controller.simulate.device import SimulatedDevice
from mailboat_controller.simulate.releases import MODEL
from mailboat_controller.simulate.told import Roles
from mailboat_schemas.staleness import Action

NOT_RECORDED = Recorded()
DAY_SECONDS = 86_400
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LEVELS = ("class", "site", "device")


class SignedOracle:
    def __init__(self) -> None:
        self._signed: set[tuple[str, str]] = set()  # path and digest, of all that was ever listed

    def on_roles(self, roles: Roles) -> None:
        self._signed |= {(p.path, one.digest) for p, one in roles.documents.listed.items()}

    # --- when a device may switch -----------------------------------------------------------------

    def may_switch(self, device: SimulatedDevice, digest: str, switched_at: int) -> None:
        """Asked as a trial begins."""
        because = self._held_back(device, switched_at)
        if because and _serves(device) and not _is_emergency(device, digest):
            raise Violation(2, f"{device.device} switches although {because}")
        version = device.roles.known[digest].standing.version
        for wanted in wanted_of(device, "models"):
            if not _is_at_least(version, wanted.get(MODEL, "")):
                raise Violation(2, f"{device.device} tries {version}, and its policy is for others")

    def may_drill(self, device: SimulatedDevice) -> None:
        policy = policy_of(device)
        if policy is None or not _window_is_open(device, policy):
            raise Violation(2, f"{device.device} drills outside of its windows")

    def waits_rightly(self, device: SimulatedDevice, switched_at: int) -> None:
        """For a window or the cadence, at the newest look."""
        for refusal in device.work.refused:
            if refusal.check.name not in ("window", "cadence"):
                continue
            if _is_emergency(device, refusal.candidate.digest):
                raise Violation(4, f"{device.device} lets an emergency wait")
            if not _serves(device):
                raise Violation(4, f"{device.device} serves nothing and waits for a window")
            if not self._held_back(device, switched_at):
                raise Violation(4, f"{device.device} waits for nothing: {refusal.check.because}")

    def _held_back(self, device: SimulatedDevice, switched_at: int) -> str:
        policy = policy_of(device)
        if policy is None:
            return "a policy has not come"
        if not _window_is_open(device, policy):
            return "no window is open"
        days, now = said(device, policy, "days_between") or 0, device.clock_seconds
        if days and 0 < switched_at <= now < switched_at + days * DAY_SECONDS:
            return f"it did {(now - switched_at) / DAY_SECONDS:.1f} days ago"
        return ""

    # --- config -----------------------------------------------------------------------------------

    def took_config(self, device: SimulatedDevice, before: Recorded, ran: str) -> None:
        """Another config is in force than before, when version ``ran`` served ("": nothing)."""
        name, now = device.device, device.rules.recorded
        layers = now.current.layers
        known = {layer.listed: layer for layer in before.layers()}
        for layer in layers:
            place = layer.listed.place
            own = {"class": device.hardware_class, "site": device.site, "device": name}
            if (place.path, layer.listed.digest) not in self._signed:
                raise Violation(1, f"{name} goes by a config that nobody signed")
            if own[place.level] != place.target:
                raise Violation(1, f"{name} goes by a config for {place}")
            if layer.listed in known:
                continue
            mine = _order(layer)
            if any(mine < _order(old) for old in known.values() if old.listed.place == place):
                raise Violation(7, f"{name} took an older config for {place}")
        for wanted in wanted_of(device, "config"):
            if not all(_is_at_least(each.document.metadata.version, wanted) for each in layers):
                raise Violation(2, f"{name} took a config that its policy is not for")
        if now.current.values != _merged(layers):
            raise Violation(2, f"{name} merges {now.current.titles} in another order")
        serving = device.state.serving
        if serving is None:
            return
        # One look may take a config and go back from the release that it was taken for.
        newest = max(_major(serving.version), _major(ran or "-1"))
        for layer in layers:
            wanted = layer.document.spec.compatible.models.get(MODEL, ">=0").removeprefix(">=")
            if newest < int(wanted):
                raise Violation(2, f"{name} took a config for another release than it runs")

    # --- at the end -------------------------------------------------------------------------------

    def goes_by_what_is_signed(self, device: SimulatedDevice) -> None:
        listed = device.roles.documents.config_for(
            device.hardware_class, device.site, device.device
        )
        held = {layer.listed for layer in device.rules.in_force.layers}
        if held != set(listed.values()):
            raise Violation(4, f"{device.device} does not go by its config")
        self._staleness_is_told(device)

    def _staleness_is_told(self, device: SimulatedDevice) -> None:
        serving, policy = device.state.serving, policy_of(device)
        if serving is None or policy is None:
            return
        most = (said(device, policy, "staleness") or {}).get("minor_versions_behind_max")
        newer = newer_releases(device, serving.version)
        says = device.rules.staleness.found.action is not Action.NONE
        if says != (most is not None and newer > most):
            raise Violation(7, f"{device.device} is {newer} behind and says otherwise")


def _is_at_least(version: str, wanted: str) -> bool:
    least = tuple(map(int, wanted.removeprefix(">=").split("."))) if wanted else ()
    return tuple(map(int, version.split("."))) >= least


def _serves(device: SimulatedDevice) -> bool:
    """Whether there is anything that a switch would interrupt: not what policy has stopped."""
    serving = device.state.serving
    return serving is not None and serving.digest != device.rules.staleness.stopped


def _window_is_open(device: SimulatedDevice, rules: list[Any]) -> bool:
    windows = said(device, rules, "windows")
    if not windows:
        return True
    return any(_is_open(window, device) for window in windows)


def _is_open(window: Any, device: SimulatedDevice) -> bool:
    try:
        zone = ZoneInfo(window.get("zone") or device.labels.get("time-zone") or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return False
    now = datetime.fromtimestamp(device.clock_seconds, UTC).astimezone(zone)
    for back in (0, 1):
        day = now.date() - timedelta(days=back)
        if WEEKDAYS[day.weekday()] not in window["days"]:
            continue
        begins = datetime.combine(day, time.fromisoformat(window["start"]))
        ends = begins + timedelta(minutes=window["length_minutes"])
        if begins <= now.replace(tzinfo=None) < ends:
            return True
    return False


def _is_emergency(device: SimulatedDevice, digest: str) -> bool:
    plan = device.roles.known[digest].standing.plan
    return plan is not None and plan.urgency is not None


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _order(layer: Any) -> tuple[int, tuple[int, ...]]:
    version = layer.document.metadata.version
    return layer.listed.epoch, tuple(int(part) for part in version.split("."))


def _merged(layers: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for layer in sorted(layers, key=lambda each: LEVELS.index(each.listed.place.level)):
        _patch(found, read(layer.content)["spec"]["values"])
    return found


def _patch(target: dict[str, Any], patch: dict[str, Any]) -> None:
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, dict):
            if not isinstance(target.get(name), dict):
                target[name] = {}
            _patch(target[name], value)
        else:
            target[name] = value
