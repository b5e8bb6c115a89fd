"""A device that nobody reaches, as a process that can be killed: the agent's own journal and
telemetry on a real file, over virtual minutes.

``python offline_device.py DIRECTORY SEED MINUTES`` goes on where its journal ends, and says each
minute that it has written. Every request follows from the seed, so what must arrive is known.
"""

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.journal.telemetry import Telemetry
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.window import ServingCounters, ServingStats, ServingWindow
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.reports import TelemetryWindow

MONDAY = datetime(2026, 6, 1, tzinfo=UTC)
MODELS = ("detector", "keyword", "vad")
REQUESTS_PER_SECOND = 10  # of all models together
EVENTS_PER_DAY = 20
DAY_MINUTES = 1440
EVENT_EVERY_MINUTES = DAY_MINUTES // EVENTS_PER_DAY
_VARIETIES = 97  # minutes whose latencies were drawn; a minute takes one of them


@cache
def latencies_ms(seed: int, variety: int, model: str) -> tuple[float, ...]:
    """Of the requests of one minute, a lognormal around 20 ms."""
    rng = random.Random(f"{seed}:{variety}:{model}")
    count = REQUESTS_PER_SECOND * 60 // len(MODELS)
    return tuple(rng.lognormvariate(3.0, 0.4) for _ in range(count))


def asked(seed: int, minute: int, model: str) -> tuple[tuple[float, ...], int]:
    """Latencies of the answers, and how many errors, of one minute."""
    chance = random.Random(f"{seed}:{minute}:{model}")
    errors = 1 if chance.random() < 0.05 else 0
    return latencies_ms(seed, chance.randrange(_VARIETIES), model), errors


def event_of(minute: int) -> Event | None:
    if minute % EVENT_EVERY_MINUTES:
        return None
    return Event(
        event_id=f"sim:{minute}",
        sequence=1,
        kind=EventKind.TRUST_STALE,
        observed_at=int((MONDAY + timedelta(minutes=minute)).timestamp() * 1000),
        because="Nobody has refreshed the trust metadata.",
    )


class ThreeModels(Runtime):
    """A runtime whose requests follow from the seed."""

    def __init__(self, seed: int) -> None:
        super().__init__(clock=lambda: MONDAY)
        self._seed = seed
        self._counters = {model: ServingCounters(lambda: MONDAY) for model in MODELS}

    def serve_minute(self, minute: int, models: Iterable[str]) -> None:
        for model in models:
            answered, errors = asked(self._seed, minute, model)
            for latency_ms in answered:
                self._counters[model].count_ok(latency_ms)
            for _ in range(errors):
                self._counters[model].count_error()

    def drain_window(self, model: str) -> tuple[ServingWindow, ...]:
        latencies = self._counters[model].swap_windows()
        return (ServingWindow(self._stats(model), latencies),)

    def _stats(self, model: str) -> ServingStats:
        return self._counters[model].stats(
            model=model,
            version="1.0.0",
            digest=f"{MODELS.index(model) + 10:x}" * 64,
            serial=1,
            peak_memory_bytes=50_000_000,
            ready=True,
        )


def minute_of(window: TelemetryWindow) -> int:
    """The last minute that is in it."""
    begins = (window.started_at - int(MONDAY.timestamp() * 1000)) // 60_000
    return int(begins + window.seconds // 60 - 1)


def goes_on_at(journal: Journal) -> tuple[int, tuple[str, ...]]:
    """The minute that was being written when the device was killed, and its models to come."""
    newest = journal.held_telemetry().newest
    windows = journal.windows_after(max(0, newest - len(MODELS)), len(MODELS), 1 << 20)
    if not windows:
        return 0, MODELS
    minute, model = minute_of(windows[-1]), windows[-1].model
    rest = MODELS[MODELS.index(model) + 1 :]
    return (minute, rest) if rest else (minute + 1, MODELS)


def live(directory: Path, seed: int, minutes: int) -> Iterator[int]:
    with closing(Journal(directory / "journal.db", random.Random(seed))) as journal:
        minute, models = goes_on_at(journal)
        runtime = ThreeModels(seed)
        telemetry = Telemetry(runtime, journal, MONDAY + timedelta(minutes=minute))
        while minute < minutes:
            told = event_of(minute)
            if told is not None:
                journal.record_event(told)
            runtime.serve_minute(minute, models)
            telemetry.drain(models, MONDAY + timedelta(minutes=minute + 1), 60)
            minute, models = minute + 1, MODELS
            yield minute


def main() -> None:
    directory, seed, minutes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    for minute in live(directory, seed, minutes):
        sys.stdout.write(f"{minute}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
