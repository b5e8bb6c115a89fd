"""What policy makes of a model that is further behind than it may be: recorded, told, done.

What is to be done follows from `update.stale`.
"""

import logging
from collections.abc import Iterable
from dataclasses import replace

from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.device_rules import behind, device_rules
from mailboat_agent.facts import Device, Look
from mailboat_agent.ledger import Ledger
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.trust.manifest import Manifest
from mailboat_agent.update import stale
from mailboat_agent.update.state import Installed, ModelState
from mailboat_schemas.errors import DiskFull
from mailboat_schemas.policy_rules import NO_BOUND
from mailboat_schemas.staleness import NOT_STALE, Action, Enforcement

_log = logging.getLogger(__name__)


def judge(
    device: Device, manifest: Manifest, model: str, state: ModelState, look: Look
) -> Enforcement:
    """What is to be done about a model now, by what the record says should serve."""
    far, bound, serving = None, NO_BOUND, state.serving
    if serving is not None and can_know(manifest, look):
        bound = device_rules(device, manifest).staleness
        far = behind(device, manifest, model, serving.version, look.now)
    return stale.judge(state, far, bound, now=look.now, trust_fresh=look.trust_fresh)


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
            event = stale.stale_event(model, self._ledger.model(model), found, look.now)
            if event is not None:
                self._ledger.tell(event)

    def _record(self, model: str, found: Enforcement, look: Look) -> None:
        if not can_know(self._manifest, look):
            return
        state = self._ledger.model(model)
        told = stale.recorded(state, found, look.now)
        if told is state:
            return
        models = {**self._ledger.state.models, model: told}
        try:
            self._ledger.save(replace(self._ledger.state, models=models))
        except (DiskFull, DiskFailing) as error:  # the next look tries again; no grace goes by
            _log.debug("Since when %s is stale could not be recorded: %s", model, error)
            return
        if state.stale_since and not told.stale_since:
            self._ledger.tell(stale.over_event(model, state, look.now))

    def _act(self, model: str, serving: Installed | None, found: Enforcement) -> None:
        marks = serving is not None and found.action in (Action.WARN, Action.STOP)
        self._runtime.note_stale(
            model, serving.digest if marks and serving else "", found.because if marks else ""
        )
        if serving is not None and found.action is Action.STOP:
            self._device.stopped[model] = serving
        else:
            self._device.stopped.pop(model, None)
