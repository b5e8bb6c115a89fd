"""What policy makes of a model that is further behind than it may be: recorded, told, done.

Judged by the rule that the controller explains with (`mailboat_schemas.staleness`). Nothing begins
because of what this device cannot know: with a clock that cannot be right nothing is stale here,
and with trust metadata that has expired nothing is stopped, because what it is behind may have been
taken back since. A release in its soak is not stopped either: it is being judged.

What was stopped while it could be known is recorded and stays so until the device knows better:
else whoever cuts the network, or sets the clock, would have it served again.
"""

import logging
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.device_rules import behind, device_rules
from mailboat_agent.facts import Device, Look
from mailboat_agent.ledger import Ledger
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.trust.manifest import Manifest
from mailboat_agent.update.events import BECAUSE_CHARS_MAX, milliseconds
from mailboat_agent.update.state import Installed, ModelState
from mailboat_schemas.errors import DiskFull
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.reports import ModelPhase
from mailboat_schemas.staleness import NOT_STALE, Action, Enforcement, enforcement

STALE, STOPPED = "stale", "stale-stopped"  # codes of the events
STILL_STOPPED = Enforcement(
    action=Action.STOP,
    because="it was stopped by policy, and this device cannot know that it may serve again",
)
_log = logging.getLogger(__name__)


def judge(
    device: Device, manifest: Manifest, model: str, state: ModelState, look: Look
) -> Enforcement:
    """What is to be done about a model now, by what the record says should serve."""
    serving = state.serving
    if serving is None:
        return NOT_STALE
    is_stopped = serving.digest == state.stopped
    if not can_know(manifest, look):
        return STILL_STOPPED if is_stopped else NOT_STALE
    bound = device_rules(device, manifest).staleness
    far = behind(device, manifest, model, serving.version, look.now)
    found = enforcement(far, bound, state.stale_since, look.now)
    if is_stopped and found.action is not Action.STOP:
        if not look.trust_fresh:
            return STILL_STOPPED
        # Its grace has gone by already, whatever the clock says now.
        return found if found.stops_at is None else replace(found, action=Action.STOP)
    may_stop = is_stopped or (look.trust_fresh and state.phase is not ModelPhase.SOAK)
    if found.action is Action.STOP and not may_stop:
        return replace(found, action=Action.WARN, stops_at=None)
    return found


def can_know(manifest: Manifest, look: Look) -> bool:
    """Whether this device can say how far behind it is."""
    return look.clock_trusted and manifest.view is not None


class StalenessWatch:
    """`look` as often as one likes; ``device.stopped`` names what must not serve for it."""

    def __init__(
        self, *, device: Device, ledger: Ledger, manifest: Manifest, runtime: Runtime
    ) -> None:
        self._device = device
        self._ledger = ledger
        self._manifest = manifest
        self._runtime = runtime
        self._found: dict[str, Enforcement] = {}

    def found(self, model: str) -> Enforcement:
        """As of the last look."""
        return self._found.get(model, NOT_STALE)

    def look(self, models: Iterable[str], look: Look) -> None:
        for model in models:
            state = self._ledger.model(model)
            found = judge(self._device, self._manifest, model, state, look)
            self._found[model] = found
            self._record(model, found, look)
            self._act(model, state.serving, found)
            self._tell(model, state.serving, found, look.now)

    def _record(self, model: str, found: Enforcement, look: Look) -> None:
        """Since when, and what was stopped: both count on through restarts, and through a release
        that is on trial or in its soak, which may not stay."""
        state, now = self._ledger.model(model), int(look.now.timestamp())
        since, stopped = state.stale_since, state.stopped
        if not can_know(self._manifest, look):
            return
        if found.action is Action.STOP and state.serving is not None:
            stopped = state.serving.digest
        elif state.phase is ModelPhase.COMMITTED:
            stopped = ""
        if found.action is not Action.NONE:
            since = since if 0 < since <= now else now
        elif state.phase is ModelPhase.COMMITTED:
            since = 0
        if (since, stopped) == (state.stale_since, state.stopped):
            return
        told = replace(state, stale_since=since, stopped=stopped)
        models = {**self._ledger.state.models, model: told}
        try:
            self._ledger.save(replace(self._ledger.state, models=models))
        except (DiskFull, DiskFailing) as error:  # the next look tries again; no grace goes by
            _log.debug("Since when %s is stale could not be recorded: %s", model, error)
            return
        if state.stale_since and not since:
            self._tell_over(model, state, look.now)

    def _act(self, model: str, serving: Installed | None, found: Enforcement) -> None:
        marks = serving is not None and found.action in (Action.WARN, Action.STOP)
        self._runtime.note_stale(
            model, serving.digest if marks and serving else "", found.because if marks else ""
        )
        if serving is not None and found.action is Action.STOP:
            self._device.stopped[model] = serving
        else:
            self._device.stopped.pop(model, None)

    def _tell(
        self, model: str, serving: Installed | None, found: Enforcement, now: datetime
    ) -> None:
        """Once for each release and beginning, however often the agent starts again."""
        since = self._ledger.model(model).stale_since
        if serving is None or not since or found.action is Action.NONE:
            return
        code = STOPPED if found.action is Action.STOP else STALE
        self._ledger.tell(
            Event(
                event_id=f"{code}:{model}:{serving.digest[:16]}:{since}",
                sequence=1,
                kind=EventKind.DEGRADED,
                observed_at=milliseconds(now),
                model=model,
                version=serving.version,
                digest=serving.digest,
                code=code,
                because=found.because[:BECAUSE_CHARS_MAX],
            )
        )

    def _tell_over(self, model: str, before: ModelState, now: datetime) -> None:
        self._ledger.tell(
            Event(
                event_id=f"stale-over:{model}:{before.stale_since}",
                sequence=1,
                kind=EventKind.RECOVERED,
                observed_at=milliseconds(now),
                model=model,
                code=STALE,
            )
        )
