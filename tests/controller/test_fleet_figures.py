"""How the fleet's figures are summed up, kept, bounded and read."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from controller_core import CLASS, FLEET, Core, plan
from enrolled_fleet import NOON, EnrolledFleet
from mailboat_agent.journal.telemetry import sketch_by_value
from mailboat_agent.serving.window import LatencyWindow
from mailboat_controller.metrics import latency_buckets
from mailboat_controller.metrics.fleet_metrics import FleetMetrics
from mailboat_controller.metrics.fleet_roll_ups import LATELY, FleetPanels
from mailboat_controller.metrics.fleet_state import KEPT_SECONDS_MIN, REST_FACTOR, FleetReader
from mailboat_controller.metrics.process_metrics import Metrics
from mailboat_controller.rollout.members import Outcome
from mailboat_controller.sites.policy import Policy
from mailboat_controller.store import (
    class_counts,
    devices,
    fleet_counts,
    fleet_sums,
    retention,
    sites,
)
from mailboat_controller.store.fleet_counts import DISK_LOW_BYTES, SAID_FOR, SiteCount
from mailboat_controller.store.fleet_sums import GROUPS_READ_MAX, SumKey, SumRow
from mailboat_schemas.events import EventKind
from mailboat_schemas.names import is_label
from mailboat_schemas.reports import LatencySketch


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    core = Core(tmp_path)
    yield core
    core.store.close()


def sketch_of(latencies_ms: list[float]) -> LatencySketch:
    """As a device tells it."""
    window = LatencyWindow()
    for each in latencies_ms:
        window.add(each)
    sketch = sketch_by_value(window)
    assert sketch is not None
    return sketch


@pytest.mark.parametrize("quantile", [0.5, 0.95, 0.99, 0.999])
def test_a_quantile_of_many_devices_is_within_one_bucket_of_the_true_one(quantile: float) -> None:
    rng = random.Random(7)
    devices = [[rng.lognormvariate(1.5, 0.8) for _ in range(500)] for _ in range(8)]
    found: dict[str, float] = {}
    for latencies in devices:
        for part, number in latency_buckets.counts(sketch_of(latencies)).items():
            found[part] = found.get(part, 0.0) + number

    told = latency_buckets.quantile_seconds(found, quantile)

    everything = sorted(each for latencies in devices for each in latencies)
    true = everything[int(quantile * len(everything))] / 1000
    assert told is not None
    assert 1 / 1.62 < told / true < 1.62
    assert sum(found.values()) == len(everything)


def test_each_latency_is_in_its_bucket_but_for_one_per_cent_at_the_bounds() -> None:
    for bound, next_bound in zip(
        latency_buckets.BOUNDS_SECONDS, latency_buckets.BOUNDS_SECONDS[1:], strict=False
    ):
        for seconds, part in ((bound * 1.02, next_bound), (next_bound * 0.98, next_bound)):
            assert latency_buckets.counts(sketch_of([seconds * 1000])) == {str(part): 1.0}
    assert latency_buckets.counts(sketch_of([100_000.0])) == {latency_buckets.BEYOND: 1.0}
    assert latency_buckets.counts(sketch_of([0.0])) == {latency_buckets.PARTS[0]: 1.0}


def test_a_sketch_that_lies_costs_no_more_than_its_bins() -> None:
    lie = LatencySketch(
        relative_accuracy=1e-300, offset=-(1 << 60), bins=(1 << 62, -5), count=1, sum_ms=1e308
    )

    assert max(latency_buckets.counts(lie).values()) == latency_buckets.COUNT_MAX
    assert latency_buckets.sum_seconds(lie) == latency_buckets.SUM_SECONDS_MAX


def test_sums_of_several_add_up(database_url: str, tmp_path: Path) -> None:
    fleet = EnrolledFleet(tmp_path / "fleet", database_url)
    key = SumKey("d" * 64, CLASS, "-", "", "requests", "ok")
    for _ in range(3):
        with fleet.store.device_transaction() as tx:
            fleet_sums.add(tx, {key: 2.5, key._replace(part="error"): 1}, NOON)

    with fleet.store.read() as tx:
        rows, left_out = fleet_sums.read(tx)
    fleet.store.close()

    assert {row.part: row.amount for row in rows} == {"ok": 7.5, "error": 3.0}
    assert left_out == 0


def test_the_groups_told_of_last_are_read_and_the_others_counted(core: Core) -> None:
    with core.store.transaction() as tx:
        for number in range(GROUPS_READ_MAX + 2):
            key = SumKey("d" * 64, CLASS, f"site-{number}", "", "requests", "ok")
            fleet_sums.add(tx, {key: 1}, NOON + timedelta(seconds=number))

    with core.store.read() as tx:
        rows, left_out = fleet_sums.read(tx)

    assert left_out == 2
    assert len(rows) == GROUPS_READ_MAX
    assert not {"site-0", "site-1"} & {row.site for row in rows}


def test_sums_that_nothing_was_added_to_are_forgotten_in_time(core: Core) -> None:
    key = SumKey("d" * 64, CLASS, "-", "", "requests", "ok")
    with core.store.transaction() as tx:
        fleet_sums.add(tx, {key: 1}, NOON)
        assert retention.drop_fleet_sums(tx, older_than=NOON).rows == 0
        step = retention.drop_fleet_sums(tx, older_than=NOON + timedelta(seconds=1))

    assert (step.rows, step.more) == (1, False)


def test_sums_are_forgotten_a_step_at_a_time(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROWS_PER_STEP_MAX", 2)
    keys = [SumKey("d" * 64, CLASS, f"site-{n}", "", "requests", "ok") for n in range(3)]
    with core.store.transaction() as tx:
        fleet_sums.add(tx, dict.fromkeys(keys, 1.0), NOON)
        later = NOON + timedelta(seconds=1)
        steps = [retention.drop_fleet_sums(tx, older_than=later) for _ in range(2)]

    assert [(step.rows, step.more) for step in steps] == [(2, True), (1, False)]


def test_how_the_fleet_stands_is_read_a_twentieth_of_the_time_at_most(core: Core) -> None:
    took_seconds = 3.0
    clock = count(start=0.0, step=took_seconds)
    reader = FleetReader(elapsed_seconds=lambda: next(clock))
    with core.store.read() as tx:
        first = reader.read(tx, NOON)  # looked at the clock at 0 and 3
        kept = 0
        while reader.read(tx, NOON) is first:
            kept += 1

    assert kept * took_seconds >= REST_FACTOR * took_seconds - 2 * took_seconds
    assert kept * took_seconds > KEPT_SECONDS_MIN


def test_devices_are_counted_by_what_is_wrong_with_them(core: Core) -> None:
    low = core.fleet.enrol("low", site="harbour")
    core.fleet.enrol("silent", site="harbour")
    facts = {"disk_free_bytes": DISK_LOW_BYTES - 1}
    core.fleet.take(low.report(facts=facts), low.presence(1, online=True))

    with core.store.read() as tx:
        (site,) = fleet_counts.by_site(tx, NOON + timedelta(hours=2))

    assert (site.site, site.online, site.unknown, site.disk_low) == ("harbour", 1, 1, 1)
    assert site.unseen == (2, 0, 0)  # the one that never spoke was enrolled two hours ago


def test_devices_are_counted_that_say_how_far_behind_they_are(core: Core) -> None:
    for name, notes in (
        ("told", ("stale:vad",)),
        ("stopped", ("stale:vad", "stale_stopped:vad")),
        ("other", ("trust_stale",)),
        ("quiet", ()),
    ):
        core.fleet.take(core.fleet.enrol(name).report(notes=notes))

    with core.store.read() as tx:
        assert class_counts.stale(tx, NOON - SAID_FOR) == ((CLASS, 2, 1),)
        assert class_counts.stale(tx, NOON + SAID_FOR) == ((CLASS, 0, 0),)
        state = FleetReader().read(tx, NOON)
    metrics = {each.name: each for each in FleetMetrics(lambda: state).collect()}
    found = {
        each.labels["action"]: each.value for each in metrics["mailboat_devices_stale"].samples
    }
    assert found == {"told": 1, "stopped": 1}


@pytest.mark.parametrize(("means", "unseen"), [("normal", 1), ("error", 1), ("expected", 0)])
def test_a_device_whose_silence_is_expected_is_missed_by_nobody(
    core: Core, means: str, unseen: int
) -> None:
    core.add_class(CLASS, when_disconnected=means)
    core.fleet.enrol("silent")

    with core.store.read() as tx:
        (site,) = fleet_counts.by_site(tx, NOON + timedelta(hours=2))
        state = FleetReader().read(tx, NOON)
    assert (site.unknown, site.unseen[0], site.awaited) == (1, unseen, unseen)
    metrics = {each.name: each for each in FleetMetrics(lambda: state).collect()}
    (awaited,) = metrics["mailboat_site_devices_awaited"].samples
    assert (awaited.labels, awaited.value) == ({"site": "-"}, unseen)
    told = metrics["mailboat_class_disconnect_policy"].samples
    assert [each.labels["policy"] for each in told if each.value] == [means]


def test_what_a_device_said_a_week_ago_calls_nobody_for_ever(core: Core) -> None:
    low = core.fleet.enrol("low", site="harbour")
    core.fleet.take(low.report(facts={"disk_free_bytes": DISK_LOW_BYTES - 1}))

    def after(span: timedelta) -> SiteCount:
        with core.store.read() as tx:
            (site,) = fleet_counts.by_site(tx, NOON + span)
        return site

    assert after(SAID_FOR).disk_low == 1
    later = after(SAID_FOR + timedelta(seconds=1))
    assert (later.disk_low, later.unseen) == (0, (1, 1, 1))


def test_at_a_site_that_is_cut_off_devices_are_unknown_as_they_are_in_their_class(
    core: Core,
) -> None:
    device = core.fleet.enrol("dev-1", site="harbour")
    core.fleet.take(device.report(), device.presence(1, online=True))
    with core.store.transaction() as tx:
        sites.put(
            tx,
            "harbour",
            policy=Policy.ERROR,
            expected_until=None,
            windows=(),
            broker_host="",
            broker_port=8883,
            cache_url="",
            labels={},
            at=NOON,
        )
        sites.note_link(tx, "harbour", connected=False, retained=False, at=NOON)

    with core.store.read() as tx:
        (site,) = fleet_counts.by_site(tx, NOON)
        (of_class,) = devices.count_by_class(tx)

    assert (site.online, site.unknown) == (of_class.online, of_class.unknown) == (0, 1)


def test_beyond_so_many_sites_the_smallest_are_added_up(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_counts, "SITES_COUNTED_MAX", 3)
    names = {"-": 1, "big": 2, "small-1": 1, "small-2": 1}
    for site, number in names.items():
        for each in range(number):
            core.fleet.enrol(f"{site.strip('-') or 'direct'}-{each}", site=site)

    with core.store.read() as tx:
        counts = fleet_counts.by_site(tx, NOON + timedelta(hours=1, seconds=1))

    assert [(each.site, each.unknown) for each in counts] == [
        ("-", 1),
        ("big", 2),
        (fleet_counts.OTHER_SITES, 2),
    ]
    assert counts[-1].unseen == (2, 0, 0)
    assert not is_label(fleet_counts.OTHER_SITES)


def test_a_device_is_counted_once_by_its_newest_try(core: Core) -> None:
    device = core.fleet.enrol("dev-1")
    digest = core.release("1.0.0", plan("first"))
    core.tell(device, EventKind.TRIAL_FAILED, digest)
    core.tell(device, EventKind.COMMITTED, digest, retry_epoch=1)

    with core.store.read() as tx:
        counted = fleet_counts.outcomes(tx, core.now)

    assert {each.outcome: each.devices for each in counted if each.devices} == {"ok": 1}


def test_a_failure_is_known_to_be_the_first_one(core: Core) -> None:
    """Or an alert on how many more there are would not see it."""
    core.fleet.enrol("dev-1")
    core.release("1.0.0", plan("first"))

    with core.store.read() as tx:
        counted = fleet_counts.outcomes(tx, core.now)

    assert {each.outcome: each.devices for each in counted} == dict.fromkeys(Outcome, 0)


def test_what_comes_twice_is_summed_once(core: Core) -> None:
    device = core.fleet.enrol("dev-1")
    digest = core.release("1.0.0", plan("first"))
    told = [device.tells(1, EventKind.COMMITTED, digest=digest)] * 2

    for _ in range(2):
        core.fleet.take(*told)
    with core.store.read() as tx:
        rows, _ = fleet_sums.read(tx)

    assert [(row.part, row.amount) for row in rows if row.figure == "events"] == [("committed", 1)]


def test_a_name_may_have_any_letters_and_stays_one_label(core: Core) -> None:
    name = 'a"} 1\nmailboat_devices{x="\\'
    row = SumRow(name, "1.0.0", CLASS, name, "", "requests", "ok", 3.0)
    with core.store.read() as tx:
        state = replace(FleetReader().read(tx, NOON), sums=(row,))

    shown = Metrics(None, dict, state=lambda: state)
    shown.add(FleetMetrics(lambda: state))
    families = list(text_string_to_metric_families(shown.render().decode()))

    (sample,) = next(each for each in families if each.name == "mailboat_requests").samples
    assert (sample.labels["model"], sample.labels["site"], sample.value) == (name, name, 3.0)


def test_people_are_told_from_machines_in_the_audit_log(core: Core) -> None:
    core.release("1.0.0", plan("first"))

    with core.store.read() as tx:
        found, newest = fleet_counts.audited(tx, after=0)
        again, _ = fleet_counts.audited(tx, after=newest)

    assert {each.actor for each in found} <= {"ci", "controller", "operator", "approver"}
    assert sum(each.entries for each in found) == newest
    assert again == ()


def test_a_rate_is_of_the_last_minutes_and_absent_until_there_are_two_looks(core: Core) -> None:
    device = core.fleet.enrol("dev-1")
    digest = core.release("1.0.0", plan("first"))
    core.tell(device, EventKind.COMMITTED, digest)
    looks = count()
    # Each look is anew: the clock is read before and after it.
    panels = FleetPanels(FLEET, elapsed_seconds=lambda: next(looks) // 2 * KEPT_SECONDS_MIN)
    key = SumKey(digest, CLASS, "-", "", "requests", "ok")

    def look(after: timedelta, requests: float) -> dict[str, object]:
        with core.store.transaction() as tx:
            fleet_sums.add(tx, {key: requests}, core.now)
        with core.store.read() as tx:
            found = panels.roll_ups(tx, core.now + after)
        return dict(found["model/vad"])

    first = look(timedelta(0), 1_000_000)
    second = look(timedelta(minutes=1), 600)
    later = look(timedelta(minutes=1) + LATELY, 0)

    assert "requests_per_second" not in first
    assert second["requests_per_second"] == 10
    assert later["requests_per_second"] == 0


def test_how_the_fleet_stands_is_read_from_either_database(
    database_url: str, tmp_path: Path
) -> None:
    fleet = EnrolledFleet(tmp_path / "fleet", database_url)
    device = fleet.enrol("dev-1", site="harbour")
    report = device.report(facts={"disk_free_bytes": 1}, notes=("held", "stale:vad"))
    fleet.take(report, device.presence(1, online=True))

    with fleet.store.read() as tx:
        state = FleetReader(("dev-1",)).read(tx, NOON)
    fleet.store.close()

    (site,) = state.sites
    assert (site.site, site.online, site.disk_low, site.unseen) == ("harbour", 1, 1, (0, 0, 0))
    assert [each.device for each in state.canaries] == ["dev-1"]
    assert state.stale == ((CLASS, 1, 0),)
