import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from controller_core import Core, plan
from enrolled_fleet import CLASS, FLEET
from mailboat_controller import stats
from mailboat_controller.metrics.process_metrics import Metrics
from mailboat_controller.store import device_signs
from mailboat_schemas.events import EventKind


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    core = Core(tmp_path)
    yield core
    core.store.close()


def roll_ups(core: Core) -> dict[str, stats.RollUp]:
    with core.store.read() as tx:
        return stats.roll_ups(tx, FLEET, core.now)


def test_a_roll_up_is_flat_numbers_and_words_under_a_short_topic(core: Core) -> None:
    core.fleet.enrol("dev-1")
    core.release("1.0.0", plan("first"))

    news = stats.Publisher(FLEET).news(roll_ups(core), core.now)

    assert {topic for topic, _ in news} == {
        f"mb/1/{FLEET}/stats/fleet/{FLEET}",
        f"mb/1/{FLEET}/stats/class/{CLASS}",
        f"mb/1/{FLEET}/stats/rollout/first",
    }
    for topic, payload in news:
        content = json.loads(payload)
        assert len(topic) < 60
        assert content.pop("t") == core.now.timestamp()
        assert "Time" not in content
        assert all(type(value) in {int, float, str} for value in content.values())


def test_the_places_of_a_rollout_add_up(core: Core) -> None:
    first, *_ = [core.fleet.enrol(f"dev-{n}") for n in (1, 2, 3)]
    digest = core.release("1.0.0", plan("first"))
    core.tell(first, EventKind.COMMITTED, digest)

    found = roll_ups(core)["rollout/first"]

    places = ("excluded", "not_open", "waiting", "in_progress", "ok", "failed")
    assert [found[place] for place in places] == [0, 0, 2, 0, 1, 0]
    assert found["devices"] == 3


def test_only_what_changed_is_sent_again(core: Core) -> None:
    device = core.fleet.enrol("dev-1")
    publisher = stats.Publisher(FLEET)
    publisher.news(roll_ups(core), core.now)
    assert publisher.news(roll_ups(core), core.now) == []

    with core.store.transaction() as tx:
        device_signs.set_presence(tx, device.name, session=1, online=True, at=core.now)

    assert len(publisher.news(roll_ups(core), core.now)) == 2
    publisher.forget()
    assert len(publisher.news(roll_ups(core), core.now)) == 2


def test_a_device_never_heard_of_is_unknown_and_not_offline(core: Core) -> None:
    core.fleet.enrol("dev-1")

    assert roll_ups(core)[f"class/{CLASS}"]["unknown"] == 1
    assert roll_ups(core)[f"class/{CLASS}"]["offline"] == 0


def test_a_rollout_that_ended_long_ago_is_not_shown_any_more(core: Core) -> None:
    device = core.fleet.enrol("dev-1")
    digest = core.release("1.0.0", plan("first"))
    core.tell(device, EventKind.TRIAL_FAILED, digest)
    assert "rollout/first" in roll_ups(core)

    core.now += stats.SHOWN_AFTER_END + timedelta(seconds=1)

    assert "rollout/first" not in roll_ups(core)


def test_the_metrics_tell_what_came_and_where_everything_stands(core: Core) -> None:
    device = core.fleet.enrol("dev-1")
    core.release("1.0.0", plan("first"))
    latest = roll_ups(core)
    metrics = Metrics(core.store, lambda: latest)
    metrics.count_batch(core.fleet.take(device.numbered(1, 3), device.telemetry(1, 2)), 0.01)
    metrics.count_acks(1, 1)
    metrics.count_published((CLASS,))

    text = metrics.render().decode()

    for line in (
        'mailboat_events_ingested_total{kind="trust_stale"} 3.0',
        "mailboat_telemetry_windows_ingested_total 2.0",
        "mailboat_acks_sent_total 1.0",
        "mailboat_rewinds_requested_total 1.0",
        f'mailboat_manifest_publishes_total{{hardware_class="{CLASS}"}} 1.0',
        f'mailboat_devices{{hardware_class="{CLASS}",state="unknown"}} 1.0',
        'mailboat_rollout_devices{outcome="waiting",rollout="first"} 1.0',
        "mailboat_outbox_messages 1.0",
        "mailboat_ingest_batch_seconds_count 1.0",
    ):
        assert line in text.splitlines()
    assert "dev-1" not in text  # no label per device


def test_every_name_is_what_prometheus_expects(core: Core) -> None:
    """What `promtool check metrics` says, where it is not installed: base units, suffixes for
    counters alone, no kind of metric in a name."""
    core.fleet.enrol("dev-1")
    core.release("1.0.0", plan("first"))
    text = Metrics(core.store, lambda: roll_ups(core)).render().decode()

    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE))
    assert kinds.keys() == helps.keys()
    for name, kind in kinds.items():
        assert re.fullmatch(r"mailboat(_[a-z]+)+", name)
        assert name.endswith("_total") == (kind == "counter")
        assert not set(name.split("_")) & {"counter", "gauge", "histogram", "ms", "ns", "count"}


def test_a_completed_release_is_counted_while_it_is_current_and_a_week_longer(core: Core) -> None:
    device = core.fleet.enrol("dev-1")
    old = core.release("1.0.0", plan("first"))
    core.tell(device, EventKind.COMMITTED, old)
    core.now += stats.SHOWN_AFTER_END + timedelta(days=1)
    assert "rollout/first" in roll_ups(core)

    new = core.release("1.1.0", plan("second"))
    core.tell(device, EventKind.COMMITTED, new)

    assert set(roll_ups(core)) == {f"fleet/{FLEET}", f"class/{CLASS}", "rollout/second"}
