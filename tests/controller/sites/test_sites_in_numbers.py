"""Sites in the database, on both kinds, and what metrics and roll-ups say of them."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from enrolled_fleet import CLASS, NOON, EnrolledFleet
from mailboat_controller.metrics.process_metrics import Metrics
from mailboat_controller.metrics.site_metrics import SiteMetrics
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.sites import bridge_news
from mailboat_controller.sites.flapping import CHANGES_TOLD_MAX, Flapping
from mailboat_controller.sites.link_state import Link
from mailboat_controller.sites.policy import Policy, Window
from mailboat_controller.store import broker_access, credentials, devices, sites
from mailboat_schemas.enrolment import Kind

HOUR = timedelta(hours=1)


@pytest.fixture
def fleet(tmp_path: Path, database_url: str) -> Iterator[EnrolledFleet]:
    fleet = EnrolledFleet(tmp_path, database_url)
    add(fleet, "harbour", Policy.EXPECTED)
    yield fleet
    fleet.store.close()


def add(fleet: EnrolledFleet, name: str, policy: Policy) -> None:
    with fleet.store.transaction() as tx:
        sites.put(
            tx,
            name,
            policy=policy,
            expected_until=NOON + HOUR if policy is Policy.EXPECTED else None,
            windows=(Window(start="03:00", minutes=30),),
            broker_host=f"{name}.example",
            broker_port=8883,
            cache_url="",
            labels={"country": "no"},
            at=NOON,
        )


def tell(fleet: EnrolledFleet, name: str, *, connected: bool, at: timedelta) -> None:
    with fleet.store.transaction() as tx:
        sites.note_link(tx, name, connected=connected, retained=False, at=NOON + at)


def test_a_site_is_read_as_it_was_written(fleet: EnrolledFleet) -> None:
    with fleet.store.read() as tx:
        row = sites.get(tx, "harbour")

    assert row.windows == (Window(start="03:00", minutes=30),)
    assert (row.expected_until, row.created_at) == (NOON + HOUR, NOON)
    assert row.labels == {"country": "no"}


def test_devices_of_a_site_that_is_cut_off_are_counted_as_unknown(fleet: EnrolledFleet) -> None:
    near, far = fleet.enrol("near"), fleet.enrol("far", site="harbour")
    fleet.take(near.presence(1, online=True), far.presence(1, online=True))
    counts = []
    for connected in (True, False):
        tell(fleet, "harbour", connected=connected, at=timedelta())
        with fleet.store.read() as tx:
            (count,) = devices.count_by_class(tx)
            counts.append((count.hardware_class, count.online, count.offline, count.unknown))

    assert counts == [(CLASS, 2, 0, 0), (CLASS, 1, 0, 1)]


def test_a_connection_that_is_new_puts_in_doubt_who_was_connected_before(
    fleet: EnrolledFleet,
) -> None:
    """The broker may have been killed, and have forgotten what a bridge that is gone once said."""
    device = fleet.enrol("far", site="harbour")
    add(fleet, "quarry", Policy.ERROR)
    tell(fleet, "harbour", connected=True, at=timedelta())
    tell(fleet, "quarry", connected=False, at=timedelta())
    bridge_news.doubt(fleet.store, NOON + HOUR)
    bridge_news.doubt(fleet.store, NOON + 2 * HOUR)

    def links(hours: int) -> list[tuple[Link, datetime | None]]:
        with fleet.store.read() as tx:
            found = sites.standings(tx, NOON + hours * HOUR)
        return [(each.state.link, each.state.since) for each in found]

    assert links(1) == [(Link.UNCONFIRMED, NOON + HOUR), (Link.CUT, NOON)]
    assert links(2) == [(Link.CUT, NOON + HOUR), (Link.CUT, NOON)]
    fleet.take(device.numbered(1, 1), now=NOON + 3 * HOUR)
    assert links(3) == [(Link.CONNECTED, NOON), (Link.CUT, NOON)]
    tell(fleet, "harbour", connected=True, at=3 * HOUR)
    assert links(4) == [(Link.CONNECTED, NOON), (Link.CUT, NOON)]


def test_a_taken_site_that_plays_with_its_state_fills_no_log(fleet: EnrolledFleet) -> None:
    flapping = Flapping()

    def say(*payloads: bytes) -> int:
        topic = "$SYS/broker/connection/harbour/state"
        news = [Incoming(topic=topic, payload=each, retain=False) for each in payloads]
        return bridge_news.take(fleet.store, news, NOON, flapping)

    with capture_logs() as logs:
        assert say(*(500 * [b"0", b"1"])) == 1  # what was told last counts
        for _ in range(CHANGES_TOLD_MAX):
            assert say(b"0") + say(b"1") == 2

    assert len(logs) == CHANGES_TOLD_MAX + 1
    assert "its kit runs on two machines" in logs[-1]["next_step"]
    with fleet.store.read() as tx:
        assert sites.standing(tx, "harbour", NOON).state.link is Link.CONNECTED


def test_a_kit_that_runs_on_two_machines_is_told_once(fleet: EnrolledFleet) -> None:
    """Each takes the other's connection over: the broker says that the bridge is here, again and
    again, and never that it was gone."""
    flapping = Flapping()
    topic = "$SYS/broker/connection/harbour/state"
    here = Incoming(topic=topic, payload=b"1", retain=False)

    with capture_logs() as logs:
        for n in range(3 * CHANGES_TOLD_MAX):
            bridge_news.take(fleet.store, [here], NOON + timedelta(seconds=n), flapping)

    assert [each["event"] for each in logs] == [
        "site connected",
        "a site comes and goes; for now it is not told each time",
    ]


def test_metrics_say_how_long_a_site_is_cut_and_whether_that_was_expected(
    fleet: EnrolledFleet,
) -> None:
    add(fleet, "quarry", Policy.ERROR)
    add(fleet, "mole", Policy.NORMAL)
    for name in ("harbour", "quarry"):
        tell(fleet, name, connected=True, at=timedelta())
        tell(fleet, name, connected=False, at=HOUR / 2)
    with fleet.store.transaction() as tx:
        ends = NOON + timedelta(days=365)
        credentials.add(tx, serial="ab", name="quarry", kind=Kind.SITE, expires_at=ends, at=NOON)
    clock = [NOON + HOUR - timedelta(seconds=1)]
    metrics = Metrics(fleet.store, dict)
    metrics.add(SiteMetrics(fleet.store, lambda: clock[0]))
    before = metrics.render().decode()
    clock[0] += timedelta(seconds=1)
    after = metrics.render().decode()

    assert 'mailboat_site_connected{site="harbour"} 0.0' in before
    assert 'mailboat_site_connected{site="mole"}' not in before  # nothing has been cut yet
    assert 'mailboat_site_disconnected_seconds{site="quarry"} 1799.0' in before
    assert 'mailboat_site_disconnect_expected{site="harbour"} 1.0' in before
    assert 'mailboat_site_disconnect_expected{site="harbour"} 0.0' in after
    assert 'mailboat_site_disconnect_expected{site="quarry"} 0.0' in after
    assert 'mailboat_site_disconnect_expected{site="mole"} 1.0' in after
    assert 'mailboat_site_disconnect_policy{policy="error",site="quarry"} 1.0' in after
    assert "mailboat_site_certificate_expires_timestamp_seconds{" in after


def test_a_bridge_is_let_in_before_it_has_a_certificate_and_not_after_it_was_revoked(
    fleet: EnrolledFleet,
) -> None:
    def bridges() -> tuple[tuple[str, ...], tuple[str, ...]]:
        with fleet.store.read() as tx:
            access = broker_access.read(tx, NOON)
        return access.sites, access.cut_off

    assert bridges() == (("harbour",), ())
    with fleet.store.transaction() as tx:
        credentials.add(
            tx, serial="ab", name="harbour", kind=Kind.SITE, expires_at=NOON + HOUR, at=NOON
        )
    assert bridges() == (("harbour",), ())
    with fleet.store.transaction() as tx:
        credentials.revoke(tx, name="harbour", kind=Kind.SITE)
    assert bridges() == ((), ("harbour",))


def test_only_the_sites_own_revoked_devices_are_named_while_their_certificates_last(
    fleet: EnrolledFleet,
) -> None:
    fleet.enrol("here", site="harbour")
    fleet.enrol("there")
    with fleet.store.transaction() as tx:
        for name in ("here", "there"):
            devices.set_certificate(tx, name, serial=name, expires_at=NOON + HOUR)
            devices.revoke(tx, name)
        found = [sites.cut_off(tx, "harbour", NOON + hours * HOUR) for hours in (0, 1)]
        standing = sites.standing(tx, "harbour", NOON)

    assert found == [("here",), ()]
    assert (standing.state.link, standing.devices) == (Link.NEVER, 0)
