"""Figures of live traffic, from a device's window to what Prometheus scrapes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from controller_core import CLASS, Core, plan
from enrolled_fleet import EnrolledDevice
from mailboat_controller.ingest.live_windows import LiveWindow
from mailboat_controller.live_metrics import RELEASES_MAX, LiveMetrics
from mailboat_controller.metrics import Metrics
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.store import tables
from mailboat_schemas.documents.live_gates import COUNTERS_MAX
from mailboat_schemas.envelope import PayloadType
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
    batch = TelemetryBatch(device=device.name, epoch=device.epoch, first=1, windows=windows)
    return Incoming(
        topic=device.topic(Channel.TELEMETRY),
        payload=device.sealed(PayloadType.TELEMETRY_BATCH, batch),
    )


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    core = Core(tmp_path)
    yield core
    core.store.close()


def test_each_figure_is_in_the_rows_and_in_the_metrics(core: Core) -> None:
    device, digest = core.fleet.enrol("dev-1"), core.release("1.0.0", plan("first"))
    metrics = Metrics(core.store, dict)

    metrics.count_batch(core.fleet.take(telemetry(device, window(digest), window(digest, 2))), 0.01)

    with core.store.read() as tx:
        rows = list(tx.execute(select(tables.telemetry.c.content)).scalars())
    for row in rows:
        assert {name: row[name] for name in FIGURES} == FIGURES
    of = f'hardware_class="{CLASS}",'
    to = 'model="vad",'
    lines = metrics.render().decode().splitlines()
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


@pytest.mark.parametrize("lie", [{"digest": "e" * 64}, {"version": "9.9.9"}, {"model": "other"}])
def test_a_device_makes_no_series_of_releases_that_do_not_exist(
    core: Core, lie: dict[str, str]
) -> None:
    device = core.fleet.enrol("dev-1")
    told = window(core.release("1.0.0", plan("first"))).model_copy(update=lie)

    taken = core.fleet.take(telemetry(device, told))

    assert (taken.windows, taken.live) == (1, ())


def test_series_are_bounded_in_releases_and_in_names() -> None:
    metrics = LiveMetrics()
    told = window("d" * 64)
    for number in range(RELEASES_MAX + 1):
        each = told.model_copy(update={"version": f"1.0.{number}"})
        metrics.count([LiveWindow(hardware_class=CLASS, window=each)])
    names = {f"c{n}": CounterSum(good=1, total=1) for n in range(COUNTERS_MAX)}
    each = told.model_copy(update={"version": "1.0.9", "counters": names})
    metrics.count([LiveWindow(hardware_class=CLASS, window=each)])

    counted = next(m for m in metrics.collect() if m.name == "mailboat_feedback_counted")

    versions = {sample.labels["version"] for sample in counted.samples}
    assert len(versions) == RELEASES_MAX
    assert "1.0.0" not in versions  # told of longest ago
    of_one = [s.labels["counter"] for s in counted.samples if s.labels["version"] == "1.0.9"]
    assert len(of_one) == COUNTERS_MAX
    assert "accuracy" in of_one  # it was there first
    assert f"c{COUNTERS_MAX - 1}" not in of_one


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_a_figure_that_is_no_number_is_not_read(core: Core, figure: float) -> None:
    device, digest = core.fleet.enrol("dev-1"), core.release("1.0.0", plan("first"))
    lie = window(digest)
    value = lie.values["order_eur"].model_copy(update={"sum": figure})

    taken = core.fleet.take(telemetry(device, lie.model_copy(update={"values": {"a": value}})))

    assert (taken.windows, taken.live) == (0, ())
