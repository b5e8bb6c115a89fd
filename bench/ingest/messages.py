"""What a fleet of devices says, sealed by each device's own key, cut as the agent's outbox cuts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from enrolled_fleet import EnrolledDevice
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_schemas.events import Event, EventKind

OBSERVED_AT_MS = 1_780_000_000_000
_STORY = (
    EventKind.TRIAL_STARTED,
    EventKind.SOAK_STARTED,
    EventKind.COMMITTED,
    EventKind.DEGRADED,
    EventKind.RECOVERED,
    EventKind.TRIAL_STARTED,
    EventKind.TRIAL_FAILED,
    EventKind.TRUST_STALE,
)
_BECAUSE = {
    EventKind.TRIAL_FAILED: "latency p95 61.2 ms is above 50 ms on 200 golden samples",
    EventKind.DEGRADED: "the release does not answer; the version before it does",
    EventKind.TRUST_STALE: "the newest timestamp is 9 days old",
}


@dataclass(frozen=True, slots=True)
class Load:
    """Messages in the order they are published, and the events in all of them."""

    messages: Sequence[Incoming]
    events: int


def make(devices: Sequence[EnrolledDevice], *, batches: int, events_per_batch: int) -> Load:
    """Each device's batches in order, the devices in turn."""
    messages = [
        device.events(events)
        for events in _batches(devices[0], batches, events_per_batch)
        for device in devices
    ]
    return Load(messages, len(messages) * events_per_batch)


def _batches(device: EnrolledDevice, count: int, size: int) -> Iterator[list[Event]]:
    """Nothing in an event is its device's own: what is told differs by number alone."""
    for number in range(count):
        yield list(_events(device, number * size, size))


def _events(device: EnrolledDevice, after: int, count: int) -> Iterator[Event]:
    for sequence in range(after + 1, after + count + 1):
        kind = _STORY[sequence % len(_STORY)]
        release = sequence // len(_STORY)  # a new one for every turn of the story
        evidence = {}
        if kind in (EventKind.COMMITTED, EventKind.TRIAL_FAILED):
            evidence = {"p95_ms": 12.5 + sequence % 40, "samples": 200, "peak_memory_mib": 143}
        yield device.event(
            sequence,
            kind,
            model="vad",
            version=f"1.0.{release}",
            digest=f"{release:064x}",
            observed_at=OBSERVED_AT_MS + sequence * 1000,
            code="E-LATENCY" if kind is EventKind.TRIAL_FAILED else "",
            because=_BECAUSE.get(kind, ""),
            evidence=evidence,
        )
