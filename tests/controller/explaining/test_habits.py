"""How long a device is waited for, by what it did before."""

from datetime import UTC, datetime, timedelta

from mailboat_controller.explaining.habits import AWAY_MIN, CONTACTS_MIN, expected_wait, wait_for

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
NIGHTLY = [NOON - timedelta(days=days, hours=9) for days in range(14)]  # at three every night


def test_who_is_on_the_air_is_not_waited_for() -> None:
    assert expected_wait([], online=True, now=NOON) == timedelta()


def test_a_device_that_comes_every_night_is_waited_for_until_tonight() -> None:
    assert expected_wait(NIGHTLY, online=False, now=NOON) == 15 * HOUR


def test_the_order_of_contacts_does_not_matter() -> None:
    shuffled = NIGHTLY[7:] + NIGHTLY[:7]

    assert expected_wait(shuffled, online=False, now=NOON) == 15 * HOUR


def test_a_device_that_was_never_away_so_long_may_stay_away_as_long_again() -> None:
    later = NOON + timedelta(days=3)

    assert expected_wait(NIGHTLY, online=False, now=later) == later - NIGHTLY[0]


def test_short_silences_are_no_absences() -> None:
    chatty = [NOON - timedelta(seconds=30 * n) for n in range(50)]

    assert expected_wait(chatty, online=False, now=NOON) == AWAY_MIN


def test_a_few_contacts_are_no_habit() -> None:
    few = NIGHTLY[: CONTACTS_MIN - 1]

    assert expected_wait(few, online=False, now=NOON) is None
    assert expected_wait(NIGHTLY[:CONTACTS_MIN], online=False, now=NOON) is not None


def test_contacts_of_the_future_do_not_count() -> None:
    ahead = [NOON + HOUR * n for n in range(1, 20)]

    assert expected_wait(ahead, online=False, now=NOON) is None
    assert expected_wait(ahead, online=False, now=ahead[CONTACTS_MIN - 1]) == HOUR  # it counts now


def test_a_wave_waits_for_as_many_as_it_needs() -> None:
    waits = [3 * HOUR, None, HOUR, 2 * HOUR]

    assert wait_for(waits, 0) == timedelta()
    assert wait_for(waits, 2) == 2 * HOUR
    assert wait_for(waits, 4) is None
