"""What it means that a site is cut off: nothing, nothing for now, or that somebody should look."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

WINDOWS_MAX = 32  # of one site; a week's plan with a few trips a day
WINDOW_MINUTES_MAX = 7 * 24 * 60


class Policy(StrEnum):
    NORMAL = "normal"  # the link comes and goes; a cut is never worth an alert
    EXPECTED = "expected"  # cuts are planned: in windows, or until an instant
    ERROR = "error"  # the link should hold; every cut is worth an alert


class Day(StrEnum):
    """In the order of `datetime.weekday`."""

    MONDAY = "mon"
    TUESDAY = "tue"
    WEDNESDAY = "wed"
    THURSDAY = "thu"
    FRIDAY = "fri"
    SATURDAY = "sat"
    SUNDAY = "sun"


_DAYS = tuple(Day)


class Window(BaseModel):
    """A span of each week, in UTC, in which a site may be cut off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: tuple[Day, ...] = Field(default=_DAYS, min_length=1, max_length=len(_DAYS))
    start: Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
    minutes: int = Field(ge=1, le=WINDOW_MINUTES_MAX)

    def holds(self, now: datetime) -> bool:
        """Whether ``now`` is in it; it may have begun days ago."""
        hour, minute = (int(part) for part in self.start.split(":"))
        today = now.astimezone(UTC).replace(hour=hour, minute=minute, second=0, microsecond=0)
        for days_ago in range(self.minutes // (24 * 60) + 2):
            begun = today - timedelta(days=days_ago)
            within = begun <= now < begun + timedelta(minutes=self.minutes)
            if within and _DAYS[begun.weekday()] in self.days:
                return True
        return False


def cut_is_expected(
    policy: Policy, windows: Iterable[Window], until: datetime | None, now: datetime
) -> bool:
    """Whether nobody need be told that the site is cut off at this instant."""
    match policy:
        case Policy.NORMAL:
            return True
        case Policy.ERROR:
            return False
        case Policy.EXPECTED:
            return (until is not None and now < until) or any(each.holds(now) for each in windows)
