"""No state event is lost or recorded twice, whatever happens to the database under it."""

import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mailboat_agent.journal import event_journal as journal_module
from mailboat_agent.journal.database import (
    CACHE_KIB_MAX,
    DAMAGED_KEPT_MAX,
    WAL_BYTES_KEPT_MAX,
    WAL_PAGES_MAX,
)
from mailboat_agent.journal.event_journal import (
    EVENT_IDS_KEPT,
    EVENTS_ROWS_MAX,
    Journal,
)
from mailboat_agent.journal.rows import EVENTS_GIVEN, set_meta
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.reports import LatencySketch, Span, TelemetryWindow
from small_disk import run_on_small_disk

BYTES_MAX = 100_000
NOON_MS = 1_700_000_000_000


def event(name: str, because: str = "") -> Event:
    return Event(
        event_id=name, sequence=1, kind=EventKind.COMMITTED, observed_at=NOON_MS, because=because
    )


def window(minute: int, model: str = "vad", seconds: float = 60) -> TelemetryWindow:
    sketch = LatencySketch(relative_accuracy=0.01, offset=10, bins=(1,), count=1, sum_ms=5)
    return TelemetryWindow(
        sequence=1, model=model, version="1.0.0", digest="a" * 64,
        started_at=NOON_MS + minute * 60_000, seconds=seconds,
        requests_ok=1, requests_error=0, latency=sketch,
    )  # fmt: skip


def open_journal(directory: Path, seed: int = 1) -> Journal:
    return Journal(directory / "journal.db", random.Random(seed))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(open_journal(tmp_path)) as opened:
        yield opened


def names(events: list[Event]) -> list[str]:
    return [each.event_id for each in events]


def edit(directory: Path, statement: str, *parameters: object) -> None:
    with closing(sqlite3.connect(directory / "journal.db")) as database, database:
        database.execute(statement, parameters)


# --- events ---------------------------------------------------------------------------------------


def test_events_are_numbered_from_one_in_the_order_they_happened(journal: Journal) -> None:
    assert [journal.record_event(event(name)) for name in ("a", "b", "c")] == [1, 2, 3]

    events = journal.events_after(0, 10, BYTES_MAX)

    assert [(each.event_id, each.sequence) for each in events] == [("a", 1), ("b", 2), ("c", 3)]
    assert journal.span_events() == Span(first=1, last=3)


def test_an_empty_outbox_says_which_sequence_comes_next(journal: Journal) -> None:
    assert journal.span_events() == Span(first=1, last=0)
    assert journal.span_telemetry() == Span(first=1, last=0)

    journal.record_event(event("a"))
    journal.record_window(window(0))
    journal.windows_to_send(0, 10, BYTES_MAX)
    journal.acknowledge(1, 1)

    assert journal.span_events() == Span(first=2, last=1)
    assert journal.span_telemetry() == Span(first=2, last=1)
    assert journal.events_after(0, 10, BYTES_MAX) == []
    assert journal.windows_after(0, 10, BYTES_MAX) == []


def test_an_event_told_again_keeps_its_first_sequence(journal: Journal) -> None:
    journal.record_event(event("a", "first"))
    journal.record_event(event("b"))

    assert journal.record_event(event("a", "again")) == 1
    assert [each.because for each in journal.events_after(0, 10, BYTES_MAX)] == ["first", ""]


def test_an_event_is_known_after_it_was_acknowledged_and_deleted(journal: Journal) -> None:
    journal.record_event(event("a"))
    journal.acknowledge(1, 0)

    assert journal.has_event("a")
    assert not journal.has_event("b")
    assert journal.record_event(event("a")) == 1
    assert journal.events_after(0, 10, BYTES_MAX) == []


def test_only_so_many_acknowledged_ids_are_remembered(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert EVENT_IDS_KEPT >= 1000
    monkeypatch.setattr(journal_module, "EVENT_IDS_KEPT", 3)
    for number in range(1, 7):
        journal.record_event(event(f"e{number}"))
    journal.acknowledge(5, 0)

    assert [journal.has_event(f"e{number}") for number in range(1, 7)] == [
        False, False, True, True, True, True,
    ]  # fmt: skip


def test_sequences_are_never_reused_also_after_a_restart_with_an_empty_outbox(
    tmp_path: Path,
) -> None:
    with closing(open_journal(tmp_path, seed=1)) as journal:
        epoch = journal.epoch
        journal.record_event(event("a"))
        journal.record_window(window(0))
        journal.acknowledge(1, 1)

    with closing(open_journal(tmp_path, seed=2)) as journal:
        assert journal.epoch == epoch
        assert not journal.was_lost
        assert journal.record_event(event("b")) == 2
        assert journal.record_window(window(1)) == 2


def test_a_watermark_never_goes_back_nor_beyond_what_was_given(journal: Journal) -> None:
    for name in ("a", "b", "c"):
        journal.record_event(event(name))

    journal.acknowledge(2, 0)
    journal.acknowledge(1, 0)
    assert names(journal.events_after(0, 10, BYTES_MAX)) == ["c"]
    assert journal.span_events() == Span(first=3, last=3)

    journal.acknowledge(99, 99)
    assert journal.span_events() == Span(first=4, last=3)
    assert journal.record_event(event("d")) == 4


def test_a_batch_has_a_limit_and_a_size_but_at_least_one_event(journal: Journal) -> None:
    for name in ("a", "b", "c"):
        journal.record_event(event(name, because="x" * 500))

    assert names(journal.events_after(1, 1, BYTES_MAX)) == ["b"]
    assert names(journal.events_after(0, 10, 1400)) == ["a", "b"]
    assert names(journal.events_after(0, 10, 1)) == ["a"]


def test_an_event_with_too_much_evidence_is_told_without_it(journal: Journal) -> None:
    journal.record_event(
        event("a").model_copy(update={"evidence": {"text": random.Random(1).randbytes(300_000)}})
    )

    assert journal.events_after(0, 1, BYTES_MAX)[0].evidence == {"dropped": "too large"}


def test_beyond_the_bound_events_are_still_recorded_and_it_is_said(
    tmp_path: Path, journal: Journal
) -> None:
    edit(
        tmp_path,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
        "INSERT INTO events SELECT i, 'e' || i, x'00', x'00' FROM n",
        EVENTS_ROWS_MAX,
    )
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database, database:
        set_meta(database, EVENTS_GIVEN, str(EVENTS_ROWS_MAX))
    assert not journal.events_over_bound

    assert journal.record_event(event("one-more")) == EVENTS_ROWS_MAX + 1

    assert journal.events_over_bound
    assert names(journal.events_after(EVENTS_ROWS_MAX, 9, BYTES_MAX)) == ["one-more"]


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET content = x'0000' WHERE sequence = 2",
        "UPDATE events SET event_id = 'other' WHERE sequence = 2",
        "UPDATE events SET hash = x'00' WHERE sequence = 2",
        "DELETE FROM events WHERE sequence = 2",
    ],
)
def test_a_damaged_or_vanished_event_is_told_as_damage_under_its_sequence(
    tmp_path: Path, journal: Journal, statement: str
) -> None:
    for name in ("a", "b", "c"):
        journal.record_event(event(name))
    edit(tmp_path, statement)

    events = journal.events_after(0, 10, BYTES_MAX)

    assert names(events) == ["a", f"{journal.epoch}:2:damaged", "c"]
    assert [each.sequence for each in events] == [1, 2, 3]
    assert events[1].kind is EventKind.STORAGE_DAMAGED
    assert journal.events_after(0, 10, BYTES_MAX) == events
    assert journal.damaged_rows == 1


def test_vanished_events_at_either_end_are_told_too(tmp_path: Path, journal: Journal) -> None:
    for name in ("a", "b", "c"):
        journal.record_event(event(name))
    edit(tmp_path, "DELETE FROM events")

    events = journal.events_after(0, 10, BYTES_MAX)

    assert [each.sequence for each in events] == [1, 2, 3]
    assert {each.kind for each in events} == {EventKind.STORAGE_DAMAGED}
    assert journal.span_events() == Span(first=1, last=3)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"not a database" * 1000, id="no-database"),
        pytest.param(bytes(40_000), id="zero-filled"),
        pytest.param(b"SQLite format 3\0" + bytes(8000), id="header-only"),
    ],
)
def test_a_file_that_is_no_database_is_moved_aside(tmp_path: Path, content: bytes) -> None:
    with closing(open_journal(tmp_path, seed=1)) as journal:
        old_epoch = journal.epoch
        journal.record_event(event("a"))
    (tmp_path / "journal.db").write_bytes(content)

    with closing(open_journal(tmp_path, seed=2)) as journal:
        assert journal.was_lost
        assert journal.epoch != old_epoch
        assert journal.record_event(event("a")) == 1

    assert (tmp_path / "journal.db.damaged-1").read_bytes() == content


@pytest.mark.slow
def test_every_corrupted_page_ends_in_a_journal_that_works(tmp_path: Path) -> None:
    """Each page in turn is overwritten with noise; some are found at once, some in use."""
    with closing(open_journal(tmp_path)) as journal:
        for number in range(200):
            journal.record_event(event(f"e{number}", because="x" * 100))
        epoch = journal.epoch
    whole = (tmp_path / "journal.db").read_bytes()
    rng = random.Random(1)

    for page in range(len(whole) // 4096):
        place = tmp_path / f"page-{page}"
        place.mkdir()
        damaged = bytearray(whole)
        damaged[page * 4096 : page * 4096 + 4096] = rng.randbytes(4096)
        (place / "journal.db").write_bytes(damaged)
        with closing(open_journal(place, seed=page + 10)) as journal:
            journal.record_event(event("after"))
            span = journal.span_events()
            last = journal.events_after(span.last - 1, 1, BYTES_MAX)
            assert names(last) == ["after"]
            journal.acknowledge(span.last, 0)
            if journal.was_lost:
                assert journal.epoch != epoch


def test_damage_found_while_running_begins_a_new_epoch(tmp_path: Path) -> None:
    with closing(open_journal(tmp_path)) as journal:
        journal.record_event(event("a"))
        epoch = journal.epoch
        edit(tmp_path, "DROP TABLE told")

        assert journal.record_event(event("b")) == 1

        assert journal.was_lost
        assert journal.epoch != epoch
        assert names(journal.events_after(0, 10, BYTES_MAX)) == ["b"]


def test_a_tampered_epoch_or_watermark_is_damage(tmp_path: Path) -> None:
    with closing(open_journal(tmp_path)) as journal:
        journal.record_event(event("a"))
    edit(tmp_path, "UPDATE meta SET value = 'ffffffffffffffff' WHERE name = 'epoch'")

    with closing(open_journal(tmp_path, seed=2)) as journal:
        assert journal.was_lost
        assert journal.epoch != "f" * 16


def test_only_the_last_damaged_journals_are_kept(tmp_path: Path) -> None:
    for number in range(DAMAGED_KEPT_MAX + 2):
        (tmp_path / "journal.db").write_bytes(b"damage %d" % number * 100)
        open_journal(tmp_path).close()

    kept = sorted(path.name for path in tmp_path.glob("*damaged*"))
    assert kept == ["journal.db.damaged-3", "journal.db.damaged-4"]


def test_a_new_journal_is_not_poisoned_by_the_wal_of_the_damaged_one(tmp_path: Path) -> None:
    program = (
        "import random, os, sys, pathlib\n"
        "from mailboat_agent.journal.event_journal import Journal\n"
        "from mailboat_schemas.events import Event, EventKind\n"
        "journal = Journal(pathlib.Path(sys.argv[1]), random.Random(1))\n"
        "for n in range(20):\n"
        "    journal.record_event(Event(event_id=f'e{n}', sequence=1, observed_at=0,\n"
        "                               kind=EventKind.COMMITTED))\n"
        "os._exit(0)\n"  # no close: the WAL stays
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "journal.db"], check=True)
    assert (tmp_path / "journal.db-wal").stat().st_size > 0
    (tmp_path / "journal.db").write_bytes(b"damage" * 2000)
    (tmp_path / "journal.db-wal").write_bytes(
        (tmp_path / "journal.db-wal").read_bytes()[:32] + bytes(4096)
    )

    with closing(open_journal(tmp_path, seed=2)) as journal:
        assert journal.was_lost
        assert journal.span_events() == Span(first=1, last=0)
        journal.record_event(event("new"))
    with closing(open_journal(tmp_path, seed=3)) as journal:
        assert names(journal.events_after(0, 10, BYTES_MAX)) == ["new"]


# --- durability -----------------------------------------------------------------------------------


def test_what_was_recorded_survives_a_kill(tmp_path: Path) -> None:
    program = (
        "import random, sys, pathlib, itertools\n"
        "from mailboat_agent.journal.event_journal import Journal\n"
        "from mailboat_schemas.events import Event, EventKind\n"
        "journal = Journal(pathlib.Path(sys.argv[1]), random.Random(1))\n"
        "for n in itertools.count():\n"
        "    print(journal.record_event(Event(event_id=f'e{n}', sequence=1, observed_at=0,\n"
        "                                     kind=EventKind.COMMITTED)), flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "journal.db"], stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout is not None
        recorded = [int(child.stdout.readline()) for _ in range(50)]
        child.kill()

    with closing(open_journal(tmp_path)) as journal:
        assert not journal.was_lost
        events = journal.events_after(0, 50, BYTES_MAX)
    assert [each.sequence for each in events] == recorded
    assert names(events) == [f"e{number}" for number in range(50)]


def test_a_transaction_is_synced_before_it_returns(journal: Journal) -> None:
    """NORMAL would lose acknowledged rows in a power cut; only a block-level test can show it."""
    run = journal._database.run
    assert run(lambda database: database.execute("PRAGMA synchronous").fetchone()) == (2,)
    assert run(lambda database: database.execute("PRAGMA journal_mode").fetchone()) == ("wal",)


def test_two_threads_share_a_journal(journal: Journal) -> None:
    def record(thread: int) -> None:
        for number in range(25):
            journal.record_event(event(f"{thread}-{number}"))
            journal.record_window(window(number, model=f"m{thread}"))

    threads = [threading.Thread(target=record, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    events = journal.events_after(0, 100, BYTES_MAX)
    assert [each.sequence for each in events] == list(range(1, 51))
    assert len(set(names(events))) == 50
    assert len(journal.windows_after(0, 100, BYTES_MAX)) == 50


def test_a_full_disk_is_said_and_nothing_recorded_is_lost(tmp_path: Path) -> None:
    run_on_small_disk(
        tmp_path / "disk",
        3 << 20,
        """
        import random
        from mailboat_agent.ballast import restore_ballast
        from mailboat_agent.journal.event_journal import Journal
        from mailboat_schemas.errors import DiskFull
        from mailboat_schemas.events import Event, EventKind
        from mailboat_schemas.reports import TelemetryWindow

        def event(number):
            return Event(event_id=f"e{number}", sequence=1, kind=EventKind.COMMITTED,
                         observed_at=0, because="x" * 900)

        window = TelemetryWindow(sequence=1, model="vad", version="1.0.0", digest="a" * 64,
                                 started_at=0, seconds=60, requests_ok=1, requests_error=0)
        restore_ballast(DISK)
        journal = Journal(DISK / "journal.db", random.Random(1))
        journal.record_event(event(0))
        fill()
        try:
            while True:
                journal.record_window(window)
        except DiskFull:
            assert (DISK / "ballast").exists()
        recorded = 1
        try:
            while recorded < 9999:
                journal.record_event(event(recorded))
                recorded += 1
        except DiskFull:
            pass
        assert 300 < recorded < 9999, recorded  # the ballast was given up
        assert not (DISK / "ballast").exists()
        assert journal.span_events().last == recorded
        events = journal.events_after(recorded - 1, 5, 99999)
        assert [e.event_id for e in events] == [f"e{recorded - 1}"]
        (DISK / "filler").write_bytes(bytes(4096))  # somebody frees some space
        journal.acknowledge(recorded - 1, 0)
        assert journal.record_event(event(recorded)) == recorded + 1
        epoch = journal.epoch
        journal.close()

        (DISK / "journal.db-wal").unlink(missing_ok=True)
        fill()
        journal = Journal(DISK / "journal.db", random.Random(2))  # a start needs no free room
        try:
            journal.record_event(event(10000))
        except DiskFull:
            pass
        (DISK / "filler").unlink()
        assert journal.epoch == epoch and not journal.was_lost
        journal.record_event(event(10001))
        assert journal.events_after(recorded, 5, 99999)[0].event_id == f"e{recorded}"
        """,
    )


def test_the_log_beside_the_journal_is_used_anew_and_stays_short(
    tmp_path: Path, journal: Journal
) -> None:
    largest = 0
    for number in range(300):
        journal.record_event(event(f"e:{number}", because="x" * 900))
        largest = max(largest, (tmp_path / "journal.db-wal").stat().st_size)

    page_bytes = 4096 + 24
    assert largest > WAL_PAGES_MAX * page_bytes / 2
    assert largest <= WAL_BYTES_KEPT_MAX


@pytest.mark.parametrize("acked", [0, 3, 14])
def test_a_new_epoch_tells_all_that_waits_anew_a_part_at_a_time(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, acked: int
) -> None:
    """Tens of thousands of events may wait, and all at once they took more memory than the agent
    may have."""
    monkeypatch.setattr(journal_module, "RENUMBERED_AT_ONCE", 4)
    for number in range(1, 15):
        journal.record_event(event(f"e:{number}"))
    journal.acknowledge(acked, 0)
    edit(tmp_path, "DELETE FROM events WHERE sequence = 9")
    before = journal.epoch

    journal.begin_epoch_anew()

    events = journal.events_after(0, 100, BYTES_MAX)
    expected = [f"e:{number}" for number in range(acked + 1, 15)]
    if acked < 9:
        expected[9 - acked - 1] = f"{before}:9:damaged"
    assert names(events) == expected
    assert [each.sequence for each in events] == list(range(1, 15 - acked))
    assert journal.record_event(event("e:15")) == 15 - acked
    assert journal.record_event(event("e:1")) == 1 - acked  # known, as before


def test_of_a_large_journal_no_more_is_kept_in_memory_than_the_bound(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "journal.db", random.Random(1))) as journal:
        held = journal._database.run(lambda found: found.execute("PRAGMA cache_size").fetchone())

    assert held == (-CACHE_KIB_MAX,)  # below zero SQLite counts KiB
