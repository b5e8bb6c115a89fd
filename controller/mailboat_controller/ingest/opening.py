"""A message of a device, opened: whose key signed it, and for whom it speaks."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.store.devices import DeviceRow
from mailboat_schemas.codec import decode
from mailboat_schemas.envelope import Envelope, PayloadType, open_from_device
from mailboat_schemas.errors import MailboatError, NotPermitted, PayloadTooLarge, WrongTopic
from mailboat_schemas.topics import TOPICS, Channel, Topic, parse

# What devices send, and what it must be signed as.
PAYLOAD_TYPE = {
    Channel.EVENTS: PayloadType.EVENT_BATCH,
    Channel.TELEMETRY: PayloadType.TELEMETRY_BATCH,
    Channel.HELLO: PayloadType.HELLO,
    Channel.REPORT: PayloadType.REPORTED_STATE,
    Channel.STATUS: PayloadType.PRESENCE,
    Channel.LOGS: PayloadType.LOG_EXCERPT,
}
# Checking a P-256 signature takes some 70 µs and leaves the interpreter to others meanwhile.
CHECKERS_MAX = 4
MESSAGES_PER_CHECKER_MIN = 16  # below, handing them over takes longer
KEYS_MAX = 4096  # of devices, read and kept; each has some kilobytes

_ToOpen = tuple[DeviceRow, Incoming, str]  # with the payload type


def admit(message: Incoming, fleet: str) -> Topic:
    """Everything that can be said before reading the payload.

    Raises:
        WrongTopic: not one of ours. PayloadTooLarge: for its channel.
    """
    topic = parse(message.topic)
    if topic["fleet"] != fleet or (
        topic.channel is not Channel.SUBMIT and topic.channel not in PAYLOAD_TYPE
    ):
        raise WrongTopic(
            f"{message.topic} is not for this controller.",
            next_step="look at the subscriptions and bridges of the broker.",
        )
    size_bytes_max = TOPICS[topic.channel].payload_bytes_max
    if len(message.payload) > size_bytes_max:
        raise PayloadTooLarge(topic.channel, len(message.payload), size_bytes_max)
    return topic


def open_payload(row: DeviceRow, message: Incoming, payload_type: str) -> bytes:
    """The payload, once the signature by the device's registered key held."""
    envelope = decode(Envelope, message.payload)
    key = _key(row.public_key)
    if key is None:
        raise NotPermitted(
            f"Device {row.device} is enrolled with a key that cannot sign messages.",
            next_step="enrol it anew with a P-256 key.",
        )
    return open_from_device(envelope, payload_type, key, row.device)


@lru_cache(maxsize=KEYS_MAX)
def _key(content: bytes) -> ec.EllipticCurvePublicKey | None:
    """The key that these bytes are; None for one that cannot sign messages."""
    key = load_der_public_key(content)
    return key if isinstance(key, ec.EllipticCurvePublicKey) else None


class OpenedAhead:
    """The messages of a batch, their signatures checked on several cores before the first is
    taken."""

    def __init__(
        self, messages: Iterable[Incoming], rows: Mapping[str, DeviceRow], fleet: str
    ) -> None:
        """
        Args:
            rows: devices by name; what others send is not opened.
        """
        wanted: list[_ToOpen] = []
        self._topics: dict[int, Topic | MailboatError] = {}
        for message in messages:
            try:
                topic = self._topics[id(message)] = admit(message, fleet)
            except MailboatError as error:
                self._topics[id(message)] = error
                continue
            row = rows.get(topic["device"]) if topic.channel in PAYLOAD_TYPE else None
            if row is not None and not row.revoked:
                wanted.append((row, message, PAYLOAD_TYPE[topic.channel]))
        self._found = {
            id(message): opened
            for (_, message, _), opened in zip(wanted, _open_all(wanted), strict=True)
        }

    def topic(self, message: Incoming) -> Topic:
        """As `admit`, of a message that this was made with."""
        topic = self._topics[id(message)]
        if isinstance(topic, MailboatError):
            raise topic
        return topic

    def payload(self, row: DeviceRow, message: Incoming, payload_type: str) -> bytes:
        """As `open_payload`, once for each message."""
        opened = self._found.pop(id(message), None)
        if opened is None:
            return open_payload(row, message, payload_type)
        if isinstance(opened, MailboatError):
            raise opened
        return opened


def _open_all(messages: Sequence[_ToOpen]) -> list[bytes | MailboatError]:
    parts = min(_cores(), len(messages) // MESSAGES_PER_CHECKER_MIN)
    if parts < 2:
        return _opened(messages)
    size = -(-len(messages) // parts)
    shares = [messages[first : first + size] for first in range(0, len(messages), size)]
    # The last share is ours: waiting for a thread of the pool costs what checking some would.
    others = [_checkers().submit(_opened, share) for share in shares[:-1]]
    own = _opened(shares[-1])
    return [each for other in others for each in other.result()] + own


def require_own(device: str, named: str) -> None:
    """
    Raises:
        WrongTopic: the message speaks for another device than its topic says.
    """
    if named != device:
        raise WrongTopic(
            f"A message on the topic of {device} speaks for {named[:63]}.",
            next_step="look at the broker's access rules: devices write to their own topics only.",
        )


def _opened(messages: Iterable[_ToOpen]) -> list[bytes | MailboatError]:
    found: list[bytes | MailboatError] = []
    for row, message, payload_type in messages:
        try:
            found.append(open_payload(row, message, payload_type))
        except MailboatError as error:
            found.append(error)
    return found


def _cores() -> int:
    return min(CHECKERS_MAX, os.cpu_count() or 1)


@cache
def _checkers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, _cores() - 1), thread_name_prefix="check-signatures")
