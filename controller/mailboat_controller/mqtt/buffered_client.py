"""paho, reading ahead: one call to the system for many packets, instead of four for each.

Each call lets go of the interpreter, and while messages are being taken in it is milliseconds until
it is given back: reading packet by packet, the network thread starved.
"""

import struct
from collections.abc import Sequence
from typing import Any

from paho.mqtt.client import PUBACK, Client
from paho.mqtt.enums import MQTTErrorCode

READ_AHEAD_BYTES = 1 << 16


class BufferedSocket:
    """What paho needs of a socket; it asks `pending` before it waits, as it does of TLS."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._held = b""
        self._at = 0

    def recv(self, size: int) -> bytes:
        if self._at >= len(self._held):
            self._held, self._at = self._sock.recv(READ_AHEAD_BYTES), 0
        found = self._held[self._at : self._at + size]
        self._at += len(found)
        return found

    @property
    def held_bytes(self) -> int:
        return len(self._held) - self._at

    def pending(self) -> int:
        below = self._sock.pending() if hasattr(self._sock, "pending") else 0
        return self.held_bytes + int(below)

    def send(self, content: bytes) -> int:
        return int(self._sock.send(content))

    def close(self) -> None:
        self._sock.close()

    def fileno(self) -> int:
        return int(self._sock.fileno())

    def setblocking(self, flag: bool) -> None:
        self._sock.setblocking(flag)


class BufferedClient(Client):
    def acknowledge(self, mids: Sequence[int]) -> None:
        """Of messages with QoS 1, in this order: as `ack` of each, in one write."""
        if mids:
            packets = b"".join(struct.pack("!BBH", PUBACK, 2, mid) for mid in mids)
            self._packet_queue(PUBACK, packets, mids[-1], 1)

    def _create_socket(self) -> Any:
        return BufferedSocket(super()._create_socket())

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """All that is held; at most `READ_AHEAD_BYTES` until what waits to be written has its
        turn."""
        result = super().loop_read(max_packets)
        while (
            result == MQTTErrorCode.MQTT_ERR_SUCCESS
            and isinstance(self._sock, BufferedSocket)
            and self._sock.held_bytes
        ):
            result = super().loop_read()
        return result
