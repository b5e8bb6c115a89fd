"""What a cut of a site's link means, and when we may say that it is cut."""

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

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
    IN_FLIGHT_BYTES,
    MESSAGE_BYTES,
    MESSAGES_MIN,
    MESSAGES_PER_DEVICE_DAY,
    queue_size,
)

MONDAY_NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
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
        assert size.days < 1

    def test_a_small_site_has_room_for_one_busy_device(self) -> None:
        size = queue_size(0, 1, memory_bytes=1)

        assert (size.bytes, size.messages) == (BYTES_MIN, MESSAGES_MIN)
