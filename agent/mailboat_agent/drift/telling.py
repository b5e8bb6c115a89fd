"""The events of damage and repair. Pure. ``number`` makes their ids: of this start, and counted."""

from datetime import datetime
from typing import Any

from mailboat_agent.drift.file_check import Damage, StoredFile
from mailboat_agent.update.events import BECAUSE_CHARS_MAX, milliseconds
from mailboat_agent.update.state import Installed
from mailboat_schemas.events import Event, EventKind


def damage_event(damage: Damage, serving: Installed | None, number: str, now: datetime) -> Event:
    return _about(
        damage.file,
        EventKind.STORAGE_DAMAGED,
        event_id=f"drift:{number}",
        code=damage.file.model,
        because=damage.problem,
        serving=serving,
        now=now,
    )


def repair_event(
    file: StoredFile, source: str, serving: Installed | None, number: str, now: datetime
) -> Event:
    """``source`` is where the whole file came from; it becomes the code."""
    return _about(
        file,
        EventKind.STORAGE_REPAIRED,
        event_id=f"drift:{number}",
        code=source,
        because=f"{file.path} of {file.version} was damaged and is whole again, from {source}",
        serving=serving,
        now=now,
    )


def own_damage_event(
    what: str, problem: str, repaired_from: str, number: str, now: datetime
) -> Event:
    """About a file that says what this device is to run. Repaired at once, or not at all yet."""
    return Event(
        event_id=f"drift:{number}",
        sequence=1,
        kind=EventKind.STORAGE_DAMAGED,
        observed_at=milliseconds(now),
        code=what,
        because=problem[:BECAUSE_CHARS_MAX],
        evidence={"repaired_from": repaired_from},
    )


def _about(
    file: StoredFile,
    kind: EventKind,
    *,
    event_id: str,
    code: str,
    because: str,
    serving: Installed | None,
    now: datetime,
) -> Event:
    evidence: dict[str, Any] = {"file": file.path, "sha256": file.digest}
    return Event(
        event_id=event_id,
        sequence=1,
        kind=kind,
        observed_at=milliseconds(now),
        model=file.model,
        version=file.version,
        digest=file.release,
        serving_version=None if serving is None else serving.version,
        code=code,
        because=because[:BECAUSE_CHARS_MAX],
        evidence=evidence,
    )
