"""Figures of live traffic, from a device's window to what Prometheus scrapes."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from controller_core import CLASS, Core, plan
from enrolled_fleet import EnrolledDevice
from mailboat_controller.metrics.fleet_state import FleetReader
from mailboat_controller.metrics.process_metrics import Metrics
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.store import fleet_sums, tables
from mailboat_controller.store.instants import to_ms
from mailboat_schemas.documents.live_gates import COUNTERS_MAX
from mailboat_schemas.envelope import PayloadType
from mailboat_schemas.host_figures import Gauge, HostFigures
from mailboat_schemas.live_figures import CounterSum
from mailboat_schemas.reports import TelemetryBatch, TelemetryWindow
from mailboat_schemas.topics import Channel

FIGURES: dict[str, Any] = {
    "shadow": {"mirrored": 7, "dropped": 2, "agreed": 4, "differed": 1, "failed": 0, "pauses": 3},
    "counters": {"accuracy": {"good": 9, "total": 10}},
    "values": {"order_eur": {"count": 2, "sum": -1.5}},
    "degraded": {"fallback": 5},
    "shifts": [
        {"tensor": "x", "side": "input", "requests": 9, "shift": 0.3},
        {"tensor": "z", "side": "input", "requests": 9, "shift": 0.1},
    ],
}


def window(digest: str, sequence: int = 1, **more: Any) -> TelemetryWindow:
    content = {
        "sequence": sequence,
        "model": "vad",
        "version": "1.0.0",
        "digest": digest,
        "started_at": 0,
        "seconds": 60,
        "requests_ok": 1,
        "requests_error": 0,
    }
    return TelemetryWindow.model_validate(content | FIGURES | more)


def telemetry(device: EnrolledDevice, *windows: TelemetryWindow) -> Incoming:
    return telemetry_from(device, 1, *windows)


def telemetry_from(device: EnrolledDevice, first: int, *windows: TelemetryWindow) -> Incoming:
    batch = TelemetryBatch(device=device.name, epoch=device.epoch, first=first, windows=windows)
    return Incoming(
        topic=device.topic(Channel.TELEMETRY),
        payload=device.sealed(PayloadType.TELEMETRY_BATCH, batch),
    )


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    core = Core(tmp_path)
    yield core
    core.store.close()


def shown(core: Core) -> list[str]:
    """What a scrape would show, by line."""
    reader = FleetReader()
    with core.store.read() as tx:
        state = reader.read(tx, core.now)
    return Metrics(core.store, dict, state=lambda: state).render().decode().splitlines()


def sums(core: Core) -> list[fleet_sums.SumRow]:
    with core.store.read() as tx:
        return fleet_sums.read(tx)[0]


def test_each_figure_is_in_the_rows_and_in_the_metrics(core: Core) -> None:
    device, digest = core.fleet.enrol("dev-1"), core.release("1.0.0", plan("first"))

    core.fleet.take(telemetry(device, window(digest), window(digest, 2)))

    with core.store.read() as tx:
        rows = list(tx.execute(select(tables.telemetry.c.content)).scalars())
    for row in rows:
        assert {name: row[name] for name in FIGURES} == FIGURES
    of = f'hardware_class="{CLASS}",'
    to = 'model="vad",'
    lines = shown(core)
    for line in (
        f'mailboat_shadow_requests_total{{{of}{to}outcome="differed",version="1.0.0"}} 2.0',
        f'mailboat_shadow_requests_total{{{of}{to}outcome="mirrored",version="1.0.0"}} 14.0',
        f'mailboat_shadow_pauses_total{{{of}{to}version="1.0.0"}} 6.0',
        f'mailboat_feedback_counted_total{{counter="accuracy",{of}{to}version="1.0.0"}} 20.0',
        f'mailboat_feedback_good_total{{counter="accuracy",{of}{to}version="1.0.0"}} 18.0',
        f'mailboat_feedback_values_total{{{of}{to}value="order_eur",version="1.0.0"}} 4.0',
        f'mailboat_feedback_values_added_up{{{of}{to}value="order_eur",version="1.0.0"}} -3.0',
        f'mailboat_degraded_answers_total{{{of}mode="fallback",{to}version="1.0.0"}} 10.0',
        f'mailboat_drift_shift_ratio_bucket{{{of}le="0.25",{to}side="input",version="1.0.0"}} 0.0',
        f'mailboat_drift_shift_ratio_bucket{{{of}le="0.5",{to}side="input",version="1.0.0"}} 2.0',
        f'mailboat_drift_shift_ratio_count{{{of}{to}side="input",version="1.0.0"}} 2.0',
    ):
        assert line in lines


def test_what_a_device_without_a_release_tells_of_itself_is_in_the_sums_of_no_release(
    core: Core,
) -> None:
    host = HostFigures(load_1m=Gauge.of(0.5), energy_joules=5.0, energy_seconds=60.0)
    alone = TelemetryWindow(
        sequence=1, started_at=0, seconds=60, requests_ok=0, requests_error=0, host=host
    )

    taken = core.fleet.take(telemetry(core.fleet.enrol("dev-1"), alone))

    assert taken.windows == 1
    with core.store.read() as tx:
        (row,) = tx.execute(select(tables.telemetry)).fetchall()
    assert (row.model, row.version, row.digest) == ("", "", "")
    assert TelemetryWindow.model_validate(row.content) == alone
    assert {(row.model, row.figure) for row in sums(core)} <= {("", "energy_joules")}


@pytest.mark.parametrize("lie", [{"digest": "e" * 64}, {"version": "9.9.9"}, {"model": "other"}])
def test_a_device_makes_no_series_of_releases_that_do_not_exist(
    core: Core, lie: dict[str, str]
) -> None:
    device = core.fleet.enrol("dev-1")
    told = window(core.release("1.0.0", plan("first"))).model_copy(update=lie)

    taken = core.fleet.take(telemetry(device, told))

    assert taken.windows == 1
    assert sums(core) == []


def test_energy_is_of_the_machine_whatever_it_serves(core: Core) -> None:
    device = core.fleet.enrol("dev-1")
    host = HostFigures(energy_joules=40.0, energy_seconds=60.0)
    told = window("e" * 64).model_copy(update={"host": host})

    core.fleet.take(telemetry(device, told))

    assert {(row.model, row.figure): row.amount for row in sums(core)}[("", "energy_joules")] == 40


def test_a_release_has_a_bounded_number_of_names(core: Core) -> None:
    device, digest = core.fleet.enrol("dev-1"), core.release("1.0.0", plan("first"))
    core.fleet.take(telemetry(device, window(digest)))
    names = {f"c{n}": CounterSum(good=1, total=1) for n in range(COUNTERS_MAX)}
    told = window(digest, 2).model_copy(update={"counters": names})

    core.fleet.take(telemetry_from(device, 2, told))

    counted = {row.part for row in sums(core) if row.figure == "counted"}
    assert len(counted) == COUNTERS_MAX
    assert "accuracy" in counted  # it was there first


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_a_figure_that_is_no_number_is_not_read(core: Core, figure: float) -> None:
    device, digest = core.fleet.enrol("dev-1"), core.release("1.0.0", plan("first"))
    lie = window(digest)
    value = lie.values["order_eur"].model_copy(update={"sum": figure})

    taken = core.fleet.take(telemetry(device, lie.model_copy(update={"values": {"a": value}})))

    assert taken.windows == 0
    assert sums(core) == []


def test_the_newest_good_inference_of_a_class_is_shown_however_windows_arrive(core: Core) -> None:
    device = core.fleet.enrol("dev-1")
    digest = core.release("1.0.0", plan("first"))
    metrics = Metrics(None, dict)
    newest, earlier = to_ms(core.now - timedelta(minutes=1)), to_ms(core.now - timedelta(days=2))

    for first, at in ((1, newest), (2, earlier)):
        message = telemetry_from(device, first, window(digest, first, last_ok_at=at))
        metrics.count_batch(core.fleet.take(message, now=core.now), 0.01)

    assert shown_answers(metrics) == [(CLASS, newest / 1000)]


def test_an_inference_of_next_year_was_answered_by_now(core: Core) -> None:
    device = core.fleet.enrol("dev-1")
    digest = core.release("1.0.0", plan("first"))
    metrics = Metrics(None, dict)
    ahead = window(digest, last_ok_at=to_ms(core.now + timedelta(days=365)))

    metrics.count_batch(core.fleet.take(telemetry(device, ahead), now=core.now), 0.01)

    assert shown_answers(metrics) == [(CLASS, to_ms(core.now) / 1000)]


def test_a_model_that_a_device_made_up_has_no_series(core: Core) -> None:
    device = core.fleet.enrol("dev-1")
    metrics = Metrics(None, dict)
    made_up = window("0" * 64, last_ok_at=to_ms(core.now))

    metrics.count_batch(core.fleet.take(telemetry(device, made_up), now=core.now), 0.01)

    assert shown_answers(metrics) == []


def shown_answers(metrics: Metrics) -> list[tuple[str, float]]:
    """Class and seconds since 1970 UTC, of each series."""
    name = "mailboat_model_last_inference_timestamp_seconds"
    found = re.findall(
        rf'^{name}{{hardware_class="(.*)",model="vad"}} (.*)$', metrics.render().decode(), re.M
    )
    return [(hardware_class, float(at)) for hardware_class, at in found]
