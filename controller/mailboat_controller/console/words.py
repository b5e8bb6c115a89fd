"""What pages say in words: how long ago, how many, how large. Pure."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def ago(instant: datetime | None, now: datetime) -> str:
    """``3 min ago``, ``in 2 days``; ``never`` for None."""
    if instant is None:
        return "never"
    seconds = (now - instant).total_seconds()
    if abs(seconds) < 1:
        return "now"
    said = span(abs(seconds))
    return f"{said} ago" if seconds > 0 else f"in {said}"


def span(seconds: float | timedelta) -> str:
    """The largest unit that says it: ``42 s``, ``3 min``, ``5 h``, ``12 days``."""
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 100 * _MINUTE:
        return f"{seconds / _MINUTE:.0f} min"
    if seconds < 48 * _HOUR:
        return f"{seconds / _HOUR:.0f} h"
    return f"{seconds / _DAY:.0f} days"


def instant(seconds: int) -> datetime:
    """Of seconds since 1970 UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def utc(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def offset(clock_offset_ms: int | None) -> str:
    """Of a device's clock: ``2 min ahead``, ``4 s behind``; "" when it is right to a second."""
    if clock_offset_ms is None or abs(clock_offset_ms) < 1000:
        return ""
    return f"{span(abs(clock_offset_ms) / 1000)} {'ahead' if clock_offset_ms > 0 else 'behind'}"


def number(value: float | None) -> str:
    """``12 345`` with thin spaces; ``–`` for None."""
    if value is None:
        return "–"
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}".replace(",", "\u202f")


def size(size_bytes: float | None) -> str:
    """``1.4 MiB``."""
    if size_bytes is None:
        return "–"
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def percent(part: float, whole: float) -> str:
    """``–`` of nothing; never 100 % or 0 % where it is not exactly so."""
    if not whole:
        return "–"
    share = 100 * part / whole
    if 0 < share < 1:
        return "<1 %"
    if 99 < share < 100:
        return ">99 %"
    return f"{share:.0f} %"


def json_text(value: Any) -> str:
    """What was recorded, in one line, for people: as text, never as a part of the page."""
    return json.dumps(value, ensure_ascii=False)
