"""MQTT 5 packets, as few as the load generators need: a real client costs more than what it loads.

Source: MQTT Version 5.0, OASIS Standard, chapters 2 and 3.
"""

import struct
from collections.abc import Iterator, Sequence

CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP, DISCONNECT = 2, 3, 4, 9, 13, 14
PINGREQ = b"\xc0\x00"
_SESSION_EXPIRY, _RECEIVE_MAXIMUM = 0x11, 0x21


def _number(value: int) -> bytes:
    """Variable byte integer (1.5.5)."""
    found = bytearray()
    while True:
        value, digit = divmod(value, 128)
        found.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(found)


def _text(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


def _packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + _number(len(body)) + body


def connect(
    client_id: str,
    *,
    keepalive_seconds: int = 60,
    expiry_seconds: int = 0,
    receive_maximum: int = 1000,
    will: tuple[str, bytes] | None = None,
) -> bytes:
    """Without clean start. The will, topic and payload, is QoS 1 and retained."""
    properties = struct.pack(">BI", _SESSION_EXPIRY, expiry_seconds)
    properties += struct.pack(">BH", _RECEIVE_MAXIMUM, receive_maximum)
    flags = 0 if will is None else 0x04 | 0x08 | 0x20
    body = _text(b"MQTT") + struct.pack(">BBH", 5, flags, keepalive_seconds)
    body += _number(len(properties)) + properties + _text(client_id.encode())
    if will is not None:
        body += b"\x00" + _text(will[0].encode()) + _text(will[1])
    return _packet(0x10, body)


def subscribe(mid: int, filters: Sequence[tuple[str, int]]) -> bytes:
    body = struct.pack(">HB", mid, 0)
    return _packet(0x82, body + b"".join(_text(t.encode()) + bytes([qos]) for t, qos in filters))


def publish(topic: str, payload: bytes, mid: int, *, retain: bool = False) -> bytes:
    """QoS 1."""
    body = _text(topic.encode()) + struct.pack(">HB", mid, 0) + payload
    return _packet(0x32 | retain, body)


def puback(mid: int) -> bytes:
    return struct.pack(">BBH", 0x40, 2, mid)


def read_publish(first: int, body: bytes) -> tuple[str, bytes, int]:
    """Topic, payload, and the packet's id, 0 for QoS 0."""
    length = struct.unpack_from(">H", body)[0]
    topic, at, mid = body[2 : 2 + length].decode(), 2 + length, 0
    if first & 0x06:
        mid = struct.unpack_from(">H", body, at)[0]
        at += 2
    properties, at = _read_number(body, at)
    return topic, body[at + properties :], mid


class Reader:
    """Cuts what a socket gives into packets."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, content: bytes) -> Iterator[tuple[int, bytes]]:
        """First byte and body of each whole packet."""
        held, at = self._held + content, 0
        try:
            while len(held) - at >= 2:
                length, body = _read_number(held, at + 1)
                if len(held) < body + length:
                    break
                yield held[at], held[body : body + length]
                at = body + length
        except IndexError:
            pass  # its length has not come whole
        self._held = held[at:]


def _read_number(content: bytes, at: int) -> tuple[int, int]:
    """Its value, and where it ends."""
    value, shift = 0, 0
    while True:
        digit = content[at]
        value |= (digit & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not digit & 0x80:
            return value, at
