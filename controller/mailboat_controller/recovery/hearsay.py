"""What the fleet still knows: the retained messages of the broker, gathered and read.

Everything here proves itself later, against our own trust root: a broker may have been restored
from a backup as well, and whoever writes to it may put anything there.
"""

import re
from collections.abc import Container
from dataclasses import dataclass, field

import structlog

from mailboat_controller.mqtt.incoming import Incoming
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import FreshTimestamp, ManifestBundle
from mailboat_schemas.envelope import Envelope
from mailboat_schemas.errors import MailboatError
from mailboat_schemas.topics import TOPICS, Channel, Topic, parse, subscription

CHANNELS = (Channel.MANIFEST, Channel.FRESH, Channel.DESIRED, Channel.REPORT)
# Who writes to the broker chooses names and lengths. A class that the database knows is heard in
# any case; others (applied after the backup, or made up) share this, counted as unpacked.
STRANGE_CLASSES_BYTES_MAX = 64 << 20
STRANGE_BYTES_EACH = 4096  # at least: an empty one is kept under its name as well
ORDERS_BYTES_MAX = 256 << 20  # a hundred thousand devices, each with a hold and a pin
_FILE = re.compile(r"(?:(\d{1,10})\.)?([a-z0-9-]{1,80})\.json")
_log = structlog.get_logger(__name__)


def filters(fleet: str) -> tuple[str, ...]:
    return tuple(subscription(channel, fleet=fleet) for channel in CHANNELS)


@dataclass(slots=True)
class Hearsay:
    """By class or device, the newest message of each topic. Nothing of it was verified.

    Args:
        classes: that the database knows.
        devices: likewise; nobody else's orders are heard.
    """

    fleet: str
    classes: frozenset[str] = frozenset()
    devices: Container[str] = frozenset()
    bundles: dict[str, bytes] = field(default_factory=dict)  # as they came
    timestamps: dict[str, bytes] = field(default_factory=dict)
    orders: dict[str, bytes] = field(default_factory=dict)  # by device, as they came
    _strange: dict[tuple[Channel, str], int] = field(default_factory=dict)  # bytes
    _strange_bytes: int = 0
    _orders_bytes: int = 0

    def take(self, message: Incoming) -> bool:
        """Whether it was for us; reports are not."""
        try:
            topic = parse(message.topic)
            if topic["fleet"] != self.fleet or topic.channel not in CHANNELS[:3]:
                return False
            if len(message.payload) <= TOPICS[topic.channel].payload_bytes_max:
                self._note(topic.channel, message.payload, topic)
        except MailboatError as error:
            _log.warning("a retained message says nothing", topic=message.topic, problem=str(error))
        return True

    def _note(self, channel: Channel, payload: bytes, topic: Topic) -> None:
        match channel:
            case Channel.MANIFEST:
                bundle = decode(ManifestBundle, payload)
                contents = (bundle.desired, *bundle.trust.values(), *bundle.documents.values())
                if self._has_room(topic, len(payload) + sum(map(len, contents))):
                    self.bundles[topic["hardware_class"]] = payload
            case Channel.FRESH:
                timestamp = decode(FreshTimestamp, payload).timestamp
                if self._has_room(topic, len(timestamp)):
                    self.timestamps[topic["hardware_class"]] = timestamp
            case Channel.DESIRED if topic["device"] in self.devices:
                decode(Envelope, payload)
                held = len(self.orders.get(topic["device"], b""))
                if self._orders_bytes - held + len(payload) <= ORDERS_BYTES_MAX:
                    self._orders_bytes += len(payload) - held
                    self.orders[topic["device"]] = payload
            case _:
                pass

    def _has_room(self, topic: Topic, size: int) -> bool:
        if topic["hardware_class"] in self.classes:
            return True
        place = (topic.channel, topic["hardware_class"])
        more = max(size, STRANGE_BYTES_EACH) - self._strange.get(place, 0)
        if self._strange_bytes + more > STRANGE_CLASSES_BYTES_MAX:
            return False
        self._strange[place] = self._strange.get(place, 0) + more
        self._strange_bytes += more
        return True

    def decoded(self) -> dict[str, ManifestBundle]:
        return {name: decode(ManifestBundle, payload) for name, payload in self.bundles.items()}

    def roles(self) -> dict[str, dict[int, list[bytes]]]:
        """Metadata by role and the version that its name claims; the timestamp's under 0."""
        found: dict[str, dict[int, list[bytes]]] = {}
        for bundle in self.decoded().values():
            for name, content in bundle.trust.items():
                match = _FILE.fullmatch(name)
                if match is not None:
                    versions = found.setdefault(match[2], {})
                    versions.setdefault(int(match[1] or 0), []).append(content)
        fresh = found.setdefault("timestamp", {}).setdefault(0, [])
        fresh += self.timestamps.values()
        return found

    def documents(self) -> dict[str, bytes]:
        return {
            digest: content
            for bundle in self.decoded().values()
            for digest, content in bundle.documents.items()
        }
