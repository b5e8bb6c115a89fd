"""How much one device may say: a bucket of messages and one of bytes for each, in memory.

Who says more is not heard for a while, and nobody else notices. Nothing is lost by it: events and
windows stay in the device's outbox until the watermark has passed them, and of what has no outbox
(reports, births and wills) the newest is kept and taken when there is room again.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mailboat_controller.ingest.partition import device_of
from mailboat_controller.mqtt.incoming import Incoming

# A bucket that is not remembered is full: who floods is heard of often, so it is remembered.
DEVICES_MAX = 100_000
# Of reports, births and wills that wait, two of a device.
KEPT_MESSAGES_MAX = 10_000
KEPT_BYTES_MAX = 64 << 20  # all their payloads
TELL_EVERY = timedelta(hours=1)  # of one device's flood, into the audit log
_WITHOUT_OUTBOX = ("/st", "/up/report")


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodLimits:
    """For each device. The bursts let a week offline come back without a pause."""

    messages_per_second: float = 50.0
    messages_burst: int = 1000
    bytes_per_second: float = 2.0 * 1024 * 1024
    bytes_burst: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What may be taken in now."""

    messages: tuple[Incoming, ...]
    ignored: int = 0
    flooding: Mapping[str, int] = field(default_factory=dict)  # to be told: device, ignored so far


@dataclass(slots=True)
class _Bucket:
    messages: float
    bytes: float
    at: datetime
    ignored: int = 0
    told_at: datetime | None = None


class FloodGate:
    """One for each process that takes messages in; a device's all come to one of them."""

    def __init__(self, limits: FloodLimits) -> None:
        self._limits = limits
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._kept: OrderedDict[str, Incoming] = OrderedDict()  # by topic
        self._kept_bytes = 0

    @property
    def waiting(self) -> bool:
        """Whether `admit` may have something to give though nothing new has come."""
        return bool(self._kept)

    def admit(self, messages: Iterable[Incoming], now: datetime) -> Admitted:
        """Messages in the order they came, those that had to wait first. What is no device's is
        not limited here."""
        taken: list[Incoming] = self._ripe(now)
        ignored: Counter[str] = Counter()
        for message in messages:
            device = device_of(message.topic)
            if device is None or self._takes(device, len(message.payload), now):
                self._forget(message.topic)  # this one is newer
                taken.append(message)
            else:
                ignored[device] += not self._keep(message)
        return Admitted(
            messages=tuple(taken), ignored=ignored.total(), flooding=self._to_tell(ignored, now)
        )

    def _takes(self, device: str, size_bytes: int, now: datetime) -> bool:
        bucket = self._filled(device, now)
        # A message larger than what is left passes if anything is left: none is larger than a
        # burst, and the debt is paid before the next.
        if bucket.messages < 1 or bucket.bytes <= 0:
            return False
        bucket.messages -= 1
        bucket.bytes -= size_bytes
        return True

    def _filled(self, device: str, now: datetime) -> _Bucket:
        limits = self._limits
        bucket = self._buckets.get(device)
        if bucket is None:
            bucket = _Bucket(limits.messages_burst, limits.bytes_burst, now)
            self._buckets[device] = bucket
            if len(self._buckets) > DEVICES_MAX:
                self._buckets.popitem(last=False)
            return bucket
        self._buckets.move_to_end(device)
        # Our clock may be set back.
        seconds = max(0.0, (now - bucket.at).total_seconds())
        bucket.at = now
        bucket.messages = min(
            limits.messages_burst, bucket.messages + seconds * limits.messages_per_second
        )
        bucket.bytes = min(limits.bytes_burst, bucket.bytes + seconds * limits.bytes_per_second)
        return bucket

    def _keep(self, message: Incoming) -> bool:
        """Whether it waits; the one before it on its topic is old news."""
        if not message.topic.endswith(_WITHOUT_OUTBOX):
            return False
        held = self._kept.get(message.topic)
        size_bytes = len(message.payload) - (0 if held is None else len(held.payload))
        if (held is None and len(self._kept) >= KEPT_MESSAGES_MAX) or (
            self._kept_bytes + size_bytes > KEPT_BYTES_MAX
        ):
            return False
        self._kept[message.topic] = message
        self._kept_bytes += size_bytes
        return True

    def _forget(self, topic: str) -> None:
        held = self._kept.pop(topic, None)
        if held is not None:
            self._kept_bytes -= len(held.payload)

    def _ripe(self, now: datetime) -> list[Incoming]:
        ripe = []
        for topic, message in list(self._kept.items()):
            device = device_of(topic)
            if device is None or self._takes(device, len(message.payload), now):
                self._forget(topic)
                ripe.append(message)
        return ripe

    def _to_tell(self, ignored: Mapping[str, int], now: datetime) -> dict[str, int]:
        told: dict[str, int] = {}
        for device, count in ignored.items():
            bucket = self._buckets.get(device)
            if bucket is None:
                continue
            bucket.ignored += count
            if bucket.ignored and (bucket.told_at is None or now - bucket.told_at >= TELL_EVERY):
                told[device], bucket.ignored, bucket.told_at = bucket.ignored, 0, now
        return told
