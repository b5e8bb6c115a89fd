"""Maintenance windows: weekly hours of a wall clock, and whether one of them is open. Pure.

A window begins at the first instant at which the clock on the wall, on one of its days, shows its
start or has passed it, and lasts a span of elapsed time. That decides the two odd nights of a year:
a start that the clocks skip begins when they have jumped past it, one that they show twice begins
the first time, and four hours are four hours in both nights.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LENGTH_MINUTES_MIN = 15  # a trial and its soak have to begin in it, whenever the agent looks
LENGTH_MINUTES_MAX = 24 * 60
WINDOWS_MAX = 16
ZONE_LABEL = "time-zone"  # of a device, in its own configuration
UTC_ZONE = "UTC"
_OPENINGS_REMEMBERED = 256  # of one instant, for a whole fleet; the next instant is another one
_DAYS_BACK = 3  # one that began before may be open: a day long, in a zone that skips a day
_DAYS_AHEAD = 9  # a week, and the same again

ZoneName = Annotated[
    str, StringConstraints(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+)*$")
]


class Window(BaseModel):
    """Some days of every week, from a time of day on. ``zone`` empty: the device's own."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    days: tuple[Day, ...] = Field(default=DAYS, min_length=1, max_length=7)
    start: str = Field(
        pattern=r"^(?:[01][0-9]|2[0-3]):[0-5][0-9]$", description="such as 02:00, by the wall clock"
    )
    length_minutes: int = Field(ge=LENGTH_MINUTES_MIN, le=LENGTH_MINUTES_MAX)
    zone: ZoneName | Literal[""] = Field(
        default="", description="such as Europe/Berlin; empty: the device's label time-zone, or UTC"
    )


@dataclass(frozen=True, slots=True)
class Opening:
    """Whether a window is open, until when, or when the next one opens; and what of it is unknown.

    Instants are UTC. ``until`` is of the open window that closes last (another may follow at once),
    ``opens`` of the next that opens: None only where ``open``, or where no zone is known.
    """

    open: bool
    until: datetime | None = None
    opens: datetime | None = None
    zone: str = UTC_ZONE
    unknown_zones: tuple[str, ...] = ()

    @property
    def because(self) -> str:
        if self.open and self.until is not None:
            return f"a maintenance window is open until {self._said(self.until)}"
        unknown = f"no time zone {', '.join(self.unknown_zones)} is known here"
        if self.opens is None:
            return f"{unknown}, so its maintenance windows stay closed"
        also = f"; {unknown}" if self.unknown_zones else ""
        return f"outside its maintenance windows, the next opens {self._said(self.opens)}{also}"

    def _said(self, instant: datetime) -> str:
        local = instant.astimezone(zone_named(self.zone) or UTC)
        return f"{local:%Y-%m-%d %H:%M} {self.zone} ({instant:%Y-%m-%d %H:%M} UTC)"


@lru_cache(maxsize=256)
def zone_named(name: str) -> tzinfo | None:
    """None where this machine's time zone database has none of that name. UTC needs none."""
    if name == UTC_ZONE:
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):  # of a directory, a path that leads out, no file
        return None


@lru_cache(maxsize=_OPENINGS_REMEMBERED)
def opening(windows: tuple[Window, ...], own_zone: str, now: datetime) -> Opening:
    """
    Args:
        own_zone: of the device; empty: UTC.
    """
    unknown: dict[str, None] = {}
    open_until: list[tuple[datetime, str]] = []
    opens: list[tuple[datetime, str]] = []
    for window in windows:
        name = window.zone or own_zone or UTC_ZONE
        zone = zone_named(name)
        if zone is None:
            unknown[name[:64]] = None
            continue
        until, following = _of(window, zone, now)
        if until is not None:
            open_until.append((until, name))
        if following is not None:
            opens.append((following, name))
    if open_until:
        until, name = max(open_until)
        return Opening(open=True, until=until, zone=name, unknown_zones=tuple(unknown))
    if not opens:
        return Opening(open=False, unknown_zones=tuple(unknown))
    first, name = min(opens)
    return Opening(open=False, opens=first, zone=name, unknown_zones=tuple(unknown))


def _of(window: Window, zone: tzinfo, now: datetime) -> tuple[datetime | None, datetime | None]:
    """Until when it is open, and when it opens next after ``now``."""
    until: datetime | None = None
    for begins in _beginnings(window, zone, now):
        if begins > now:
            return until, begins
        ends = begins + timedelta(minutes=window.length_minutes)
        if now < ends:
            until = ends
    return until, None


def _beginnings(window: Window, zone: tzinfo, now: datetime) -> Iterator[datetime]:
    """In order, around ``now``. The calendar has a first and a last day."""
    wanted = {DAYS.index(day) for day in window.days}
    start = time.fromisoformat(window.start)
    today = now.astimezone(zone).date()
    for number in range(today.toordinal() - _DAYS_BACK, today.toordinal() + _DAYS_AHEAD + 1):
        if date.min.toordinal() < number < date.max.toordinal():
            day = date.fromordinal(number)
            if day.weekday() in wanted:
                yield begins_at(datetime.combine(day, start), zone)


def begins_at(wall: datetime, zone: tzinfo) -> datetime:
    """The first instant, in UTC, at which the clock on the wall shows ``wall`` or has passed it."""
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None) == wall:
        return first
    # The clocks skip it. Read by the offset after the jump it is before the jump, by the offset
    # before it after: the jump is between the two, to the second.
    low = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    offset = first.astimezone(zone).utcoffset()
    seconds = int((first - low).total_seconds())
    before, after = 0, seconds
    while after - before > 1:
        middle = (before + after) // 2
        instant = low + timedelta(seconds=middle)
        if instant.astimezone(zone).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return low + timedelta(seconds=after)


def first_opening(windows: Sequence[Window], own_zone: str, instant: datetime) -> datetime | None:
    """``instant`` if a window is open then, or when one opens; None: never, as far as is known."""
    found = opening(tuple(windows), own_zone, instant)
    return instant if found.open else found.opens
