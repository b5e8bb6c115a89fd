"""Every row arrives exactly once and in order, whatever is lost, doubled, late or restarted."""

import random
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.journal import outbox as outbox_module
from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.journal.outbox import (
    BATCHES_IN_FLIGHT_MAX,
    EVENT_BATCH_BYTES_MAX,
    HEARD_SPREAD_SECONDS,
    HELLO_AFTER_SECONDS,
    HELLO_AFTER_SECONDS_MAX,
    HISTORY_BEGINS_SECONDS_MAX,
    HISTORY_SECONDS,
    TELEMETRY_BATCH_BYTES_MAX,
    TELEMETRY_BATCHES_IN_FLIGHT_MAX,
    Outbox,
    Outgoing,
)
from mailboat_agent.journal.stream import REWIND_AGAIN_AFTER_SECONDS
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.errors import DiskFull
from mailboat_schemas.events import EVENTS_PER_BATCH_MAX, Event, EventBatch, EventKind
from mailboat_schemas.reports import Ack, Hello, LatencySketch, TelemetryBatch, TelemetryWindow
from mailboat_schemas.topics import Channel

DAY_SECONDS = 86_400
HELLOS_A_DAY_MAX = 300  # that `site kit` counts with


def event(number: int) -> Event:
    return Event(event_id=f"e:{number}", sequence=1, kind=EventKind.COMMITTED, observed_at=0)


def window(number: int) -> TelemetryWindow:
    return TelemetryWindow(
        sequence=1,
        model="vad",
        version="1.0.0",
        digest="a" * 64,
        started_at=number,
        seconds=60,
        requests_ok=1,
        requests_error=0,
    )


def outbox_of(journal: Journal) -> Outbox:
    return Outbox("kiosk-1", journal, lambda _kind, payload: payload, random.Random(1))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db", random.Random(1))
    yield journal
    journal.close()


class Controller:
    """The watermark rule of the other side: only the row after the watermark is stored."""

    def __init__(self) -> None:
        self.epoch = ""
        self.events: list[str] = []
        self.windows: list[int] = []
        self.events_acked = self.telemetry_acked = 0

    def receive(self, message: Outgoing) -> Ack:
        rewind = False
        match message.channel:
            case Channel.HELLO:
                self.epoch = decode(Hello, message.payload).epoch
            case Channel.EVENTS:
                batch = decode(EventBatch, message.payload)
                self.epoch = batch.epoch
                rewind = batch.first > self.events_acked + 1
                for item in batch.events:
                    if item.sequence == self.events_acked + 1:
                        self.events.append(item.event_id)
                        self.events_acked += 1
            case Channel.TELEMETRY:
                telemetry = decode(TelemetryBatch, message.payload)
                rewind = telemetry.first > self.telemetry_acked + 1
                for row in telemetry.windows:
                    if row.sequence == self.telemetry_acked + 1:
                        self.windows.append(row.started_at)
                        self.telemetry_acked += 1
        return self.ack(rewind=rewind)

    def ack(self, *, rewind: bool = False) -> Ack:
        return Ack(
            device="kiosk-1",
            epoch=self.epoch,
            events_acked=self.events_acked,
            telemetry_acked=self.telemetry_acked,
            rewind=rewind,
        )


def connected(outbox: Outbox, journal: Journal, at: float = 0.0, acked: int = 0) -> None:
    """Hello, and its answer."""
    outbox.on_connected(at)
    (hello,) = outbox.due(at)
    assert hello.channel is Channel.HELLO
    outbox.on_ack(
        Ack(device="kiosk-1", epoch=journal.epoch, events_acked=acked, telemetry_acked=0), at
    )


def firsts(outgoing: list[Outgoing]) -> list[int]:
    return [decode(EventBatch, o.payload).first for o in outgoing if o.channel is Channel.EVENTS]


def test_nothing_is_sent_before_the_hello_is_answered(journal: Journal) -> None:
    journal.record_event(event(1))
    outbox = outbox_of(journal)
    assert outbox.due(0.0) == []
    outbox.on_connected(0.0)

    (hello,) = outbox.due(0.0)

    assert decode(Hello, hello.payload).events.last == 1
    assert outbox.due(1.0) == []
    outbox.on_ack(
        Ack(device="kiosk-1", epoch=journal.epoch, events_acked=0, telemetry_acked=0), 1.0
    )
    assert firsts(outbox.due(1.0)) == [1]


def test_a_hello_without_an_answer_is_repeated_at_growing_intervals(journal: Journal) -> None:
    outbox = outbox_of(journal)
    outbox.on_connected(0.0)
    hellos, now = [], 0.0
    while now < 7 * DAY_SECONDS:
        hellos.append(now)
        assert len(outbox.due(now)) == 1
        now = outbox._hello_due_at

    gaps = [after - before for before, after in pairwise(hellos)]
    assert gaps[0] == HELLO_AFTER_SECONDS
    assert max(gaps[:4]) <= 60
    assert HELLO_AFTER_SECONDS_MAX * 0.9 < max(gaps) <= HELLO_AFTER_SECONDS_MAX + 1
    # All of it, not half, is jitter: the queue of a site's broker is worked out from the mean.
    assert min(gaps[10:]) < HELLO_AFTER_SECONDS_MAX / 10
    assert len(hellos) < 7 * HELLOS_A_DAY_MAX


def long_waiting(journal: Journal) -> tuple[Outbox, float]:
    """An outbox that has asked for hours without an answer, and when it is."""
    outbox = outbox_of(journal)
    outbox.on_connected(0.0)
    now = 0.0
    while outbox._hello_due_at < now + 10 * HEARD_SPREAD_SECONDS or now < 10_000:
        now = outbox._hello_due_at
        outbox.due(now)
    return outbox, now


def asked(outbox: Outbox, began: float, seconds: float) -> list[float]:
    """When it asked within so long."""
    return [now for step in range(int(seconds)) if outbox.due(now := began + step)]


def test_who_waits_long_asks_soon_once_the_centre_is_heard_again(journal: Journal) -> None:
    outbox, now = long_waiting(journal)
    assert asked(outbox, now, HEARD_SPREAD_SECONDS) == []

    now += HEARD_SPREAD_SECONDS
    outbox.on_heard(now)

    (first, *_) = asked(outbox, now, HEARD_SPREAD_SECONDS + 2)
    (second, *_) = asked(outbox, first + 1, 60)
    assert second - first < 60


def test_devices_that_hear_the_centre_together_do_not_ask_together(tmp_path: Path) -> None:
    due = []
    for number in range(8):
        with closing(Journal(tmp_path / f"{number}.db", random.Random(number))) as journal:
            outbox = Outbox("kiosk-1", journal, lambda _, payload: payload, random.Random(number))
            outbox.on_connected(0.0)
            outbox.due(0.0)
            outbox._hello_due_at = 800.0
            outbox.on_heard(100.0)
            due.append(outbox._hello_due_at - 100)

    assert max(due) - min(due) > HEARD_SPREAD_SECONDS / 2
    assert max(due) <= HEARD_SPREAD_SECONDS


def test_who_is_flooded_by_a_broker_asks_no_more_often_than_it_may(journal: Journal) -> None:
    outbox, now = long_waiting(journal)

    hellos = 0
    for _ in range(600):
        now += 1.0
        outbox.on_heard(now)
        hellos += len(outbox.due(now))

    assert hellos <= 600 / 2


def test_an_answer_that_moves_nothing_is_an_answer_all_the_same(journal: Journal) -> None:
    """What it was asked about goes at once, and if that is lost, nobody waits for a quarter of an
    hour."""
    journal.record_event(event(1))
    outbox, now = long_waiting(journal)
    outbox.on_ack(
        Ack(device="kiosk-1", epoch=journal.epoch, events_acked=0, telemetry_acked=0), now
    )
    assert firsts(outbox.due(now)) == [1]

    (again, *_) = asked(outbox, now + 1, 120)

    assert again - now < 60


def test_state_events_go_before_telemetry(journal: Journal) -> None:
    journal.record_window(window(1))
    for number in range(BATCHES_IN_FLIGHT_MAX * EVENTS_PER_BATCH_MAX + 1):
        journal.record_event(event(number))
    outbox = outbox_of(journal)
    connected(outbox, journal)

    first = outbox.due(0.0)

    assert {item.channel for item in first} == {Channel.EVENTS}
    assert len(first) == BATCHES_IN_FLIGHT_MAX
    acked = Ack(device="kiosk-1", epoch=journal.epoch, events_acked=800, telemetry_acked=0)
    outbox.on_ack(acked, 0.1)
    assert [item.channel for item in outbox.due(0.1)] == [Channel.EVENTS, Channel.TELEMETRY]


@pytest.mark.parametrize("channel", [Channel.EVENTS, Channel.TELEMETRY])
def test_a_lost_batch_is_sent_again_once_a_hello_has_asked(
    journal: Journal, channel: Channel
) -> None:
    if channel is Channel.EVENTS:
        journal.record_event(event(1))
    else:
        journal.record_window(window(1))
    outbox = outbox_of(journal)
    connected(outbox, journal)
    assert [item.channel for item in outbox.due(0.0)] == [channel]  # and the broker loses it

    assert outbox.due(HELLO_AFTER_SECONDS - 0.1) == []
    assert [item.channel for item in outbox.due(HELLO_AFTER_SECONDS)] == [Channel.HELLO]
    outbox.on_ack(
        Ack(device="kiosk-1", epoch=journal.epoch, events_acked=0, telemetry_acked=0), 4.0
    )

    assert [item.channel for item in outbox.due(4.0)] == [channel]


def test_rows_are_deleted_on_the_watermark_only(journal: Journal) -> None:
    for number in range(3):
        journal.record_event(event(number))
    outbox = outbox_of(journal)
    connected(outbox, journal)
    outbox.due(0.0)
    assert outbox.depth == 3

    outbox.on_ack(
        Ack(device="kiosk-1", epoch=journal.epoch, events_acked=2, telemetry_acked=0), 1.0
    )

    assert outbox.depth == 1


def test_an_ack_of_another_epoch_means_nothing(journal: Journal) -> None:
    journal.record_event(event(1))
    outbox = outbox_of(journal)
    connected(outbox, journal)
    outbox.due(0.0)

    outbox.on_ack(Ack(device="kiosk-1", epoch="f" * 16, events_acked=1, telemetry_acked=0), 1.0)

    assert outbox.depth == 1


def test_an_ack_for_more_than_was_ever_sent_is_forged_and_ignored(journal: Journal) -> None:
    outbox = outbox_of(journal)
    connected(outbox, journal)
    journal.record_event(event(1))

    outbox.on_ack(
        Ack(device="kiosk-1", epoch=journal.epoch, events_acked=1, telemetry_acked=9), 1.0
    )

    assert outbox.depth == 1
    assert firsts(outbox.due(1.0)) == [1]


def test_many_rewinds_for_one_gap_resend_once(journal: Journal) -> None:
    for number in range(250):
        journal.record_event(event(number))
    outbox = outbox_of(journal)
    connected(outbox, journal)
    assert firsts(outbox.due(0.0)) == [1, 101, 201]
    gap = Ack(device="kiosk-1", epoch=journal.epoch, events_acked=0, telemetry_acked=0, rewind=True)

    outbox.on_ack(gap, 0.1)
    assert firsts(outbox.due(0.1)) == [1, 101, 201]
    outbox.on_ack(gap, 0.2)
    assert outbox.due(0.2) == []
    outbox.on_ack(gap, 0.1 + REWIND_AGAIN_AFTER_SECONDS)
    assert firsts(outbox.due(1.2)) == [1, 101, 201]


def test_what_the_link_did_not_take_is_given_again(journal: Journal) -> None:
    journal.record_event(event(1))
    outbox = outbox_of(journal)
    connected(outbox, journal)
    assert firsts(outbox.due(0.0)) == [1]

    outbox.on_not_sent(0.0)

    assert outbox.due(1.0) == []
    assert [item.channel for item in outbox.due(HELLO_AFTER_SECONDS)] == [Channel.HELLO]


def test_a_damaged_journal_begins_a_new_conversation(journal: Journal, tmp_path: Path) -> None:
    journal.record_event(event(1))
    outbox = outbox_of(journal)
    connected(outbox, journal)
    outbox.due(0.0)
    before = journal.epoch
    journal.close()
    for path in tmp_path.glob("journal.db*"):
        path.write_bytes(b"not a database, whatever it was before")

    (hello,) = outbox.due(1.0)

    assert decode(Hello, hello.payload).epoch == journal.epoch != before


def test_a_journal_that_cannot_be_opened_keeps_nobody_from_starting(tmp_path: Path) -> None:
    (tmp_path / "full").write_bytes(b"no directory can be made here")
    outbox = outbox_of(Journal(tmp_path / "full" / "journal.db", random.Random(1)))
    outbox.on_connected(0.0)

    with pytest.raises(DiskFailing):
        outbox.due(0.0)

    (tmp_path / "full").unlink()
    assert [item.channel for item in outbox.due(1.0)] == [Channel.HELLO]


def test_a_lost_telemetry_batch_is_not_passed_over_by_the_next(journal: Journal) -> None:
    journal.record_window(window(1))
    outbox = outbox_of(journal)
    connected(outbox, journal)
    assert [item.channel for item in outbox.due(0.0)] == [Channel.TELEMETRY]  # and it is lost

    journal.record_window(window(2))

    assert outbox.due(1.0) == []
    (hello,) = outbox.due(HELLO_AFTER_SECONDS)
    assert hello.channel is Channel.HELLO


# What may happen next, as a small program: row, window, tick, or what becomes of the oldest message
# in either direction.
MOVES = ["event", "window", "tick", "deliver", "lose", "double", "late", "ack", "lose-ack"]
MOVES += ["restart", "reconnect"]


class Network:
    """An outbox and a controller with messages on their way in both directions."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.controller = Controller()
        self.now, self.events, self.windows = 0.0, 0, 0
        self.up: list[Outgoing] = []
        self.down: list[Ack] = []
        self.restart()
        for move in ("tick", "deliver", "ack"):  # hello and its answer: rows flow from here on
            self.happen(move)

    def restart(self) -> None:
        self.outbox = outbox_of(self.journal)
        self.outbox.on_connected(self.now)

    def reconnect(self) -> None:
        self.outbox.on_disconnected()
        self.outbox.on_connected(self.now)
        self.up, self.down = [], []

    def record(self, move: str) -> None:
        if move == "event":
            self.events += 1
            self.journal.record_event(event(self.events))
        else:
            self.windows += 1
            self.journal.record_window(window(self.windows))

    def happen(self, move: str) -> None:
        match move:
            case "event" | "window":
                self.record(move)
            case "tick":
                self.now += 1.3
                self.up += self.outbox.due(self.now)
            case "restart":
                self.restart()
            case "reconnect":
                self.reconnect()
            case "ack" | "lose-ack" if self.down:
                ack = self.down.pop(0)
                if move == "ack":
                    self.outbox.on_ack(ack, self.now)
            case "deliver" | "lose" | "double" | "late" if self.up:
                self.carry(move)

    def carry(self, move: str) -> None:
        oldest = self.up.pop(0)
        if move in ("deliver", "double"):
            self.down.append(self.controller.receive(oldest))
        if move == "double":
            self.up.insert(0, oldest)
        if move == "late":
            self.up.append(oldest)

    def heal(self) -> None:
        for _ in range(200):
            self.now += 1.0
            self.up += self.outbox.due(self.now)
            while self.up:
                self.outbox.on_ack(self.controller.receive(self.up.pop(0)), self.now)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(moves=st.lists(st.sampled_from(MOVES), min_size=5, max_size=60))
def test_every_row_arrives_exactly_once_and_events_in_order(moves: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        journal = Journal(Path(directory) / "journal.db", random.Random(1))
        network = Network(journal)
        for move in moves:
            network.happen(move)
        network.heal()
        depth = network.outbox.depth
        journal.close()

        arrived = network.controller
        assert arrived.events == [f"e:{number + 1}" for number in range(network.events)]
        assert sorted(arrived.windows) == list(range(1, network.windows + 1))
        assert depth == 0


def test_what_a_full_disk_did_not_let_go_goes_with_the_next_answer(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although it says nothing new: no event may come any more that would."""
    outbox = outbox_of(journal)
    journal.record_event(event(1))
    connected(outbox, journal)
    outbox.due(0.0)
    ack = Ack(device="kiosk-1", epoch=journal.epoch, events_acked=1, telemetry_acked=0)

    def refuse(*_: object) -> None:
        raise DiskFailing("refused", next_step="none")

    with monkeypatch.context() as disk:
        disk.setattr(journal, "acknowledge", refuse)
        with pytest.raises(DiskFailing):
            outbox.on_ack(ack, 1.0)
    assert outbox.depth == 1

    outbox.on_ack(ack, 2.0)
    assert outbox.depth == 0


# --- what goes first, and how fast ----------------------------------------------------------------


def minutes(outgoing: list[Outgoing]) -> list[int]:
    """Of the windows in the one telemetry batch, if there is one."""
    batches = [o for o in outgoing if o.channel is Channel.TELEMETRY]
    return [w.started_at for o in batches for w in decode(TelemetryBatch, o.payload).windows]


def reported(outbox: Outbox, controller: Controller, at: float) -> list[int]:
    """What is sent at this time and confirmed at once."""
    outgoing = outbox.due(at)
    for message in outgoing:
        outbox.on_ack(controller.receive(message), at)
    return minutes(outgoing)


def test_the_newest_telemetry_goes_first_and_history_at_a_bounded_rate(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "TELEMETRY_WINDOWS_PER_BATCH_MAX", 10)
    for number in range(60):
        journal.record_window(window(number))
    outbox, controller = outbox_of(journal), Controller()
    connected(outbox, journal)
    controller.epoch = journal.epoch

    sent = {at / 10: reported(outbox, controller, at / 10) for at in range(300)}

    batches = [(at, found) for at, found in sent.items() if found]
    assert [found[-1] for _, found in batches] == [59, 49, 39, 29, 19, 9]
    times = [at for at, _ in batches]
    assert times[0] == 0
    assert times[1] <= HISTORY_BEGINS_SECONDS_MAX + 0.1
    gaps = [later - earlier for earlier, later in pairwise(times[1:])]
    assert all(HISTORY_SECONDS / 2 <= gap <= 1.6 * HISTORY_SECONDS for gap in gaps)
    assert len(set(gaps)) > 1  # a site of devices does not come in step
    assert outbox.depth == 0


def test_what_is_recorded_meanwhile_does_not_wait_for_history(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "TELEMETRY_WINDOWS_PER_BATCH_MAX", 10)
    for number in range(50):
        journal.record_window(window(number))
    outbox, controller = outbox_of(journal), Controller()
    connected(outbox, journal)
    controller.epoch = journal.epoch
    assert reported(outbox, controller, 0.0)[-1] == 49

    journal.record_window(window(50))

    assert reported(outbox, controller, 0.0) == [50]
    assert reported(outbox, controller, 0.0) == []  # history is not due yet


def test_what_was_on_its_way_before_a_restart_is_no_reason_to_hurry(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "TELEMETRY_WINDOWS_PER_BATCH_MAX", 10)
    for number in range(50):
        journal.record_window(window(number))
    first = outbox_of(journal)
    connected(first, journal)
    assert minutes(first.due(0.0))[0] == 40  # and the device restarts

    outbox, controller = outbox_of(journal), Controller()
    connected(outbox, journal)
    controller.epoch = journal.epoch

    assert reported(outbox, controller, 0.0)[0] == 40  # as it was handed out
    assert reported(outbox, controller, 0.0)[-1] == 39  # the newest of what waits
    assert reported(outbox, controller, 0.0) == []


def test_a_window_damaged_on_its_way_is_passed_over_with_a_hello(
    journal: Journal, tmp_path: Path
) -> None:
    """The controller waits for its number, until the device says that it has it no more."""
    for number in range(4):
        journal.record_window(window(number))
    outbox = outbox_of(journal)
    connected(outbox, journal)
    outbox.due(0.0)
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database, database:
        database.execute("UPDATE windows SET content = x'00' WHERE sequence = 2")
    outbox.on_disconnected()
    connected(outbox, journal, at=5.0)
    assert minutes(outbox.due(5.0)) == [0]
    one = Ack(device="kiosk-1", epoch=journal.epoch, events_acked=0, telemetry_acked=1)
    outbox.on_ack(one, 5.0)

    outbox.due(5.0)  # the event that tells of the damage
    (hello,) = (o for o in outbox.due(5.0) if o.channel is Channel.HELLO)

    assert decode(Hello, hello.payload).telemetry.first == 3
    two = Ack(device="kiosk-1", epoch=journal.epoch, events_acked=1, telemetry_acked=2)
    outbox.on_ack(two, 5.0)
    assert minutes(outbox.due(5.0)) == [2, 3]


def test_on_a_full_disk_events_go_out_although_telemetry_cannot(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.record_event(event(1))
    journal.record_window(window(1))
    outbox = outbox_of(journal)
    connected(outbox, journal)

    def refuse(*_: object, **__: object) -> None:
        raise DiskFull("full", next_step="none")

    monkeypatch.setattr(journal, "windows_to_send", refuse)

    assert [item.channel for item in outbox.due(0.0)] == [Channel.EVENTS]


def test_a_batch_counts_what_repeats_itself_unpacked_too(journal: Journal) -> None:
    """Rows are held compressed. Logs of failures, side by side, came to more than a batch may be
    unpacked: nothing could be sent any more, and the agent ended each time it tried."""
    said = {"log": ["the same line again and again"] * 1000}
    for number in range(EVENTS_PER_BATCH_MAX):
        journal.record_event(event(number).model_copy(update={"evidence": said}))
    outbox = outbox_of(journal)
    connected(outbox, journal)

    batches = [decode(EventBatch, o.payload) for o in outbox.due(0.0)]

    assert 1 < len(batches) < EVENTS_PER_BATCH_MAX / 10
    assert batches[0].events[0].evidence == said


def test_a_batch_of_wide_windows_counts_them_unpacked_too(journal: Journal) -> None:
    wide = LatencySketch(
        relative_accuracy=0.01, offset=0, bins=(1 << 33,) * 4096, count=1 << 45, sum_ms=5
    )
    for number in range(100):
        journal.record_window(window(number).model_copy(update={"latency": wide}))
    outbox = outbox_of(journal)
    connected(outbox, journal)

    (batch,) = outbox.due(0.0)

    assert 1 < len(decode(TelemetryBatch, batch.payload).windows) < 100


def incompressible(size_bytes: int, seed: int) -> str:
    return random.Random(seed).randbytes(size_bytes // 2).hex()


def test_events_that_cannot_be_compressed_fill_batches_up_to_their_bytes(journal: Journal) -> None:
    for number in range(EVENTS_PER_BATCH_MAX):
        evidence = {"log": incompressible(4000, number)}
        journal.record_event(event(number).model_copy(update={"evidence": evidence}))
    outbox = outbox_of(journal)
    connected(outbox, journal)

    sent = [decode(EventBatch, o.payload).events for o in outbox.due(0.0)]

    sizes = [sum(len(encode(each)) for each in events) for events in sent]
    assert max(sizes) <= EVENT_BATCH_BYTES_MAX
    assert sizes[0] > EVENT_BATCH_BYTES_MAX * 0.9


def test_windows_that_cannot_be_compressed_fill_one_batch_at_a_time(journal: Journal) -> None:
    rng = random.Random(1)
    for number in range(150):
        bins = tuple(rng.getrandbits(30) for _ in range(500))
        sketch = LatencySketch(
            relative_accuracy=0.01, offset=0, bins=bins, count=sum(bins), sum_ms=5
        )
        journal.record_window(window(number).model_copy(update={"latency": sketch}))
    outbox = outbox_of(journal)
    connected(outbox, journal)

    batches = outbox.due(0.0)

    assert len(batches) == TELEMETRY_BATCHES_IN_FLIGHT_MAX
    size = sum(len(encode(each)) for each in decode(TelemetryBatch, batches[0].payload).windows)
    assert TELEMETRY_BATCH_BYTES_MAX * 0.9 < size <= TELEMETRY_BATCH_BYTES_MAX
    assert outbox.due(1.0) == []
