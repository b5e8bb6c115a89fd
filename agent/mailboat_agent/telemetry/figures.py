"""What ``status`` says of telemetry: what resolution is held of what time, and what it has cost."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `status` is for slow devices, and needs none of it
    from mailboat_agent.journal.telemetry_buffer import Held, HeldLevel
    from mailboat_agent.journal.thinning import Bounds
    from mailboat_schemas.host_figures import Gauge, HostFigures

MIB = 1 << 20


def telemetry_figures(
    held: "Held", bounds: "Bounds", *, damaged: int, detail: str, host: "HostFigures | None"
) -> dict[str, Any]:
    """Sizes in bytes, times in ISO 8601 by the device's clock."""
    return {
        "detail": detail,
        "windows": held.windows,
        "windows_max": bounds.rows_max,
        "bytes": held.bytes,
        "bytes_max": bounds.bytes_max,
        "levels": [_level(level) for level in held.levels],
        "merged": held.merged,
        "dropped": held.dropped,
        "damaged": damaged,
        "host": {} if host is None else _host(host),
    }


def _level(level: "HeldLevel") -> dict[str, Any]:
    return {
        "seconds_max": level.seconds_max or None,
        "windows": level.windows,
        "from": _when(level.began_at),
        "to": _when(level.ended_at),
    }


def _when(milliseconds: int) -> str | None:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None


def _host(host: "HostFigures") -> dict[str, float]:
    """The newest reading of what the host tells, in few digits: the file is written when it
    changes."""
    found: dict[str, float] = {}
    for name in ("cpu_percent", "load_1m", "celsius", "battery_percent"):
        gauge: Gauge | None = getattr(host, name)
        if gauge is not None:
            found[name] = round(gauge.mean, 1)
    for name in ("memory_available_bytes", "disk_free_bytes"):
        gauge = getattr(host, name)
        if gauge is not None:
            found[name] = int(gauge.mean) // MIB * MIB
    return found


def describe_telemetry(figures: dict[str, Any]) -> Iterable[str]:
    """For people, line by line; nothing while nothing is held."""
    if not figures or not figures.get("windows"):
        return
    share = max(
        figures["windows"] / figures["windows_max"], figures["bytes"] / figures["bytes_max"]
    )
    cost = [f"{figures[name]} {name}" for name in ("merged", "dropped", "damaged") if figures[name]]
    told = ", ".join([f"{figures['windows']} windows wait, {share:.0%} of the buffer", *cost])
    yield f"telemetry {told}; detail is {figures['detail']}"
    for level in figures["levels"]:
        seconds = level["seconds_max"]
        resolution = "as recorded" if seconds is None else f"up to {_span(seconds)}"
        yield f"          {resolution}: {level['windows']}, {level['from']} to {level['to']}"


def _span(seconds: int) -> str:
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds % unit == 0:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"
