"""How far behind a device is, and what its policy makes of that: the agent's `StalenessWatch`.

Judged and recorded by the agent's own `update.stale`. Since when, and what was stopped, stand in
the record of the model; the rest follows from it.
"""

from dataclasses import replace
from operator import is_
from typing import TYPE_CHECKING

from mailboat_agent.update import stale
from mailboat_agent.update.state import Installed
from mailboat_controller.simulate.releases import MODEL
from mailboat_controller.simulate.told import Roles
from mailboat_controller.simulate.waiting import NextLook
from mailboat_schemas.policy_rules import NO_BOUND, Staleness
from mailboat_schemas.staleness import (
    NOT_STALE,
    Action,
    Approved,
    Behind,
    Enforcement,
    how_far_behind,
)

if TYPE_CHECKING:
    from mailboat_controller.simulate.device import SimulatedDevice


class StalenessLook:
    """``found`` is of the newest look; ``stopped`` the digest of what must not serve for it."""

    __slots__ = ("_device", "_far", "_far_from", "_next_look", "_told", "found", "stopped")

    def __init__(self, device: "SimulatedDevice") -> None:
        self._device = device
        self._next_look = NextLook(device)
        self._far: Behind | None = None
        self._far_from: tuple[object, ...] = ()
        self.forget()

    def forget(self) -> None:
        """What a process does not outlive; it comes to the same again."""
        self.found: Enforcement = NOT_STALE
        self.stopped = ""
        self._told: tuple[object, ...] = ()  # what the newest event was made of
        self._next_look.forget()

    def look(self, bound: Staleness) -> None:
        """Raises PowerCut, before or after what it records."""
        device, state = self._device, self._device.state
        if bound is NO_BOUND and not state.stale_since and not state.stopped:
            self.found, self.stopped = NOT_STALE, ""
            return
        far, now = None, device.now
        can_know = device.clock_trusted and bool(device.roles.version)
        if state.serving is not None and can_know:
            far = self._behind(state.serving, device.roles, bound)
        found = stale.judge(state, far, bound, now=now, trust_fresh=device.trust_fresh)
        if can_know:
            told = stale.recorded(state, found, now)
            if told is not state:
                device.save(replace(device.record, models={**device.record.models, MODEL: told}))
            if state.stale_since and not told.stale_since:
                device.post.tell(stale.over_event(MODEL, state, now))
        self.found = found
        stops = found.action is Action.STOP and state.serving is not None
        self.stopped = state.serving.digest if stops and state.serving is not None else ""
        self._tell()
        if found.stops_at is not None and not stops:
            self._next_look.not_before([found.stops_at])

    def _behind(self, serving: Installed, roles: Roles, bound: Staleness) -> Behind:
        """As `device_rules.behind`: by the releases that this device knows to be approved. Nothing
        here is bound by the age of an approval, so it counts anew when another thing is known."""
        made_of = (serving, roles, bound)
        if self._far is not None and all(map(is_, made_of, self._far_from)):
            return self._far
        approved = (
            Approved(version=each.standing.version, security_version=0, at=0, plan=plan)
            for each in roles.known.values()
            if (plan := each.standing.plan) is not None and each.standing.approved_digest
        )
        self._far, self._far_from = (
            how_far_behind(
                MODEL,
                serving.version,
                approved,
                bound,
                hardware_class=self._device.hardware_class,
                now=self._device.now,
            ),
            made_of,
        )
        return self._far

    def _tell(self) -> None:
        device = self._device
        made_of = (self.found.action, device.state.serving, device.state.stale_since)
        if (*made_of, device.post.rows.epoch) == self._told:
            return
        event = stale.stale_event(MODEL, device.state, self.found, device.now)
        if event is not None:
            device.post.tell(event)
        self._told = (*made_of, device.post.rows.epoch)
