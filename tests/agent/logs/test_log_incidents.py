"""The last lines before a failure go with the event that tells of it."""

import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.ledger import Ledger
from mailboat_agent.logs.incident import LINES_MAX
from mailboat_agent.logs.ring import LogRing
from mailboat_agent.state_file import StateFile
from mailboat_schemas.codec import encode
from mailboat_schemas.events import EVIDENCE_BYTES_MAX, Event, EventKind

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def log(tmp_path: Path) -> LogRing:
    return LogRing(tmp_path / "logs", 0)


@pytest.fixture
def ledger(tmp_path: Path, log: LogRing) -> Ledger:
    rng = random.Random(1)
    journal = Journal(tmp_path / "journal.db", rng)
    ledger = Ledger(StateFile(tmp_path), journal, now=NOON, rng=rng)
    ledger.log_tail = log.tail
    return ledger


def event(kind: EventKind) -> Event:
    return Event(event_id=f"1:{kind}", sequence=1, kind=kind, observed_at=0, model="vad")


def evidence(ledger: Ledger) -> dict[str, object]:
    (told,) = ledger._journal.events_after(0, 10, 1 << 20)
    return told.evidence


def say(log: LogRing, text: str) -> None:
    log.append(at=1_700_000_000_000, level="error", logger="test", message=text)


@pytest.mark.parametrize("kind", [EventKind.TRIAL_FAILED, EventKind.ROLLED_BACK])
def test_a_failure_carries_the_last_lines_beside_its_evidence(
    ledger: Ledger, log: LogRing, kind: EventKind
) -> None:
    for number in range(LINES_MAX + 20):
        say(log, f"line {number}")

    ledger.tell(event(kind), {"reason": "latency"})

    found = evidence(ledger)
    assert found["reason"] == "latency"
    lines = found["log"]
    assert isinstance(lines, list)
    assert len(lines) == LINES_MAX
    assert lines[-1] == f"{LINES_MAX + 20} 1700000000000 error line {LINES_MAX + 19}"


def test_good_news_carries_none(ledger: Ledger, log: LogRing) -> None:
    say(log, "a line")

    ledger.tell(event(EventKind.COMMITTED), {"reason": "soaked"})

    assert evidence(ledger) == {"reason": "soaked"}


def test_lines_make_room_for_evidence_and_never_the_other_way_round(
    ledger: Ledger, log: LogRing
) -> None:
    rng = random.Random(7)  # text that does not compress
    for _ in range(LINES_MAX):
        say(log, rng.randbytes(150).hex())

    ledger.tell(event(EventKind.TRIAL_FAILED), {"samples": rng.randbytes(1200).hex()})

    found = evidence(ledger)
    assert "samples" in found
    assert found.get("log")
    whole = event(EventKind.TRIAL_FAILED).model_copy(update={"evidence": found})
    assert len(encode(whole)) < EVIDENCE_BYTES_MAX + 100
