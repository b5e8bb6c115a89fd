"""The timeline of one rollout: who did what, which threshold tripped, what resumed service.

Put together from the audit log, the manifests and what devices told: the steps of its release's
trace, while this rollout is the newest of that release. Bounded like the trace.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mailboat_controller.rollout.state import Phase
from mailboat_controller.store import exit_evidence, rollouts, trace_rows
from mailboat_controller.store.rollouts import RolloutRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.traces import reading
from mailboat_controller.traces.chain import Step
from mailboat_schemas.events import RECOVERY_SECONDS, EventKind

# What a device tells when it leaves the release: from then on something else serves, or nothing.
_LEFT = frozenset(
    f"device.{kind}" for kind in (EventKind.ROLLED_BACK, EventKind.RETURNED, EventKind.TRIAL_FAILED)
)
_DEVICE = "device."
_MILLIONTHS = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """``resumed`` is what serves on the device after it left the release, with the seconds that
    took by its own clock where it told them; ``threshold`` the rule that tripped."""

    at: datetime
    what: str
    who: str
    subject: str
    because: str
    threshold: str
    resumed: Mapping[str, Any] | None
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    rollout: str
    model: str
    version: str
    digest: str
    phase: Phase
    because: str
    threshold: str  # that halted it; empty while none has
    resumed: Mapping[str, int]  # version -> devices that serve it after they left the release
    resume_seconds_max: float | None
    devices: int  # that told of it
    devices_shown: int
    entries: tuple[Entry, ...]


def read(tx: Transaction, name: str) -> Timeline:
    """
    Raises:
        NotFound: no such rollout.
    """
    row = rollouts.get(tx, name)
    rollout = row.rollout
    found = reading.read(tx, rollout.digest)
    others = [each for each in rollouts.every(tx, rollout.model) if _is_other(each, row)]
    entries = [entry_of(step) for step in _of_this(found.steps, row, others)]
    if row.started_at is not None:
        limit = reading.DEVICES_SHOWN_MAX
        shown = exit_evidence.drilled(tx, rollout.digest, row.started_at, limit)
        entries += [_drill(device, at) for device, at in shown]
        entries.sort(key=lambda entry: entry.at)  # stable: an instant keeps its order
    resumed, longest = _resumed(entries)
    halts = [each.threshold for each in entries if each.what == f"rollout.{Phase.HALTED.value}"]
    return Timeline(
        rollout=name,
        model=rollout.model,
        version=rollout.version,
        digest=rollout.digest,
        phase=rollout.phase,
        because=rollout.because,
        threshold=halts[-1] if halts else "",
        resumed=resumed,
        resume_seconds_max=longest,
        devices=trace_rows.count_devices(tx, rollout.digest),
        devices_shown=found.devices_shown,
        entries=tuple(entries),
    )


def _is_other(each: RolloutRow, row: RolloutRow) -> bool:
    return each.rollout.digest == row.rollout.digest and each.rollout.name != row.rollout.name


def _of_this(
    steps: Sequence[Step], row: RolloutRow, others: Sequence[RolloutRow]
) -> tuple[Step, ...]:
    """Without what belongs to other rollouts of the same release."""
    names = {other.rollout.name for other in others}
    begins = row.created_at if any(each.created_at < row.created_at for each in others) else None
    later = [each.created_at for each in others if each.created_at > row.created_at]
    ends = min(later, default=None)
    return tuple(
        step
        for step in steps
        if not (step.what.startswith("rollout.") and step.subject in names)
        and (begins is None or step.at >= begins)
        and (ends is None or step.at < ends or step.subject == row.rollout.name)
    )


def entry_of(step: Step) -> Entry:
    """A step of a trace, with the rule that tripped and what serves after it."""
    threshold = ""
    if step.what.startswith("rollout."):
        threshold = threshold_of(step.details.get("evidence") or {})
    elif step.what in _LEFT:
        threshold = str(step.details.get("code") or "")
    return Entry(
        at=step.at,
        what=step.what,
        who=step.who,
        subject=step.subject,
        because=step.because,
        threshold=threshold,
        resumed=_service(step),
        details=step.details,
    )


def _drill(device: str, at: datetime) -> Entry:
    """Its event is about the release that was drilled, so it is not in the trace of this one."""
    return Entry(
        at=at,
        what=f"{_DEVICE}{EventKind.DRILL_PASSED.value}",
        who=device,
        subject=device,
        because="the release before could have taken over while requests were answered",
        threshold="",
        resumed=None,
        details={},
    )


def _service(step: Step) -> Mapping[str, Any] | None:
    if step.what not in _LEFT:
        return None
    return {
        "version": step.details.get("serving_version"),
        "seconds": step.details.get(RECOVERY_SECONDS),
    }


def threshold_of(evidence: Mapping[str, Any]) -> str:
    """The rule of a decision and its numbers, as the audit log keeps them, in one line."""
    match evidence.get("rule"):
        case "every":
            return f"one failure halts: {evidence.get('failed')} failed"
        case "integrity":
            return "one device with other bytes than were signed halts"
        case "reboot_loop":
            return "two devices that restart in a loop halt"
        case "failing" | "vanishing" as rule:
            name = "log_e1" if rule == "failing" else "log_e2"
            part = f" in {evidence['part']}" if evidence.get("part") else ""
            return f"{rule}{part}: ln E = {evidence.get(name)}, of {evidence.get('log_threshold')}"
        case _:
            pass
    if "p1_ppm" in evidence:
        return (
            f"look {evidence.get('look')}: fewer than {100 * evidence['p1_ppm'] / _MILLIONTHS:g} % "
            f"fail, wrong in {100 * evidence.get('error', 0):g} %"
        )
    return ""


def _resumed(entries: Sequence[Entry]) -> tuple[dict[str, int], float | None]:
    """By version the devices whose last word of the release was that they left it."""
    last: dict[str, Entry] = {}
    seconds = []
    for entry in entries:
        if entry.what.startswith(_DEVICE) and entry.details:
            last[entry.who] = entry
        if entry.resumed is not None and isinstance(entry.resumed["seconds"], int | float):
            seconds.append(float(entry.resumed["seconds"]))
    left = [entry.resumed for entry in last.values() if entry.resumed is not None]
    counted = Counter(str(each["version"] or "nothing") for each in left)
    return dict(sorted(counted.items())), max(seconds, default=None)
