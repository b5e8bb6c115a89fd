"""Times as people write them on a command line."""

from datetime import datetime, timedelta

import typer

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def instant(text: str | None, now: datetime, option: str) -> datetime | None:
    """``30m``, ``6h`` or ``2d`` before now, or a time with its zone.

    Raises:
        typer.BadParameter: neither.
    """
    if not text:
        return None
    found = None
    try:
        if text[-1] in _UNITS:
            return now - timedelta(**{_UNITS[text[-1]]: float(text[:-1])})
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        pass
    if found is None or found.tzinfo is None:
        raise typer.BadParameter(
            f"{text!r}: write 30m, 6h, 2d or 2026-11-21T12:00+00:00", param_hint=option
        )
    return found
