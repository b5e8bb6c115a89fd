"""History is thinned as promised, in short steps, and nothing else goes."""

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from enrolled_fleet import DIGEST, EPOCH, NOON, EnrolledDevice, EnrolledFleet
from mailboat_controller.ingest.settings import RetentionSettings
from mailboat_controller.store import audit, events, retention, tables, telemetry
from mailboat_controller.store.events import UnreadRow
from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.retention import LEVEL_DAY, LEVEL_HOUR, LEVEL_SENT, Step
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import LatencySketch, TelemetryWindow
from postgres_server import PostgresServer

SECONDS = 60
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def fleet(tmp_path: Path, database_url: str) -> Iterator[EnrolledFleet]:
    fleet = EnrolledFleet(tmp_path, database_url)
    yield fleet
    fleet.store.close()


@pytest.fixture
def device(fleet: EnrolledFleet) -> EnrolledDevice:
    return fleet.enrol("dev-1")


def window(sequence: int, started_at: datetime, **more: object) -> TelemetryWindow:
    content: dict[str, object] = {
        "sequence": sequence,
        "model": "vad",
        "version": "1.0.0",
        "digest": DIGEST,
        "started_at": to_ms(started_at),
        "seconds": 60,
        "requests_ok": 10,
        "requests_error": 1,
        "latency": LatencySketch(
            relative_accuracy=0.01, offset=3, bins=(4, 6), count=10, sum_ms=25.0
        ),
    }
    return TelemetryWindow.model_validate({**content, **more})


def store_windows(
    fleet: EnrolledFleet, windows: list[TelemetryWindow], device: str = "dev-1"
) -> None:
    """Each received a minute after it began."""
    with fleet.store.device_transaction() as tx:
        for each in windows:
            began = NOON + timedelta(milliseconds=each.started_at - to_ms(NOON))
            telemetry.append(tx, device, EPOCH, [each], began + MINUTE)


def merge(fleet: EnrolledFleet, level: int, older_than: datetime) -> Step:
    with fleet.store.device_transaction() as tx:
        return retention.merge_telemetry(tx, level=level, older_than=older_than)


def held(fleet: EnrolledFleet) -> list[tuple[int, datetime, TelemetryWindow]]:
    t = tables.telemetry.c
    with fleet.store.read() as tx:
        rows = tx.execute(
            select(t.level, t.began_at, t.content).order_by(t.began_at, t.device, t.id)
        )
        return [
            (
                row.level,
                NOON + timedelta(milliseconds=row.began_at - to_ms(NOON)),
                TelemetryWindow.model_validate(row.content),
            )
            for row in rows
        ]


class TestTelemetry:
    def test_an_hours_windows_become_one_with_the_same_sums(self, fleet: EnrolledFleet) -> None:
        store_windows(fleet, [window(n + 1, NOON + n * MINUTE) for n in range(60)])

        merge(fleet, LEVEL_HOUR, NOON + HOUR)

        ((level, began, one),) = held(fleet)
        assert (level, began) == (LEVEL_HOUR, NOON)
        assert (one.requests_ok, one.requests_error, one.seconds) == (600, 60, 3600)
        assert one.latency is not None
        assert (one.latency.count, one.latency.bins) == (600, (240, 360))

    def test_hours_become_days(self, fleet: EnrolledFleet) -> None:
        midnight = NOON - 12 * HOUR
        store_windows(fleet, [window(n + 1, midnight + n * HOUR) for n in range(24)])
        merge(fleet, LEVEL_HOUR, midnight + DAY)

        merge(fleet, LEVEL_DAY, midnight + DAY)

        ((level, began, one),) = held(fleet)
        assert (level, began, one.requests_ok) == (LEVEL_DAY, midnight, 240)

    def test_an_hour_that_is_not_over_stays_as_it_was_sent(self, fleet: EnrolledFleet) -> None:
        store_windows(fleet, [window(1, NOON), window(2, NOON + 20 * MINUTE)])

        merge(fleet, LEVEL_HOUR, NOON + 30 * MINUTE)

        assert [level for level, _, _ in held(fleet)] == [LEVEL_SENT, LEVEL_SENT]

    def test_a_window_that_comes_late_joins_its_hour(self, fleet: EnrolledFleet) -> None:
        store_windows(fleet, [window(1, NOON)])
        merge(fleet, LEVEL_HOUR, NOON + HOUR)
        store_windows(fleet, [window(2, NOON + MINUTE)])

        merge(fleet, LEVEL_HOUR, NOON + HOUR)

        ((_, _, one),) = held(fleet)
        assert one.requests_ok == 20

    def test_devices_releases_and_workloads_stay_apart(self, fleet: EnrolledFleet) -> None:
        store_windows(
            fleet,
            [
                window(1, NOON),
                window(2, NOON, digest="e" * 64),
                window(3, NOON, workload="batch"),
                window(4, NOON, workload="batch"),
            ],
        )
        store_windows(fleet, [window(1, NOON)], device="dev-2")

        merge(fleet, LEVEL_HOUR, NOON + HOUR)

        assert sorted(one.requests_ok for _, _, one in held(fleet)) == [10, 10, 10, 20]

    def test_steps_are_bounded_and_end_in_the_same(
        self, fleet: EnrolledFleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention, "ROWS_PER_STEP_MAX", 7)
        store_windows(fleet, [window(n + 1, NOON + n * MINUTE) for n in range(60)])

        steps = [merge(fleet, LEVEL_HOUR, NOON + HOUR)]
        while steps[-1].more:
            steps.append(merge(fleet, LEVEL_HOUR, NOON + HOUR))

        assert max(step.rows for step in steps) == 7
        ((_, _, one),) = held(fleet)
        assert one.requests_ok == 600

    def test_a_window_of_a_newer_program_is_in_nobodys_way(self, fleet: EnrolledFleet) -> None:
        store_windows(fleet, [window(1, NOON), window(2, NOON)])
        with fleet.store.device_transaction() as tx:
            one = tx.execute(select(tables.telemetry.c.id).limit(1)).scalar_one()
            tx.execute(
                tables.telemetry.update()
                .where(tables.telemetry.c.id == one)
                .values(content={"new": 1})
            )

        merge(fleet, LEVEL_HOUR, NOON + HOUR)

        assert merge(fleet, LEVEL_HOUR, NOON + HOUR).rows == 0
        with fleet.store.read() as tx:
            assert telemetry.count(tx) == 2

    def test_days_go_in_the_end_and_hours_never(self, fleet: EnrolledFleet) -> None:
        store_windows(fleet, [window(1, NOON), window(2, NOON + 2 * DAY)])
        merge(fleet, LEVEL_HOUR, NOON + 3 * DAY)
        merge(fleet, LEVEL_DAY, NOON + DAY)

        with fleet.store.device_transaction() as tx:
            step = retention.drop_telemetry(tx, older_than=NOON + 9 * DAY)

        assert step == Step(1, more=False)
        assert [level for level, _, _ in held(fleet)] == [LEVEL_HOUR]

    @pytest.mark.parametrize("year", [1970, 2100])
    def test_a_device_without_a_clock_is_thinned_by_ours(
        self, fleet: EnrolledFleet, device: EnrolledDevice, year: int
    ) -> None:
        wrong = NOON.replace(year=year)
        with fleet.store.device_transaction() as tx:
            telemetry.append(tx, device.name, EPOCH, [window(1, wrong)], NOON)

        merge(fleet, LEVEL_HOUR, NOON)
        assert [(level, began) for level, began, _ in held(fleet)] == [(LEVEL_SENT, NOON)]
        merge(fleet, LEVEL_HOUR, NOON + HOUR)
        assert [(level, began) for level, began, _ in held(fleet)] == [(LEVEL_HOUR, NOON)]


class TestEvents:
    def test_words_go_and_who_what_and_when_stay(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.tells(1, EventKind.ROLLED_BACK, because="slow"), now=NOON)
        fleet.take(device.tells(2, EventKind.ROLLED_BACK, because="slower"), now=NOON + DAY)

        with fleet.store.device_transaction() as tx:
            retention.strip_events(tx, older_than=NOON + HOUR)

        with fleet.store.read() as tx:
            first, second = events.page(tx)
        assert first.content == {}
        assert (first.kind, first.version, first.event_id) == (
            "rolled_back",
            "1.0.0",
            "vad:1:rolled_back",
        )
        assert second.content["because"] == "slower"

    def test_what_nobody_could_read_yet_stays_whole(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        row = UnreadRow(sequence=1, event_id="", content={"kind": "new"}, problem="kind")
        with fleet.store.device_transaction() as tx:
            events.append(tx, device.name, EPOCH, [row], NOON)
            retention.strip_events(tx, older_than=NOON + DAY)
            (kept,) = events.unread(tx)

        assert kept.content == {"kind": "new"}

    def test_steps_go_on_where_the_one_before_ended(
        self, fleet: EnrolledFleet, device: EnrolledDevice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention, "ROWS_PER_STEP_MAX", 2)
        fleet.take(device.numbered(1, 5), now=NOON)  # all received in the same millisecond

        def strip() -> Step:
            with fleet.store.device_transaction() as tx:
                return retention.strip_events(tx, older_than=NOON + DAY)

        assert [strip() for _ in range(4)] == [
            Step(2, more=True),
            Step(2, more=True),
            Step(1, more=False),
            Step(0, more=False),
        ]
        with fleet.store.read() as tx:
            assert [row.content for row in events.page(tx)] == [{}] * 5

    def test_in_the_end_they_go_and_the_audit_chain_holds(
        self, fleet: EnrolledFleet, device: EnrolledDevice
    ) -> None:
        fleet.take(device.hello(6, 9), device.numbered(6, 7), now=NOON)
        fleet.take(device.numbered(8, 9), now=NOON + DAY)

        with fleet.store.device_transaction() as tx:
            retention.drop_events(tx, older_than=NOON + HOUR)

        with fleet.store.read() as tx:
            assert [row.sequence for row in events.page(tx)] == [8, 9]
            assert len(audit.page(tx)) == 1
            assert audit.verify(tx) is None
        assert fleet.take(device.numbered(6, 7), now=NOON + DAY).events == {}


def test_two_leaders_for_a_moment_count_nothing_twice(fleet: EnrolledFleet) -> None:
    """The one before has lost its lock and does not know yet; both come to the same step."""
    store_windows(fleet, [window(n + 1, NOON + n * MINUTE) for n in range(60)])
    other = EnrolledFleet(fleet.directory / "other", fleet.url)
    began, done = threading.Event(), threading.Event()

    def second() -> None:
        began.set()
        merge(other, LEVEL_HOUR, NOON + HOUR)
        done.set()

    thread = threading.Thread(target=second)
    with fleet.store.device_transaction() as tx:
        retention.merge_telemetry(tx, level=LEVEL_HOUR, older_than=NOON + HOUR)
        thread.start()
        assert began.wait(SECONDS)
        assert not done.wait(0.2)
    thread.join(SECONDS)
    other.store.close()

    ((level, began_at, one),) = held(fleet)
    assert (level, began_at, one.requests_ok) == (LEVEL_HOUR, NOON, 600)


@pytest.mark.slow
def test_a_step_that_takes_long_keeps_nobody_from_telling(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    """On PostgreSQL; SQLite has one writer, so there a step is short."""
    fleet = EnrolledFleet(tmp_path, postgres.database("migrated"))
    device = fleet.enrol("dev-1")
    fleet.take(device.numbered(1, 3), device.telemetry(1, 3))
    later = NOON + 2 * DAY
    with fleet.store.device_transaction() as tx:
        retention.strip_events(tx, older_than=later)
        retention.drop_events(tx, older_than=later)
        assert retention.merge_telemetry(tx, level=LEVEL_HOUR, older_than=later).rows == 3
        retention.drop_telemetry(tx, older_than=later)
        retention.drop_fleet_sums(tx, older_than=NOON)

        taken = fleet.take(device.numbered(4, 5), device.telemetry(4, 6), now=NOON + DAY)

    assert (taken.events, taken.windows) == ({"trust_stale": 2}, 3)
    fleet.store.close()


def test_spans_that_would_thin_before_they_fill_are_refused() -> None:
    with pytest.raises(ValueError, match="must not go down"):
        RetentionSettings(window_days=30, hour_days=20)
    with pytest.raises(ValueError, match="event_full_days"):
        RetentionSettings(event_full_days=30, event_days=20)
