"""More detail where something goes wrong, less where every byte costs; and what the host tells."""

import random
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.journal import event_journal as journal_module
from mailboat_agent.journal.event_journal import ANOMALIES, Journal
from mailboat_agent.journal.telemetry import Telemetry
from mailboat_agent.journal.thinning import Bounds
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.window import ServingCounters, ServingStats, ServingWindow
from mailboat_agent.telemetry.detail import (
    DAY_SECONDS,
    FINE_SECONDS,
    FINE_SECONDS_PER_DAY,
    Detail,
    DetailWatch,
    Signs,
    is_trouble,
    window_seconds,
)
from mailboat_agent.telemetry.energy import CHANNELS_MAX, GAP_SECONDS_MAX, WATTS_MAX, EnergyMeter
from mailboat_agent.telemetry.figures import describe_telemetry
from mailboat_agent.telemetry.host import Host
from mailboat_agent.telemetry.recorder import Recorder
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.documents.serving_policy import Workload
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.host_figures import Gauge, HostFigures
from mailboat_schemas.reports import TelemetryBatch, TelemetryWindow

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

# --- how much detail ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signs", "trouble"),
    [
        (Signs(), False),
        (Signs(ok=1000, error=9), False),
        (Signs(ok=990, error=10), True),
        (Signs(error=1), True),
        (Signs(ok=1000, worker_restarts=1), True),
        (Signs(ok=99, refused=4), False),
        (Signs(ok=95, refused=5), True),
        (Signs(ok=50, p95_ms=40, p95_before_ms=20), False),
        (Signs(ok=50, p95_ms=46, p95_before_ms=20), True),
        (Signs(ok=50, p95_ms=4, p95_before_ms=1), False),  # so quick, that it doubles by itself
    ],
)
def test_trouble_is_errors_restarts_refusals_or_latency(signs: Signs, *, trouble: bool) -> None:
    assert is_trouble(signs) is trouble


def test_detail_lasts_for_a_while_after_the_last_sign_and_costs_less_on_a_metered_link() -> None:
    watch = DetailWatch()
    assert watch.look(trouble=False, metered=False, monotonic=0) is Detail.NORMAL
    assert watch.look(trouble=True, metered=False, monotonic=10) is Detail.FINE
    almost = 10 + FINE_SECONDS - 1
    assert watch.look(trouble=False, metered=True, monotonic=almost) is Detail.NORMAL
    assert watch.look(trouble=False, metered=False, monotonic=almost + 1) is Detail.NORMAL
    assert watch.look(trouble=False, metered=True, monotonic=almost + 2) is Detail.COARSE
    assert [window_seconds(each, 60) for each in Detail] == [10, 60, 600]
    assert window_seconds(Detail.COARSE, 86_400) == 86_400


def test_a_release_that_is_never_well_uses_up_its_detail_and_gets_it_back_the_next_day() -> None:
    watch = DetailWatch()
    fine = [
        watch.look(trouble=True, metered=False, monotonic=second) is Detail.FINE
        for second in range(0, 2 * int(FINE_SECONDS_PER_DAY), 10)
    ]

    assert sum(fine) * 10 == pytest.approx(FINE_SECONDS_PER_DAY, rel=0.1)
    later = 2 * FINE_SECONDS_PER_DAY + DAY_SECONDS
    watch.look(trouble=False, metered=False, monotonic=later)
    assert watch.look(trouble=True, metered=False, monotonic=later + 1) is Detail.FINE


# --- when windows end -----------------------------------------------------------------------------


class OneRelease(Runtime):
    """A runtime that serves one release by hand."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: NOON)
        self.counters = ServingCounters(lambda: NOON)

    def snapshot(self, model: str) -> ServingStats | None:
        return self.counters.stats(
            model=model,
            version="1.0.0",
            digest="a" * 64,
            serial=1,
            peak_memory_bytes=5,
            ready=True,
        )

    def drain_window(self, model: str) -> tuple[ServingWindow, ...]:
        latencies = self.counters.swap_windows()
        stats = self.snapshot(model)
        assert stats is not None
        return (ServingWindow(stats, latencies),)


class Device:
    """A recorder that is looked at every ten seconds of its own time."""

    def __init__(self, journal: Journal, directory: Path, *, metered: bool = False) -> None:
        self.journal = journal
        self.runtime = OneRelease()
        self.host = Host(directory, directory / "no-sensors")
        self.models = ["vad"]
        self.telemetry = Telemetry(self.runtime, journal, NOON, host=self.host)
        self.recorder = Recorder(
            self.telemetry,
            self.host,
            journal,
            normal_seconds=60,
            metered=lambda: metered,
            monotonic=0,
        )
        self.monotonic = 0.0

    def looks(self, times: int) -> None:
        for _ in range(times):
            self.monotonic += self.recorder.seconds_to_next_look
            now = NOON + timedelta(seconds=self.monotonic)
            self.recorder.look(self.models, now, self.monotonic)

    @property
    def windows(self) -> list[TelemetryWindow]:
        return self.journal.windows_after(0, 1000, 1 << 20)

    @property
    def seconds(self) -> list[float]:
        return [window.seconds for window in self.windows]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "journal.db", random.Random(1))) as journal:
        yield journal


def test_windows_are_a_minute_until_something_goes_wrong(journal: Journal, tmp_path: Path) -> None:
    device = Device(journal, tmp_path)
    device.looks(8)
    device.runtime.counters.count_error()
    device.looks(4)

    assert device.seconds == [60, 30, 10, 10, 10]
    assert [window.requests_error for window in device.windows] == [0, 1, 0, 0, 0]
    assert device.recorder.detail is Detail.FINE


@pytest.mark.parametrize("kind", sorted(ANOMALIES))
def test_what_the_device_tells_as_a_breach_is_looked_at_closely_too(
    journal: Journal, tmp_path: Path, kind: EventKind
) -> None:
    """A gate on what the application posts, a withdrawal, a degraded mode: no counter shows it."""
    device = Device(journal, tmp_path)
    device.looks(6)
    told = Event(event_id="e:1", sequence=1, kind=kind, observed_at=0)
    journal.record_event(told)
    device.looks(2)
    journal.record_event(told)  # told again, and known
    device.looks(int(FINE_SECONDS / 10) - 2)
    assert device.recorder.detail is Detail.FINE

    device.looks(7)

    assert device.recorder.detail is Detail.NORMAL
    assert device.seconds == [60, *[10] * int(FINE_SECONDS / 10), 60]


def test_a_minute_that_a_full_disk_did_not_take_is_in_the_next_window_with_its_time(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(journal, tmp_path)
    device.looks(5)
    device.runtime.counters.count_ok(1)
    with monkeypatch.context() as full:

        def refuse(*_: object) -> int:
            raise DiskFailing("full", next_step="none")

        full.setattr(journal, "record_window", refuse)
        with pytest.raises(DiskFailing):
            device.looks(1)
    device.runtime.counters.count_ok(1)
    device.looks(6)

    (window,) = device.windows

    assert (window.requests_ok, window.seconds) == (2, 120)
    assert window.started_at == int(NOON.timestamp() * 1000)


def test_ordinary_news_are_no_breach(journal: Journal, tmp_path: Path) -> None:
    device = Device(journal, tmp_path)
    journal.record_event(Event(event_id="e:1", sequence=1, kind=EventKind.COMMITTED, observed_at=0))
    device.looks(6)

    assert device.seconds == [60]


def test_a_second_release_in_trouble_is_seen_at_the_same_look(
    journal: Journal, tmp_path: Path
) -> None:
    device = Device(journal, tmp_path)
    device.runtime.counters.count_error()
    device.recorder.look(["vad", "kws"], NOON + timedelta(seconds=10), 10)

    glanced = {model: seen.glanced for (model, _), seen in device.telemetry._seen.items()}

    assert glanced == {"vad": (0, 1, 0, 0), "kws": (0, 1, 0, 0)}


# --- the machine alone ----------------------------------------------------------------------------


def test_a_device_that_serves_nothing_tells_how_it_is_all_the_same(
    journal: Journal, tmp_path: Path
) -> None:
    device = Device(journal, tmp_path)
    device.models = []
    device.looks(12)
    device.models = ["vad"]
    device.looks(6)

    alone, alone_again, served = device.windows
    assert (alone.model, alone.version, alone.digest, alone.seconds) == ("", "", "", 60)
    for window in (alone, alone_again):
        assert window.host is not None
        assert window.host.memory_available_bytes is not None
        assert window.host.memory_available_bytes.count == 6
    assert served.model == "vad"
    batch = TelemetryBatch(device="kiosk-1", epoch="0" * 16, first=1, windows=(alone,))
    assert decode(TelemetryBatch, encode(batch)).windows == (alone,)


def test_windows_of_the_machine_alone_are_within_the_same_bounds(tmp_path: Path) -> None:
    bounds = Bounds(rows_max=20)
    with closing(Journal(tmp_path / "journal.db", random.Random(1), bounds)) as journal:
        device = Device(journal, tmp_path)
        device.models = []
        device.looks(6 * 120)

        held = journal.held_telemetry()
        assert held.windows <= 20
        assert held.dropped == 0
        counts = [each.host.load_1m.count for each in device.windows if each.host.load_1m]  # type: ignore[union-attr]
        assert sum(counts) == 6 * 120


def test_a_window_names_a_release_whole_or_not_at_all() -> None:
    for given in ({"model": "vad"}, {"version": "1.0.0"}, {"model": "vad", "digest": "a" * 64}):
        with pytest.raises(ValidationError, match="go together"):
            TelemetryWindow(
                sequence=1, started_at=0, seconds=1, requests_ok=0, requests_error=0, **given
            )


def test_a_latency_that_doubles_is_trouble(journal: Journal, tmp_path: Path) -> None:
    device = Device(journal, tmp_path)
    for latency_ms in (10, 10, 50):
        for _ in range(30):
            device.runtime.counters.count_ok(latency_ms)
        device.looks(6)
    device.looks(2)

    assert device.recorder.detail is Detail.FINE
    assert device.seconds[:3] == [60, 60, 60]


def test_on_a_metered_link_windows_are_ten_minutes(journal: Journal, tmp_path: Path) -> None:
    device = Device(journal, tmp_path, metered=True)
    device.looks(60)

    assert device.seconds == [600]


def test_each_workload_has_its_own_window_and_the_process_is_told_once(
    journal: Journal, tmp_path: Path
) -> None:
    device = Device(journal, tmp_path)
    device.runtime.counters.count_ok(10)
    for _ in range(3):
        device.runtime.counters.count_ok(200, Workload.BATCH)
    device.runtime.counters.count_refused(Workload.BATCH)
    device.runtime.counters.count_restart()
    device.looks(1)
    device.looks(1)

    real_time, batch, later = device.windows
    assert (real_time.workload, real_time.requests_ok, real_time.worker_restarts) == (
        Workload.REAL_TIME, 1, 1,
    )  # fmt: skip
    assert (batch.workload, batch.requests_ok, batch.requests_refused) == (Workload.BATCH, 3, 1)
    assert batch.latency is not None
    assert (batch.latency.count, batch.worker_restarts, batch.peak_memory_bytes) == (3, 0, 0)
    assert (later.workload, later.requests_ok) == (Workload.REAL_TIME, 0)
    assert [window.host is None for window in device.windows] == [False, True, False]


def test_a_disk_that_refuses_between_two_workloads_doubles_nothing(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(journal, tmp_path)
    device.runtime.counters.count_ok(10)
    device.runtime.counters.count_ok(20, Workload.BATCH)
    device.host.sample(0)
    telemetry = Telemetry(device.runtime, journal, NOON, host=device.host)
    record, written = journal.record_window, 0

    def refuse_the_second(window: TelemetryWindow) -> int:
        nonlocal written
        written += 1
        if written == 2:
            raise DiskFailing("refused", next_step="none")
        return record(window)

    monkeypatch.setattr(journal, "record_window", refuse_the_second)
    with pytest.raises(DiskFailing):
        telemetry.drain(["vad"], NOON, 60)
    telemetry.drain(["vad"], NOON, 60)

    counted = [(window.workload, window.requests_ok) for window in device.windows]
    assert counted == [(Workload.REAL_TIME, 1), (Workload.REAL_TIME, 0), (Workload.BATCH, 1)]


def test_status_says_what_is_held_of_which_time(journal: Journal, tmp_path: Path) -> None:
    device = Device(journal, tmp_path)
    assert list(describe_telemetry(device.recorder.figures())) == []
    device.looks(12)

    figures = device.recorder.figures()

    assert figures["levels"] == [
        {
            "seconds_max": None,
            "windows": 2,
            "from": "2026-03-01T12:00:00+00:00",
            "to": "2026-03-01T12:02:00+00:00",
        }
    ]
    assert (figures["merged"], figures["dropped"], figures["damaged"]) == (0, 0, 0)
    assert set(figures["host"]) >= {"load_1m", "memory_available_bytes"}
    assert "celsius" not in figures["host"]
    lines = list(describe_telemetry(figures))
    assert lines[0] == "telemetry 2 windows wait, 0% of the buffer; detail is normal"
    assert lines[1].startswith("          as recorded: 2, 2026-03-01T12:00:00")


def test_windows_that_were_dropped_are_told_until_the_agent_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(Journal(path, random.Random(1), Bounds(rows_max=3))) as journal:
        device = Device(journal, tmp_path)
        assert device.recorder.notes() == []
        for number in range(4):
            (window,) = Telemetry(device.runtime, journal, NOON)._windows(
                device.runtime.drain_window("vad")[0], NOON, 60
            )
            journal.record_window(window.model_copy(update={"model": f"m{number}"}))

        assert device.recorder.notes() == ["telemetry_dropped"]
        assert Device(journal, tmp_path).recorder.notes() == []


def test_events_beyond_their_bound_are_told(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "EVENTS_ROWS_MAX", 0)
    journal.record_event(Event(event_id="e", sequence=1, kind=EventKind.COMMITTED, observed_at=0))

    assert Device(journal, tmp_path).recorder.notes() == ["events_over_bound"]


# --- the host -------------------------------------------------------------------------------------


def test_what_a_host_does_not_tell_is_absent_and_not_zero(tmp_path: Path) -> None:
    figures = Host(tmp_path, tmp_path / "no-sensors").sample(0)

    assert (figures.celsius, figures.battery_percent, figures.energy_joules) == (None, None, None)
    assert figures.memory_available_bytes is not None
    assert figures.memory_total_bytes is not None
    assert 0 < figures.memory_available_bytes.max <= figures.memory_total_bytes
    assert figures.agent_resident_bytes is not None
    assert figures.agent_resident_bytes.min > 1 << 20


def test_a_data_directory_that_is_gone_costs_one_figure(tmp_path: Path) -> None:
    figures = Host(tmp_path / "gone", tmp_path).sample(0)

    assert figures.disk_free_bytes is None
    assert figures.load_1m is not None


def sensor(root: Path, name: str, content: object) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\n")


def test_heat_is_sampled_and_merged_over_the_window(tmp_path: Path) -> None:
    host = Host(tmp_path, tmp_path)
    for number, celsius in enumerate((40, 70, 55)):
        sensor(tmp_path, "class/thermal/thermal_zone0/temp", celsius * 1000)
        host.sample(number)

    figures = host.take()

    assert figures is not None
    assert figures.celsius == Gauge(count=3, sum=165, min=40, max=70)
    assert host.take() is None


def test_figures_of_two_windows_merge_and_what_one_does_not_know_is_not_invented() -> None:
    older = HostFigures(cpu_percent=Gauge.of(10), energy_joules=5, energy_seconds=60)
    newer = HostFigures(cpu_percent=Gauge.of(30), celsius=Gauge.of(50), memory_total_bytes=1 << 30)

    merged = older.plus(newer)

    assert merged.cpu_percent == Gauge(count=2, sum=40, min=10, max=30)
    assert merged.celsius == Gauge.of(50)
    assert (merged.energy_joules, merged.energy_seconds) == (5, 60)
    assert (merged.memory_total_bytes, merged.battery_percent) == (1 << 30, None)


def test_energy_of_processors_is_the_difference_of_their_counters(tmp_path: Path) -> None:
    for zone, microjoules in (("intel-rapl:0", 1_000_000), ("intel-rapl:0:0", 999)):
        sensor(tmp_path, f"class/powercap/{zone}/energy_uj", microjoules)
    meter = EnergyMeter(tmp_path)
    assert meter.is_known
    assert meter.read(0) is None  # of no span yet

    sensor(tmp_path, "class/powercap/intel-rapl:0/energy_uj", 61_000_000)
    assert meter.read(10) == (pytest.approx(60), 10)
    sensor(tmp_path, "class/powercap/intel-rapl:0/energy_uj", 5)
    assert meter.read(20) is None  # the counter has wrapped: not known, and not negative
    assert meter.read(20 + GAP_SECONDS_MAX + 1) is None  # it has slept: not guessed


def test_energy_of_a_supply_rail_is_its_power_over_time(tmp_path: Path) -> None:
    rail = "class/hwmon/hwmon1"
    sensor(tmp_path, f"{rail}/in1_label", "VDD_IN")
    sensor(tmp_path, f"{rail}/in1_input", 5000)  # millivolts
    sensor(tmp_path, f"{rail}/curr1_input", 2000)  # milliamperes: ten watts
    sensor(tmp_path, "class/powercap/intel-rapl:0/energy_uj", 1)
    meter = EnergyMeter(tmp_path)
    meter.read(0)

    assert meter.read(10) == (pytest.approx(100), 10)
    sensor(tmp_path, f"{rail}/curr1_input", 2_000_000_000)
    assert WATTS_MAX < 5.0 * 2_000_000
    assert meter.read(20) is None  # no device takes so much


def test_only_so_many_sensors_are_looked_at(tmp_path: Path) -> None:
    for number in range(CHANNELS_MAX + 1):
        sensor(tmp_path, f"class/powercap/intel-rapl:{number:03}/energy_uj", 1_000_000)
    meter = EnergyMeter(tmp_path)
    meter.read(0)
    for number in range(CHANNELS_MAX + 1):
        sensor(tmp_path, f"class/powercap/intel-rapl:{number:03}/energy_uj", 2_000_000)

    assert meter.read(10) == (pytest.approx(CHANNELS_MAX), 10)


def test_energy_of_a_battery_counts_only_while_it_is_drained(tmp_path: Path) -> None:
    battery = "class/power_supply/BAT0"
    sensor(tmp_path, f"{battery}/type", "Battery")
    sensor(tmp_path, f"{battery}/status", "Discharging")
    sensor(tmp_path, f"{battery}/power_now", 3_000_000)  # microwatts
    meter = EnergyMeter(tmp_path)
    meter.read(0)

    assert meter.read(20) == (pytest.approx(60), 20)
    sensor(tmp_path, f"{battery}/status", "Charging")
    assert meter.read(30) is None


def test_most_hosts_tell_nothing_of_energy(tmp_path: Path) -> None:
    meter = EnergyMeter(tmp_path)

    assert not meter.is_known
    assert meter.read(0) is None
