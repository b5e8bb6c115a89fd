"""The events of drills, and what people on the device are shown. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mailboat_agent.drill.record import DrillRecord, DrillResult
from mailboat_agent.update.events import BECAUSE_CHARS_MAX
from mailboat_schemas.drills import ORDER, RETURN_MS, DrillOutcome
from mailboat_schemas.events import Event, EventKind

KINDS = {
    DrillOutcome.PASSED: EventKind.DRILL_PASSED,
    DrillOutcome.FAILED: EventKind.DRILL_FAILED,
    DrillOutcome.SKIPPED: EventKind.DRILL_SKIPPED,
}


def drill_event(model: str, result: DrillResult) -> Event:
    """One for each order and model, however often it is told."""
    return Event(
        event_id=f"drill:{model}:{result.order}",
        sequence=1,
        kind=KINDS[result.outcome],
        observed_at=result.at,
        model=model,
        version=result.version,
        digest=result.digest,
        serving_version=result.serving_version,
        code=result.code[:64],
        because=result.because[:BECAUSE_CHARS_MAX],
        evidence={ORDER: result.order, **result.evidence},
    )


def for_people(
    record: DrillRecord, running: Mapping[str, str], waits: Mapping[str, str]
) -> dict[str, Any]:
    """As it stands in ``status.json``. ``running`` and ``waits`` say why, by model."""
    found: dict[str, Any] = {}
    for model in sorted({*record.models, *running, *waits}):
        drills = record.of(model)
        last = drills.last
        shown: dict[str, Any] = {"running": running.get(model), "waits": waits.get(model)}
        if last is not None:
            shown["last"] = {
                "order": last.order,
                "outcome": str(last.outcome),
                "code": last.code,
                "because": last.because,
                "version": last.version,
                "at": last.at,
                "evidence": dict(last.evidence),
            }
        shown |= {"passed_at": drills.passed_at, "return_ms": drills.return_ms}
        found[model] = shown
    return found


def describe_drills(drills: Mapping[str, Any]) -> list[str]:
    """For people, line by line; nothing where nobody ever drilled."""
    lines = []
    for model, shown in drills.items():
        last = shown.get("last")
        parts = [] if last is None else [in_words(last)]
        if shown.get("running"):
            parts.append(f"going on: {shown['running']}")
        if shown.get("waits"):
            parts.append(f"waits: {shown['waits']}")
        if parts:
            lines.append(f"drill     {model}: {'; '.join(parts)}")
    return lines


def in_words(last: Mapping[str, Any]) -> str:
    at = datetime.fromtimestamp(last["at"] / 1000, UTC).isoformat(timespec="seconds")
    of = f" of {last['version']}" if last["version"] else ""
    if last["outcome"] == DrillOutcome.PASSED:
        return f"passed{of} at {at}, a return would take {last['evidence'].get(RETURN_MS)} ms"
    return f"{last['outcome']}{of} at {at} ({last['code']}): {last['because']}"
