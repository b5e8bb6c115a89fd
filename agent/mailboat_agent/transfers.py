"""What is being fetched and what room and budget it has, as figures for the status file."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mailboat_agent.artifacts.disk_room import DiskRoom
from mailboat_agent.artifacts.metered import Meter
from mailboat_agent.errand import Kind
from mailboat_agent.update.steps import Stage

if TYPE_CHECKING:
    from mailboat_agent.model_loop import ModelLoop

STEP_BYTES = 1 << 20  # free space and spent budget change all the time, and matter in such steps


def transfers(loops: Iterable["ModelLoop"]) -> list[dict[str, Any]]:
    """One for each release that is being fetched. Sizes in bytes, times in seconds."""
    found = []
    for loop in loops:
        work, progress = loop.work, loop.progress
        if work is None or work.kind is not Kind.STAGE or not isinstance(work.step, Stage):
            continue
        left = progress.seconds_left
        found.append(
            {
                "model": loop.model,
                "version": work.step.candidate.version,
                "staged_bytes": progress.staged_bytes,
                "total_bytes": progress.total_bytes,
                "bytes_per_second": round(progress.rate_bytes_per_second),
                "seconds_left": None if left is None else round(left),
                "form": progress.form,
                "source": progress.source,
                "resumed": progress.tally.arrivals.resumed,
                "retried": progress.tally.arrivals.retried,
            }
        )
    return found


def disk_figures(room: DiskRoom) -> dict[str, Any]:
    """Sizes in bytes."""
    return {
        "used": room.used,
        "budget": room.budget,
        "free": room.free - room.free % STEP_BYTES,
        "nearly_full": room.is_nearly_full,
        "gives_way": room.gives_way,
    }


def metered_figures(meter: Meter, *, class_is_metered: bool) -> dict[str, Any] | None:
    """None if the link costs nothing by the byte. Sizes in bytes."""
    if not meter.applies(class_is_metered=class_is_metered):
        return None
    used = meter.used_bytes
    return {"used": used - used % STEP_BYTES, "per_day": meter.bytes_per_day}
