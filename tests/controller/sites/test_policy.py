"""What a cut of a site's link means, and when we may say that it is cut."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from command_line import mailboat
from mailboat_controller.sites.flapping import CHANGES_TOLD_MAX, WITHIN, Flapping, Telling
from mailboat_controller.sites.link_state import CONFIRM_WITHIN, Link, Told, heard, link_state
from mailboat_controller.sites.policy import (
    WINDOW_MINUTES_MAX,
    Day,
    Policy,
    Window,
    cut_is_expected,
)
from mailboat_controller.sites.queue_size import (
    BYTES_MIN,
    DAYS_MAX,
    DEVICES_MAX,
    IN_FLIGHT_BYTES,
    MESSAGE_BYTES,
    MESSAGES_MIN,
    MESSAGES_PER_DEVICE_DAY,
    queue_size,
)

MONDAY_NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NIGHT = Window(days=(Day.MONDAY,), start="22:00", minutes=8 * 60)


class TestPolicy:
    @pytest.mark.parametrize(
        ("now", "holds"),
        [
            (MONDAY_NOON, False),
            (MONDAY_NOON + 10 * HOUR, True),  # 22:00
            (MONDAY_NOON + 18 * HOUR - MINUTE, True),  # 05:59 of Tuesday
            (MONDAY_NOON + 18 * HOUR, False),  # 06:00
            (MONDAY_NOON + 34 * HOUR, False),  # 22:00 of Tuesday
            (MONDAY_NOON + 7 * DAY + 10 * HOUR, True),
        ],
    )
    def test_a_window_begins_on_its_day_and_ends_when_it_is_over(
        self, now: datetime, holds: bool
    ) -> None:
        assert NIGHT.holds(now) is holds

    def test_a_window_of_a_week_holds_always(self) -> None:
        window = Window(days=(Day.SUNDAY,), start="00:00", minutes=WINDOW_MINUTES_MAX)

        assert all(window.holds(MONDAY_NOON + n * 5 * HOUR) for n in range(40))

    def test_a_window_is_as_long_when_clocks_are_set_for_summer_because_it_is_in_utc(self) -> None:
        berlin = ZoneInfo("Europe/Berlin")
        window = Window(days=(Day.SUNDAY,), start="01:00", minutes=60)
        held = {
            here
            for here in ("00:30", "01:30", "03:30", "04:30")  # there is no 02:30 that night
            if window.holds(datetime.fromisoformat(f"2026-03-29T{here}").replace(tzinfo=berlin))
        }

        assert held == {"03:30"}  # 01:30 UTC

    def test_a_window_longer_than_a_week_is_refused(self) -> None:
        with pytest.raises(ValidationError):
            Window(start="00:00", minutes=WINDOW_MINUTES_MAX + 1)

    def test_only_a_planned_cut_is_expected_and_only_for_as_long(self) -> None:
        until = MONDAY_NOON + HOUR

        assert cut_is_expected(Policy.NORMAL, (), None, MONDAY_NOON)
        assert not cut_is_expected(Policy.ERROR, (NIGHT,), until, MONDAY_NOON)
        assert cut_is_expected(Policy.EXPECTED, (), until, MONDAY_NOON)
        assert not cut_is_expected(Policy.EXPECTED, (), until, until)
        assert cut_is_expected(Policy.EXPECTED, (NIGHT,), None, MONDAY_NOON + 11 * HOUR)
        assert not cut_is_expected(Policy.EXPECTED, (NIGHT,), None, MONDAY_NOON)


class TestLink:
    def test_a_site_whose_bridge_was_never_here_is_not_cut(self) -> None:
        state = link_state(Told(), devices=0, last_heard_at=None, now=MONDAY_NOON)

        assert (state.link, state.since) == (Link.NEVER, None)

    def test_a_cut_counts_from_when_it_was_first_told(self) -> None:
        told = heard(Told(), connected=True, retained=False, at=MONDAY_NOON)
        told = heard(told, connected=False, retained=False, at=MONDAY_NOON + HOUR)
        told = heard(told, connected=False, retained=True, at=MONDAY_NOON + 2 * HOUR)

        state = link_state(told, devices=3, last_heard_at=None, now=MONDAY_NOON + DAY)

        assert (state.link, state.since) == (Link.CUT, MONDAY_NOON + HOUR)

    def test_what_a_broker_remembers_counts_once_something_came_from_the_site(self) -> None:
        """It was killed: nobody is left to say that the bridge of then is gone."""
        told = heard(Told(), connected=True, retained=False, at=MONDAY_NOON)
        asked = MONDAY_NOON + HOUR
        told = heard(told, connected=True, retained=True, at=asked)
        told = heard(told, connected=True, retained=True, at=asked + MINUTE)

        def link(last_heard_at: datetime | None, now: datetime, devices: int = 3) -> Link:
            state = link_state(told, devices=devices, last_heard_at=last_heard_at, now=now)
            return state.link

        assert link(asked - MINUTE, asked + MINUTE) is Link.UNCONFIRMED
        assert link(asked + MINUTE, asked + DAY) is Link.CONNECTED
        assert link(asked - MINUTE, asked + CONFIRM_WITHIN) is Link.CUT
        assert link(None, asked + CONFIRM_WITHIN, devices=0) is Link.UNCONFIRMED

    def test_a_bridge_that_is_heard_needs_no_confirmation(self) -> None:
        told = heard(Told(), connected=True, retained=True, at=MONDAY_NOON)
        told = heard(told, connected=True, retained=False, at=MONDAY_NOON + MINUTE)

        state = link_state(told, devices=3, last_heard_at=None, now=MONDAY_NOON + DAY)

        assert (state.link, state.since) == (Link.CONNECTED, MONDAY_NOON)


class TestQueue:
    def test_it_holds_what_devices_say_in_the_days_that_were_asked_for(self) -> None:
        size = queue_size(10, 7)

        assert size.messages >= 10 * 7 * MESSAGES_PER_DEVICE_DAY
        assert size.bytes == 10 * (7 * MESSAGES_PER_DEVICE_DAY * MESSAGE_BYTES + IN_FLIGHT_BYTES)
        assert size.days == 7

    def test_the_memory_of_the_machine_bounds_it_and_the_days_say_so(self) -> None:
        size = queue_size(1000, 7, memory_bytes=1 << 31)

        assert size.bytes == 1 << 31
        assert size.messages * MESSAGE_BYTES <= 1 << 31
        assert 3 < size.days < 4

    def test_a_small_site_has_room_for_one_busy_device(self) -> None:
        size = queue_size(0, 1, memory_bytes=1)

        assert (size.bytes, size.messages) == (BYTES_MIN, MESSAGES_MIN)

    def test_more_devices_or_days_than_the_bound_are_refused_before_a_kit_is_made(self) -> None:
        for words in (("--devices", str(DEVICES_MAX + 1)), ("--days", str(DAYS_MAX + 1))):
            said = mailboat("site", "kit", "x", "--out", "x.tar", *words)

            assert said.code == 2
            assert words[0] in said.err

    def test_the_largest_site_has_numbers_that_a_broker_can_hold(self) -> None:
        size = queue_size(DEVICES_MAX, DAYS_MAX, memory_bytes=1 << 40)

        assert size.messages < 1 << 31  # mosquitto's max_queued_messages is an int
        assert size.days == DAYS_MAX


class TestFlapping:
    def test_so_many_changes_are_told_and_then_none_until_it_is_quiet(self) -> None:
        flapping = Flapping()

        def changes(count: int, at: datetime) -> list[Telling]:
            return [flapping.changed("harbour", at + n * SECOND) for n in range(count)]

        assert changes(CHANGES_TOLD_MAX, MONDAY_NOON) == [Telling.EACH] * CHANGES_TOLD_MAX
        assert changes(3, MONDAY_NOON + MINUTE) == [Telling.TOO_MANY, Telling.NONE, Telling.NONE]
        assert flapping.changed("quarry", MONDAY_NOON + MINUTE) is Telling.EACH
        assert changes(1, MONDAY_NOON + 2 * WITHIN) == [Telling.EACH]

    def test_a_clock_that_was_set_back_silences_nobody_for_long(self) -> None:
        flapping = Flapping()
        for n in range(CHANGES_TOLD_MAX + 2):
            flapping.changed("harbour", MONDAY_NOON + n * SECOND)

        assert flapping.changed("harbour", MONDAY_NOON - DAY) is Telling.EACH
