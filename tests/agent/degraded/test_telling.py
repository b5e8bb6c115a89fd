import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from degraded_front import Front, Make
from mailboat_agent.degraded.modes import CALM_SECONDS, MODELS_MAX, Counts, Mode
from mailboat_agent.degraded.settings import PressureSetting
from mailboat_agent.degraded.status_lines import describe_degraded
from mailboat_agent.degraded.telling import NOTES_MAX, Degraded
from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.ledger import PROVOKED_BURST, Ledger
from mailboat_agent.state_file import StateFile
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.reports import TelemetryBatch, TelemetryWindow
from mailboat_schemas.window_merge import merge_windows

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db", random.Random(1))
    yield journal
    journal.close()


@pytest.fixture
def ledger(tmp_path: Path, journal: Journal) -> Ledger:
    return Ledger(StateFile(tmp_path), journal, now=NOON, rng=random.Random(1))


@pytest.fixture
def front(make: Make) -> Front:
    return make(pressure=PressureSetting(celsius_max=80, check_seconds=5))


def counts_of(degraded: Degraded) -> Counts:
    return degraded._counts


def told(journal: Journal) -> list[tuple[str, str | None, str, str]]:
    events = journal.events_after(0, 1000, 1 << 20)
    return [(str(each.kind), each.model, each.code, each.because) for each in events]


def test_a_mode_is_told_when_it_begins_and_when_it_has_been_over_for_a_minute(
    front: Front, ledger: Ledger, journal: Journal
) -> None:
    degraded, counts = front.degraded, counts_of(front.degraded)
    for second in range(3):
        counts.count("m", Mode.FALLBACK_RULE, "withdrawn", float(second))
        degraded.look(ledger, NOON, float(second))
    degraded.look(ledger, NOON, 2 + CALM_SECONDS - 1)
    assert told(journal) == [("degraded", "m", "fallback-rule", "withdrawn")]

    degraded.look(ledger, NOON, 2 + CALM_SECONDS)

    assert told(journal)[1:] == [("recovered", "m", "fallback-rule", "")]
    last = journal.events_after(0, 1000, 1 << 20)[-1]
    assert last.evidence == {"answers": {"fallback-rule": 3}}


def test_unsure_answers_are_counted_and_no_event(
    front: Front, ledger: Ledger, journal: Journal
) -> None:
    counts_of(front.degraded).count("m", Mode.LOW_CONFIDENCE, "no-endpoint", 0.0)
    counts_of(front.degraded).count("m", Mode.REMOTE, "low-confidence", 0.0)

    front.degraded.look(ledger, NOON, 0.0)

    assert told(journal) == []
    assert front.degraded.notes(0.0) == []
    assert front.totals() == {"m": {"low-confidence": 1, "remote": 1}}


def test_a_mode_that_comes_and_goes_all_day_does_not_fill_the_journal(
    front: Front, ledger: Ledger, journal: Journal
) -> None:
    at = 0.0
    for _ in range(PROVOKED_BURST + 50):
        counts_of(front.degraded).count("m", Mode.NEIGHBOUR, "queue-full", at)
        front.degraded.look(ledger, NOON, at)
        at += CALM_SECONDS
        front.degraded.look(ledger, NOON, at)
        at += 1

    kinds = [kind for kind, *_ in told(journal)]
    assert kinds.count("degraded") == PROVOKED_BURST
    assert kinds.count("recovered") == PROVOKED_BURST


def test_heat_is_told_of_the_device_as_a_whole_and_looked_for_now_and_then(
    front: Front, ledger: Ledger, journal: Journal, tmp_path: Path
) -> None:
    zone = tmp_path / "sys" / "class" / "thermal" / "thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("85000\n")
    front.degraded.look(ledger, NOON, 100.0)
    (zone / "temp").write_text("40000\n")
    front.degraded.look(ledger, NOON, 104.9)

    assert told(journal) == [("degraded", None, "pressure-thermal", "85 °C in the hottest zone")]
    assert front.degraded.notes(104.9) == ["pressure-thermal"]
    front.degraded.look(ledger, NOON, 105.0)
    assert told(journal)[-1][:3] == ("recovered", None, "pressure-thermal")


def test_the_report_has_a_few_notes_and_the_status_has_all(front: Front) -> None:
    for number in range(10):
        counts_of(front.degraded).count(f"m{number}", Mode.CACHE, "worker-failed", 0.0)

    assert front.degraded.notes(1.0) == [f"degraded:m{n}:cache" for n in range(NOTES_MAX)]
    status = front.degraded.status(1.0)
    assert len(status["now"]) == 10  # type: ignore[arg-type]
    assert "degraded  m9: cache, worker-failed" in describe_degraded(status)


def test_an_endpoint_that_is_left_alone_has_a_line() -> None:
    endpoint = {"name": "far", "kind": "remote", "circuit": "open", "problem": "it answered 500"}

    assert describe_degraded({"now": {}, "endpoints": [endpoint]}) == [
        "endpoint  far (remote) is open: it answered 500"
    ]
    assert describe_degraded({}) == []


def test_no_more_models_are_counted_than_a_device_can_have() -> None:
    counts = Counts()
    for number in range(MODELS_MAX + 10):
        counts.count(f"m{number}", Mode.CACHE, "x", 0.0)

    assert len(counts.totals()) == MODELS_MAX


def test_windows_carry_the_counts_and_two_make_one() -> None:
    window = TelemetryWindow(
        sequence=1, model="m", version="1.0.0", digest="a" * 64, started_at=0, seconds=60,
        requests_ok=1, requests_error=0, degraded={"cache": 2, "remote": 1},
    )  # fmt: skip
    batch = TelemetryBatch(device="d", epoch="0" * 16, first=1, windows=(window,))

    assert decode(TelemetryBatch, encode(batch)) == batch
    merged = merge_windows(window, window.model_copy(update={"degraded": {"cache": 1}}))
    assert merged.degraded == {"cache": 3, "remote": 1}
