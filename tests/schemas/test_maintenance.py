"""Maintenance windows against a clock on the wall that is looked at every minute."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from pydantic import ValidationError

from mailboat_schemas import maintenance
from mailboat_schemas.maintenance import (
    DAYS,
    LENGTH_MINUTES_MAX,
    LENGTH_MINUTES_MIN,
    Window,
    opening,
    zone_named,
)

MINUTE = timedelta(minutes=1)
NIGHTLY = Window(start="02:30", length_minutes=60)
BERLIN = "Europe/Berlin"
# With a change of the clocks each, at different hours; half an hour; a day that was left out.
NIGHTS = (
    (BERLIN, datetime(2026, 3, 29, 1, tzinfo=UTC)),
    (BERLIN, datetime(2026, 10, 25, 1, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 8, 7, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, 6, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),
    ("America/Havana", datetime(2026, 3, 8, 5, tzinfo=UTC)),
    ("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC)),
    ("Asia/Kathmandu", datetime(2026, 6, 1, tzinfo=UTC)),
)


def walk(window: Window, zone: ZoneInfo, start: datetime, end: datetime) -> Iterator[bool]:
    """Minute by minute, whether it is open: no arithmetic but looking at the wall."""
    hour, minute = map(int, window.start.split(":"))
    begun: set[datetime] = set()
    closes = start
    instant, before = start, start.astimezone(zone).replace(tzinfo=None)
    while instant < end:
        wall = instant.astimezone(zone).replace(tzinfo=None)
        day = min(before, wall).replace(hour=0, minute=0)
        while day <= wall:
            due = day.replace(hour=hour, minute=minute)
            if due <= wall and due > before and due not in begun:
                begun.add(due)
                if DAYS[due.weekday()] in window.days:
                    closes = max(closes, instant + window.length_minutes * MINUTE)
            day += timedelta(days=1)
        yield instant < closes
        before = max(wall, before)
        instant += MINUTE


@pytest.mark.parametrize(("name", "change"), NIGHTS)
def test_a_thousand_instants_agree_with_a_walk_from_minute_to_minute(
    name: str, change: datetime
) -> None:
    rng = random.Random(f"{name} {change}")
    zone = ZoneInfo(name)
    for _ in range(4):
        window = Window(
            days=tuple(rng.sample(DAYS, rng.randint(1, 7))),
            start=f"{rng.randrange(24):02}:{rng.choice((0, 15, 30, 59)):02}",
            length_minutes=rng.choice((LENGTH_MINUTES_MIN, 61, 300, LENGTH_MINUTES_MAX)),
        )
        # From before, since what the walk has not seen begin is not open to it.
        start = change - timedelta(days=3)
        seen = list(walk(window, zone, start, change + timedelta(days=2)))
        for _ in range(32):
            number = rng.randrange(2 * 24 * 60, len(seen))
            found = opening((window,), name, start + number * MINUTE)
            assert found.open == seen[number], (window, start + number * MINUTE)


@pytest.mark.parametrize(("name", "change"), NIGHTS)
def test_what_is_said_to_open_and_to_close_does_so_to_the_minute(
    name: str, change: datetime
) -> None:
    rng = random.Random(f"{change} {name}")
    for _ in range(32):
        windows = (Window(start=f"{rng.randrange(24):02}:30", length_minutes=90),)
        now = change + timedelta(minutes=rng.randint(-2000, 2000))
        found = opening(windows, name, now)
        turns = found.until if found.open else found.opens
        assert turns is not None
        assert turns > now
        assert opening(windows, name, turns - MINUTE).open == found.open
        then = opening(windows, name, turns)
        assert then.until != turns if found.open else then.open  # the next may follow at once


def test_a_start_that_the_clocks_skip_begins_when_they_have_jumped_past_it() -> None:
    jump = datetime(2026, 3, 29, 1, tzinfo=UTC)  # 02:00 becomes 03:00

    assert not opening((NIGHTLY,), BERLIN, jump - MINUTE).open
    assert opening((NIGHTLY,), BERLIN, jump).open
    assert opening((NIGHTLY,), BERLIN, jump).until == jump + 60 * MINUTE


def test_a_start_that_the_clocks_show_twice_begins_the_first_time() -> None:
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # 02:30 in summer; again an hour later

    assert opening((NIGHTLY,), BERLIN, first).open
    assert not opening((NIGHTLY,), BERLIN, first + 60 * MINUTE).open


def test_a_window_may_cross_midnight_into_a_day_that_it_does_not_name() -> None:
    friday = Window(days=("fri",), start="22:00", length_minutes=240)
    saturday_one = datetime(2026, 11, 21, 1, tzinfo=UTC)

    assert opening((friday,), "UTC", saturday_one).open
    assert not opening((friday,), "UTC", saturday_one - timedelta(days=1)).open
    assert opening((friday,), "UTC", saturday_one + timedelta(hours=1)).opens == datetime(
        2026, 11, 27, 22, tzinfo=UTC
    )


def test_of_several_windows_one_that_is_open_is_enough_and_the_next_one_is_named() -> None:
    late = NIGHTLY.model_copy(update={"start": "12:00"})
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)

    assert opening((NIGHTLY, late), "UTC", noon).open
    assert "opens 2026-11-22 12:00" in opening((NIGHTLY, late), "UTC", noon - MINUTE).because


def test_a_windows_own_zone_goes_before_the_devices() -> None:
    tokyo = NIGHTLY.model_copy(update={"zone": "Asia/Tokyo"})

    assert opening((tokyo,), BERLIN, datetime(2026, 6, 1, 17, 30, tzinfo=UTC)).open


def test_a_zone_that_nobody_knows_keeps_its_windows_closed_and_says_so() -> None:
    found = opening((NIGHTLY,), "Mars/Olympus", datetime(2026, 6, 1, 2, 45, tzinfo=UTC))

    assert not found.open
    assert found.opens is None
    assert "Mars/Olympus" in found.because


def test_a_machine_without_a_database_of_zones_knows_utc(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(maintenance, "ZoneInfo", no_zone)
    for remembered in (zone_named, opening):
        remembered.cache_clear()
        request.addfinalizer(remembered.cache_clear)

    assert opening((NIGHTLY,), "", datetime(2026, 6, 1, 2, 45, tzinfo=UTC)).open
    assert opening((NIGHTLY,), "", datetime(2026, 6, 1, 1, tzinfo=UTC)).opens is not None
    assert zone_named(BERLIN) is None


def no_zone(name: str) -> ZoneInfo:
    raise ZoneInfoNotFoundError(name)


def test_instants_that_are_over_are_not_remembered_for_ever() -> None:
    for second in range(2000):
        opening((NIGHTLY,), "", datetime(2026, 6, 1, tzinfo=UTC) + timedelta(seconds=second))

    assert opening.cache_info().currsize <= 256


@pytest.mark.parametrize("name", ["", "Europe", "../../etc/passwd", "/etc/passwd", "x" * 5000])
def test_a_hostile_name_is_no_zone(name: str) -> None:
    assert zone_named(name) is None


@pytest.mark.parametrize("year", [1, 9999])
def test_the_ends_of_the_calendar_do_not_break_it(year: int) -> None:
    opening((NIGHTLY,), "UTC", datetime(year, 6, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": "24:00"},
        {"start": "2:00"},
        {"length_minutes": LENGTH_MINUTES_MIN - 1},
        {"length_minutes": LENGTH_MINUTES_MAX + 1},
        {"days": ()},
        {"days": ("monday",)},
        {"zone": "no zone"},
    ],
)
def test_a_window_that_nobody_could_mean_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Window.model_validate({"start": "02:00", "length_minutes": 60} | wrong)
