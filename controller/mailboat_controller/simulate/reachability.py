"""When the network reaches a device: habits, as spans of time on the air and off it."""

import random
from enum import StrEnum
from typing import Self

HOUR = 3600.0
DAY = 24 * HOUR
WEEK = 7 * DAY


class Habit(StrEnum):
    ALWAYS = "always"
    DIURNAL = "diurnal"  # ten hours of each day
    FLAKY = "flaky"  # four hours on the air, one hour off it, on average
    WEEKLY = "weekly"  # eight hours once a week
    AWAY = "away"  # a day on the air, five days away, on average


# How those are shared out that are not always reached, and the share of the time they are not.
_SHARES = {
    Habit.DIURNAL: (0.4, 14 / 24),
    Habit.FLAKY: (0.2, 0.2),
    Habit.WEEKLY: (0.2, 1 - 8 / 168),
    Habit.AWAY: (0.2, 5 / 6),
}
OFFLINE_OF_THE_OTHERS = sum(share * off for share, off in _SHARES.values())
OFFLINE_MAX = 0.9  # more is a fleet that nothing can be said about


def habits(devices: int, offline: float, rng: random.Random) -> list[Habit]:
    """A habit for each, so that at any moment about a share ``offline`` is off the air."""
    others = min(1.0, offline / OFFLINE_OF_THE_OTHERS)
    # Beyond what that mixture can give, those who are rarely reached take over.
    rare = max(0.0, (offline - OFFLINE_OF_THE_OTHERS) / (OFFLINE_MAX - OFFLINE_OF_THE_OTHERS))
    names = list(_SHARES)
    weights = [share for share, _ in _SHARES.values()]
    return [_drawn(rng, others, rare, names, weights) for _ in range(devices)]


def _drawn(
    rng: random.Random, others: float, rare: float, names: list[Habit], weights: list[float]
) -> Habit:
    if rng.random() >= others:
        return Habit.ALWAYS
    if rng.random() < rare:
        return rng.choice((Habit.WEEKLY, Habit.AWAY))
    return rng.choices(names, weights)[0]


class Reachability:
    """One device: where in its habit it stands. Seconds are since the simulation began."""

    __slots__ = ("_habit", "_phase", "_rng", "online")

    def __init__(self, habit: Habit, rng: random.Random) -> None:
        self._habit = habit
        self._rng = rng
        self._phase = rng.random()  # of its period
        self.online = True

    @classmethod
    def at_the_start(cls, habit: Habit, rng: random.Random) -> tuple[Self, float]:
        """With the seconds until it changes for the first time; infinity: never."""
        found = cls(habit, rng)
        match habit:
            case Habit.ALWAYS:
                return found, float("inf")
            case Habit.DIURNAL | Habit.WEEKLY:
                period, on = found._period()
                into = found._phase * period
                found.online = into < on
                return found, (on if found.online else period) - into
            case Habit.FLAKY | Habit.AWAY:
                on, off = found._means()
                found.online = rng.random() < on / (on + off)
                return found, rng.expovariate(1 / (on if found.online else off))

    def change(self) -> float:
        """On the air or off it, the other way round; seconds until the next change."""
        self.online = not self.online
        match self._habit:
            case Habit.ALWAYS:
                return float("inf")
            case Habit.DIURNAL | Habit.WEEKLY:
                period, on = self._period()
                return on if self.online else period - on
            case Habit.FLAKY | Habit.AWAY:
                on, off = self._means()
                return self._rng.expovariate(1 / (on if self.online else off))

    def _period(self) -> tuple[float, float]:
        return (DAY, 10 * HOUR) if self._habit is Habit.DIURNAL else (WEEK, 8 * HOUR)

    def _means(self) -> tuple[float, float]:
        return (4 * HOUR, HOUR) if self._habit is Habit.FLAKY else (DAY, 5 * DAY)
