"""Which devices became slower, from the latency sketches they sent."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from ddsketch import LogCollapsingLowestDenseDDSketch

from enrolled_fleet import migrated_store
from mailboat_controller.store import telemetry
from mailboat_controller.store.paired_latency import slow_devices
from mailboat_schemas.reports import LatencySketch, TelemetryWindow

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
OLD, NEW = "a" * 64, "b" * 64


def window(digest: str, latency_ms: float, requests: int, hours: float) -> TelemetryWindow:
    sketch = LogCollapsingLowestDenseDDSketch(0.01)
    for _ in range(requests):
        sketch.add(latency_ms)
    store = sketch._store
    at = NOON + timedelta(hours=hours)
    return TelemetryWindow(
        sequence=1,
        model="vad",
        version="1.0.0",
        digest=digest,
        started_at=int(at.timestamp() * 1000),
        seconds=60,
        requests_ok=requests,
        requests_error=0,
        latency=LatencySketch(
            relative_accuracy=0.01,
            offset=store.offset,
            bins=tuple(int(count) for count in store.bins),
            count=requests,
        ),
    )


def test_each_device_is_compared_with_itself_before(tmp_path: Path) -> None:
    store = migrated_store(tmp_path)
    told = {
        "slower": [window(OLD, 10, 50, -2), window(NEW, 12.5, 30, 1), window(NEW, 12.5, 30, 2)],
        "alike": [window(OLD, 40, 50, -2), window(NEW, 44, 50, 1)],
        "hardly-asked": [window(OLD, 10, 50, -2), window(NEW, 99, 19, 1)],
        "new-here": [window(NEW, 99, 50, 1)],
        "long-ago": [window(OLD, 10, 50, -200), window(NEW, 99, 50, 1)],
    }
    with store.transaction() as tx:
        for device, windows in told.items():
            telemetry.append(tx, device, "0" * 16, windows, NOON + timedelta(hours=3))

        found = slow_devices(tx, "vad", NEW, sorted(told), since=NOON, ratio=1.2)
        nobody = slow_devices(tx, "other", NEW, sorted(told), since=NOON, ratio=1.2)
    store.close()

    assert found == {"slower": True, "alike": False}
    assert nobody == {}
