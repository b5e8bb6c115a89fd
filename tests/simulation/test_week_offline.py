"""Seven days without a controller, killed ten times: nothing that matters is lost.

A real journal on a real file, written by a process that is killed with SIGKILL at moments drawn
from the seed; virtual minutes. Then the real ingest of the controller takes it all in, over a link
that loses messages, while the device goes on recording and is restarted.
"""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy import select

import offline_device
from enrolled_fleet import NOON, EnrolledDevice, EnrolledFleet
from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.journal.outbox import Outbox, Outgoing
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.store import tables
from mailboat_schemas.codec import encode
from mailboat_schemas.envelope import sign_as_device
from mailboat_schemas.reports import LatencySketch, TelemetryWindow
from mailboat_schemas.topics import Channel
from mailboat_schemas.window_merge import merge_sketches
from offline_device import DAY_MINUTES, EVENTS_PER_DAY, MODELS, MONDAY, asked

SEED = 20_260_601
DAYS = 7
KILLS = 10
DISK_BYTES_MAX = 50 << 20
MINUTES_KEPT_HOURS = 45  # docs/telemetry.md, for three models
LOST = 0.1  # of messages in either direction
RECONNECT_SECONDS_MAX = 3600


def on_disk_bytes(directory: Path) -> int:
    size_bytes = 0
    for path in directory.glob("journal.db*"):
        with suppress(FileNotFoundError):  # a journal that closes takes files of SQLite's along
            size_bytes += path.stat().st_size
    return size_bytes


@dataclass
class Week:
    directory: Path
    minutes: int
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))
    kills: int = 0
    most_bytes: int = 0

    def pass_by(self) -> None:
        deaths = sorted(self.rng.sample(range(1, self.minutes), KILLS))
        for death in [*deaths, self.minutes]:
            self._live_until(death, is_killed=death < self.minutes)

    def _live_until(self, minute: int, *, is_killed: bool) -> None:
        program = [sys.executable, offline_device.__file__, self.directory, SEED, self.minutes]
        with subprocess.Popen(
            [str(part) for part in program], stdout=subprocess.PIPE, text=True
        ) as device:
            assert device.stdout is not None
            for line in device.stdout:
                if int(line) % 60 == 0:
                    self.most_bytes = max(self.most_bytes, on_disk_bytes(self.directory))
                if is_killed and int(line) >= minute:
                    device.send_signal(signal.SIGKILL)  # somewhere in the next transactions
                    self.kills += 1
                    break
        assert is_killed or device.returncode == 0

    def must_arrive(self) -> Counter[tuple[str, str]]:
        """By model and figure."""
        expected: Counter[tuple[str, str]] = Counter()
        for minute in range(self.minutes):
            for model in MODELS:
                answered, errors = asked(SEED, minute, model)
                expected[model, "ok"] += len(answered)
                expected[model, "error"] += errors
                expected[model, "seconds"] += 60
        return expected


def figures(windows: Iterator[TelemetryWindow] | list[TelemetryWindow]) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for window in windows:
        found[window.model, "ok"] += window.requests_ok
        found[window.model, "error"] += window.requests_error
        found[window.model, "seconds"] += int(window.seconds)
    return found


class Reconnection:
    """The device's outbox and the controller's ingest over a link that loses messages."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self.directory = directory
        self.rng = rng
        self.fleet = EnrolledFleet(directory / "controller")
        self.device: EnrolledDevice = self.fleet.enrol("kiosk-1")
        self.now = 0.0
        self.first_minutes: list[int] = []  # of the windows as they came in, newest batch first
        self.order: list[Channel] = []
        self.boot()

    def boot(self) -> None:
        self.journal = Journal(self.directory / "journal.db", random.Random(SEED))
        self.outbox = Outbox("kiosk-1", self.journal, self._seal, self.rng)
        self.outbox.on_connected(self.now)

    def _seal(self, kind: str, payload: bytes) -> bytes:
        return encode(sign_as_device(kind, payload, self.device.key, self.device.name))

    def carry(self, message: Outgoing) -> None:
        self.order.append(message.channel)
        if self.rng.random() < LOST:
            return
        taken = self.fleet.take(
            Incoming(topic=self.device.topic(message.channel), payload=message.payload),
            now=NOON + timedelta(seconds=self.now),
        )
        assert not taken.quarantined
        for _, ack in taken.acks:
            if self.rng.random() >= LOST:
                self.outbox.on_ack(ack, self.now)

    def until_nothing_waits(self) -> None:
        while self.outbox.depth:
            self.now += 1.0
            assert self.now < RECONNECT_SECONDS_MAX
            for message in self.outbox.due(self.now):
                self.carry(message)
            if self.now in (40.0, 80.0):  # the power fails while it reports
                self.journal.close()
                self.boot()
        self.journal.close()

    def stored(self) -> list[TelemetryWindow]:
        with self.fleet.store.read() as tx:
            rows = tx.execute(select(tables.telemetry.c.content).order_by(tables.telemetry.c.id))
            return [TelemetryWindow.model_validate(content) for content in rows.scalars()]

    def events(self) -> list[str]:
        with self.fleet.store.read() as tx:
            rows = tx.execute(select(tables.events.c.event_id).order_by(tables.events.c.id))
            return list(rows.scalars())


def look_at_resolution(windows: list[TelemetryWindow], minutes: int) -> None:
    """Every minute of every model is in exactly one window, as fine as was promised."""
    end_ms = int(MONDAY.timestamp() * 1000) + minutes * 60_000
    fine_from_ms = end_ms - MINUTES_KEPT_HOURS * 3_600_000
    for model in MODELS:
        own = sorted((w for w in windows if w.model == model), key=lambda w: w.started_at)
        assert own[0].started_at == int(MONDAY.timestamp() * 1000)
        assert own[-1].started_at + own[-1].seconds * 1000 == end_ms
        for one, next_one in pairwise(own):
            assert one.started_at + one.seconds * 1000 == next_one.started_at
        assert all(w.seconds <= 600 for w in own)
        assert all(w.seconds == 60 for w in own if w.started_at >= fine_from_ms)


def same_distribution(windows: list[TelemetryWindow], minutes: int) -> None:
    """The sketches of one model, merged, count every latency where it belongs."""
    merged: LatencySketch | None = None
    for window in windows:
        if window.model == MODELS[0]:
            merged = merge_sketches(merged, window.latency)
    assert merged is not None
    all_ms = [ms for minute in range(minutes) for ms in asked(SEED, minute, MODELS[0])[0]]
    assert merged.count == sum(merged.bins) == len(all_ms)
    assert merged.sum_ms == pytest.approx(sum(all_ms))
    assert (merged.min_ms, merged.max_ms) == (min(all_ms), max(all_ms))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that does not sync 30,000 times to a real disk: what SIGKILL leaves is the same
    on any. Power cuts are told of in tests/faults."""
    memory = Path("/dev/shm")  # noqa: S108
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(dir=memory, prefix="week-offline-") as directory:
        yield Path(directory)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_after_a_week_offline_and_ten_kills_the_totals_are_the_devices(
    disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    week = Week(disk, DAYS * DAY_MINUTES)
    week.pass_by()

    with closing(Journal(disk / "journal.db", random.Random(SEED))) as journal:
        held = journal.held_telemetry()
        kept = journal.windows_after(0, 50_000, 1 << 30)
        span = journal.span_events()
        assert not journal.was_lost
        assert journal.damaged_rows == 0
    expected = week.must_arrive()
    assert week.kills == KILLS
    assert span.last == DAYS * EVENTS_PER_DAY
    assert held.dropped == 0
    assert figures(kept) == expected
    look_at_resolution(kept, week.minutes)
    assert week.most_bytes <= DISK_BYTES_MAX

    again = Reconnection(disk, random.Random(SEED))
    again.until_nothing_waits()

    stored = again.stored()
    assert again.events() == [f"sim:{n}" for n in range(0, week.minutes, DAY_MINUTES // 20)]
    assert figures(stored) == expected
    assert len(stored) == len(kept)
    look_at_resolution(stored, week.minutes)
    same_distribution(stored, week.minutes)
    assert again.order.index(Channel.EVENTS) < again.order.index(Channel.TELEMETRY)
    newest = max(window.started_at for window in kept)
    assert stored[0].started_at > newest - 4 * 3_600_000  # the newest came first
    assert stored[-1].started_at < int(MONDAY.timestamp() * 1000) + 86_400_000
    with capsys.disabled():
        levels = {level.seconds_max or 60: level.windows for level in held.levels}
        requests = sum(expected[model, "ok"] for model in MODELS)
        print(  # noqa: T201
            f"\nseven days offline, seed {SEED}: {requests} requests, "
            f"{span.last} events, {week.kills} kills; windows by seconds {levels}, "
            f"{held.merged} merged, {held.dropped} dropped; {week.most_bytes / (1 << 20):.1f} MiB "
            f"at most; reported in {again.now:.0f} s of virtual time over a link that loses "
            f"{LOST:.0%} of all messages, 0 lost, 0 doubled"
        )
