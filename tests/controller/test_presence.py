"""Unknown is never told as offline, and a device's clock is known beside ours."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from enrolled_fleet import NOON, EnrolledDevice, EnrolledFleet
from mailboat_controller.presence import BrokerReach, Presence, Reach, in_words, standing
from mailboat_controller.store import device_signs
from mailboat_controller.store.instants import to_ms
from mailboat_schemas.documents.hardware_class import WhenDisconnected

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
NOON_MS = to_ms(NOON)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[EnrolledFleet]:
    fleet = EnrolledFleet(tmp_path)
    yield fleet
    fleet.store.close()


@pytest.fixture
def device(fleet: EnrolledFleet) -> EnrolledDevice:
    return fleet.enrol("dev-1")


class TestPresence:
    def test_who_was_never_heard_of_is_unknown(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        assert standing(fleet.row(device), Reach()).presence is Presence.UNKNOWN

    @pytest.mark.parametrize("online", [True, False])
    def test_what_was_told_last_counts_from_when_it_was_told(
        self, fleet: EnrolledFleet, device: EnrolledDevice, online: bool
    ) -> None:
        fleet.take(device.presence(1, online=online))
        fleet.take(device.presence(1, online=online), now=NOON + HOUR)  # retained, told again

        found = standing(fleet.row(device), Reach())

        assert found.presence == ("online" if online else "offline")
        assert found.since == NOON

    @pytest.mark.parametrize("online", [True, False])
    def test_while_a_way_to_us_is_cut_it_is_unknown_since_then(
        self, fleet: EnrolledFleet, device: EnrolledDevice, online: bool
    ) -> None:
        fleet.take(device.presence(1, online=online))
        site = Reach(away_since=NOON + HOUR, name="the link to site harbour")

        found = standing(fleet.row(device), Reach(), site)

        assert (found.presence, found.since) == (Presence.UNKNOWN, NOON + HOUR)
        assert found.because == "the link to site harbour is away"

    def test_a_broker_that_forgot_says_nothing_of_who_was_not_heard_since(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.presence(1, online=True))
        forgot = Reach(forgot_at=NOON + HOUR)

        before = standing(fleet.row(device), forgot)
        fleet.take(device.numbered(1, 1), now=NOON + 2 * HOUR)
        after = standing(fleet.row(device), forgot)

        assert (before.presence, before.since) == (Presence.UNKNOWN, NOON)
        assert after.presence is Presence.ONLINE

    def test_our_own_connection_is_away_from_the_start_until_it_is_there(self) -> None:
        reach = BrokerReach(NOON)
        assert reach.now.away_since == NOON

        reach.look(connected=True, at=NOON + SECOND)
        assert reach.now.away_since is None
        reach.look(connected=False, at=NOON + HOUR)
        reach.look(connected=False, at=NOON + 2 * HOUR)
        assert reach.now.away_since == NOON + HOUR
        reach.forgot(NOON + 3 * HOUR)
        reach.look(connected=True, at=NOON + 3 * HOUR)
        assert reach.now == replace(reach.now, away_since=None, forgot_at=NOON + 3 * HOUR)


class TestClock:
    def test_the_offset_is_the_devices_clock_less_ours(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.report(observed_at=NOON_MS + 90_000))

        row = fleet.row(device)
        assert (row.clock_offset_ms, row.clock_seen_at) == (90_000, NOON)

    def test_of_two_measures_the_one_that_was_less_on_its_way_counts(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.report(observed_at=NOON_MS), now=NOON + SECOND / 2)
        fleet.take(device.report(observed_at=NOON_MS + 1000), now=NOON + 9 * SECOND)
        assert fleet.row(device).clock_offset_ms == -500

        fleet.take(device.report(observed_at=NOON_MS + 10_000), now=NOON + 10.2 * SECOND)
        assert fleet.row(device).clock_offset_ms == -200

    def test_a_clock_may_have_been_set_after_an_hour_or_a_start(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.report(observed_at=NOON_MS + 60_000))
        later = NOON + device_signs.CLOCK_MEASURE_KEPT + SECOND
        fleet.take(device.report(observed_at=to_ms(later)), now=later)
        assert fleet.row(device).clock_offset_ms == 0

        fleet.take(device.report(session=2, observed_at=0), now=later)
        assert fleet.row(device).clock_offset_ms == -to_ms(later)

    def test_an_old_report_that_the_broker_retained_measures_nothing(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.report(observed_at=5, retain=True))

        assert fleet.row(device).clock_offset_ms is None

    def test_a_clock_that_was_at_2100_does_not_shut_out_what_follows(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        far_ms = to_ms(NOON.replace(year=2100))
        fleet.take(device.report(observed_at=far_ms))
        fleet.take(device.report(observed_at=NOON_MS, manifest_counter=7))

        row = fleet.row(device)
        assert row.report is not None
        assert row.report["manifest_counter"] == 7
        assert row.manifest_counter == 7

    @pytest.mark.parametrize("observed_at", [-(1 << 63), 0, (1 << 64) - 1])
    def test_whatever_a_clock_says_can_be_stored(
        self, fleet: EnrolledFleet, device: EnrolledDevice, observed_at: int
    ) -> None:
        result = fleet.take(device.report(observed_at=observed_at), device.numbered(1, 1))

        assert result.events == {"trust_stale": 1}


@pytest.mark.parametrize(
    ("means", "because"),
    [
        ("normal", "its connection to the broker has ended"),
        ("expected", "its connection to the broker has ended, as is expected of its class"),
        ("error", "its connection to the broker has ended, which is an error for its class"),
    ],
)
def test_a_device_that_is_offline_is_told_with_what_that_means_for_its_class(
    fleet: EnrolledFleet, device: EnrolledDevice, means: str, because: str
) -> None:
    fleet.take(device.presence(1, online=False))
    offline = standing(fleet.row(device), Reach())
    unknown = standing(fleet.row(device), Reach(away_since=NOON))

    assert in_words(offline, WhenDisconnected(means)) == because
    assert in_words(unknown, WhenDisconnected(means)) == unknown.because
