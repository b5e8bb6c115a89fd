"""A full buffer loses resolution and no request; what is sent is never changed again."""

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mailboat_agent.journal import thinning
from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.journal.thinning import (
    LEVEL_SECONDS,
    LEVEL_SHARES,
    ROWS_OVER_MAX,
    TELEMETRY_BYTES_MAX,
    TELEMETRY_ROWS_MAX,
    Bounds,
)
from mailboat_agent.telemetry.figures import describe_telemetry, telemetry_figures
from mailboat_schemas.documents.serving_policy import Workload
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.reports import LatencySketch, TelemetryWindow

BYTES_MAX = 1 << 20
NOON_MS = 1_700_006_400_000  # a full day of UTC, so of every bucket
MINUTE_MS, DAY_MINUTES = 60_000, 1440
TWENTY = Bounds(rows_max=20)
Opened = Callable[[Bounds], Journal]


def window(minute: int, model: str = "vad", seconds: float = 60) -> TelemetryWindow:
    sketch = LatencySketch(relative_accuracy=0.01, offset=10, bins=(1,), count=1, sum_ms=5)
    return TelemetryWindow(
        sequence=1, model=model, version="1.0.0", digest="a" * 64,
        started_at=NOON_MS + minute * MINUTE_MS, seconds=seconds,
        requests_ok=1, requests_error=0, latency=sketch,
    )  # fmt: skip


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    journals: list[Journal] = []

    def open_one(bounds: Bounds) -> Journal:
        journals.append(Journal(tmp_path / "journal.db", random.Random(1), bounds))
        return journals[-1]

    yield open_one
    for journal in journals:
        journal.close()


def edit(directory: Path, statement: str) -> None:
    with closing(sqlite3.connect(directory / "journal.db")) as database, database:
        database.execute(statement)


def kept(journal: Journal) -> list[TelemetryWindow]:
    return journal.windows_after(0, 5000, 1 << 24)


# --- resolution -----------------------------------------------------------------------------------


def test_a_full_buffer_loses_resolution_but_no_request(opened: Opened) -> None:
    journal = opened(TWENTY)
    for minute in range(60):
        journal.record_window(window(minute))

    windows = kept(journal)

    assert len(windows) <= TWENTY.rows_max
    assert sum(each.requests_ok for each in windows) == 60
    assert sum(each.seconds for each in windows) == 60 * 60
    assert sum(each.merged for each in windows) == 60
    assert sum(each.latency.count for each in windows if each.latency) == 60
    assert [each.started_at for each in windows] == sorted(each.started_at for each in windows)
    assert max(each.seconds for each in windows) <= 600  # no hours while there is room for these
    assert [each.seconds for each in windows[-5:]] == [60] * 5


@pytest.mark.slow
def test_what_is_newest_is_finest_and_each_level_keeps_its_share_but_for_one_bucket(
    opened: Opened,
) -> None:
    bounds = Bounds(rows_max=32)
    journal = opened(bounds)
    minutes = 3 * DAY_MINUTES
    for minute in range(minutes):
        journal.record_window(window(minute))

    held = journal.held_telemetry()
    windows = kept(journal)

    assert [level.seconds_max for level in held.levels] == list(LEVEL_SECONDS)
    for level, share, bucket in zip(held.levels, LEVEL_SHARES, (10, 6, 24, 2), strict=True):
        assert level.windows > share * bounds.rows_max - bucket
    assert held.windows <= bounds.rows_max
    assert sum(each.requests_ok for each in windows) == minutes
    ends = [each.started_at + each.seconds * 1000 for each in windows]
    starts = [each.started_at for each in windows]
    assert starts[1:] == ends[:-1]  # no gap and no overlap
    assert held.merged == minutes - len(windows)
    assert (held.dropped, held.windows) == (0, len(windows))


def test_the_published_bounds_hold_what_the_documentation_promises() -> None:
    """docs/telemetry.md: with three models, 45 hours of minutes and nine days of ten minutes."""
    minutes, tens, hours, _ = (share * TELEMETRY_ROWS_MAX / 3 for share in LEVEL_SHARES)

    assert sum(LEVEL_SHARES) == 1
    assert minutes / 60 > 45
    assert tens / 6 / 24 > 9
    assert hours / 24 > 40
    assert TELEMETRY_BYTES_MAX / TELEMETRY_ROWS_MAX == 1536  # a window of 200 buckets is about half


def test_bytes_are_bounded_as_rows_are(opened: Opened) -> None:
    bounds = Bounds(bytes_max=8 * 1024)
    journal = opened(bounds)
    for minute in range(120):
        journal.record_window(window(minute))

    held = journal.held_telemetry()

    assert held.bytes <= bounds.bytes_max
    assert sum(each.requests_ok for each in kept(journal)) == 120


def test_releases_and_workloads_are_not_mixed(opened: Opened) -> None:
    journal = opened(TWENTY)
    batch = {"workload": Workload.BATCH}
    for minute in range(40):
        journal.record_window(window(minute, model=("vad", "wakeword")[minute % 2]))
        journal.record_window(window(minute, model="vad").model_copy(update=batch))

    counts = {("vad", None): 0, ("wakeword", None): 0, ("vad", Workload.BATCH): 0}
    for each in kept(journal):
        counts[each.model, each.workload] += each.requests_ok
    assert list(counts.values()) == [20, 20, 40]


def test_on_the_last_level_the_oldest_days_become_one(opened: Opened) -> None:
    journal = opened(TWENTY)
    for day in range(40):
        journal.record_window(window(day * DAY_MINUTES, seconds=86_400))

    windows = kept(journal)

    assert sum(each.seconds for each in windows) == 40 * 86_400
    assert windows[-1].seconds == 86_400
    assert journal.held_telemetry().dropped == 0


def test_a_device_that_is_on_for_a_minute_an_hour_loses_nothing_either(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row alone in its bucket cannot be merged at once, only lifted to the next level."""
    monkeypatch.setattr(thinning, "STEPS_MAX", 4)
    bounds = Bounds(rows_max=20)
    journal = opened(bounds)
    most = 0
    for hour in range(150):
        journal.record_window(window(hour * 60))
        most = max(most, journal.held_telemetry().windows)

    assert sum(each.requests_ok for each in kept(journal)) == 150
    assert journal.held_telemetry().dropped == 0
    assert bounds.rows_max < most <= bounds.rows_max + ROWS_OVER_MAX


def test_with_a_release_per_row_the_oldest_window_is_dropped_and_counted(opened: Opened) -> None:
    journal = opened(TWENTY)
    for minute in range(TWENTY.rows_max + 1):
        journal.record_window(window(minute, model=f"m{minute}"))

    assert [each.model for each in kept(journal)] == [f"m{n}" for n in range(1, 21)]
    assert journal.held_telemetry().dropped == 1


def test_a_clock_that_jumps_back_mixes_no_times(opened: Opened) -> None:
    """At 1970 until the time was known, then at 2026: each time keeps its windows."""
    journal = opened(TWENTY)
    for minute in range(30):
        journal.record_window(window(minute).model_copy(update={"started_at": minute * MINUTE_MS}))
    for minute in range(30):
        journal.record_window(window(minute))

    windows = kept(journal)

    assert sum(each.requests_ok for each in windows if each.started_at < NOON_MS) == 30
    assert sum(each.requests_ok for each in windows if each.started_at >= NOON_MS) == 30


def test_counts_of_what_was_merged_outlive_a_restart(opened: Opened) -> None:
    journal = opened(TWENTY)
    for minute in range(40):
        journal.record_window(window(minute))
    before = journal.held_telemetry()
    journal.close()

    assert opened(TWENTY).held_telemetry() == before
    assert before.merged > 0


# --- on their way ---------------------------------------------------------------------------------


def test_the_newest_windows_are_handed_out_first_under_sequences_without_a_gap(
    opened: Opened,
) -> None:
    journal = opened(TWENTY)
    for minute in range(50):
        journal.record_window(window(minute))

    newest = journal.windows_to_send(0, 3, BYTES_MAX)
    journal.acknowledge(0, 3)
    next_newest = journal.windows_to_send(3, 3, BYTES_MAX)

    minutes = [(each.started_at - NOON_MS) // MINUTE_MS for each in newest.windows]
    assert minutes == [47, 48, 49]
    assert [each.sequence for each in newest.windows] == [1, 2, 3]
    assert [each.sequence for each in next_newest.windows] == [4, 5, 6]
    assert next_newest.windows[-1].started_at < newest.windows[0].started_at


def test_what_was_handed_out_is_the_same_for_ever_and_never_merged(opened: Opened) -> None:
    journal = opened(TWENTY)
    for minute in range(20):
        journal.record_window(window(minute))
    sent = journal.windows_to_send(0, 5, BYTES_MAX)  # the others of its ten minutes are merged
    for minute in range(20, 60):
        journal.record_window(window(minute))
    journal.close()

    again = opened(TWENTY).windows_to_send(0, 10, BYTES_MAX)

    assert again.windows == sent.windows
    assert (sent.again, again.again) == (False, True)


def test_only_what_is_newer_is_handed_out_while_history_has_to_wait(opened: Opened) -> None:
    journal = opened(TWENTY)
    for minute in range(5):
        journal.record_window(window(minute))

    assert not journal.windows_to_send(0, 10, BYTES_MAX, newer_than=5).windows
    journal.record_window(window(5))
    (fresh,) = journal.windows_to_send(0, 10, BYTES_MAX, newer_than=5).windows
    assert fresh.started_at == NOON_MS + 5 * MINUTE_MS


def test_a_batch_has_a_size_but_at_least_one_window(opened: Opened) -> None:
    journal = opened(TWENTY)
    for minute in range(3):
        journal.record_window(window(minute))

    assert len(journal.windows_to_send(0, 10, 1).windows) == 1


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    ["content = x'00'", "started_at = 0", "series = 'vad//'", "seconds = 1e9", "hash = x'00'"],
)
def test_a_damaged_window_is_found_dropped_and_told_once(
    tmp_path: Path, opened: Opened, damage: str
) -> None:
    journal = opened(TWENTY)
    for minute in range(3):
        journal.record_window(window(minute))
    edit(tmp_path, f"UPDATE windows SET {damage} WHERE number = 2")  # noqa: S608

    for _ in range(2):
        assert [each.sequence for each in kept(journal)] == [1, 3]

    (told,) = journal.events_after(0, 10, BYTES_MAX)
    assert (told.kind, told.code) == (EventKind.STORAGE_DAMAGED, "journal_window")
    assert told.because.startswith("1 telemetry windows were damaged")
    assert journal.damaged_rows == 1


@pytest.mark.parametrize("rows", [1, 5])
def test_merging_passes_over_damaged_windows_and_tells_of_them(
    tmp_path: Path, opened: Opened, rows: int
) -> None:
    journal = opened(TWENTY)
    for minute in range(20):
        journal.record_window(window(minute))
    edit(tmp_path, f"UPDATE windows SET content = x'00' WHERE number <= {rows}")  # noqa: S608

    journal.record_window(window(20))

    assert sum(each.requests_ok for each in kept(journal)) == 21 - rows
    (told,) = journal.events_after(0, 10, BYTES_MAX)
    assert told.because.startswith(f"{rows} telemetry windows were damaged")


def test_a_damaged_window_alone_in_its_bucket_is_not_made_whole_by_lifting_it(
    tmp_path: Path, opened: Opened
) -> None:
    journal = opened(TWENTY)
    for hour in range(20):
        journal.record_window(window(hour * 60))
    edit(tmp_path, "UPDATE windows SET seconds = 7 WHERE number = 1")

    journal.record_window(window(20 * 60))

    assert sum(each.requests_ok for each in kept(journal)) == 20
    assert journal.damaged_rows == 1


def test_a_window_damaged_on_its_way_leaves_a_gap_that_is_not_sent_over(
    tmp_path: Path, opened: Opened
) -> None:
    journal = opened(TWENTY)
    for minute in range(4):
        journal.record_window(window(minute))
    journal.windows_to_send(0, 10, BYTES_MAX)
    edit(tmp_path, "UPDATE windows SET content = x'00' WHERE number = 2")

    assert [each.sequence for each in journal.windows_to_send(0, 10, BYTES_MAX).windows] == [1]
    journal.acknowledge(0, 1)
    assert [each.sequence for each in journal.windows_to_send(1, 10, BYTES_MAX).windows] == [3, 4]
    assert journal.span_telemetry().first == 3


@pytest.mark.parametrize("size", ["1 << 60", "-(1 << 60)", "'much'", "9223372036854775807"])
def test_a_damaged_size_does_not_empty_the_buffer(
    tmp_path: Path, opened: Opened, size: str
) -> None:
    """No hash covers it: one bad number looked like a full buffer, and every window was dropped."""
    journal = opened(Bounds(rows_max=100, bytes_max=1 << 20))
    for minute in range(12):
        journal.record_window(window(minute))
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database, database:
        # As a bad sector does it, past what the table's declaration would refuse.
        database.execute("PRAGMA writable_schema = ON")
        database.execute("UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '')")
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database, database:
        database.execute(f"UPDATE windows SET bytes = {size} WHERE number IN (2, 3)")  # noqa: S608

    journal.record_window(window(12))

    assert len(kept(journal)) == 13
    assert journal.held_telemetry().dropped == 0
    assert 0 <= journal.held_telemetry().bytes <= 1 << 20


@pytest.mark.parametrize(
    "damage", ["seconds = 9e999", "started_at = 1 << 62", "seconds = -9e999", "level = 77"]
)
def test_what_is_held_can_be_said_whatever_a_damaged_window_says(
    tmp_path: Path, opened: Opened, damage: str
) -> None:
    """The agent asks once a second: an overflow here would end it, start after start."""
    journal = opened(TWENTY)
    for minute in range(3):
        journal.record_window(window(minute))
    edit(tmp_path, f"UPDATE windows SET {damage} WHERE number = 2")  # noqa: S608
    journal.record_window(window(3))

    held = journal.held_telemetry()
    figures = telemetry_figures(held, TWENTY, damaged=0, detail="normal", host=None)

    assert held.windows >= 3
    assert list(describe_telemetry(figures))


def test_a_damaged_window_that_its_index_does_not_find_is_in_nobodys_way(
    tmp_path: Path, opened: Opened
) -> None:
    """The oldest of its level: nothing of that level could be merged any more; and once it was to
    be dropped, the whole journal was set aside for it, with the events in it."""
    journal = opened(TWENTY)
    journal.record_event(Event(event_id="e:1", sequence=1, kind=EventKind.COMMITTED, observed_at=0))
    for minute in range(20):
        journal.record_window(window(minute, model="lost" if minute == 0 else "vad"))
    journal.close()
    path = tmp_path / "journal.db"
    content = path.read_bytes()
    place = content.index(b"lost/aaaa")
    while b"requests_ok" not in content[place : place + 300]:  # that of the table, not of an index
        place = content.index(b"lost/aaaa", place + 1)
    path.write_bytes(content[:place] + b"else" + content[place + 4 :])
    journal = opened(TWENTY)

    journal.record_window(window(20))

    assert sum(each.requests_ok for each in kept(journal)) == 20
    assert journal.held_telemetry().dropped == 0
    assert journal.damaged_rows == 1
    assert not journal.was_lost
    assert [each.event_id for each in journal.events_after(0, 1, BYTES_MAX)] == ["e:1"]


def test_a_bucket_of_many_short_windows_is_merged_in_parts(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thinning, "BUCKET_ROWS_MAX", 3)
    journal = opened(TWENTY)
    for _ in range(25):
        journal.record_window(window(0, seconds=1))

    windows = kept(journal)

    assert sum(each.requests_ok for each in windows) == 25
    assert max(each.merged for each in windows) == 3
    assert len(windows) <= 20
